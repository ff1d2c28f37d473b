/** Memory that a program holds: the options of an allocation, and what is known of a buffer. */

import type { Backend } from './devices.js'
import type { MemoryManager, SlabOptions } from './manager.js'

/** An ArrayBuffer, or a view of one: a typed array, a DataView, a Buffer. */
export type Buf = ArrayBuffer | ArrayBufferView

export type MemoryKind = 'npu' | 'system'

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
