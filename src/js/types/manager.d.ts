/** The memory manager and its options. */

/// <reference types="node" />

import { EventEmitter } from 'node:events'

import type {
  Buf, BufferInfo, Cancellable, MemoryKind, NPUAllocationOptions, SystemAllocationOptions,
} from './allocations.js'
import type { MemoryBlock } from './blocks.js'
import type { BlockMove } from './compaction.js'
import type { Backend, DeviceInfo, MissingSync, SimulatedDeviceOptions } from './devices.js'
import type { InferenceBuffers, InferenceSpec } from './inference.js'
import type { MemoryLimits, MemoryWarning, Reservation } from './limits.js'
import type { MemoryPool, MemoryPoolOptions, PoolAllocationOptions } from './pools.js'
import type { MemoryProfile, ProfilingOptions } from './profiling.js'
import type { CleanupOptions, MemoryPressure, OptimizeOptions, OptimizeResult } from './reclaim.js'
import type { RknnMemory, RknnMemorySpec } from './rknn.js'
import type { MemorySnapshot, ReportOptions } from './report.js'
import type { ModelDefinition, ModelResidency, ResidencyOptions } from './residency.js'
import type { DmaBufImportOptions, DmaBufPiece, SharedBufferToken } from './sharing.js'
import type { MemoryStats, MemoryUsage, NPUMemoryStats, SystemMemoryStats } from './stats.js'

/** Options of the constructor of {@link MemoryManager}. */
export interface MemoryManagerOptions {
  /**
   * Backend to open. 'auto' opens the best NPU. If an NPU exists but cannot be opened, 'auto' throws
   * (`ERR_DEVICE_PERMISSION` suggests a fix). If there is no NPU, 'auto' falls back to 'simulated', with one process
   * warning, code `RKLLM_SIMULATED_NPU`. 'auto' never opens a DMA-BUF heap, which is not an NPU. Default 'auto'.
   */
  backend?: 'auto' | Backend
  /** Device node or heap name, in place of the probe's choice. */
  device?: string
  /** The simulated board, for `backend: 'simulated'` and for the fallback of 'auto'. */
  simulated?: SimulatedDeviceOptions
  /** Sizes of slabs, in which small NPU allocations share kernel objects (and so file descriptors). */
  slabs?: SlabOptions
  /** Limits of this manager; `setMemoryLimits` changes them later. Default: no limits. */
  limits?: MemoryLimits
  /** Automatic cleanup of fragmented and scarce memory. */
  cleanup?: CleanupOptions
  /** Debugging aids, which cost time and memory. */
  debug?: DebugOptions
  /**
   * Opens a Unix socket at which `rkllm-memory top`, `snapshot` and `report` read this manager's figures. Only
   * processes of the same user (and root) can connect.
   *
   * The socket is in `$XDG_RUNTIME_DIR/rkllm-memory/` or `/tmp/rkllm-memory-UID/`. It is read-only, keeps no process
   * alive, and is removed with the manager. If it cannot be opened safely, a process warning (`RKLLM_INSPECT`) says so
   * and there is no socket. Default false.
   */
  inspect?: boolean
  /** Starts profiling. `true` is {@link MemoryManager.enableMemoryProfiling} with its defaults. Default false. */
  profiling?: boolean | ProfilingOptions
}

/** Sizes of slabs. */
export interface SlabOptions {
  /**
   * Largest NPU allocation in bytes that is cut from a shared slab. At most a quarter of a slab; 0 turns slabs off.
   * Default 1 MiB.
   */
  threshold?: number
  /** Bytes of one slab. At most a 32nd of one IOMMU domain (or of CMA). Default 16 MiB. */
  size?: number
  /**
   * For how long the bytes of a freed slice are not used again, in ms, as {@link MemoryPoolOptions.reuseAfterMs}.
   * Slabs do not grow for more waiting bytes than 16 slabs have. Default 2000.
   */
  reuseAfterMs?: number
}

