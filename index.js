'use strict'

// `require` loads the modules that `allocateNPUMemory` needs. A function loads its chapter at its first call. A class
// that a manager makes is loaded when the manager needs it or the program reads it here.

const { version } = require('./package.json')

// Copies of one version share their classes within a thread, so that an error of one is an instance of the other's
// class.
const copies = Symbol.for(`@rkllmjs/memory ${version}`)
/** @type {Record<symbol, ReturnType<typeof load>>} */
const shared = /** @type {any} */ (globalThis)
if (shared[copies] === undefined) Object.defineProperty(shared, copies, { value: load(), configurable: true })

const {
  MemoryManager,
  MemoryError,
  SimulatedNPU,
  closeDmaBuf,
  diagnose,
  diffSnapshots,
  estimateModelMemory,
  explainAll,
  explainError,
  measureModel,
  planArena,
  planModels,
  probeDevices,
  replayEventLog,
  runtimeVersion,
  runtimeVersionAsync,
  sendDmaBuf,
  unpinDropped,
  classes,
} = shared[copies]

function load() {
  const { publicConstructor } = require('./src/js/core/border.js')
  const { onDemand } = require('./src/js/core/on-demand.js')
  const block = () => require('./src/js/pools/block.js').MemoryBlock
  const pool = () => require('./src/js/pools/pool.js').MemoryPool
  const residency = () => require('./src/js/residency/model-residency.js').ModelResidency
  return {
    ...require('./src/js/functions.js'),
    MemoryError: publicConstructor(require('./src/js/core/errors.js').MemoryError),
    MemoryManager: publicConstructor(require('./src/js/manager.js').MemoryManager),
    SimulatedNPU: publicConstructor(require('./src/js/devices/simulated-npu.js').SimulatedNPU),
    classes: {
      DmaBufInbox: onDemand(() => publicConstructor(require('./src/js/sharing/inbox.js').DmaBufInbox)),
      MemoryBlock: onDemand(() => publicConstructor(block(), 'pool.allocate makes them')),
      MemoryPool: onDemand(() => publicConstructor(pool(), 'createMemoryPool makes them')),
      ModelResidency: onDemand(() => publicConstructor(residency(), 'createModelResidency makes them')),
    },
  }
}

// Listed by name, so that `import { MemoryManager }` finds them. Those that are undefined get their getters below.
module.exports = {
  MemoryManager,
  MemoryPool: undefined,
  MemoryBlock: undefined,
  MemoryError,
  ModelResidency: undefined,
  DmaBufInbox: undefined,
  SimulatedNPU,
  closeDmaBuf,
  diagnose,
  diffSnapshots,
  estimateModelMemory,
  explainAll,
  explainError,
  measureModel,
  planArena,
  planModels,
  probeDevices,
  replayEventLog,
  runtimeVersion,
  runtimeVersionAsync,
  sendDmaBuf,
  unpinDropped,
}

for (const [name, get] of Object.entries(classes)) {
  Object.defineProperty(module.exports, name, { get, enumerable: true, configurable: true })
}
