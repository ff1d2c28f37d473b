/**
 * NPU and system memory for LLM apps on Rockchip boards, as zero-copy ArrayBuffers.
 *
 * Sizes are bytes and times are milliseconds unless a name says otherwise. Byte counts are `number` (exact up to 2^53),
 * addresses are `bigint`. A figure that cannot be known is `null`, never a guess.
 *
 * Every method of `MemoryManager` throws {@link MemoryError} and nothing else; each says which codes. All of them throw
 * `ERR_MANAGER_DISPOSED` after `dispose`, and `ERR_INVALID_ARG_TYPE` for an argument of the wrong type or an option that
 * does not exist.
 *
 * @packageDocumentation
 */

import { EventEmitter } from 'node:events'

/** An ArrayBuffer, or a view of one: a typed array, a DataView, a Buffer. */
export type Buf = ArrayBuffer | ArrayBufferView

export type MemoryKind = 'npu' | 'system'

// ─────────────────────────────── devices ───────────────────────────────

/**
 * - `rknpu`       vendor driver, DRM GEM flavour: `/dev/dri/renderD*` whose DRM name is "rknpu"
 * - `rknpu-heap`  vendor driver, DMA-heap flavour: `/dev/rknpu`, every buffer is a dma-buf fd
 * - `rocket`      mainline driver, Linux >= 6.18: `/dev/accel/accel*`
 * - `dma-heap`    the kernel's DMA-BUF heaps: `/dev/dma_heap/<name>`, `/dev/rk_dma_heap/<name>`
 * - `simulated`   no NPU: memfd-backed, with the same rules, limits and errors as the real ones
 */
export type Backend = 'rknpu' | 'rknpu-heap' | 'rocket' | 'dma-heap' | 'simulated'

export interface DeviceInfo {
  readonly backend: Backend
  /** Never true for a device that is there. */
  readonly simulated: boolean
  /** Device node; null for `simulated`. */
  readonly path: string | null
  /** From the device tree, e.g. "rk3588". */
  readonly soc: string | null
  /** e.g. "0.9.8". */
  readonly driverVersion: string | null
  readonly npuCores: number | null
  /** Whether the NPU sees memory through an IOMMU. Without one its buffers come from the CMA area. */
  readonly iommu: boolean
  /** IOMMU domains that {@link NPUAllocationOptions.iommuDomain} may name; 0 without an IOMMU. */
  readonly iommuDomains: number
  /** What one domain can address, or the CMA area's size; 0 where the backend does not say. */
  readonly domainBytes: number
  /** On-chip SRAM that the driver hands out. */
  readonly sramTotal: number
  /** What was free of it when the device was opened; `getNPUMemoryStats` has the figure of now. */
  readonly sramFree: number
}

/** A device that is there and cannot be opened. */
export interface DeviceRefusal {
  backend: Backend
  path: string
  error: MemoryError
}

/**
 * A Unix socket at which this process receives dma-bufs from others (`SCM_RIGHTS`, unix(7)). Who may send is a matter of the
 * permissions of `path` and its directory. A socket that a dead process left at `path` is taken over.
 */
export class DmaBufInbox {
  /** @throws ERR_DEVICE_IO with errno: somebody listens there, another file is there, no such directory, no permission. */
  constructor(path: string)
  readonly path: string
  readonly closed: boolean
  /**
   * The next dma-buf, in the order in which they were sent; keeps the process alive while it waits. `fd` is close-on-exec and yours to
   * close ({@link closeDmaBuf}).
   *
   * @throws the signal's reason; ERR_BUFFER_FREED the inbox was closed.
   */
  receive(options?: { signal?: AbortSignal }): Promise<{ fd: number; message: string }>
  /** Ends what waits, and removes the socket. Idempotent. */
  close(): void
  [Symbol.dispose](): void
}

/**
 * Sends a dma-buf to whoever has a {@link DmaBufInbox} at `path`, with a message of at most 64 KiB. `fd` stays yours, and may be closed as soon as this
 * returns its promise.
 *
 * @throws ERR_INVALID_ARG_TYPE not an open dma-buf; ERR_OUT_OF_RANGE the message is too long; ERR_DEVICE_IO with errno: nobody listens
 * there, or has not received for 5 s.
 */
export function sendDmaBuf(path: string, fd: number, message?: string): Promise<void>

/**
 * Closes an fd of {@link MemoryManager.exportDmaBuf} or {@link DmaBufInbox.receive}. `fs.closeSync` does so too, but not on Deno, whose `fs` knows
 * only descriptors that it opened itself.
 *
 * @throws ERR_INVALID_ARG_TYPE not an open dma-buf.
 */
export function closeDmaBuf(fd: number): void

/** Every device this process can open, best first, then every one it cannot and why. Opens each for a moment. */
export function probeDevices(): Array<DeviceInfo | DeviceRefusal>

/** One check of {@link diagnose}: `id` names it ("driver", "permission", "cma", "fds", ...; docs/command-line.md has them all). */
export interface Finding {
  area: 'npu' | 'machine'
  id: string
  status: 'ok' | 'warn' | 'fail'
  /** What was found, with the figures. */
  message: string
  /** What to do about it, in lines; null where all is well. */
  remedy: string | null
}

export interface Diagnosis {
  machine: { board: string | null; soc: string | null; kernel: string | null; container: string | null }
  findings: Finding[]
  counts: { ok: number; warn: number; fail: number }
}

/**
 * What `npx rkllm-memory doctor` shows, as data: whether devices, permissions, the driver, IOMMU, CMA, limits, cgroup, kernel arguments and
 * container are fit for RKLLM. Reads /proc and /sys and opens each device for a moment. With `root` it reads a support bundle (`doctor --save`) instead,
 * and opens nothing.
 *
 * @throws ERR_OUT_OF_RANGE there is no such folder.
 */
export function diagnose(options?: { root?: string }): Diagnosis

