/** The memory manager and its options. */

import { EventEmitter } from 'node:events'

import type { Buf, BufferInfo, MemoryKind, NPUAllocationOptions, SystemAllocationOptions } from './allocations.js'
import type { BlockMove } from './compaction.js'
import type { Backend, DeviceInfo, SimulatedDeviceOptions } from './devices.js'
import type { InferenceBuffers, InferenceSpec } from './inference.js'
import type { MemoryLimits, MemoryWarning, Reservation } from './limits.js'
import type { MemoryPool, MemoryPoolOptions, PoolAllocationOptions } from './pools.js'
import type { MemoryProfile, ProfilingOptions } from './profiling.js'
import type { CleanupOptions, MemoryPressure, OptimizeOptions, OptimizeResult } from './reclaim.js'
import type { MemorySnapshot } from './report.js'
import type { SharedBufferToken } from './sharing.js'
import type { MemoryStats, MemoryUsage, NPUMemoryStats, SystemMemoryStats } from './stats.js'

export interface MemoryManagerOptions {
  /**
   * 'auto' (default) opens the best NPU there is. Where one exists but cannot be opened it throws
   * (`ERR_DEVICE_PERMISSION` says what to do). Only where there is none does it fall back to 'simulated', with one
   * process warning, code `RKLLM_SIMULATED_NPU`. A DMA-BUF heap is no NPU: 'auto' does not take one.
   */
  backend?: 'auto' | Backend
  /** Device node or heap name instead of the probe's choice. */
  device?: string
  /** For `backend: 'simulated'`, and for 'auto' where it falls back to it. */
  simulated?: SimulatedDeviceOptions
  /** How small NPU allocations share kernel objects (and so file descriptors). */
  slabs?: SlabOptions
  /** What may be held; `setMemoryLimits` changes it later. Default: no limits. */
  limits?: MemoryLimits
  /** What the manager does by itself about scattered and scarce memory. */
  cleanup?: CleanupOptions
  /** For finding mistakes; costs time and memory. */
  debug?: DebugOptions
  /**
   * Opens a Unix socket at which `rkllm-memory top`, `snapshot` and `report` can read this manager's figures: only for processes of the
   * same user (and root), in `$XDG_RUNTIME_DIR/rkllm-memory/` or `/tmp/rkllm-memory-UID/`. It changes nothing, keeps no process alive, and
   * goes with the manager. Where it cannot be opened safely there is a process warning (`RKLLM_INSPECT`) and none. Default false: nothing listens.
   */
  inspect?: boolean
  /** `true` is {@link MemoryManager.enableMemoryProfiling} with its defaults. Default false. */
  profiling?: boolean | ProfilingOptions
}

export interface SlabOptions {
  /** NPU allocations up to this size are cut from shared slabs. Default 1 MiB, at most a quarter of a slab; 0 turns slabs off. */
  threshold?: number
  /** Size of one slab. Default 16 MiB, at most a 32nd of what one IOMMU domain (or CMA) has. */
  size?: number
}

export interface DebugOptions {
  /**
   * This many frees of slices (of pools and slabs) wait, filled with 0xdd, before their bytes are used again. A slice that
   * holds anything else when its turn comes was written to after it was freed: counted as `lateWrites`. Default 0.
   */
  delayReuse?: number
}

/**
 * Memory of one opened device, and of the system beside it, with one set of books.
 *
 * All managers of a process that open the same device node share it. A manager belongs to the thread that made it.
 */
export class MemoryManager extends EventEmitter {
  /**
   * @throws ERR_DEVICE_NOT_FOUND, ERR_DEVICE_PERMISSION, ERR_DEVICE_LOST, ERR_DEVICE_IO; ERR_OUT_OF_RANGE for a
   * simulated board that no board could be.
   */
  constructor(options?: MemoryManagerOptions)

  /** What was opened. */
  readonly device: DeviceInfo
  readonly disposed: boolean

  // ── NPU memory

