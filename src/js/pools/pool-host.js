'use strict'

/** The construction key: only this package's files can construct pools and fixed blocks. */
const kConstruct = Symbol('constructed by a MemoryManager')

/** The construction key of movable blocks, which have no address to keep. */
const kMovable = Symbol('constructed by a MemoryManager, movable')

/**
 * @typedef {import('../types/compaction.js').DefragmentOptions} DefragmentOptions
 * @typedef {import('../types/allocations.js').MemoryKind} MemoryKind
 * @typedef {import('../reclaim/refusals.js').Wanted} Wanted
 */

/**
 * The parts of a manager that its pools and blocks call.
 *
 * @typedef {object} PoolHost
 * @property {import('../core/notifications.js').Notifications} notifications
 * @property {import('../core/diagnostics-channels.js').ChannelPublisher} publisher
 * @property {import('./pool-registry.js').PoolRegistry} pools
 * @property {PoolAllocator} allocator
 * @property {PoolReclaimer} reclaimer
 * @property {PoolAsyncAllocations} asyncAllocations
 * @property {import('../core/async-tasks.js').AsyncTasks} tasks
 * @property {PoolCompactor} compactor
 *
 * @typedef {object} PoolAllocator
 * @property {(made: [ArrayBuffer, number], pool: number) => ArrayBuffer} allocated
 * @property {(made: [ArrayBuffer, number], pool: number, movable?: boolean) => ArrayBuffer} handOut
 * @property {(made: [ArrayBuffer, number]) => void} giveBack
 * @property {(buffer: ArrayBuffer) => void} deallocate
 * @property {(buffer: ArrayBuffer) => import('../types/allocations.js').BufferInfo} describe
 * @property {(pool: number) => () => void} detachAll
 * @property {(pool: number) => void} poolEnded
 *
 * @typedef {object} PoolReclaimer
 * @property {<T>(allocate: () => T, wanted: Wanted, pool?: number) => T} allocateWithReclaim
 * @property {<T>(refusal: unknown, allocate: () => T, wanted: Wanted, pool: number) => T} reclaimAndRetry
 *
 * @typedef {object} PoolAsyncAllocations
 * @property {<T>(attempt: () => T | Promise<T>, wanted: Wanted, signal?: AbortSignal, pool?: number) => Promise<T>}
 * allocate
 *
 * @typedef {object} PoolCompactor
 * @property {(pool: number, options: unknown) => import('../types/compaction.js').DefragmentResult} defragment
 * @property {(pool: number) => void} scheduleCompaction
 */

module.exports = { kConstruct, kMovable }