/** Debugging aids. */
export interface DebugOptions {
  /**
   * Number of freed slices (of pools and slabs) that are kept, filled with 0xdd, before their bytes are reused. A slice
   * that holds other bytes at its reuse was written to after its free, and counts in `lateWrites`. Default 0.
   */
  delayReuse?: number
  /**
   * Looks for missing syncs, on the simulated device with `caches: 'incoherent'`, which it sets. Each is emitted as
   * `'missingSync'`; without a listener the certain ones are process warnings (`RKLLM_MISSING_SYNC`), once a place.
   *
   * It compares bytes when the program syncs or frees a buffer (`deallocate`, `deallocateWhen`, `block.free`, the
   * reset or end of its pool, session or manager), and when a {@link SimulatedNPU} reads or writes it. It finds
   * every line that the NPU reads or overwrites before the CPU's bytes arrived there, and every write that
   * `syncFromDevice` drops. It cannot see the moment of a CPU's access: a CPU that reads a result too early reads a
   * pattern in place of it, and only a partial write or the free shows that a sync is missing. It cannot see a write
   * of bytes that the memory held already, nor accesses of other devices, and does not look at buffers that the
   * garbage collector takes. Default false.
   */
  checkSync?: boolean
}

/** The manager's events, and what their listeners are called with. */
export interface MemoryEvents {
  warning: [warning: MemoryWarning]
  pressure: [pressure: MemoryPressure]
  relocated: [moves: BlockMove[]]
  leak: [leak: BufferInfo]
  missingSync: [missing: MissingSync]
}

/** How the native part was built. */
export interface BuildInfo {
  /** The version of the native part: that of the package. */
  readonly version: string
  /** The target of the Rust compiler, e.g. 'aarch64-unknown-linux-gnu'. */
  readonly target: string
  /** The profile of the build: 'release' in published packages. */
  readonly profile: string
  /** The Git revision, 40 hexadecimal digits; null where it was not known, or the tree had other changes. */
  readonly revision: string | null
}

/**
 * Manages the memory of one opened device, and system memory beside it, with common accounting.
 *
 * All managers of a process that open the same device node share the device. A manager belongs to the thread that made
 * it.
 *
 * @example
 * const memory = new MemoryManager({ backend: 'simulated' })
 * const buffer = memory.allocateNPUMemory(4096, { tag: 'tokens' })
 * new Int32Array(buffer).set([1, 2, 3])
 * memory.syncToDevice(buffer)
 * memory.getMemoryUsage().tags.tokens.used // => 4096
 * memory.deallocate(buffer)
 * buffer.byteLength // => 0
 * memory.dispose()
 */
export class MemoryManager extends EventEmitter {
  /** The version of this package. */
  static readonly version: string
  /**
   * The build of the native part. It contains no time and no folder, so that another build of the same revision with
   * the same compiler can be compared byte by byte (`npm run test:reproducible`).
   *
   * @example
   * MemoryManager.buildInfo.version === MemoryManager.version // => true
   */
  static readonly buildInfo: BuildInfo

  /**
   * Opens a device.
   *
   * @throws ERR_DEVICE_NOT_FOUND, ERR_DEVICE_PERMISSION, ERR_DEVICE_LOST, ERR_DEVICE_IO; ERR_OUT_OF_RANGE: the
   * simulated board is impossible.
   */
  constructor(options?: MemoryManagerOptions)

  /** The opened device. */
  readonly device: DeviceInfo
  readonly disposed: boolean

  // ── NPU memory

  /**
   * Allocates `size` bytes of NPU-visible memory as an ArrayBuffer.
   *
   * The memory is freed by `deallocate`, by `dispose`, or some time after the ArrayBuffer is collected. The garbage
   * collector knows the size of the memory, but finalizers only run when the event loop turns.
   *
   * @throws ERR_OUT_OF_RANGE: more than the device can ever hold; ERR_IOVA_EXHAUSTED, ERR_OUT_OF_MEMORY,
   * ERR_TOO_MANY_FDS, ERR_TOO_MANY_MAPS: more than it can hold now; ERR_DOMAIN_BUSY, ERR_UNSUPPORTED,
   * ERR_EXTERNAL_BUFFERS_FORBIDDEN, ERR_DEVICE_LOST, ERR_DEVICE_IO.
   */
  allocateNPUMemory(size: number, options?: NPUAllocationOptions): ArrayBuffer

