'use strict'

// The functions that the package exports. Each loads its chapter at its first call: an `import` reads every export, and
// must not load them all.

const { publicFunction } = require('./core/border.js')
const { onDemand } = require('./core/on-demand.js')

const load = {
  arena: onDemand(() => require('./arena/plan-arena.js')),
  diagnose: onDemand(() => require('./devices/diagnose.js')),
  diff: onDemand(() => require('./report/diff.js')),
  estimate: onDemand(() => require('./models/estimate.js')),
  explain: onDemand(() => require('./explain/explain.js')),
  measure: onDemand(() => require('./models/measure.js')),
  inbox: onDemand(() => require('./sharing/inbox.js')),
  plan: onDemand(() => require('./models/plan.js')),
  probe: onDemand(() => require('./devices/probe.js')),
  replay: onDemand(() => require('./replay/replay.js')),
  runtimeVersion: onDemand(() => require('./inference/runtime-version.js')),
  unpinDropped: onDemand(() => require('./pools/unpin-dropped.js')),
}

const functions = {
  /** @type {typeof import('./sharing/inbox.js').closeDmaBuf} */
  closeDmaBuf(fd) {
    return load.inbox().closeDmaBuf(fd)
  },
  /** @type {typeof import('./devices/diagnose.js').diagnose} */
  diagnose(options) {
    return load.diagnose().diagnose(options)
  },
  /** @type {typeof import('./report/diff.js').diffSnapshots} */
  diffSnapshots(a, b) {
    return load.diff().diffSnapshots(a, b)
  },
  /** @type {typeof import('./models/estimate.js').estimateModelMemory} */
  estimateModelMemory(spec) {
    return load.estimate().estimateModelMemory(spec)
  },
  /** @type {typeof import('./explain/explain.js').explainAll} */
  explainAll(log) {
    return load.explain().explainAll(log)
  },
  /** @type {typeof import('./explain/explain.js').explainError} */
  explainError(log, options) {
    return load.explain().explainError(log, options)
  },
  /** @type {typeof import('./models/measure.js').measureModel} */
  async measureModel(start, options) {
    return load.measure().measureModel(start, options)
  },
  /** @type {typeof import('./arena/plan-arena.js').planArena} */
  planArena(buffers, options) {
    return load.arena().planArena(buffers, options)
  },
  /** @type {typeof import('./models/plan.js').planModels} */
  planModels(models, device, options) {
    return load.plan().planModels(models, device, options)
  },
  /** @type {typeof import('./devices/probe.js').probeDevices} */
  probeDevices() {
    return load.probe().probeDevices()
  },
  /** @type {typeof import('./replay/replay.js').replayEventLog} */
  replayEventLog(log, options) {
    return load.replay().replayEventLog(log, options)
  },
  /** @type {typeof import('./inference/runtime-version.js').runtimeVersion} */
  runtimeVersion(library) {
    return load.runtimeVersion().runtimeVersion(library)
  },
  /** @type {typeof import('./inference/runtime-version.js').runtimeVersionAsync} */
  async runtimeVersionAsync(library) {
    return load.runtimeVersion().runtimeVersionAsync(library)
  },
  /** @type {typeof import('./sharing/inbox.js').sendDmaBuf} */
  async sendDmaBuf(path, piece, message = undefined) {
    return load.inbox().sendDmaBuf(path, piece, message)
  },
  /** @type {typeof import('./pools/unpin-dropped.js').unpinDropped} */
  unpinDropped(id) {
    return load.unpinDropped().unpinDropped(id)
  },
}

/** @type {typeof functions} */
const exported = /** @type {any} */ (
  Object.fromEntries(Object.entries(functions).map(([name, call]) => [name, publicFunction(/** @type {any} */ (call))]))
)

module.exports = exported