/** Which board to play, and where it differs. */
export interface SimulatedDeviceOptions {
  /** "rk3588", "rk3588s", "rk3576", "rk3562" (IOMMU, 16 domains of 4 GiB), "rk3566", "rk3568" (no IOMMU, CMA). Default "rk3588". */
  soc?: string
  /** What one domain can address, or the CMA area's size: whole pages, at most 4 GiB (CMA: 1.5 GiB). Default 4 GiB / 256 MiB. */
  domainBytes?: number
  /** 1 to 16; 1 without an IOMMU. */
  domains?: number
  /** Whole pages, at most 16 MiB; 0 without an IOMMU. Default 944 KiB on rk3588, else 0. */
  sramBytes?: number
  /** Kernel objects that may exist at once: the file-descriptor wall. Default: none. */
  maxObjects?: number
  /** Added to every create, destroy and sync, as a real driver's domain switch does. At most 60,000. */
  latencyMs?: number
}

// ─────────────────────────────── manager ───────────────────────────────

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

/** Memory is short. */
export interface MemoryPressure {
  /** As PSI says it: some tasks waited for memory, or all that could run did. Without PSI: below a tenth of RAM, or a 32nd, is available. */
  level: 'some' | 'full'
  /** Bytes that could still be taken, before the cleanup. */
  available: number
  /** Bytes that the cleanup gave back in answer. */
  released: number
}

/** How much of something there may be. */
export interface Limit {
  /** Hard, in bytes: what would pass it throws `ERR_MEMORY_LIMIT`. null or left out: none. */
  max?: number | null
  /** Soft: shares of `max` (above 0, at most 1) at which 'warning' fires, once per crossing upwards. Default [0.8, 0.95]. */
  warnAt?: number[]
}

/**
 * Bytes that are really taken are counted: page rounding, the chunks of pools, and reservations included. The unused rest of slabs
 * is not (`getNPUMemoryStats().slabs` tells it).
 */
export interface MemoryLimits {
  npu?: Limit
  system?: Limit
  /** npu + system. */
  total?: Limit
  /** What carries the tag, of either kind; a pool's tag counts its chunks. */
  tags?: Record<string, Limit>
}

/** Made by `manager.reserve`. Dropped without `release`, it is released when collected, with a process warning. */
export interface Reservation {
  readonly size: number
  readonly released: boolean
  /** Idempotent. */
  release(): void
  [Symbol.dispose](): void
}

/**
 * Something comes near its end. Looked for when memory is taken, emitted from `process.nextTick`; each share once per crossing
 * upwards, and again only after it was left by 5 per cent.
 *
 * `npu`, `system`, `total`, `tag:...`: a limit, at its `warnAt`. `pool:...`: what is allocated of its `maxSize`, at 80 and 95 per cent.
 * `domain:...`: the addresses of an IOMMU domain, at 80 and 95 per cent. `fds`, `maps`: descriptors and mappings of this process, at 70
 * and 90 per cent; they are counted now and then. `used` and `max` are bytes, but for the last two.
 */
export interface MemoryWarning {
  scope: 'npu' | 'system' | 'total' | 'fds' | 'maps' | `tag:${string}` | `pool:${string}` | `domain:${number}`
  used: number
  max: number
  /** used / max */
  ratio: number
  /** What to do about it, with the figures. */
  message: string
}

// ───────────────────────────── allocations ─────────────────────────────

export interface AllocationOptions {
  /** Free text for accounting: "kv-cache", "vision-input". */
  tag?: string
  /** Of the CPU address, and for NPU memory of the device address: a power of two, 64 to 1 GiB. Default: the page size. */
  alignment?: number
  /** Zeroed before it is handed out, by this library where the driver does not. Default true. System memory always is. */
  zeroed?: boolean
}

export interface NPUAllocationOptions extends AllocationOptions {
  /** CPU-cached mapping that needs syncToDevice / syncFromDevice. Default true. */
  cacheable?: boolean
  /**
   * Physically contiguous. Default: what the device needs (true where there is no IOMMU). With an IOMMU the vendor's
   * 0.9.8 leaks address space for it: ERR_UNSUPPORTED.
   */
  contiguous?: boolean
  /** 'try-sram' takes on-chip SRAM as far as it goes, the rest from DRAM. Default 'dram'. */
  placement?: 'dram' | 'try-sram'
  /** IOMMU domain. Default 0. */
  iommuDomain?: number
  /** NPU cores that will use it, as a bit mask. Default 0: the driver chooses. */
  coreMask?: number
  /** A kernel object of its own, never a slab slice. Default: by size (see {@link SlabOptions}). */
  dedicated?: boolean
}

export interface SystemAllocationOptions extends AllocationOptions {
  /** Transparent huge pages; 'try' falls back to small ones. Default false. */
  hugePages?: boolean | 'try'
  /** mlock: never swapped. Default false. */
  lock?: boolean
  /** Fault every page in now. Default false. */
  prefault?: boolean
}

/** Names shared memory within its process. Structured-cloneable. */
export interface SharedBufferToken {
  readonly token: string
  /** Bytes. */
  readonly size: number
}

export interface BufferInfo {
  /** Unique in this process. */
  id: number
  kind: MemoryKind
  /** Bytes asked for = buffer.byteLength. */
  size: number
  /** Bytes that it really takes: whole pages. */
  reservedSize: number
  tag: string | null
  backend: Backend | null
  /** CPU address, for native code in this process (rkllm_run, rknn, FFI). Good until the buffer is freed. */
  address: bigint
  /** Address that the NPU sees, within `iommuDomain`; null where the backend gives none. */
  deviceAddress: bigint | null
  cacheable: boolean
  contiguous: boolean
  iommuDomain: number | null
  dedicated: boolean
  imported: boolean
  /** {@link MemoryManager.share} was called for it, or it was adopted: others may hold the same memory. */
  shared: boolean
  pool: string | null
  /** Offset inside its kernel object. */
  offset: number
  /** ms since 1970. */
  allocatedAt: number
  /** Where it was allocated; null as long as nobody samples. */
  stack: string | null
}

// ──────────────────────────────── pools ────────────────────────────────