  /**
   * Allocates `size` bytes that the NPU sees, as an ArrayBuffer over them.
   *
   * The memory goes back when it is deallocated, when the manager is disposed, or some time after the ArrayBuffer is
   * collected: the garbage collector knows its size, but finalizers only run when the event loop turns.
   *
   * @throws ERR_OUT_OF_RANGE beyond what the device can ever hold; ERR_IOVA_EXHAUSTED, ERR_OUT_OF_MEMORY,
   * ERR_TOO_MANY_FDS, ERR_TOO_MANY_MAPS beyond what it can hold now; ERR_DOMAIN_BUSY, ERR_UNSUPPORTED,
   * ERR_EXTERNAL_BUFFERS_FORBIDDEN, ERR_DEVICE_LOST, ERR_DEVICE_IO.
   */
  allocateNPUMemory(size: number, options?: NPUAllocationOptions): ArrayBuffer

  /**
   * As {@link allocateNPUMemory}, off the JavaScript thread: a driver may make a caller wait for seconds. Everything that is wrong rejects,
   * nothing throws. Where memory, addresses or descriptors are used up or a limit is reached, it gives back what can be, lets the finalizers of
   * dropped buffers run, and tries again before it rejects. Aborted, it rejects at once with the signal's reason, and what the driver gives
   * afterwards goes back. It keeps the event loop running.
   */
  allocateNPUMemoryAsync(size: number, options?: NPUAllocationOptions & { signal?: AbortSignal }): Promise<ArrayBuffer>

  /**
   * Frees NPU memory now and detaches its ArrayBuffer: views of it have length 0 afterwards.
   *
   * @throws ERR_BUFFER_KIND, and those of {@link deallocate}.
   */
  deallocateNPUMemory(buffer: Buf): void

  /** NPU memory in figures. Reads this process's mappings: some milliseconds at tens of thousands of them. */
  getNPUMemoryStats(): NPUMemoryStats

  // ── System memory

  /**
   * Allocates `size` zeroed bytes of this process outside the JavaScript heap, as an ArrayBuffer over them.
   *
   * @throws ERR_OUT_OF_RANGE, ERR_OUT_OF_MEMORY, ERR_TOO_MANY_MAPS, ERR_UNSUPPORTED, ERR_EXTERNAL_BUFFERS_FORBIDDEN.
   */
  allocateSystemMemory(size: number, options?: SystemAllocationOptions): ArrayBuffer

  /**
   * Frees system memory now and detaches its ArrayBuffer.
   *
   * @throws ERR_BUFFER_KIND, and those of {@link deallocate}.
   */
  deallocateSystemMemory(buffer: Buf): void

  /** System memory in figures. */
  getSystemMemoryStats(): SystemMemoryStats

  // ── Either kind

  /**
   * Frees memory of either kind now and detaches its ArrayBuffer.
   *
   * @throws ERR_UNKNOWN_BUFFER not this manager's (it is left as it is); ERR_BUFFER_FREED; ERR_BUFFER_TRANSFERRED its
   * bytes were moved to another ArrayBuffer; ERR_BUFFER_BUSY the runtime does not let go of it: nothing was freed;
   * ERR_TOO_MANY_MAPS it was detached, and its memory goes when it is collected.
   */
  deallocate(buffer: Buf): void

  /**
   * Everything known of a live buffer.
   *
   * @throws ERR_UNKNOWN_BUFFER, ERR_BUFFER_FREED, ERR_BUFFER_TRANSFERRED.
   */
  describe(buffer: Buf): BufferInfo

  /** Whether this is a live buffer of this manager, or a view of one. */
  owns(buffer: Buf): boolean

  // ── Cache maintenance

  /**
   * The CPU wrote, the device will read. Bytes from `offset` (default 0), `length` of them (default: to the end).
   * Ranges are rounded outwards to cache lines. Nothing happens where nothing is needed (uncached, simulated).
   *
   * @throws ERR_BUFFER_KIND for system memory, ERR_OUT_OF_RANGE, ERR_DOMAIN_BUSY, ERR_DEVICE_IO, and those of
   * {@link describe}.
   */
  syncToDevice(buffer: Buf, offset?: number, length?: number): void

  /** The device wrote, the CPU will read; else as {@link syncToDevice}. */
  syncFromDevice(buffer: Buf, offset?: number, length?: number): void

  /** As {@link syncToDevice}, off the JavaScript thread. The memory stays until it is done, also when the buffer is freed meanwhile. */
  syncToDeviceAsync(buffer: Buf, offset?: number, length?: number): Promise<void>
  /** As {@link syncFromDevice}, in the same way. */
  syncFromDeviceAsync(buffer: Buf, offset?: number, length?: number): Promise<void>