  /**
   * Allocates like {@link allocateNPUMemory}, off the JavaScript thread, since a driver may block for seconds. Keeps
   * the event loop running. Every error rejects the promise; the call itself never throws.
   *
   * If memory, addresses or descriptors run out, or a limit is reached, the manager reclaims memory, lets the
   * finalizers of dropped buffers run, and retries before it rejects. An abort rejects at once with the reason of
   * `signal`; memory that the driver returns afterwards is freed.
   */
  allocateNPUMemoryAsync(size: number, options?: NPUAllocationOptions & Cancellable): Promise<ArrayBuffer>

  /**
   * Frees NPU memory at once and detaches its ArrayBuffer. Views of it have length 0 afterwards.
   *
   * @throws ERR_BUFFER_KIND, and the errors of {@link deallocate}.
   */
  deallocateNPUMemory(buffer: Buf | MemoryBlock): void

  /**
   * Returns the figures of NPU memory. Reads this process's mappings, which takes some milliseconds at tens of
   * thousands of mappings.
   */
  getNPUMemoryStats(): NPUMemoryStats

  // ── System memory

  /**
   * Allocates `size` zeroed bytes of this process, outside the JavaScript heap, as an ArrayBuffer.
   *
   * @throws ERR_OUT_OF_RANGE, ERR_OUT_OF_MEMORY, ERR_TOO_MANY_MAPS, ERR_UNSUPPORTED, ERR_EXTERNAL_BUFFERS_FORBIDDEN.
   */
  allocateSystemMemory(size: number, options?: SystemAllocationOptions): ArrayBuffer

  /**
   * Frees system memory at once and detaches its ArrayBuffer.
   *
   * @throws ERR_BUFFER_KIND, and the errors of {@link deallocate}.
   */
  deallocateSystemMemory(buffer: Buf | MemoryBlock): void

  /** Returns the figures of system memory. */
  getSystemMemoryStats(): SystemMemoryStats

  // ── Either kind

  /**
   * Frees memory of either kind at once and detaches its ArrayBuffer.
   *
   * @throws ERR_UNKNOWN_BUFFER: the buffer belongs to another owner, and stays as it is; ERR_BUFFER_FREED;
   * ERR_BUFFER_TRANSFERRED: the bytes were moved to another ArrayBuffer; ERR_BUFFER_BUSY: the runtime refuses to
   * detach the buffer, and nothing was freed; ERR_TOO_MANY_MAPS: the buffer was detached, and its memory is freed when
   * it is collected.
   */
  deallocate(buffer: Buf | MemoryBlock): void

  /**
   * Frees a buffer or a block when an operation that uses its bytes has ended: when the promise has settled, or the
   * stream has emitted 'finish', 'close' or 'error'. Until then the buffer stays attached and is counted. Resolves when
   * the memory was freed, by this call or otherwise; the operation's own error is not reported here. A movable block is
   * pinned meanwhile.
   *
   * `response.end(Buffer.from(buffer))` returns before the client has the bytes: then
   * `memory.deallocateWhen(buffer, response)`.
   *
   * @param done a promise, a stream, or another emitter of those events. For a buffer that was piped or written to
   * several streams: the promise of the last of them.
   * @throws (rejects) ERR_INVALID_ARG_TYPE: `done` is neither; ERR_UNKNOWN_BUFFER, ERR_BUFFER_FREED,
   * ERR_BUFFER_TRANSFERRED; at the end ERR_BUFFER_BUSY: the block is pinned, or the runtime refuses to detach the
   * buffer.
   */
  deallocateWhen(
    buffer: Buf | MemoryBlock,
    done: PromiseLike<unknown> | NodeJS.EventEmitter,
  ): Promise<void>

  /**
   * Describes a live buffer.
   *
   * @throws ERR_UNKNOWN_BUFFER, ERR_BUFFER_FREED, ERR_BUFFER_TRANSFERRED.
   */
  describe(buffer: Buf | MemoryBlock): BufferInfo

  /** Returns whether `buffer` is a live buffer or block of this manager, or a view of one. False of anything else. */
  owns(buffer: unknown): boolean

  // ── Cache maintenance