export interface MemoryPoolOptions {
  /** Unique in its manager. */
  name: string
  /** Default 'npu'. */
  kind?: MemoryKind
  /** Reserved at once, and kept until the pool ends. */
  initialSize: number
  /** Grows by chunks up to here. Default: initialSize (a fixed pool). */
  maxSize?: number
  /** What it grows by; a larger request has a chunk of its own size. Default: initialSize. */
  chunkSize?: number
  /** Fixed-size blocks instead of variable ones; a request takes one of them. Rounded up to the alignment. */
  blockSize?: number
  /** Of every slice: a power of two, 64 to 1 GiB. Default 64. */
  alignment?: number
  /** Accounts the bytes of its chunks. A slice may name a tag of its own, which accounts the slice. */
  tag?: string
  /** How its chunks are made. `zeroed: false` leaves them as the driver gave them. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/** `alignment`: at most the page size, or the pool's own. `zeroed`: default false, the last owner's bytes are there. */
export interface PoolAllocationOptions extends AllocationOptions {
  /**
   * Compaction may move it: read `block.buffer` afresh each time. Default false. Only {@link MemoryPool.allocate} takes it: whoever
   * has an ArrayBuffer and nothing else could not know where its bytes went (`ERR_INVALID_ARG_TYPE`).
   */
  movable?: boolean
}

/** Slices of few large pieces of memory. Made by {@link MemoryManager.createMemoryPool}. Every method throws ERR_POOL_DESTROYED after its end. */
export class MemoryPool {
  private constructor()
  readonly name: string
  readonly kind: MemoryKind
  readonly destroyed: boolean

  /**
   * The fast path: a handle; no ArrayBuffer is made until `.buffer` is read. Free it: a block whose buffer was never read
   * is not freed by the garbage collector.
   *
   * @throws those of {@link MemoryManager.allocateFromPool}.
   */
  allocate(size: number, options?: PoolAllocationOptions): MemoryBlock

  /** The same as {@link MemoryManager.allocateFromPool}. */
  allocateBuffer(size: number, options?: PoolAllocationOptions): ArrayBuffer

  /** @throws ERR_UNKNOWN_BUFFER for another pool's, and those of {@link MemoryManager.deallocate}. */
  deallocate(memory: MemoryBlock | Buf): void

  /** Frees (and detaches) everything in the pool at once; keeps the memory. */
  reset(): void

  /** Gives empty chunks back to the device, down to initialSize; returns the bytes. By itself a pool keeps one. */
  trim(): number

  /**
   * Moves movable blocks together, from the last chunks into the first holes, then gives empty chunks back. Views of a block
   * that was moved are detached: `block.buffer` gives the next one. Blocks that are pinned, and those whose bytes were moved to
   * another ArrayBuffer (`transfer()`), stay. Nothing else has to stand still meanwhile, and stopping half-way leaves the pool valid.
   */
  defragment(options?: DefragmentOptions): DefragmentResult

  /** Exact, whatever its state. */
  stats(): PoolStats

