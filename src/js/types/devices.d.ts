/** NPU devices: probing, device properties and the simulated board. */

import type { NPUAllocationOptions } from './allocations.js'
import type { MemoryError } from './errors.js'

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

/** Every device this process can open, best first, then every one it cannot and why. Opens each for a moment. */
export function probeDevices(): Array<DeviceInfo | DeviceRefusal>

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