  /**
   * Makes CPU writes visible to the device: `length` bytes (default: to the end) from `offset` (default 0). Call it
   * between the last CPU write and the device's read.
   *
   * Ranges are rounded outwards to cache lines. Does nothing for memory that needs no maintenance (uncached,
   * simulated).
   *
   * @throws ERR_BUFFER_KIND: system memory; ERR_OUT_OF_RANGE, ERR_DOMAIN_BUSY, ERR_DEVICE_IO, and the errors of
   * {@link describe}.
   */
  syncToDevice(buffer: Buf | MemoryBlock, offset?: number, length?: number): void

  /**
   * Makes device writes visible to the CPU. Call it between the device's write and the first CPU read. Arguments and
   * errors are those of {@link syncToDevice}.
   */
  syncFromDevice(buffer: Buf | MemoryBlock, offset?: number, length?: number): void

  /**
   * Syncs like {@link syncToDevice}, off the JavaScript thread. The memory stays until the sync has ended, even if the
   * buffer is freed meanwhile.
   */
  syncToDeviceAsync(buffer: Buf | MemoryBlock, offset?: number, length?: number): Promise<void>
  /** Syncs like {@link syncFromDevice}, off the JavaScript thread, as {@link syncToDeviceAsync} does. */
  syncFromDeviceAsync(buffer: Buf | MemoryBlock, offset?: number, length?: number): Promise<void>

  // ── Sharing: librknnrt (rknn_create_mem_from_fd), RGA, MPP, V4L2, other processes

  /**
   * Exports a buffer as a dma-buf: a new close-on-exec fd that the caller owns and closes. The memory lives as long as
   * any fd, mapping or importer.
   *
   * A slice is the part of `size` bytes at `offset` of its slab or chunk, and the fd shows its neighbours too. Free a
   * slice after its importers have ended: its place then has another owner. A movable block must be pinned. Compaction
   * never moves it again, also unpinned, because an importer finds the bytes at that offset only.
   *
   * @throws ERR_BUFFER_KIND: system memory; ERR_UNSUPPORTED: a movable block that is not pinned, memory in SRAM, or a
   * device that exports nothing; ERR_TOO_MANY_FDS, and the errors of {@link describe}.
   */
  exportDmaBuf(buffer: Buf | MemoryBlock): DmaBufPiece

  /**
   * Maps a dma-buf of another owner and makes it visible to the NPU. The caller still owns `fd`. The ArrayBuffer has
   * the `size` bytes at `offset`, by default all of them. The whole dma-buf takes addresses, once in its domain; the
   * manager counts the pages of the part.
   *
   * A dma-buf that is imported again, or that this device exported, yields another view of the same memory.
   *
   * @example
   * const { fd, offset, size } = memory.exportDmaBuf(tensor)
   * const twin = memory.importDmaBuf(fd, { offset, size })
   * closeDmaBuf(fd) // the import holds the memory
   *
   * @throws ERR_INVALID_ARG_TYPE: not an open dma-buf; ERR_OUT_OF_RANGE: the part is not inside the dma-buf, or
   * `offset` is not a multiple of 8; ERR_UNSUPPORTED; and the errors of {@link allocateNPUMemory}.
   */
  importDmaBuf(fd: number, options?: DmaBufImportOptions): ArrayBuffer

  /**
   * Imports like {@link importDmaBuf}, off the JavaScript thread. The fd may be closed as soon as this has returned its
   * promise. An abort rejects at once with the reason of `signal`; what the driver maps afterwards is unmapped.
   */
  importDmaBufAsync(fd: number, options?: DmaBufImportOptions & Cancellable): Promise<ArrayBuffer>

  /**
   * Returns a token with which {@link adopt} maps the same memory elsewhere in this process. Takes NPU and system
   * memory, slices included. Post the token to another thread.
   *
   * The token does not keep the memory: hold the buffer until the other side has adopted it. The same memory has the
   * same token.
   *
   * @throws ERR_UNKNOWN_BUFFER, ERR_BUFFER_FREED, ERR_BUFFER_TRANSFERRED; ERR_UNSUPPORTED: a movable block.
   */
  share(buffer: Buf | MemoryBlock): SharedBufferToken

