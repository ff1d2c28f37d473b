/** NPU devices: probing, properties, and the simulated board. */

import type { Buf, BufferInfo, NPUAllocationOptions } from './allocations.js'
import type { MemoryError } from './errors.js'
import type { MemoryManager } from './manager.js'

/**
 * The kernel interface behind a device.
 *
 * - `rknpu`       vendor driver, DRM GEM flavour: `/dev/dri/renderD*` whose DRM name is "rknpu"
 * - `rknpu-heap`  vendor driver, DMA-heap flavour: `/dev/rknpu`, every buffer is a dma-buf fd
 * - `rocket`      mainline driver, Linux >= 6.18: `/dev/accel/accel*`
 * - `dma-heap`    the kernel's DMA-BUF heaps: `/dev/dma_heap/<name>`, `/dev/rk_dma_heap/<name>`
 * - `simulated`   no NPU: memfd-backed, with the rules, limits and errors of the real devices
 */
export type Backend = 'rknpu' | 'rknpu-heap' | 'rocket' | 'dma-heap' | 'simulated'

/** Properties of an opened or probed device. */
export interface DeviceInfo {
  readonly backend: Backend
  /** True for the simulated board only. */
  readonly simulated: boolean
  /** Device node; null for `simulated`. */
  readonly path: string | null
  /** Name of the chip in the device tree, e.g. "rk3588". */
  readonly soc: string | null
  /** Version of the driver, e.g. "0.9.8". */
  readonly driverVersion: string | null
  readonly npuCores: number | null
  /** Whether the NPU sees memory through an IOMMU. Without one, its buffers come from the CMA area. */
  readonly iommu: boolean
  /**
   * Number of IOMMU domains for {@link NPUAllocationOptions.iommuDomain}; 0 without an IOMMU, and 1 with rknpu below
   * 0.9.8, which does not hold a domain during a call. Some builds of 0.9.8 accept 16 and use one: there the first
   * allocation outside domain 0 is ERR_UNSUPPORTED.
   */
  readonly iommuDomains: number
  /** Bytes that one domain can address, or the size of the CMA area; 0 where the backend does not report it. */
  readonly domainBytes: number
  /** Bytes of on-chip SRAM that the driver offers. */
  readonly sramTotal: number
  /** Bytes of free SRAM at opening; {@link MemoryManager.getNPUMemoryStats} has the current figure. */
  readonly sramFree: number
  /** Tells a device from a {@link DeviceRefusal}. */
  readonly refused?: undefined
}

/** A device that exists but cannot be opened. */
export interface DeviceRefusal {
  backend: Backend
  path: string
  /** Tells a refusal from a {@link DeviceInfo}. */
  refused: true
  error: MemoryError
}

/**
 * Lists every device that this process can open, best first, then every device that it cannot open, with the reason.
 * Opens each device for a moment. `refused` tells the two apart.
 */
export function probeDevices(): Array<DeviceInfo | DeviceRefusal>

/** Properties of the simulated board; the defaults are those of the chip in `soc`. */
export interface SimulatedDeviceOptions {
  /**
   * Chip: "rk3588", "rk3588s", "rk3576", "rk3562" (IOMMU, 16 domains of 4 GiB), "rk3566", "rk3568" (no IOMMU, CMA).
   * Default "rk3588".
   */
  soc?: string
  /**
   * Bytes that one domain can address, or the size of the CMA area: whole pages, at most 4 GiB (CMA: 1.5 GiB).
   * Default 4 GiB, or 256 MiB of CMA.
   */
  domainBytes?: number
  /** Number of IOMMU domains: 1 to 16, and 1 without an IOMMU. */
  domains?: number
  /** Bytes of SRAM: whole pages, at most 16 MiB, and 0 without an IOMMU. Default 944 KiB on rk3588, else 0. */
  sramBytes?: number
  /** Most kernel objects that may exist at once, as a limit on file descriptors would have it. Default: none. */
  maxObjects?: number
  /** Delay of each create, destroy and sync, in ms, as of a real driver's domain switch. At most 60,000. */
  latencyMs?: number
  /**
   * Whether the NPU sees the CPU's writes at once. With 'incoherent', as on the boards, they reach it at `syncToDevice`
   * only, `syncFromDevice` drops those that did not, and the NPU's writes reach the CPU at `syncFromDevice` only; until
   * then the CPU reads neither its old bytes nor the new ones. Lines have 64 bytes. It takes up to three times the
   * memory. {@link SimulatedNPU} is the NPU's side. Default 'coherent'.
   */
  caches?: 'coherent' | 'incoherent'
  /**
   * The unit of cache maintenance: 'ranges' as in the vendor's DRM driver, 'objects' as in its DMA-heap flavour, the
   * DMA-BUF heaps and the mainline driver. Default 'ranges'.
   */
  cacheMaintenance?: 'ranges' | 'objects'
}

/**
 * The simulated NPU's accesses to memory: the place of a job in tests and demonstrations.
 *
 * @example
 * const memory = new MemoryManager({ backend: 'simulated', simulated: { caches: 'incoherent' } })
 * const npu = new SimulatedNPU(memory)
 * const buffer = memory.allocateNPUMemory(4096)
 * new Uint8Array(buffer).fill(7)
 * npu.read(buffer, 0, 1)[0] // => 0
 * memory.syncToDevice(buffer)
 * npu.read(buffer, 0, 1)[0] // => 7
 * npu.write(buffer, new Uint8Array(4096).fill(9))
 * memory.syncFromDevice(buffer)
 * new Uint8Array(buffer)[0] // => 9
 * memory.dispose()
 */
export class SimulatedNPU {
  /** @throws ERR_UNSUPPORTED: the device is a real one; ERR_MANAGER_DISPOSED. */
  constructor(manager: MemoryManager)

  /**
   * Returns a copy of `length` bytes at `offset` as the NPU sees them; by default all.
   *
   * @throws ERR_OUT_OF_RANGE, ERR_BUFFER_KIND: system memory, and the errors of a freed or unknown buffer.
   */
  read(buffer: Buf, offset?: number, length?: number): Uint8Array

  /**
   * Writes bytes at `offset` as a job does, past the CPU's caches.
   *
   * @throws the errors of {@link read}.
   */
  write(buffer: Buf, data: ArrayBufferView, offset?: number): void
}

/** A sync that the program missed ({@link DebugOptions.checkSync}). */
export interface MissingSync {
  /**
   * The fault:
   *
   * - `device-read-dirty`: the NPU read lines that the CPU had written and not synced.
   * - `device-wrote-dirty`: the NPU wrote such lines. The CPU, or the last owner of the memory, wrote them before.
   * - `invalidated-dirty`: `syncFromDevice` dropped such lines.
   * - `cleaned-stale`: the CPU wrote a part of a line that the NPU had written, without `syncFromDevice` between.
   * - `never-invalidated`: the buffer was freed with lines that the NPU had written and that were never synced.
   */
  fault:
    | 'device-read-dirty'
    | 'device-wrote-dirty'
    | 'invalidated-dirty'
    | 'cleaned-stale'
    | 'never-invalidated'
  /** False for the last two, which are no errors if the CPU does not need the NPU's bytes. */
  certain: boolean
  message: string
  hint: string
  /** The buffer, with its `id`, `tag` and `pool`. */
  buffer: BufferInfo
  /** First byte of the lines concerned, from the start of the buffer. */
  offset: number
  /** Bytes from the first of those lines to the last; of `never-invalidated`, the number of bytes. */
  length: number
  /** Frames of the call that showed it (a sync, an access of the NPU, a free), innermost first. */
  place: string
}
