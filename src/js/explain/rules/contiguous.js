'use strict'

// Contiguous memory: CMA, reserved memory, swiotlb.

/** @typedef {import('../explain.js').Rule} Rule */

const ENLARGE =
  'Enlarge it (cma=256M on the kernel command line; rk_dma_heap_cma= where /dev/rk_dma_heap exists), allocate early, ' +
  'and keep buffers instead of making new ones.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'cma',
    patterns: [
      /cma(?:: |_)\S{0,60}alloc.{0,160}failed, req-size: (?<pages>\d+) pages, ret: -(?<errno>\d+)/i,
      /cma: .*alloc failed, req-size: (?<pages>\d+) pages/i,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'CMA has no {pages|pages} in one piece (it is full or fragmented)[; the log has CmaFree {cmaFree|kib}].',
    remedy: ENLARGE,
    variants: [
      {
        when: ({ errno }) => errno === '16',
        cause: 'CMA has no {pages|pages} in one piece: pages in it are pinned.',
      },
    ],
    source: 'edk2-porting/edk2-rk3588#142',
  },
  {
    kind: 'cma',
    patterns: [
      /(?:alloc_contig_range|cma_alloc).*(?:PFNs? busy|memory range at \S+ is busy)/,
      /rk-dma-heap.{0,160}alloc.{0,160}fail/i,
    ],
    weight: 1,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'Part of the CMA area is in use, and the kernel could not move it away.',
    remedy: ENLARGE,
    source: 'Linux, mm/page_alloc.c',
  },
  {
    kind: 'cma-missing',
    patterns: [
      /OF: reserved mem: failed to allocate memory for node '(?<node>[^']*cma[^']*)'/,
      /cma: Failed to reserve (?<mib>\d+) MiB/,
      /cma: Failed to reserve/i,
      /reserved mem(?:ory)?: (?:failed|unable) to (?:reserve|allocate).*?(?<node>[\w,@-]{0,40}cma[\w,@-]*)/i,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The CMA area could not be reserved at boot[ ({node})][ ({mib} MiB)]: it is too large for the RAM where it may ' +
      'lie, so there is no CMA at all.',
    remedy:
      'Make cma= smaller (256M; it has to fit below 4 GiB in one piece), or correct linux,cma in the device tree; ' +
      'CmaTotal in /proc/meminfo shows the result.',
    source: 'Linux, drivers/of/of_reserved_mem.c',
  },
  {
    kind: 'swiotlb',
    on: 'npu or unnamed',
    patterns: [
      /swiotlb buffer is full(?: \(sz: (?<size>\d+) bytes)?/,
      /swiotlb: coherent allocation failed(?:.*?size=(?<size>\d+))?/,
      /Out of SW-IOMMU space for (?<size>\d+) bytes/,
      /overflow 0x[0-9a-f]+\+(?<size>\d+) of DMA mask/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'Memory beyond what the device[ {device}] addresses had to be copied through swiotlb, and [{size|bytes} ]did ' +
      'not fit: for the NPU that means no IOMMU on a board with much RAM.',
    remedy:
      "Enable the NPU's IOMMU in the device tree or reserve CMA for it below 4 GiB; swiotlb= on the command line " +
      'only helps small buffers.',
    source: 'rockchip-linux/rknn-toolkit2#218',
  },
  {
    kind: 'no-iommu',
    patterns: [/using non-iommu mode/],
    weight: 2,
    code: null,
    cause:
      'The NPU runs without its IOMMU: all its memory has to be contiguous, from CMA or reserved memory, and there ' +
      'are no domains.',
    remedy: "Use an image whose device tree enables the NPU's IOMMU node, or enlarge CMA (cma=).",
    source: 'rockchip-linux/rknn-toolkit2#44',
  },
]