  /**
   * Returns another zero-copy ArrayBuffer at the same address, in the calling thread.
   *
   * The buffer belongs to this manager, which counts it too (the device's domain counts the memory once), and
   * {@link deallocate} or the garbage collector frees it. The memory lives until its last holder releases it, in any
   * order, and outlives the manager, pool or thread that allocated it. Accesses of two threads are not ordered: use
   * messages, or Atomics on a SharedArrayBuffer.
   *
   * @throws ERR_BUFFER_FREED: every holder has released the memory; ERR_UNKNOWN_BUFFER: not a token of this process;
   * ERR_MEMORY_LIMIT; ERR_UNSUPPORTED: memory of another kind of device.
   */
  adopt(token: SharedBufferToken): ArrayBuffer

  /**
   * Adopts like {@link adopt}. Calls no driver; at a limit, it waits as {@link allocateNPUMemoryAsync} does, and an
   * abort of `signal` rejects with its reason.
   */
  adoptAsync(token: SharedBufferToken, options?: Cancellable): Promise<ArrayBuffer>

  // ── Pools

  /**
   * Creates a pool: few large pieces of memory, cut into slices.
   *
   * @throws ERR_POOL_EXISTS; ERR_OUT_OF_RANGE; and the errors of {@link allocateNPUMemory} or
   * {@link allocateSystemMemory}.
   */
  createMemoryPool(options: MemoryPoolOptions): MemoryPool

  /**
   * Creates a pool like {@link createMemoryPool}, off the JavaScript thread. The name is taken at once. Waits at
   * limits, and ends at an abort, as {@link allocateNPUMemoryAsync} does; an abort gives the name back at once.
   *
   * @example
   * const memory = new MemoryManager({ backend: 'simulated', simulated: { latencyMs: 20 } })
   * const signal = AbortSignal.timeout(10_000)
   * const pool = await memory.createMemoryPoolAsync({ name: 'kv', initialSize: 1 << 20, maxSize: 8 << 20, signal })
   * const block = await pool.allocateAsync(2 << 20, { signal }) // the pool grows, and the event loop turns
   * block.size // => 2097152
   * await memory.disposeAsync()
   */
  createMemoryPoolAsync(options: MemoryPoolOptions & Cancellable): Promise<MemoryPool>

  /** Returns the pool with that name, or undefined. */
  getMemoryPool(name: string): MemoryPool | undefined

  /**
   * Allocates a slice of a pool as an ArrayBuffer. The buffer can be deallocated, described, synced and exported like
   * any other.
   *
   * @throws ERR_POOL_UNKNOWN, ERR_POOL_DESTROYED; ERR_POOL_EXHAUSTED; ERR_OUT_OF_RANGE: more than the pool can ever
   * hold; and, if the pool must grow, the errors of {@link allocateNPUMemory}.
   */
  allocateFromPool(pool: MemoryPool | string, size: number, options?: PoolAllocationOptions): ArrayBuffer

  /** Allocates like {@link allocateFromPool}, and waits as {@link MemoryPool.allocateAsync} does. */
  allocateFromPoolAsync(
    pool: MemoryPool | string,
    size: number,
    options?: PoolAllocationOptions & Cancellable,
  ): Promise<ArrayBuffer>

  /**
   * Destroys a pool and frees its memory. `force` frees (and detaches) live allocations too.
   *
   * @throws ERR_POOL_BUSY: there are live allocations, and `force` is not set; ERR_POOL_UNKNOWN, ERR_POOL_DESTROYED.
   */
  destroyMemoryPool(pool: MemoryPool | string, options?: { force?: boolean }): void

  // ── Sessions

  /**
   * Allocates, from one pool, all memory that one RKLLM or RKNN session passes across its API: typed arrays, their
   * addresses, and the C structs that point to them. If any part fails, nothing stays allocated.
   *
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE; ERR_UNSUPPORTED: cross-attention before 1.2.1, or a `library` whose
   * version is not known or contradicts `header`; the errors of `runtimeVersion` for `library`, and of
   * {@link createMemoryPool}.
   */
  createInferenceBuffers<S extends InferenceSpec>(spec: S): InferenceBuffers<S>
  createInferenceBuffers(spec: InferenceSpec): InferenceBuffers

