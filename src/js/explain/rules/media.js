'use strict'

// The 2D engine (RGA) and video (MPP, rkmpp): what they say of memory, buffers and nodes.

/** @typedef {import('../explain.js').Rule} Rule */

const HEAPS =
  'Add SUBSYSTEM=="dma_heap", GROUP="video", MODE="0660" to /etc/udev/rules.d/99-npu.rules and add the user to that ' +
  'group; in containers pass --device /dev/dma_heap; newer MPP falls back to DRM.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'rga-4g',
    patterns: [
      /RGA_MMU unsupported memory larger than 4G/i,
      /rga.{0,160}(?:unsupport|not support).{0,160}(?:larger than|above|over|>) ?4 ?G/i,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause: 'The 2D engine (RGA2) reaches only RAM below 4 GiB, and this buffer is above.',
    remedy: 'Take buffers for it from a *-dma32 heap (/dev/dma_heap/system-dma32), or use an RGA3 core.',
    source: 'airockchip/librga#120',
  },
  {
    kind: 'rga-import',
    patterns: [
      /rga_mm.*dma_buf_get fail fd(?:\[(?<fd>-?\d+))?/i,
      /\brga\w*: .*fail\w* to get dma_?buf.*fd\W*(?<fd>\d+)/i,
    ],
    weight: 3,
    code: 'ERR_UNKNOWN_BUFFER',
    cause: 'RGA was given a descriptor[ ({fd})] that is not an open dma-buf of this process.',
    remedy: 'Keep the descriptor open until the job has ended; descriptors are numbers of one process only.',
    source: 'airockchip/librga#141',
  },
  {
    kind: 'rga-virtual',
    patterns: [
      /cannot support physically discontinuous virtual address/,
      /page\[\d+\] failed to get pte/,
      /rga_mm.*failed to get pages from virtual ad/,
      /mm import buffer failed!.*type = virt_addr/,
      /rga_mm_map_buffer map virtual address error/,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause:
      'The 2D engine (RGA) cannot use that ordinary memory: its pages are scattered or not present, and this core ' +
      'has no MMU for it.',
    remedy: 'Give RGA a dma-buf (importbuffer_fd) from a DMA heap or MPP instead of a virtual address.',
    source: 'LuckfoxTECH/luckfox-pico#238, khadas/edge2-npu#10',
  },
  {
    kind: 'rga-import',
    patterns: [
      /rga_dma_buf.*Failed to map attachment(?:, ret\[(?<errno>-?\d+)\])?/i,
      /rga_mm_map_dma_buffer.*map dma buffer error/,
      /mm import buffer failed!(?: memory = (?<memory>\w+), type = dma_fd)?/i,
      /rga_mm.*map dma_buf error/,
      /rga\w*:? .*swiotlb buffer is full/,
      /\.rga: swiotlb buffer is full/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The 2D engine (RGA) could not map a dma-buf[ ({errno})]: either the buffer lies above what it addresses and ' +
      'swiotlb is full, or too many buffers are imported into it.',
    remedy:
      'Look for "swiotlb" in dmesg; take buffers from a *-dma32 heap, and release imports (releasebuffer_handle) ' +
      'when a job has ended.',
    variants: [
      {
        when: (_, { swiotlb }) => swiotlb !== undefined,
        cause:
          'The 2D engine (RGA) could not map a dma-buf[ ({errno})]: the buffer lies above what it addresses, and ' +
          '{swiotlb} is full (from the log).',
        remedy: 'Take buffers for it from a *-dma32 heap (/dev/dma_heap/system-dma32).',
      },
    ],
    source: 'airockchip/librga#138',
  },
  {
    kind: 'rga-fault',
    patterns: [/RGA IOMMU: page fault/i, /RGA.*IOMMU intr fault, IOVA\[(?<address>0x[0-9a-f]+)\]/i],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'RGA read or wrote beyond its buffer[ (at {address})].',
    remedy: "Check width and height strides against the buffer's size: formats of video decoders are padded.",
    source: 'rockchip-linux/mpp#736',
  },
  {
    kind: 'rga-refused',
    patterns: [
      /RGA_[A-Z]+ fail: (?<reason>.+?)\s*$/,
      /\b(?:im2d_rga_impl|librga)\b.*(?:fail|error)/i,
      /Failed to call RockChipRga interface/,
      /rga_job.*(?:commit failed|failed to map job info|job_commit failed)/,
      /\brga\d?_\w.*(?:time ?out|timed out)/i,
      /rga_policy: invalid function policy|rga_job: .*assign failed/,
      /rga_mm: .*(?:failed|error)/i,
    ],
    weight: 2,
    code: null,
    cause:
      "The 2D engine refused an operation; the kernel's log has the reason (stride, format, memory above 4 GiB, a " +
      'closed descriptor).',
    remedy:
      'dmesg | grep rga right after it. Strides must be multiples of 16 (RGB888: 16 pixels too), buffers for RGA2 ' +
      'below 4 GiB.',
    source: 'airockchip/rknn-toolkit2#324',
  },
  {
    kind: 'rga-node',
    patterns: [/failed to open RGA(?::(?<reason>.+?)\.?)?\s*$/i, /open \/dev\/rga fail/i],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The 2D engine could not be opened[: {reason}]: /dev/rga is not there or not permitted.',
    remedy: 'Pass --device /dev/rga into the container, or give the group "video" the node by a udev rule.',
    source: 'rockchip-linux/rknpu2#92',
  },
  {
    kind: 'heap',
    patterns: [
      /dma-heap open (?<path>\S+) No such file or directory/,
      /Failed to open (?<heap>[\w-]+) heap/i,
      /open (?<path>\/dev\/dma_heap\/[\w-]+) fail/i,
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause:
      'The DMA heap[ {path}][ {heap}] is missing or closed: it does not exist in this kernel (mainline ones have no ' +
      'uncached or dma32 heaps), the container does not show it, or this user may not open it.',
    remedy: `Compare ls -l /dev/dma_heap. ${HEAPS}`,
    source: 'rockchip-linux/mpp#891, #556',
  },
  {
    kind: 'heap',
    patterns: [
      /open dma heap type (?<type>\d+) (?<heap>(?!failed)\S+) ?failed/,
      /dma-heap open (?<heap>\S+) Permission denied/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause: 'The DMA heap {heap} could not be opened: heaps belong to root unless a udev rule changes that.',
    remedy: HEAPS,
    source: 'rockchip-linux/mpp#626',
  },
  {
    kind: 'heap',
    patterns: [/open dma heap type (?<type>\d+) *failed/, /Assertion fd > 0 failed at heap_fd_open/],
    weight: 2,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      'A DMA heap[ (of type {type}, the line names none)] could not be opened: it is not there, or this user or ' +
      'container may not open it.',
    remedy: `The line before may name it; see ls -l /dev/dma_heap. ${HEAPS}`,
    source: 'HermanChen/mpp#59',
  },
  {
    kind: 'mpp-node',
    patterns: [
      /open vcodec_service (?<path>\/dev\/\w+) failed/,
      /(?:failed to open|open) (?<path>\/dev\/mpp_service) ?fail/i,
    ],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause: 'The video codec[ ({path})] could not be opened: the node is not there or not permitted.',
    remedy:
      'Pass --device /dev/mpp_service into the container (with /dev/rga, /dev/dma_heap, /dev/dri), or give the group ' +
      '"video" the node by a udev rule; mainline kernels do not have it.',
    source: 'HermanChen/mpp#59',
  },
  {
    kind: 'mpp-allocator',
    patterns: [
      /mpp_allocator_get type (?<type>\d+) failed/,
      /failed to get allocater with mode/,
      /Assertion p->alloc(?:ator|_api) failed/,
      /os_allocator_drm_open.*fail|mpp_drm: .*open.*fail/,
      /Failed to init MPP context: -?\d+|Failed to initialize RKMPP (?:de|en)coder/,
    ],
    weight: 2,
    code: 'ERR_DEVICE_PERMISSION',
    cause: 'MPP has no allocator: it could open neither the DMA heaps nor the DRM node; the line before names it.',
    remedy: 'Check /dev/dma_heap and /dev/dri for this user, and in containers that they are passed in.',
    source: 'rockchip-linux/mpp#556',
  },
  {
    kind: 'heap',
    patterns: [/Failed to allocate (?:DMA buffer: -?\d+|RGA buffer)/, /RGA buffer allocation failed/],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'A program got no buffer from a DMA heap for the 2D engine (RGA); a line before it may name the heap.',
    remedy: 'Check that /dev/dma_heap has the heap, that this user may open it, and that RAM below 4 GiB is free.',
    source: 'HyperInspire/InspireFace#210',
  },
  {
    kind: 'mpp-buffers',
    patterns: [
      /mpp_buffer_create failed to create buffer with size (?<bytes>\d+)/,
      /dma_heap_alloc failed ret/,
      /mpp_dma_heap: .*ioctl alloc failed/,
      /mpp.*DMA_HEAP_IOCTL_ALLOC\b.*(?:failed|ENOMEM|Cannot allocate memory)/i,
      /[Mm]alloc mpp buffer fail\w*, size = (?<bytes>\d+)/,
      /\bRK_DMA_HEAP_ALLOC_BUFFER failed/,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'MPP got no buffer[ of {bytes|bytes}]: if it was small, descriptors have probably run out, not memory.',
    remedy: 'Count descriptors (ls /proc/PID/fd | wc -l), return buffers with mpp_buffer_put, and limit their group.',
    source: 'rockchip-linux/mpp#465',
  },
  {
    kind: 'mpp-buffers',
    patterns: [/mpp_group \S+ .*deinit with (?<bytes>\d+) bytes not released/],
    weight: 2,
    code: null,
    cause: 'MPP buffers of {bytes|bytes} were still held when their group ended.',
    remedy: 'Release every frame and packet (mpp_frame_deinit, mpp_buffer_put) before the group.',
    source: 'rockchip-linux/mpp#689',
  },
  {
    kind: 'mpp-import',
    patterns: [
      /dma_buf_(?:map_attachment|get) fd (?<fd>\d+) failed(?:\((?<errno>-\d+)\))?/,
      /mpp_task_attach_fd\S* can't import dma-buf (?<fd>\d+)/,
      /mpp_translate_reg_address.*fd (?<fd>\d+) failed/,
      /mpp_process_request\S* can not import fd (?<fd>\d+)/,
      /\bmpp_\w+: fd (?<fd>\d+) alloc iova fail/,
      /MPP_IOC_CFG_V\d failed ret -?\d+ errno (?<errno>12)/,
      /no memory region mapped/,
    ],
    weight: 3,
    code: 'ERR_UNKNOWN_BUFFER',
    cause:
      'The video codec (MPP) could not map a dma-buf[ behind descriptor {fd}][ ({errno})]: it was closed, its device ' +
      'may not map it, or the addresses of the codec or RAM are used up.',
    remedy:
      'Keep the descriptor open until the frame is done, release frames (mpp_frame_deinit), and count the ' +
      'descriptors of the process.',
    source: 'jellyfin/jellyfin#12758',
  },
]
