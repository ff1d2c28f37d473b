/** Errors and their codes. */

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