  // ── Sharing: librknnrt (rknn_create_mem_from_fd), RGA, MPP, V4L2, other processes

  /**
   * A new close-on-exec fd that the caller owns and closes. The memory lives as long as any fd, mapping or importer.
   *
   * @throws ERR_BUFFER_KIND for system memory, ERR_TOO_MANY_FDS, ERR_UNSUPPORTED, and those of {@link describe}.
   */
  exportDmaBuf(buffer: Buf): { fd: number; offset: number; size: number }

  /**
   * Maps somebody else's dma-buf and makes it visible to the NPU; the fd stays the caller's. Importing the same dma-buf
   * again, or one that this device exported, gives another view of the same memory, counted once in its domain.
   * `size` shows only the first bytes.
   *
   * @throws ERR_INVALID_ARG_TYPE not an open dma-buf; ERR_OUT_OF_RANGE smaller than `size`; ERR_UNSUPPORTED; and those
   * of {@link allocateNPUMemory}.
   */
  importDmaBuf(fd: number, options?: { size?: number; tag?: string }): ArrayBuffer

  /**
   * Lets others in this process have the same memory, NPU or system, slices included: a token for {@link adopt}, to be posted
   * to another thread. The token keeps nothing: hold the buffer until the other side has adopted. The same memory has the same token.
   *
   * @throws ERR_UNKNOWN_BUFFER, ERR_BUFFER_FREED, ERR_BUFFER_TRANSFERRED; ERR_UNSUPPORTED a movable block.
   */
  share(buffer: Buf): SharedBufferToken

  /**
   * Another zero-copy ArrayBuffer at the same address, in whichever thread calls. It is a buffer of this manager like any
   * other: counted here too (once only in the device's domain), freed by {@link deallocate} or collected; the memory goes when the last holder lets
   * go, in whatever order, and outlives the manager, pool or thread that it came from. Nothing orders the accesses of two threads: use
   * messages, or Atomics on a SharedArrayBuffer.
   *
   * @throws ERR_BUFFER_FREED every holder has let go; ERR_UNKNOWN_BUFFER no token of this process; ERR_MEMORY_LIMIT;
   * ERR_UNSUPPORTED memory of another kind of device.
   */
  adopt(token: SharedBufferToken): ArrayBuffer

  // ── Pools

  /**
   * Makes a pool: few large pieces of memory, cut into slices.
   *
   * @throws ERR_POOL_EXISTS; ERR_OUT_OF_RANGE; and those of {@link allocateNPUMemory} or {@link allocateSystemMemory}.
   */
  createMemoryPool(options: MemoryPoolOptions): MemoryPool

  /** The pool of that name, if there is one. */
  getMemoryPool(name: string): MemoryPool | undefined

  /**
   * A slice of a pool as an ArrayBuffer, which may be deallocated, described, synced and exported like any other.
   *
   * @throws ERR_POOL_UNKNOWN, ERR_POOL_DESTROYED; ERR_POOL_EXHAUSTED; ERR_OUT_OF_RANGE beyond what the pool can ever
   * give; and where it has to grow, those of {@link allocateNPUMemory}.
   */
  allocateFromPool(pool: MemoryPool | string, size: number, options?: PoolAllocationOptions): ArrayBuffer

  /**
   * Gives a pool's memory back.
   *
   * @throws ERR_POOL_BUSY while allocations live, unless `force`, which frees (and detaches) them; ERR_POOL_UNKNOWN,
   * ERR_POOL_DESTROYED.
   */
  destroyMemoryPool(pool: MemoryPool | string, options?: { force?: boolean }): void

  // ── Sessions

  /**
   * All memory that one RKLLM or RKNN session passes across its API, from one pool: typed arrays, their addresses, and the C structs that
   * point to them. All of it, or nothing is taken.
   *
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE, ERR_UNSUPPORTED for cross-attention before 1.2.1; and those of {@link createMemoryPool}.
   */
  createInferenceBuffers(spec: InferenceSpec): InferenceBuffers

  // ── Monitoring

  /** The one-look summary. Costs the same however many buffers are live. */
  getMemoryStats(): MemoryStats

