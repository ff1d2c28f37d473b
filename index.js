'use strict'

const { version } = require('./package.json')

// Copies of one version share their classes within a thread, so that an error of one is an instance of the other's
// class.
const copies = Symbol.for(`@rkllmjs/memory ${version}`)
/** @type {Record<symbol, ReturnType<typeof load>>} */
const shared = /** @type {any} */ (globalThis)
if (shared[copies] === undefined) Object.defineProperty(shared, copies, { value: load(), configurable: true })

const {
  MemoryManager,
  MemoryPool,
  MemoryBlock,
  MemoryError,
  DmaBufInbox,
  SimulatedNPU,
  closeDmaBuf,
  diagnose,
  diffSnapshots,
  estimateModelMemory,
  explainError,
  planModels,
  probeDevices,
  replayEventLog,
  sendDmaBuf,
  unpinDropped,
} = shared[copies]

function load() {
  const { publicFunction } = require('./src/js/core/border.js')
  const functions = {
    ...require('./src/js/devices/probe.js'),
    ...require('./src/js/devices/diagnose.js'),
    ...require('./src/js/replay/replay.js'),
    ...require('./src/js/report/diff.js'),
    ...require('./src/js/models/estimate.js'),
    ...require('./src/js/models/plan.js'),
    ...require('./src/js/explain/explain.js'),
    ...require('./src/js/pools/unpin-dropped.js'),
  }
  const inbox = require('./src/js/sharing/inbox.js')
  return {
    ...require('./src/js/core/errors.js'),
    ...require('./src/js/manager.js'),
    ...require('./src/js/pools/block.js'),
    ...require('./src/js/pools/pool.js'),
    DmaBufInbox: inbox.DmaBufInbox,
    SimulatedNPU: require('./src/js/devices/simulated-npu.js').SimulatedNPU,
    closeDmaBuf: publicFunction(inbox.closeDmaBuf),
    diagnose: publicFunction(functions.diagnose),
    diffSnapshots: publicFunction(functions.diffSnapshots),
    estimateModelMemory: publicFunction(functions.estimateModelMemory),
    explainError: publicFunction(functions.explainError),
    planModels: publicFunction(functions.planModels),
    probeDevices: publicFunction(functions.probeDevices),
    replayEventLog: publicFunction(functions.replayEventLog),
    sendDmaBuf: publicFunction(inbox.sendDmaBuf),
    unpinDropped: publicFunction(functions.unpinDropped),
  }
}

// Listed by name, so that `import { MemoryManager }` finds them.
module.exports = {
  MemoryManager,
  MemoryPool,
  MemoryBlock,
  MemoryError,
  DmaBufInbox,
  SimulatedNPU,
  closeDmaBuf,
  diagnose,
  diffSnapshots,
  estimateModelMemory,
  explainError,
  planModels,
  probeDevices,
  replayEventLog,
  sendDmaBuf,
  unpinDropped,
}
