/** Errors and their codes. */

/** Code of a {@link MemoryError}. */
export type MemoryErrorCode =
  /** An argument has the wrong type, or an option does not exist. The error is also a TypeError. */
  | 'ERR_INVALID_ARG_TYPE'
  /** A number is zero, negative, fractional, NaN, or beyond the device. The error is also a RangeError. */
  | 'ERR_OUT_OF_RANGE'
  /** The allocation would exceed a limit of `setMemoryLimits`. */
  | 'ERR_MEMORY_LIMIT'
  /** RAM, CMA or the kernel has no memory left. */
  | 'ERR_OUT_OF_MEMORY'
  /** The address space of the IOMMU domain is full (the driver reports EFAULT). */
  | 'ERR_IOVA_EXHAUSTED'
  /** A job held another IOMMU domain for too long. */
  | 'ERR_DOMAIN_BUSY'
  /** The process or the system has no file descriptors left (EMFILE, ENFILE). */
  | 'ERR_TOO_MANY_FDS'
  /** The process has reached vm.max_map_count. */
  | 'ERR_TOO_MANY_MAPS'
  /** The buffer does not belong to this manager. */
  | 'ERR_UNKNOWN_BUFFER'
  /** The buffer has already been freed. */
  | 'ERR_BUFFER_FREED'
  /** The bytes moved to another ArrayBuffer; they are freed when that one is collected. */
  | 'ERR_BUFFER_TRANSFERRED'
  /** An operation of the runtime pins the buffer, or markAsUntransferable marked it. */
  | 'ERR_BUFFER_BUSY'
  /** The buffer is of the other kind: system memory for deallocateNPUMemory, or the reverse. */
  | 'ERR_BUFFER_KIND'
  /** A pool of that name exists. */
  | 'ERR_POOL_EXISTS'
  /** The manager has no pool of that name. */
  | 'ERR_POOL_UNKNOWN'
  /** The pool was destroyed. */
  | 'ERR_POOL_DESTROYED'
  /** The pool has no room left. */
  | 'ERR_POOL_EXHAUSTED'
  /** The pool has live allocations; a model is leased, or a request for it has no lease at its deadline. */
  | 'ERR_POOL_BUSY'
  /** The device does not exist. */
  | 'ERR_DEVICE_NOT_FOUND'
  /** The device or the file exists, and this process may not open it. */
  | 'ERR_DEVICE_PERMISSION'
  /** The device disappeared while it was open, or the engine of a model while it was leased. */
  | 'ERR_DEVICE_LOST'
  /** The driver or the file system failed in a way that has no code of its own; `errno` has the reason. */
  | 'ERR_DEVICE_IO'
  /** This device, kernel or runtime does not support the operation. */
  | 'ERR_UNSUPPORTED'
  /** The runtime forbids external ArrayBuffers, so that zero-copy is impossible (Electron). */
  | 'ERR_EXTERNAL_BUFFERS_FORBIDDEN'
  /** The manager was disposed, or the model residency closed. */
  | 'ERR_MANAGER_DISPOSED'

/**
 * The error that every function of this package throws. `message` names the cause and its figures; `hint` suggests a
 * fix. Only the caller's own errors pass as they are: the reason of an abort, and what an accessor of an option throws.
 */
export class MemoryError extends Error {
  constructor(message: string, details: { code: MemoryErrorCode; cause?: unknown })
  code: MemoryErrorCode
  hint?: string
  /** Requested bytes. */
  requested?: number
  /** Free bytes. */
  available?: number
  /** Bytes of the largest free piece. */
  largestFree?: number
  /** The limit that was reached. */
  limit?: number
  /** The scope of `limit`: "domain:0", "cma", "ram", "cgroup", "fds", "maps", "pool:kv". */
  scope?: string
  /** The system call that failed. */
  syscall?: string
  errno?: number
  path?: string
  /** Version of the driver that lacks what was asked for, e.g. "0.9.6". */
  driverVersion?: string
}