  /**
   * Allocates like {@link createInferenceBuffers}, off the JavaScript thread, which does not wait for the reading of
   * `library` either. Waits at limits, and ends at an abort, as
   * {@link allocateNPUMemoryAsync} does. `signal` may be part of the spec, or of `options`.
   */
  createInferenceBuffersAsync<S extends InferenceSpec>(
    spec: S & Cancellable,
    options?: Cancellable,
  ): Promise<InferenceBuffers<S>>
  createInferenceBuffersAsync(spec: InferenceSpec & Cancellable, options?: Cancellable): Promise<InferenceBuffers>

  // ── Models

  /**
   * Makes the residency that keeps models in memory. Each loaded model is a reservation of this manager, tagged
   * `model:NAME`, and counts under its limits. It ends with the manager.
   *
   * Memory that a `load` allocates with this manager counts by itself: state only the rest in `ramBytes`.
   *
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE: a definition is wrong, or `limits` have no room for any model; the
   * errors of `estimateModelMemory` for a model without `ramBytes`.
   */
  createModelResidency<Models extends Record<string, ModelDefinition<any>>>(
    options: ResidencyOptions<Models>,
  ): ModelResidency<Models>

  /**
   * Prepares the memory of RKNN models: inputs and outputs, scratch memory that models share, and weights that contexts
   * share. Allocates nothing before {@link RknnMemory.load}.
   *
   * @example
   * const rknn = memory.createRknnMemory({
   *   models: [
   *     { name: 'encoder', file: 'encoder.rknn' },
   *     { name: 'detector', file: 'detector.rknn', contexts: ['0', '1', '2'] },
   *   ],
   * })
   * for (const call of rknn.load()) call.done(library[call.name](...call.args)) // by koffi, bun:ffi, ...
   * const { handle, inputs } = rknn.models.encoder.contexts[0]
   * inputs.pixels.write(image)
   * library.rknn_run(handle, 0n)
   *
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE; ERR_UNSUPPORTED: the header lacks a flag, options contradict each
   * other, or `library` does not say its version or contradicts `header`; ERR_DEVICE_IO, ERR_DEVICE_PERMISSION: it
   * cannot be read.
   */
  createRknnMemory<Name extends string>(spec: RknnMemorySpec<Name>): RknnMemory<Name>

  // ── Monitoring

  /** Returns a summary, at the same cost for any number of live buffers. */
  getMemoryStats(): MemoryStats

  /** Returns the full breakdown by kind, tag, pool and IOMMU domain, with figures of the process and the machine. */
  getMemoryUsage(): MemoryUsage

  /**
   * Returns all of {@link getMemoryUsage} as OpenMetrics 1.0 text (content type
   * `application/openmetrics-text; version=1.0.0; charset=utf-8`), with histograms while profiling. An unknown figure
   * has no sample.
   *
   * `format: 'prometheus'` returns the older text format (`text/plain; version=0.0.4`), which declares counters
   * differently. `promtool check metrics` and node_exporter's textfile collector read that one. docs/metrics.md lists
   * the metrics.
   */
  metrics(options?: { format?: 'openmetrics' | 'prometheus' }): string

  /**
   * Starts profiling, and discards the profile of an earlier run. Profiling costs a pool some nanoseconds an allocation
   * (benchmark/RESULTS.md). The option `profiling` starts it with the manager.
   */
  enableMemoryProfiling(options?: ProfilingOptions): void
  /** Stops profiling and keeps the profile. Does nothing if profiling is off. */
  disableMemoryProfiling(): void
  /** Returns a copy of the current or last profile; an empty profile before the first start. */
  getMemoryProfile(): MemoryProfile
  /** Returns everything live: each buffer, and each block and gap of each pool. */
  takeSnapshot(): MemorySnapshot
  /**
   * Writes a report, in the format that the extension names: `.html` `.json` `.csv` (event log) `.pb.gz` (pprof)
   * `.trace.json` (Perfetto) `.prom`. The file appears once it is complete. docs/reports.md describes the formats.
   *
   * The figures are those of one moment of the call. The event loop turns meanwhile: a turn handles at most 500 blocks
   * or events.
   *
   * @throws (rejects) ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE: another extension; ERR_DEVICE_IO with errno and path;
   * ERR_MANAGER_DISPOSED: the manager was disposed before the figures were read.
   *
   * @example
   * const before = memory.takeSnapshot()
   * // ... a request ...
   * await memory.writeReport('growth.html', { before })
   */
  writeReport(path: string, options?: ReportOptions): Promise<void>

