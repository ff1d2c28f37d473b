'use strict'

// The modules that a manager loads at their first use.

const { onDemand } = require('./core/on-demand.js')

module.exports = {
  asyncAllocations: onDemand(() => require('./allocation/async-allocations.js')),
  createPool: onDemand(() => require('./pools/create-pool.js')),
  inference: onDemand(() => require('./inference/buffers.js')),
  inspector: onDemand(() => require('./inspect/on-demand.js')),
  metrics: onDemand(() => require('./metrics/openmetrics.js')),
  missingSyncs: onDemand(() => require('./devices/missing-syncs.js')),
  nonInstance: onDemand(() => require('./core/inspect-non-instance.js')),
  optimize: onDemand(() => require('./reclaim/optimize.js')),
  pendingFrees: onDemand(() => require('./allocation/pending-frees.js')),
  pool: onDemand(() => require('./pools/pool.js')),
  poolOptions: onDemand(() => require('./pools/options.js')),
  profiling: onDemand(() => require('./profiling/profiling.js')),
  profilingOptions: onDemand(() => require('./profiling/options.js')),
  report: onDemand(() => require('./report/of-manager.js')),
  residency: onDemand(() => require('./residency/model-residency.js')),
  reservation: onDemand(() => require('./limits/reservation.js')),
  rknn: onDemand(() => require('./rknn/memory.js')),
  sharing: onDemand(() => require('./sharing/shared-memory.js')),
  stack: onDemand(() => require('./profiling/stack.js')),
  usage: onDemand(() => require('./stats/usage.js')),
}
