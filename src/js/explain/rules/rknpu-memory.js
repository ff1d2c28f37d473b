'use strict'

// The vendor driver's messages about memory and IOMMU domains (rknpu 0.8 to 0.9.8).

const { driverBelow } = require('../log-facts.js')

/** @typedef {import('../explain.js').Rule} Rule */

const UPDATE =
  "Update the board's kernel to one with rknpu 0.9.8: it loads models of more than 4 GiB. Until then use 4-bit " +
  'weights or a smaller model.'
const FREE_RAM =
  'Free RAM (rkllm-memory top shows the holders), use 4-bit weights or a smaller context, and unload other models.'
const FEWER_ADDRESSES = 'Use another domain, smaller buffers, or end other users of the NPU.'
const GEM = 'rknpu 0.9.8, rknpu_gem.c'
const IOMMU = 'rknpu 0.9.8, rknpu_iommu.c'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'npu-ram',
    on: 'npu',
    patterns: [/failed to get pages: (?<errno>-\d+)/, /failed to allocate pages\./],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'RAM is used up: the rknpu driver got no pages for a buffer[ ({errno})].',
    remedy: FREE_RAM,
    source: GEM,
  },
  {
    kind: 'npu-ram',
    on: 'npu',
    patterns: [
      /failed to allocate sgt(?:: (?<errno>-\d+))?/,
      /failed to get sgtable/,
      /invalid sgtable, ret: (?<errno>-\d+)/,
      /alloc pages failed/,
      /(?:failed to initialize gem object|rknpu session alloc failed|failed to allocate rknpu device)/,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'The kernel had no memory for the list of pages of an NPU buffer[ ({errno})]: RAM is nearly used up.',
    remedy: FREE_RAM,
    source: GEM,
  },
  {
    kind: 'npu-ram',
    on: 'npu',
    patterns: [/failed to vmap(?:: (?<errno>-\d+))?/, /vmap pages addr failed/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The rknpu driver could not map a buffer into the kernel[ ({errno})]: its address space (vmalloc) or RAM is ' +
      'used up.',
    remedy: FREE_RAM,
    source: GEM,
  },
  {
    kind: 'npu-mapping',
    on: 'npu',
    patterns: [
      /failed to map pages into vma: (?<errno>-\d+)/,
      /failed to mmap, ret: (?<errno>-\d+)/,
      /cache remap_pfn_range error: (?<errno>-\d+)/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The rknpu driver could not map a buffer into the process ({errno}): RAM for page tables is used up, or the ' +
      'process has too many mappings.',
    remedy: 'Free RAM, and compare the lines of /proc/PID/maps with vm.max_map_count.',
    variants: [
      {
        when: ({ errno }) => errno === '-6' || errno === '-22',
        code: 'ERR_DEVICE_IO',
        cause:
          'The rknpu driver could not map a buffer into the process ({errno}): the mapping is longer than the ' +
          'buffer, or the driver had fallen back to scattered pages for a contiguous one.',
        remedy: 'Ask for non-contiguous memory where the NPU has an IOMMU (flag NON_CONTIGUOUS), or enlarge CMA.',
      },
    ],
    source: GEM,
  },
  {
    kind: 'npu-addresses',
    on: 'npu or unnamed',
    patterns: [/(?:RKNPU|rknpu|\.npu\b).*dma map (?<bytes>\d+|0x[0-9a-f]+) fail/i],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      '{bytes|bytes} could not be mapped for the NPU: its IOMMU domain is full or fragmented. User programs see ' +
      'errno 14, "Bad address".',
    remedy: FEWER_ADDRESSES,
    variants: [
      {
        when: ({ bytes }, facts) => Number(bytes) >= 2 ** 30 && driverBelow(facts, '0.9.8'),
        cause:
          '{bytes|bytes} could not be mapped for the NPU: rknpu {driver} (from the log) has one usable IOMMU domain ' +
          'of 4 GiB, and one buffer that large seldom fits. Another domain changes nothing.',
        remedy: UPDATE,
      },
    ],
    source: GEM,
  },
  {
    kind: 'npu-addresses',
    on: 'npu or unnamed',
    patterns: [
      /failed to allocate IOVA: -12/,
      /iommu_dma_alloc_iova failed/,
      /RKNPU.*failed to allocate non-contiguous (?<bytes>\d+) buffer/i,
    ],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: 'The IOMMU domain has no free range of addresses of that size[ ({bytes|bytes})]: a domain has 4 GiB.',
    remedy:
      'Use another domain, smaller buffers, or end other users of the NPU; planModels() finds a place for each model.',
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.8'),
        cause:
          'The IOMMU domain has no free range of addresses of that size[ ({bytes|bytes})]: rknpu {driver} (from the ' +
          'log) has one usable domain of 4 GiB.',
        remedy: `End other users of the NPU, or use smaller buffers. ${UPDATE}`,
      },
    ],
    source: IOMMU,
  },
  {
    kind: 'npu-addresses',
    on: 'npu',
    patterns: [/failed to map SG: (?<errno>-?\d+)/, /(?:cache|ddr) iommu_map error: (?<errno>-\d+)/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The IOMMU could not map a buffer for the NPU ({errno}): RAM for its page tables is used up, or the addresses ' +
      'are taken.',
    remedy: 'Free RAM; if RAM is free, end the processes that use the NPU, whose mappings may be stale.',
    source: GEM,
  },
  {
    kind: 'npu-contiguous',
    on: 'npu',
    patterns: [/try to fallback to allocate non-contiguous (?<bytes>\d+) buffer/],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'CMA had no {bytes|bytes} in one piece, so the rknpu driver took scattered pages instead. Such buffers lose ' +
      'their NPU addresses when they are freed.',
    remedy: 'Ask for non-contiguous memory (flag NON_CONTIGUOUS) where the NPU has an IOMMU, or enlarge CMA (cma=).',
    source: GEM,
  },
  {
    kind: 'npu-contiguous',
    on: 'npu or unnamed',
    patterns: [/(?:RKNPU|\.npu\b|\[drm\b).*failed to allocate (?<bytes>\d{4,}) buffer\b(?!s)/i],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'The rknpu driver found no {bytes|bytes} of contiguous memory; programs see errno 22, "Invalid argument".',
    remedy:
      "Enlarge CMA (cma= on the kernel command line), free buffers, or use an image with the NPU's IOMMU enabled.",
    source: GEM,
  },
  {
    kind: 'npu-contiguous',
    on: 'npu',
    patterns: [/dmabuf alloc failed, args\.size = (?<bytes>\d+)/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The heap rk-dma-heap-cma has no {bytes|bytes} in one piece: with the DMA-heap flavour of the driver all NPU ' +
      'memory comes from it.',
    remedy: 'Enlarge it (rk_dma_heap_cma= on the kernel command line), free buffers, or use a smaller model.',
    source: 'rknpu 0.9.8, rknpu_mem.c',
  },
  {
    kind: 'npu-contiguous',
    on: 'npu',
    patterns: [
      /non-contiguous allocation is not supported without IOMMU/,
      /malloc iommu memory unsupported in current/,
    ],
    weight: 2,
    code: null,
    cause: 'The NPU runs without an IOMMU, so the driver makes every buffer contiguous: CMA limits NPU memory.',
    remedy: "Enable the NPU's IOMMU in the device tree, or enlarge CMA (cma=, rk_dma_heap_cma=).",
    source: GEM,
  },
  {
    kind: 'npu-fds',
    on: 'npu',
    patterns: [/dmabuf fd get failed/],
    weight: 3,
    code: 'ERR_TOO_MANY_FDS',
    cause: 'The process has no free file descriptor for an NPU buffer; programs see errno 14, "Bad address".',
    remedy: 'Raise the limit (ulimit -n, LimitNOFILE=), or share large buffers (slabs and pools).',
    source: 'rknpu 0.9.8, rknpu_mem.c',
  },
  {
    kind: 'npu-import',
    on: 'npu',
    patterns: [/dma_buf_attach failed/],
    weight: 3,
    code: 'ERR_UNKNOWN_BUFFER',
    cause: 'The rknpu driver could not attach to a dma-buf: its exporter refused, or RAM is used up.',
    remedy: 'Import contiguous buffers (CMA heap) where the NPU has no IOMMU.',
    source: 'rknpu 0.9.8, rknpu_mem.c',
  },
  {
    kind: 'npu-sram',
    on: 'npu',
    patterns: [/mm allocate (?<bytes>\d+) failed, ret: (?<errno>-?\d+), free size: (?<free>\d+)/],
    weight: 2,
    code: null,
    cause:
      "The NPU's on-chip SRAM has no {bytes|bytes} in one piece ({free|bytes} free); the driver takes RAM instead, " +
      'which is slower and no failure.',
    remedy: 'End other users of the NPU, or do not ask for SRAM.',
    source: GEM,
  },
  {
    kind: 'npu-leak',
    on: 'npu or unnamed',
    patterns: [/failed to destroy dma addr/, /RKNPU.*failed to destroy memory/],
    weight: 3,
    code: 'ERR_DOMAIN_BUSY',
    cause:
      "The driver could not switch to a buffer's IOMMU domain to free it, three times 6 s long: memory and addresses " +
      'are lost until the next boot.',
    remedy:
      'End jobs before buffers of another domain are freed; do not use different domains from several processes at ' +
      'once.',
    source: GEM,
  },
  {
    kind: 'npu-domain',
    on: 'npu',
    patterns: [/invalid iommu domain id: (?<domain>-?\d+), reuse domain id: (?<current>\d+)/],
    weight: 3,
    code: 'ERR_OUT_OF_RANGE',
    cause: 'The driver refused IOMMU domain {domain}, and stays in domain {current}: domains are numbered 0 to 15.',
    remedy: 'Use a base_domain_id (iommuDomain) from 0 to 15.',
    variants: [
      {
        when: ({ domain }) => Number(domain) >= 0 && Number(domain) <= 15,
        cause:
          'The driver refused IOMMU domain {domain}, and stays in domain {current}: this version has fewer domains[ ' +
          '(rknpu {driver})].',
        remedy: `Use domain 0. ${UPDATE}`,
      },
    ],
    source: IOMMU,
  },
  {
    kind: 'npu-domain',
    on: 'npu',
    patterns: [/switch iommu domain time out(?:.*?id: (?<domain>\d+))?/],
    weight: 3,
    code: 'ERR_DOMAIN_BUSY',
    cause:
      'A job or a call in another IOMMU domain held the NPU for 6 s, so that the driver could not switch[ to domain ' +
      '{domain}].',
    remedy: 'Let jobs end first, and keep all processes in one domain where possible; a job that hangs needs a reset.',
    source: IOMMU,
  },
  {
    kind: 'npu-domain',
    on: 'npu',
    patterns: [
      /failed to switch iommu domain, id: (?<domain>-?\d+), ret: (?<errno>-\d+)/,
      /failed to (?:attach|reattach) (?:dst |src )?iommu domain, id: (?<domain>\d+)(?:, ret: (?<errno>-\d+))?/,
      /mismatch domain get from iommu_get_domain_for_dev/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'The driver could not switch the NPU to IOMMU domain[ {domain}][ ({errno})]: the domain is invalid, or the ' +
      'IOMMU did not attach. Allocations and jobs in it fail.',
    remedy:
      'Use domain 0 from one process; if that fails too, end all users of the NPU or reboot. Below rknpu 0.9.8 use ' +
      'no other domain.',
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.8'),
        cause:
          'The driver could not switch the NPU to IOMMU domain[ {domain}][ ({errno})]: rknpu {driver} (from the log) ' +
          'does not hold a domain during a call.',
        remedy: `Use domain 0 only. ${UPDATE}`,
      },
    ],
    source: IOMMU,
  },
  {
    kind: 'npu-domain',
    on: 'npu',
    patterns: [/failed to allocate iommu domain/, /failed to get iommu domain/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The kernel made no further IOMMU domain for the NPU: RAM for its page tables is used up, or the IOMMU is off.',
    remedy: 'Free RAM; without an IOMMU use domain 0.',
    source: IOMMU,
  },
  {
    kind: 'npu-domain',
    on: 'npu',
    patterns: [/rknpu_gem_object_create error|rknpu_iommu_free_domains error/],
    weight: 2,
    code: 'ERR_DOMAIN_BUSY',
    cause: 'The driver made no buffer, because it could not switch to its IOMMU domain; programs see errno 22.',
    remedy: 'The line before has the reason. Use one domain for all processes, or let jobs end first.',
    source: GEM,
  },
  {
    kind: 'npu-request',
    on: 'npu',
    patterns: [/invalid buffer size: (?<bytes>\d+)/, /invalid obj_addr/, /copy_(?:from|to)_user failed/],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'A program gave the rknpu driver a wrong size or address: a buffer of 0 bytes, or one that was freed.',
    remedy: 'Update runtime and driver together; with own code check sizes, and that buffers outlive their use.',
    source: GEM,
  },
]
