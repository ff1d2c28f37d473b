/** Allocations: the options that they take, and the description of a live buffer. */

import type { Backend, DeviceInfo } from './devices.js'
import type { MemoryBlock, unpinDropped } from './blocks.js'
import type { MemoryManager, SlabOptions } from './manager.js'

/** An ArrayBuffer, or a view of one: a typed array, a DataView, a Buffer. */
export type Buf = ArrayBuffer | ArrayBufferView

/** The kind of memory: `npu` is visible to the NPU, `system` is ordinary memory of the process. */
export type MemoryKind = 'npu' | 'system'

/** An option of operations that wait. */
export interface Cancellable {
  /** An abort rejects the promise at once, with the signal's reason. The memory is given back. */
  signal?: AbortSignal
}

/** Options of allocations of either kind. */
export interface AllocationOptions {
  /** Free text for accounting: "kv-cache", "vision-input". `null` is no tag, as in the results. */
  tag?: string | null
  /**
   * Alignment of the CPU address, and for NPU memory also of the device address. A power of two, 64 bytes to 1 GiB.
   * Default: the page size.
   */
  alignment?: number
  /**
   * Zeroes the memory before the caller gets it. This library zeroes it where the driver does not. System memory is
   * always zeroed. Default true.
   */
  zeroed?: boolean
}

/** Options of {@link MemoryManager.allocateNPUMemory}. */
export interface NPUAllocationOptions extends AllocationOptions {
  /** Maps the memory CPU-cached. A cached mapping needs `syncToDevice` and `syncFromDevice`. Default true. */
  cacheable?: boolean
  /**
   * Requests physically contiguous memory. Default: what the device needs (true without an IOMMU). The vendor driver
   * 0.9.8 leaks address space for contiguous memory behind an IOMMU, so that combination throws ERR_UNSUPPORTED.
   */
  contiguous?: boolean
  /**
   * 'try-sram' takes on-chip SRAM first and the rest from DRAM. A buffer with bytes in SRAM is not exported
   * (ERR_UNSUPPORTED): other devices would see the DRAM behind it. Default 'dram'.
   */
  placement?: 'dram' | 'try-sram'
  /**
   * IOMMU domain, below {@link DeviceInfo.iommuDomains}. Default 0. ERR_UNSUPPORTED with a driver that has one domain
   * only, such as rknpu below 0.9.8.
   */
  iommuDomain?: number
  /** Bit mask of the NPU cores that will use the memory. Default 0: the driver chooses. */
  coreMask?: number
  /** Requests a kernel object of its own in place of a slab slice. Default: by size (see {@link SlabOptions}). */
  dedicated?: boolean
}

/** Options of {@link MemoryManager.allocateSystemMemory}. */
export interface SystemAllocationOptions extends AllocationOptions {
  /** Requests transparent huge pages. 'try' falls back to small pages. Default false. */
  hugePages?: boolean | 'try'
  /** Locks the memory in RAM (mlock), so that it is never swapped. Default false. */
  lock?: boolean
  /** Faults every page in at once. Default false. */
  prefault?: boolean
}

/** Description of a live buffer. */
export interface BufferInfo {
  /** No other allocation of this process ever has it. The buffer of a block has the block's. */
  id: number
  kind: MemoryKind
  /** Requested bytes: the `byteLength` of the ArrayBuffer. */
  size: number
  /** Bytes that the buffer occupies: whole pages. */
  reservedSize: number
  tag: string | null
  backend: Backend | null
  /** CPU address, for native code in this process (rkllm_run, rknn, FFI). Valid until the buffer is freed. */
  address: bigint
  /** Device address within `iommuDomain`; null where the backend reports none. */
  deviceAddress: bigint | null
  cacheable: boolean
  contiguous: boolean
  iommuDomain: number | null
  dedicated: boolean
  imported: boolean
  /** True after {@link MemoryManager.share} or {@link MemoryManager.adopt}: there may be other holders. */
  shared: boolean
  /** Whether the block is pinned ({@link MemoryBlock.pin}). */
  pinned: boolean
  /** Whether JavaScript has dropped the block while it was pinned: {@link unpinDropped} ends it. */
  dropped: boolean
  pool: string | null
  /** Offset inside the kernel object, in bytes. */
  offset: number
  /** Time of the allocation, in ms since 1970. */
  allocatedAt: number
  /** Stack of the allocation; null unless profiling sampled it. */
  stack: string | null
}
