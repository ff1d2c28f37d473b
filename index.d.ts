/**
 * NPU and system memory for LLM apps on Rockchip boards, as zero-copy ArrayBuffers.
 *
 * Sizes are bytes and times are milliseconds unless a name says otherwise. Byte counts are `number` (exact up to 2^53),
 * addresses are `bigint`. A figure that cannot be known is `null`, never a guess.
 *
 * The methods of `MemoryManager` throw only `MemoryError`; each method lists its codes. All methods also throw
 * `ERR_MANAGER_DISPOSED` after `dispose`, and `ERR_INVALID_ARG_TYPE` for an argument of the wrong type or an unknown
 * option.
 *
 * @packageDocumentation
 */

export * from './src/js/types/manager.js'
export * from './src/js/types/allocations.js'
export * from './src/js/types/pools.js'
export * from './src/js/types/blocks.js'
export * from './src/js/types/compaction.js'
export * from './src/js/types/limits.js'
export * from './src/js/types/reclaim.js'
export * from './src/js/types/stats.js'
export * from './src/js/types/profiling.js'
export * from './src/js/types/diagnostics-channels.js'
export * from './src/js/types/report.js'
export * from './src/js/types/replay.js'
export * from './src/js/types/arena.js'
export * from './src/js/types/sharing.js'
export * from './src/js/types/inference.js'
export * from './src/js/types/rknn.js'
export * from './src/js/types/devices.js'
export * from './src/js/types/doctor.js'
export * from './src/js/types/models.js'
export * from './src/js/types/residency.js'
export * from './src/js/types/explain.js'
export * from './src/js/types/errors.js'