  /**
   * Releases empty slabs and chunks, compacts movable blocks, and returns the gain. Also collects garbage buffers,
   * whose memory is freed when the event loop turns and so is not part of the result.
   */
  optimizeMemory(options?: OptimizeOptions): OptimizeResult
  /**
   * Sets limits on this manager's memory. Scopes that are not named keep their limits; `max: null` removes one. A limit
   * may be below current usage: the memory stays, and allocations fail until usage is below the limit.
   *
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE; then no limit has changed.
   */
  setMemoryLimits(limits: MemoryLimits): void
  /** Returns a copy of the limits, with every field present. */
  getMemoryLimits(): Required<MemoryLimits>
  /**
   * Reserves memory for allocations that other code makes, such as the weights of the RKLLM runtime. Counts it under
   * limits, in its IOMMU domain (default 0) and in the statistics. `kind` is 'npu' by default.
   *
   * Does not change the kernel's figures of available RAM and CMA, which already reflect the other allocations.
   *
   * @throws ERR_MEMORY_LIMIT; ERR_IOVA_EXHAUSTED: the domain has no room; ERR_OUT_OF_RANGE: more than the device or the
   * machine can ever hold.
   */
  reserve(size: number, options?: { kind?: MemoryKind; tag?: string | null; iommuDomain?: number }): Reservation

  // ── The end

  /**
   * Frees all memory of this manager, detaches its buffers, and closes the device. Rejects pending promises.
   * Idempotent.
   *
   * Waits at most 2 s for the device; a slow driver completes the remaining frees in the background. A buffer that the
   * runtime refuses to detach, or whose bytes were moved, reads zeros afterwards.
   *
   * The event loop stands meanwhile, in proportion to the live buffers. {@link disposeAsync} works in slices of some
   * milliseconds.
   */
  dispose(): void
  [Symbol.dispose](): void

  /**
   * Disposes like {@link dispose}, without blocking the event loop: detaches the buffers in slices of some
   * milliseconds, and frees the memory on another thread. Resolves when the driver has taken back all of it, however
   * long that takes. From the call on, `disposed` is true.
   *
   * An abort of `signal` ends the wait, and rejects with its reason; the disposal goes on. {@link dispose} meanwhile
   * detaches the rest at once.
   */
  disposeAsync(options?: Cancellable): Promise<void>
  /** Disposes like {@link disposeAsync}: `await using memory = new MemoryManager()`. */
  [Symbol.asyncDispose](): Promise<void>

  /** Emitted when a limit, a pool, an IOMMU domain, or the process's descriptors or mappings are nearly used up. */
  on(event: 'warning', listener: (warning: MemoryWarning) => void): this
  /**
   * Emitted when the kernel reports memory pressure of the machine or of this process's cgroup, at most every 2 s while
   * it lasts, and after the cleanup that answers it ({@link CleanupOptions.onPressure}).
   */
  on(event: 'pressure', listener: (pressure: MemoryPressure) => void): this
  /** Emitted for each sync that the program missed, with `debug.checkSync`; from `process.nextTick`. */
  on(event: 'missingSync', listener: (missing: MissingSync) => void): this
  /** Emitted when `defragment` or automatic cleanup moved blocks; from `process.nextTick`, after the moves. */
  on(event: 'relocated', listener: (moves: BlockMove[]) => void): this
  /**
   * Emitted while profiling with `leakAfterMs`, for an allocation older than that: once for each buffer, and for each
   * sampled block of a pool; from `process.nextTick`.
   */
  on(event: 'leak', listener: (leak: BufferInfo) => void): this
  /** Calls `listener` at the next event alone. */
  once<E extends keyof MemoryEvents>(event: E, listener: (...args: MemoryEvents[E]) => void): this
  addListener<E extends keyof MemoryEvents>(event: E, listener: (...args: MemoryEvents[E]) => void): this
  prependListener<E extends keyof MemoryEvents>(event: E, listener: (...args: MemoryEvents[E]) => void): this
  off<E extends keyof MemoryEvents>(event: E, listener: (...args: MemoryEvents[E]) => void): this
  removeListener<E extends keyof MemoryEvents>(event: E, listener: (...args: MemoryEvents[E]) => void): this
}