  /** Destroys it by force. */
  [Symbol.dispose](): void
}

/** A slice of a pool. Made by {@link MemoryPool.allocate}. */
export class MemoryBlock {
  private constructor()
  /** Unique among the movable blocks of a pool that live, or among the others. It stays when the block is moved. */
  readonly id: number
  /** Bytes asked for. */
  readonly size: number
  /** Compaction may move it: then read `buffer` and `address` afresh each time, or pin it. */
  readonly movable: boolean
  readonly freed: boolean
  /** Made when it is first read. @throws ERR_BUFFER_FREED */
  readonly buffer: ArrayBuffer
  /** CPU address; pins are the caller's duty while native code holds it. @throws ERR_BUFFER_FREED when it is movable and freed. */
  readonly address: bigint
  readonly deviceAddress: bigint | null
  /**
   * While pinned it can be neither freed nor moved, not by `deallocate(block.buffer)` either. Pins nest. They do not keep it from `reset`,
   * `destroyMemoryPool(..., { force: true })` and `dispose`. @throws ERR_BUFFER_FREED
   */
  pin(): void
  /** @throws ERR_OUT_OF_RANGE when it is not pinned. */
  unpin(): void
  /** @throws ERR_BUFFER_FREED, ERR_BUFFER_BUSY while it is pinned, and those of {@link MemoryManager.deallocate}. */
  free(): void
  [Symbol.dispose](): void
}

/** Where to stop; by default only when there is nothing left to gain. */
export interface DefragmentOptions {
  maxBytes?: number
  maxMoves?: number
  /**
   * Milliseconds, and a move beyond. The next call with a time goes on where this one stopped, so that many short ones get there. Without a time a
   * second thread copies, where there is a processor for it.
   */
  maxMs?: number
}

/** A block that was moved. Chunks are counted from 0 as the pool grew; offsets are bytes from a chunk's start. */
export interface BlockMove {
  /** `MemoryBlock.id`. */
  id: number
  from: { chunk: number; offset: number }
  to: { chunk: number; offset: number }
  /** Bytes asked for. */
  size: number
}

export interface DefragmentResult {
  moves: BlockMove[]
  bytesMoved: number
  /** Given back to the device, in chunks that were empty afterwards. */
  bytesFreed: number
  fragmentationBefore: number
  fragmentationAfter: number
  durationMs: number
}

export interface OptimizeOptions {
  /** Give empty slabs, and empty chunks of pools, back. Default true; compacting a pool trims it in any case. */
  trim?: boolean
  /** Compact every pool that has movable blocks. Default true. */
  defragment?: boolean | DefragmentOptions
}

export interface OptimizeResult {
  bytesFreed: number
  bytesMoved: number
  /** By pool. */
  pools: Record<string, DefragmentResult>
  durationMs: number
}

/** What a manager does by itself. */
export interface CleanupOptions {
  /**
   * When the kernel reports memory pressure: give empty slabs and chunks back, and compact pools of which a chunk can be emptied, in
   * slices of half a millisecond. Default true. `'pressure'` is emitted either way.
   */
  onPressure?: boolean
  /**
   * Before an allocation fails for want of memory: give empty slabs and chunks back, compact, and try once more. The error that
   * comes after all says in its `hint` what was tried. Default true.
   */
  onExhaustion?: boolean
  /**
   * Compact a pool whose fragmentation passes this share, some time after one of its movable blocks was freed, in slices of half a
   * millisecond. Default 0.5; null: never by itself.
   */
  defragmentAbove?: number | null
}

export interface PoolStats {
  name: string
  kind: MemoryKind
  chunks: number
  /** Bytes: reserved (chunks) >= allocated (regions, padded) >= requested (asked for). */
  reserved: number
  allocated: number
  requested: number
  free: number
  peakAllocated: number
  /** Exact, not a size-class floor. */
  largestFree: number
  liveAllocations: number
  totalAllocations: number
  failedAllocations: number
  /** 1 - largestFree / free, over the whole pool; 0 when nothing is free. */
  fragmentation: number
  /** Slices that were written to after they were freed, with {@link DebugOptions.delayReuse}. */
  lateWrites: number
}

// ────────────────────────── inference buffers ──────────────────────────

/**
 * The version of rkllm.h that the runtime was built with: 1.1 (all of 1.1.x), 1.2.0, 1.2 (1.2.1 to 1.2.3), 1.3. What differs is where the
 * fields of RKLLMInput and RKLLMInferParam lie.
 */
export type RKLLMHeader = '1.1' | '1.2.0' | '1.2' | '1.3'

/** Element types of rknn_api.h. float16 and bfloat16 come as their bits (Uint16Array), bool as bytes (Uint8Array), int64 as BigInt64Array. */
export type RKNNDataType =
  | 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'bool'

export interface RKNNTensorSpec {
  /** Unique among the inputs, or the outputs. */
  name: string
  /** 1 to 16 dimensions, the slowest first. */
  shape: readonly number[]
  dtype: RKNNDataType
  /** Default 'nhwc' for four dimensions, 'undefined' for others. */
  format?: 'nchw' | 'nhwc' | 'undefined'
}

/** What a session needs. Sizes are counts of elements unless they say bytes; whatever is left out is not allocated. */
export interface InferenceSpec {
  /** Default 'npu'. The RKLLM runtime reads its inputs with the CPU: 'system' does for it. */
  kind?: MemoryKind
  /** Default '1.3'. */
  header?: RKLLMHeader
  /** The longest input, in tokens. Default: contextLength. */
  maxTokens?: number
  /** The model's, in tokens. */
  contextLength?: number
  /** Floats of one embedding. */
  hiddenSize?: number
  /** Floats of one row of logits. */
  vocabSize?: number
  /** Default: whether hiddenSize and maxTokens are known. */
  embeddings?: boolean
  /** Room for a prompt, in bytes of UTF-8 with its end. Default: 8 for each token, at least 4096; 0 for RKNN alone. */
  promptBytes?: number
  /** Tokens of one image; floats of one of them (default: hiddenSize); images at once (default 1); pixels, for multimodalInput. */
  image?: { tokens: number; hiddenSize?: number; count?: number; width?: number; height?: number }
  /** `heads` are those of keys and values. From header 1.2. */
  crossAttention?: { layers: number; heads: number; headDim: number; tokens: number }
  /** Default: one row where vocabSize is known. Needs vocabSize. */
  logits?: boolean | { tokens: number }
  /** `true`: a row for each of maxTokens. Default false. Needs hiddenSize. */
  hiddenStates?: boolean | { tokens: number }
  rknnInputs?: ReadonlyArray<RKNNTensorSpec & { /** Default false. */ passThrough?: boolean }>
  rknnOutputs?: ReadonlyArray<RKNNTensorSpec>
  /** Two sets of everything: one is filled while the other is read. Default false. */
  doubleBuffered?: boolean
  /** The pool's. Default: 'inference ' and a number. */
  name?: string
  tag?: string
  /** How the pool's memory is made. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/** An array of an RKNN tensor, by its {@link RKNNDataType}. */
export type RKNNArray =
  | Float32Array | Uint16Array | Int8Array | Uint8Array | Int16Array | Int32Array | Uint32Array | BigInt64Array

/** Plain addresses (CPU, for FFI) of arrays and structs; null for what the spec did not ask for. */
export interface InferenceAddresses {
  readonly tokens: bigint | null
  readonly embeddings: bigint | null
  readonly imageEmbeddings: bigint | null
  readonly encoderKeys: bigint | null
  readonly encoderValues: bigint | null
  readonly encoderMask: bigint | null
  readonly encoderPositions: bigint | null
  readonly logits: bigint | null
  readonly hiddenStates: bigint | null
  readonly inputs: Readonly<Record<string, bigint>>
  readonly outputs: Readonly<Record<string, bigint>>
  /** RKLLMInput, as the last of promptInput, tokenInput, embedInput and multimodalInput wrote it. */
  readonly rkllmInput: bigint
  /** The RKLLMEmbedInput, RKLLMTokenInput or RKLLMMultiModalInput inside of it. */
  readonly rkllmInputUnion: bigint
  readonly rkllmInferParam: bigint
  readonly rkllmCrossAttnParam: bigint | null
  /** rknn_input[], rknn_output[]: filled from the start. */
  readonly rknnInputs: bigint | null
  readonly rknnOutputs: bigint | null
}

/** The arrays of one set; null for what the spec did not ask for. Each begins at a cache line (64 bytes). */
export interface InferenceArrays {
  /** [maxTokens] */
  readonly tokens: Int32Array | null
  /** [maxTokens, hiddenSize] */
  readonly embeddings: Float32Array | null
  /** [count, tokens, hiddenSize] */
  readonly imageEmbeddings: Float32Array | null
  /** [layers, tokens, heads, headDim] */
  readonly encoderKeys: Float32Array | null
  /** [layers, heads, headDim, tokens] */
  readonly encoderValues: Float32Array | null
  /** [tokens] of the encoder */
  readonly encoderMask: Float32Array | null
  /** [tokens] of the encoder */
  readonly encoderPositions: Int32Array | null
  /** [tokens, vocabSize] */
  readonly logits: Float32Array | null
  /** [tokens, hiddenSize] */
  readonly hiddenStates: Float32Array | null
  readonly inputs: Readonly<Record<string, RKNNArray>>
  readonly outputs: Readonly<Record<string, RKNNArray>>
  readonly addresses: InferenceAddresses
}

export interface RKLLMTalkOptions {
  /** Default 'user'. From header 1.2; at most 63 bytes. */
  role?: string
  /** Default false. From header 1.2. */
  enableThinking?: boolean
}

/**
 * The memory of one session. Made by {@link MemoryManager.createInferenceBuffers}. Requests allocate nothing: they write into the arrays, and one of the
 * `...Input` methods fills RKLLMInput and returns its address. The arrays are those of the front set.
 *
 * Nothing is freed while any of its arrays is in use; dropped altogether, it is freed some time after it is collected. Everything but
 * `disposed`, `bytes`, `kind`, `header` and `shapes` throws ERR_BUFFER_FREED after `dispose`, ERR_MANAGER_DISPOSED after the manager's.
 */
export interface InferenceBuffers extends InferenceArrays {
  readonly kind: MemoryKind
  readonly header: RKLLMHeader
  /** Of all sets, alignment and structs included. */
  readonly bytes: number
  readonly disposed: boolean
  /** Dimensions by name, those of tensors under `inputs` and `outputs`. */
  readonly shapes: Readonly<Record<string, any>>
  /** The other set, to be filled while the front is read; null unless doubleBuffered. */
  readonly back: InferenceArrays | null
  /** Front and back change places. @throws ERR_UNSUPPORTED unless doubleBuffered. */
  swap(): void
  /**
   * Zeroes what the next request must not see: all arrays, texts and request structs of one set. `tokens`: your word that no more rows than this were
   * written of tokens, embeddings and hiddenStates; the rest of those is left. What lies behind rknnInputs and rknnOutputs stays good.
   */
  reset(options?: { tokens?: number; side?: 'front' | 'back' }): void
  /** RKLLM_INPUT_PROMPT. @throws ERR_OUT_OF_RANGE for more than promptBytes, or a NUL. */
  promptInput(prompt: string, options?: RKLLMTalkOptions): bigint
  /** RKLLM_INPUT_TOKEN: the first `count` of `tokens`. */
  tokenInput(count: number, options?: RKLLMTalkOptions): bigint
  /** RKLLM_INPUT_EMBED: the first `count` rows of `embeddings`. */
  embedInput(count: number, options?: RKLLMTalkOptions): bigint
  /**
   * RKLLM_INPUT_MULTIMODAL: images, tokens of each, and pixels as the spec says unless given here. The markers are of header 1.3 (before, they are
   * parameters of rkllm_init), at most 63 bytes each.
   */
  multimodalInput(
    prompt: string,
    options?: RKLLMTalkOptions & {
      images?: number
      tokens?: number
      width?: number
      height?: number
      imageStart?: string
      imageEnd?: string
      imageContent?: string
    },
  ): bigint
  /** RKLLMInferParam, without LoRA or prompt cache. Default mode 'generate'; maxNewTokens from header 1.3. */
  inferParam(options?: { mode?: 'generate' | 'hiddenStates' | 'logits'; keepHistory?: boolean; maxNewTokens?: number }): bigint
  /**
   * RKLLMCrossAttnParam, for rkllm_set_cross_attn_params. Where `count` is less than the spec's tokens, it takes the place of tokens in the
   * shapes of encoderKeys and encoderValues.
   */
  crossAttention(count?: number): bigint
  /** `manager.syncToDevice` for the arrays named ('tokens', 'inputs.NAME'), or all that the host writes. Nothing for system memory. */
  syncToDevice(...names: string[]): void
  /** `manager.syncFromDevice` for the arrays named ('logits', 'outputs.NAME'), or all that the device writes. Nothing for system memory. */
  syncFromDevice(...names: string[]): void
  /** While pinned, `dispose` refuses (ERR_BUFFER_BUSY): for as long as native code runs. Pins nest. */
  pin(): void
  /** @throws ERR_OUT_OF_RANGE when they are not pinned. */
  unpin(): void
  /** Frees all of it, detaching the arrays. Idempotent. @throws ERR_BUFFER_BUSY while pinned. */
  dispose(): void
  [Symbol.dispose](): void
}

// ────────────────────────────── monitoring ─────────────────────────────

/** Bytes are those really taken: whole pages, and the chunks of named pools. */
export interface CounterStats {
  used: number
  peak: number
  liveAllocations: number
  totalAllocations: number
  /** However they ended: deallocated, disposed, collected. */
  totalFrees: number
  /** Requests that were refused. */
  failedAllocations: number
}

/** One IOMMU domain, as far as this process's managers fill it, slabs and chunks included. */
export interface DomainStats {
  id: number
  total: number
  used: number
  reservedForOthers: number
}

export interface NPUMemoryStats extends CounterStats {
  backend: Backend
  simulated: boolean
  /** What the NPU can address and the machine could give (IOMMU reach, CMA, RAM), whichever binds. */
  total: number
  available: number
  limit: number | null
  /** Kernel objects (and so fds) behind `liveAllocations`, empty ones that are kept included. */
  objects: number
  /** All slabs together: bytes in them, bytes in slices that live, writes after a free ({@link DebugOptions.delayReuse}). */
  slabs: { reserved: number; allocated: number; lateWrites: number }
  /** Freed in JS, not yet given back by the driver. */
  pendingFree: number
  /** What the driver failed to take back: it stays with the kernel until a reboot, and is not tried again. */
  lost: { objects: number; bytes: number }
  /** Empty without an IOMMU. */
  domains: DomainStats[]
  /** NPU buffers mapped in this process by anyone, the RKLLM runtime included. */
  processMapped: number | null
  sramTotal: number
  sramFree: number
  cmaTotal: number | null
  cmaFree: number | null
  /** Per cent per core, where the kernel shows it to this user. */
  load: number[] | null
}

export interface SystemMemoryStats extends CounterStats {
  limit: number | null
  /** RAM of the machine. */
  total: number
  /** What could be taken without swapping. */
  available: number
  swapTotal: number
  swapFree: number
  /** Resident set of this process. */
  rss: number
  /** cgroup v2 (container) figures, of the tightest limit on the way up; null outside one. */
  cgroup: { limit: number | null; current: number } | null
  /** PSI: share of the last 10 s in which some / all tasks waited for memory, per cent; null on kernels without. */
  pressure: { someAvg10: number; fullAvg10: number } | null
}

export interface MemoryStats {
  npuUsed: number
  npuTotal: number
  npuPeak: number
  systemUsed: number
  /** RAM of the machine, or the container's limit where that is less. */
  systemTotal: number
  systemPeak: number
  poolReserved: number
  poolAllocated: number
  liveAllocations: number
  simulated: boolean
}

export interface MemoryUsage {
  npu: NPUMemoryStats
  system: SystemMemoryStats
  pools: PoolStats[]
  /** By tag. A tag with nothing live is forgotten when there are more than 1024. */
  tags: Record<string, CounterStats>
  /** What `reserve` set aside and nobody has released. */
  reservations: Array<{ tag: string | null; kind: MemoryKind; size: number }>
  /** NaN where /proc is not mounted. */
  process: {
    rss: number
    heapUsed: number
    external: number
    openFds: number
    maxFds: number
    maps: number
    maxMaps: number
  }
  /** Of all pools, weighted by what is free in each; 0 without any. */
  fragmentation: number
}

// ─────────────────────────────── channels ──────────────────────────────

/**
 * What `node:diagnostics_channel` publishes, under `rkllm-memory:allocate`, `:free`, `:fail` and `:warning`; docs/metrics.md says when.
 * `pool`, `movable` and `id` together name an allocation, from its allocation to its free.
 */
export interface AllocationMessage {
  manager: MemoryManager
  kind: MemoryKind
  /** Bytes asked for. */
  size: number
  tag: string | null
  pool: string | null
  /** `MemoryBlock.id` of a block, else {@link BufferInfo.id}. */
  id: number
  movable: boolean
}
/** The allocation that ended. What is collected, and blocks without a buffer that end with their pool, are not told of. */
export type FreeMessage = AllocationMessage
/** A request that was refused; not one that was wrong in itself (`ERR_INVALID_ARG_TYPE`). */
export interface FailMessage {
  manager: MemoryManager
  /** null for a token that could not be adopted. */
  kind: MemoryKind | null
  size: number | null
  tag: string | null
  pool: string | null
  error: MemoryError
}
export type WarningMessage = MemoryWarning & { manager: MemoryManager }

// ──────────────────────────────── replay ───────────────────────────────

/** What a replay needs of an event; `kind`, `pool` and `tag` may be missing. */
export interface ReplayEvent {
  /** 'allocate'; 'free' or 'collect'; 'fail' is counted, everything else is passed over. */
  type: string
  /** Unique among what lives of the same kind and pool. */
  id: number | string
  /** Bytes asked for. */
  size: number
  kind?: MemoryKind | null
  pool?: string | null
  tag?: string | null
}

/** Sizes are bytes, rounded up to the alignment or to blocks as those of a pool are. */
export interface ReplayOptions {
  /**
   * What the pool may have. All of it at once, unless `chunkSize` or `initialSize` says that it grows. Default: the smallest capacity that
   * serves everything, or as much as it grows to.
   */
  capacity?: number
  /** Another name of `capacity`. */
  maxSize?: number
  /** Default 'tlsf', or 'fixed' with a `blockSize`. */
  suballocator?: 'tlsf' | 'fixed'
  /** Blocks of one size. */
  blockSize?: number
  /** What it grows by. Default: `initialSize`. */
  chunkSize?: number
  /** Default 0 with a `chunkSize`. */
  initialSize?: number
  /** A power of two. Default 64. */
  alignment?: number
  /** Only what is of these kinds, pools and tags; null stands for no pool and no tag. Default: everything. */
  kinds?: Array<MemoryKind | null>
  pools?: Array<string | null>
  tags?: Array<string | null>
  /** Look for the smallest capacity as well. */
  smallestCapacity?: boolean
}

export interface ReplayResult {
  /** Every request was served. */
  fits: boolean
  /** What the pool had; null where it grew without a limit. */
  capacity: number | null
  /**
   * Found by bisection, to 4 KiB or a block: it serves everything, and one step less does not. null where none does, or none was looked
   * for.
   */
  smallestCapacity: number | null
  /** Allocations and frees that were replayed. */
  operations: number
  /** Requests that were served. */
  allocations: number
  frees: number
  /** Requests that were refused, and their bytes. */
  failures: number
  failedBytes: number
  /** `line` is the line of the text (the header is 1), or the number of the event (the first is 1). */
  firstFailure: { line: number; size: number; live: number; reserved: number; free: number; largestFree: number } | null
  /** The most that was live: as asked for, as padded; and the most that its chunks took. */
  peakLive: number
  peakAllocated: number
  peakReserved: number
  /** 1 - largest free / free, when most was allocated. */
  fragmentationAtPeak: number
  /** One past the last byte that was ever used; null where there was more than one chunk. */
  highestAddress: number | null
  /** How often the device was asked for memory. */
  chunksMade: number
  liveAtEnd: number
  reservedAtEnd: number
  largestFreeAtEnd: number
  /**
   * What of the log was not replayed: allocations that the options leave out, requests that were refused when it was recorded, frees
   * of what the log never allocated; and places that were given out twice, which are freed in between.
   */
  skipped: { filtered: number; refused: number; unmatchedFrees: number; lostFrees: number }
}

/**
 * Would that pool have been enough? Runs a recorded log through the real suballocators and the growth of pools, without memory and without
 * a device. Blocks the event loop: a million entries take about a second, most of it reading text.
 *
 * @param log The text of a .csv of `writeReport` or of RMM (`Thread,Time,Action,Pointer,Size,Stream`), or events.
 * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE not a log, a pool that cannot be, nothing left by `kinds`, `pools` and `tags`, or no
 * capacity that is enough; ERR_OUT_OF_MEMORY.
 */
export function replayEventLog(log: string | Iterable<ReplayEvent>, options?: ReplayOptions): ReplayResult

// ────────────────────────────── profiling ──────────────────────────────

export interface ProfilingOptions {
  /**
   * Mean bytes between two samples, whose stack and lifetime are recorded (a Poisson process, as tcmalloc and V8 have it). 1 samples
   * every allocation. Otherwise, where there would be more than 200 samples a second for longer than ten thousand of them, it
   * grows so that there are not; the estimates that come from samples stay without bias. Default 524288.
   */
  sampleInterval?: number
  /** Events kept, for each pool and in all; older ones fall out and are counted. 24 bytes each. At most 2^24. Default 65536. */
  eventCapacity?: number
  /** Frames of a stack, 1 to 200. Default 16. */
  stackDepth?: number
  /** What is older than this and was not freed is reported once by 'leak'. Default: never. */
  leakAfterMs?: number
}

/** Quantiles are exact to one per cent. All 0 where nothing was counted. */
export interface Histogram {
  count: number
  min: number
  p50: number
  p90: number
  p99: number
  p999: number
  max: number
  mean: number
  /** By powers of two, without the empty ones; counts are not cumulative. */
  buckets: Array<[upTo: number, count: number]>
}

/** A place in the program, for one tag. Estimates from samples, without bias. */
export interface CallSite {
  /** `at ...` lines, the innermost frame first, without this package's own; '' where no JavaScript was there. */
  stack: string
  tag: string | null
  liveBytes: number
  liveCount: number
  totalBytes: number
  totalCount: number
}

export interface MemoryEvent {
  /** `collect`: freed by the garbage collector or at the end of its thread. `grow`, `trim`: a pool took or gave back a chunk. */
  type: 'allocate' | 'free' | 'fail' | 'grow' | 'trim' | 'move' | 'collect'
  /**
   * Since profiling began; to about 4 ms where there are many at once. The order is that in which things happened in each pool, and
   * outside pools.
   */
  timeUs: number
  /**
   * {@link BufferInfo.id}, or `MemoryBlock.id` for what `pool.allocate` took; a chunk's number for `grow` and `trim`; 0 for `fail`.
   */
  id: number
  kind: MemoryKind
  /** Bytes asked for; those of the chunk. */
  size: number
  /** Its own tag, else its pool's. */
  tag: string | null
  pool: string | null
  /** `worker_threads.threadId` of the manager's thread. */
  thread: number
}

export interface MemoryProfile {
  enabled: boolean
  /** ms since 1970; 0 before the first time. */
  startedAt: number
  durationMs: number
  /** Exact, as are the three that follow. Bytes are those asked for. */
  allocations: number
  frees: number
  bytesAllocated: number
  bytesFreed: number
  /** Per second. */
  allocationRate: number
  /** As it was asked for. */
  sampleInterval: number
  /** Bytes asked for, of every allocation. */
  sizes: Histogram
  /** Estimated from samples that were freed. */
  lifetimesMs: Histogram
  /** Of allocations that succeeded, in the native part: all outside pools, one in 256 within. */
  latencyNs: Histogram
  /** What holds most comes first. */
  callSites: CallSite[]
  /** Oldest first. */
  events: MemoryEvent[]
  droppedEvents: number
  /** Every 250 ms at first, later more rarely; `timeMs` since it began. Only while the event loop turns. */
  timeline: Array<{ timeMs: number; npuUsed: number; systemUsed: number; poolReserved: number }>
  /** What 'leak' told of, the first thousand. */
  leaks: BufferInfo[]
}

// ─────────────────────────────── reports ───────────────────────────────

/** Everything that lives, at one moment. */
export interface MemorySnapshot {
  version: 1
  /** ms since 1970. */
  takenAt: number
  device: DeviceInfo
  stats: MemoryStats
  buffers: BufferInfo[]
  pools: Array<
    PoolStats & {
      /** Chunks as they lie: every block and every gap, in order. An `id` of null is free space. */
      chunkMaps: Array<{
        size: number
        blocks: Array<{ offset: number; size: number; id: number | null; tag: string | null; stack?: string | null }>
      }>
    }
  >
}

/** Bytes and numbers of holders, before and after. */
export interface Growth {
  /** Bytes. */
  before: number
  after: number
  /** `after - before`; negative for what shrank. */
  growth: number
  countBefore: number
  countAfter: number
}

/** A buffer, or a block of a pool that has no ArrayBuffer. */
export interface MemoryHolder {
  id: number
  kind: MemoryKind
  size: number
  tag: string | null
  pool: string | null
  stack: string | null
  /** ms since 1970; null for blocks. */
  allocatedAt: number | null
}

/** What changed between two snapshots. Lists of growth have what grew most first. */
export interface SnapshotDiff {
  elapsedMs: number
  /** Bytes, `b - a`. */
  npuUsed: number
  systemUsed: number
  poolReserved: number
  byTag: Array<Growth & { tag: string | null }>
  /** By the stack that allocated; null: not sampled. */
  bySite: Array<Growth & { stack: string | null }>
  /** null: in no pool. */
  byPool: Array<Growth & { pool: string | null }>
  byKind: Array<Growth & { kind: MemoryKind }>
  /** In `b` and not in `a`, largest first. */
  added: MemoryHolder[]
  /** In `a` and not in `b`, largest first. */
  gone: MemoryHolder[]
}

/**
 * What grew from snapshot `a` to snapshot `b`: by tag, call site, pool and kind. Snapshots may also be those of `.json` reports.
 *
 * A block of a pool is known by its id and size; one that was freed and replaced by another of the same size at the same place
 * counts as the same.
 *
 * @throws {MemoryError} ERR_INVALID_ARG_TYPE for what is no snapshot, ERR_OUT_OF_RANGE for one of another version.
 */
export function diffSnapshots(a: MemorySnapshot, b: MemorySnapshot): SnapshotDiff

// ──────────────────────────── model planning ───────────────────────────

/** How weights are quantised, in rkllm-toolkit's words. */
export type QuantizedType = 'w8a8' | 'w4a16' | 'w4a16_g128'

export interface ModelSpec {
  /** A .rkllm or .rknn file: its size is the weights. */
  path?: string
  /** Bytes of weights; goes before the size of `path`. */
  weightBytes?: number
  /** A Hugging Face config.json, its path or its contents, beside or instead of the five below. */
  config?: string | Record<string, unknown>
  layers?: number
  hiddenSize?: number
  kvHeads?: number
  headDim?: number
  vocabSize?: number
  /** RKLLMParam.max_context_len, tokens. Needed of every language model, not of a vision model. */
  contextLength?: number
  /** Sequences at once. Default 1. */
  batch?: number
  /** Default 2 (float16). */
  kvBytesPerElement?: number
  /** For weights that `config` tells the number of. Default "w8a8". */
  dtype?: QuantizedType
  /** The chip: "rk3588" (default), "rk3576", "rk3562", "rv1126b". */
  soc?: string
  /** "vision" is a .rknn model: its weights, and no KV cache. Default: by the file. */
  type?: 'language' | 'vision'
}

/** Bytes. What is measured, and what only follows from the model's shape, is told in `measured` and `derived`. */
export interface ModelEstimate {
  weights: number
  kvCache: number
  activations: number
  /** The runtime's own memory: tokenizer, logits, libraries. */
  hostBuffers: number
  /** weights + kvCache + activations: what takes addresses in the NPU's IOMMU domain or CMA. */
  npuTotal: number
  /** npuTotal + hostBuffers: peak resident memory of the process. */
  total: number
  /** Half-width of the 90 % band around `total`, as a fraction. */
  uncertainty: number
  /** `model_type` of the configuration. */
  architecture: string | null
  source: 'file' | 'config' | 'numbers'
  measured: string[]
  derived: string[]
  /** What was assumed, and why the band is wide. */
  warnings: string[]
}

export interface PlanOptions {
  /** Domains with something in them already, e.g. `manager.getNPUMemoryStats().domains`. */
  domains?: Array<Partial<DomainStats> & { id: number }>
  /** RAM that can be taken. Default: not looked at. */
  ramAvailable?: number
  /** RAM to leave to others. Default 256 MiB. */
  keepFree?: number
  /**
   * Plan a model that no domain holds alone on going on in the next ones. The vendor documents `base_domain_id` as the domain a model
   * *starts* from, not where it goes on. Default false.
   */
  spread?: boolean
}

export interface DomainPlan {
  fits: boolean
  /** Which IOMMU domain each model goes to (RKLLMExtendParam.base_domain_id), and the upper end of what it takes there. */
  placements: Array<{ model: string; domain: number; bytes: number }>
  /** Every domain as it would be then; as it is where nothing fits. Without an IOMMU one entry: the CMA area (total 0: not known, RAM is the bound). */
  domains: DomainStats[]
  /** Why they do not fit, and what would. */
  reason: string | null
  estimates: Record<string, ModelEstimate>
  warnings: string[]
}

/**
 * How much memory a model will take. Calibrated on the vendor's measurements; see docs/planning.md for the error.
 *
 * Errors: `ERR_INVALID_ARG_TYPE` and `ERR_OUT_OF_RANGE` (what is missing or wrong in the spec), `ERR_UNSUPPORTED` (the file is empty, cut off, or no model),
 * `ERR_DEVICE_IO` and `ERR_DEVICE_PERMISSION` (it cannot be read).
 */
export function estimateModelMemory(spec: ModelSpec): ModelEstimate

/**
 * Which IOMMU domain each model goes to. Models of one `group` (a vision encoder and its language model) go together. Up to eight groups: the fewest domains,
 * and of those plans the one that leaves most room in its fullest domain; above, first fit of the largest first.
 *
 * Errors: those of {@link estimateModelMemory}.
 */
export function planModels(models: Array<ModelSpec & { name: string; group?: string }>, device: DeviceInfo, options?: PlanOptions): DomainPlan

/**
 * Reads a line (or several: the most telling one counts) of a log of the RKNN / RKLLM runtime, the kernel, RGA, MPP or this package.
 * null where it knows nothing.
 *
 * Errors: `ERR_INVALID_ARG_TYPE` (not a string).
 */
export function explainError(line: string): { cause: string; remedy: string; code: MemoryErrorCode | null } | null

// ──────────────────────────────── errors ───────────────────────────────

export type MemoryErrorCode =
  /** The wrong type, or an option that does not exist. Also a TypeError. */
  | 'ERR_INVALID_ARG_TYPE'
  /** Zero, negative, fractional, NaN, or beyond the device. Also a RangeError. */
  | 'ERR_OUT_OF_RANGE'
  /** RAM, CMA or the kernel has no more. */
  | 'ERR_MEMORY_LIMIT'
  | 'ERR_OUT_OF_MEMORY'
  /** The IOMMU domain's address space is full (the driver says EFAULT). */
  | 'ERR_IOVA_EXHAUSTED'
  /** A job held another domain for too long. */
  | 'ERR_DOMAIN_BUSY'
  /** EMFILE, ENFILE. */
  | 'ERR_TOO_MANY_FDS'
  /** vm.max_map_count. */
  | 'ERR_TOO_MANY_MAPS'
  /** Not this manager's. */
  | 'ERR_UNKNOWN_BUFFER'
  /** Freed already. */
  | 'ERR_BUFFER_FREED'
  /** Its bytes moved to another ArrayBuffer; they go when that one is collected. */
  | 'ERR_BUFFER_TRANSFERRED'
  /** The runtime has it pinned under an operation, or it was marked with markAsUntransferable. */
  | 'ERR_BUFFER_BUSY'
  /** A system buffer to deallocateNPUMemory, or the other way round. */
  | 'ERR_BUFFER_KIND'
  | 'ERR_POOL_EXISTS'
  | 'ERR_POOL_UNKNOWN'
  | 'ERR_POOL_DESTROYED'
  | 'ERR_POOL_EXHAUSTED'
  /** Allocations of it live. */
  | 'ERR_POOL_BUSY'
  | 'ERR_DEVICE_NOT_FOUND'
  | 'ERR_DEVICE_PERMISSION'
  | 'ERR_DEVICE_LOST'
  | 'ERR_DEVICE_IO'
  /** This device, kernel or runtime cannot do that. */
  | 'ERR_UNSUPPORTED'
  /** Runtimes that cannot do zero-copy (Electron). */
  | 'ERR_EXTERNAL_BUFFERS_FORBIDDEN'
  | 'ERR_MANAGER_DISPOSED'

/** Every error this package throws. `message` names cause and figures, `hint` the next thing to try. */
export class MemoryError extends Error {
  constructor(message: string, details: { code: MemoryErrorCode; cause?: unknown })
  code: MemoryErrorCode
  hint?: string
  /** Bytes asked for. */
  requested?: number
  /** Bytes that were free. */
  available?: number
  /** The largest single piece that was free. */
  largestFree?: number
  /** The bound that was hit … */
  limit?: number
  /** … and what it belongs to: "domain:0", "cma", "ram", "cgroup", "fds", "maps", "pool:kv". */
  scope?: string
  /** The kernel call that failed, and its errno. */
  syscall?: string
  errno?: number
  path?: string
}