  /** The full breakdown by kind, tag, pool and IOMMU domain, with the process and the machine around it. */
  getMemoryUsage(): MemoryUsage

  /**
   * All of {@link getMemoryUsage} as OpenMetrics 1.0 text (content type `application/openmetrics-text; version=1.0.0; charset=utf-8`), with
   * histograms while profiling. A figure that is not known has no sample. `format: 'prometheus'` gives the older text format
   * (`text/plain; version=0.0.4`), which differs in how counters are declared and is what `promtool check metrics` and node_exporter's
   * textfile collector read. docs/metrics.md lists the metrics.
   */
  metrics(options?: { format?: 'openmetrics' | 'prometheus' }): string

  /**
   * Records what happens from here on, and forgets what was recorded before. Costs a pool some nanoseconds an allocation
   * (benchmark/README.md). The option `profiling` does the same when the manager is made.
   */
  enableMemoryProfiling(options?: ProfilingOptions): void
  /** Records nothing any more; the profile stays. Nothing happens when it is off. */
  disableMemoryProfiling(): void
  /** What was recorded, now or last; an empty profile before the first time. A copy. */
  getMemoryProfile(): MemoryProfile
  /** Everything that lives: each buffer, and each block and gap of each pool. */
  takeSnapshot(): MemorySnapshot
  /**
   * Writes a report in the format that the extension names: `.html` `.json` `.csv` (event log) `.pb.gz` (pprof) `.trace.json` (Perfetto)
   * `.prom`. The file is there when all of it is. docs/reports.md describes the formats.
   *
   * @throws (rejects) ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE for another extension, ERR_DEVICE_IO with errno and path.
   */
  writeReport(path: string): Promise<void>

  /**
   * Gives empty slabs and chunks back, compacts movable blocks, and says what it gained. Garbage buffers are collected as
   * well; their memory goes when the event loop turns, so it is not part of the result.
   */
  optimizeMemory(options?: OptimizeOptions): OptimizeResult
  /**
   * Bounds what this manager may hold. Scopes that are not named keep their limits; `max: null` lifts one. A limit may be
   * below what is held already: nothing is taken away, and nothing is added until enough has gone.
   * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE; nothing has changed then.
   */
  setMemoryLimits(limits: MemoryLimits): void
  /** The limits as they are, with nothing left out. A copy. */
  getMemoryLimits(): Required<MemoryLimits>
  /**
   * Sets memory aside for somebody else's allocations, the RKLLM runtime's weights first of all: counted under limits, in
   * its IOMMU domain (default 0) and in the statistics. What the kernel says is available (RAM, CMA) is not touched: it
   * sees what the others take by itself. `kind` is 'npu' unless it says otherwise.
   * @throws ERR_MEMORY_LIMIT; ERR_IOVA_EXHAUSTED where the domain has no room; ERR_OUT_OF_RANGE beyond what the device or
   * the machine can ever hold.
   */
  reserve(size: number, options?: { kind?: MemoryKind; tag?: string; iommuDomain?: number }): Reservation

  // ── The end

  /**
   * Frees everything this manager owns, detaching its buffers, and closes the device, for which it waits at most 2 s: what a slow driver has not
   * taken back by then goes on by itself. Promises that are pending reject. Idempotent. A buffer that the
   * runtime does not let go of, or whose bytes were moved, reads zeros from here on.
   */
  dispose(): void
  [Symbol.dispose](): void

  /** A limit, a pool, an IOMMU domain, the process's descriptors or its mappings come near their end. */
  on(event: 'warning', listener: (warning: MemoryWarning) => void): this
  /**
   * The kernel reports that memory is short, of the machine or of this process's cgroup: at most every 2 s while it lasts. Emitted
   * after the cleanup that answers it (`cleanup.onPressure`).
   */
  on(event: 'pressure', listener: (pressure: MemoryPressure) => void): this
  /** Blocks were moved, by `defragment` or by itself. Emitted from `process.nextTick`, after the moves. */
  on(event: 'relocated', listener: (moves: BlockMove[]) => void): this
  /** While profiling with `leakAfterMs`: something is older than that. Each buffer, and each sampled block of a pool, once; from `process.nextTick`. */
  on(event: 'leak', listener: (leak: BufferInfo) => void): this
}
