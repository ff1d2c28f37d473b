'use strict'

// Lines of the kernel and of the libraries around the NPU: rknpu, IOMMU, CMA, DMA heaps, RGA, MPP. The format is that
// of runtime-errors.js.

const { formatBytes } = require('../core/format-bytes.js')
const { anyOf } = require('./any-of.js')

const PAGE = 4096

/** @type {import('./explain.js').Entry[]} */
const ENTRIES = [
  {
    pattern: /RKNPU: failed to wait job, task counter: (\w+).*ret = (-?\d+)/i,
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: ([, counter, ret]) =>
      ret === '-512'
        ? `The process was interrupted or killed while its job ran (after ${counter} tasks).`
        : `A job did not end (after ${counter} tasks, ${ret}).`,
    remedy: ([, , ret]) =>
      ret === '-512'
        ? 'Find out why the process ended: the OOM killer, a signal, a crash elsewhere; the NPU is not the cause.'
        : 'Bring driver and runtime to one release; check that buffers are synced and outlive their job.',
    source: 'airockchip/rknn-toolkit2#536',
  },
  {
    pattern: /RKNPU: job: \S+, iommu domain id: (\d+), .*timeout: (\d+)us/i,
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: ([, domain, us]) => `A job in IOMMU domain ${domain} did not end within ${Number(us) / 1e6} s.`,
    remedy: "Wrong addresses or commands hang the NPU; with the vendor's runtime, update it and the driver together.",
    source: 'mtx512/rk3588-npu#3',
  },
  {
    pattern: /RKNPU: (?:job timeout|soft reset|job abort)/i,
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver aborted a job and resets the NPU.',
    remedy:
      'The next job starts afresh. If it happens again, update driver and runtime together, and check cooling and ' +
      'power supply.',
    source: 'airockchip/rknn-toolkit2#536',
  },
  {
    pattern: /failed to allocate IOVA: -12/,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: 'The IOMMU domain has no free range of addresses of that size: a domain has 4 GiB.',
    remedy:
      'Use another domain, smaller buffers, or end other users of the NPU; planModels() finds a place for each model.',
    source: 'rknpu 0.9.8, rknpu_iommu.c',
  },
  {
    pattern: /RKNPU.*dma map (\d+|0x[0-9a-f]+) fail/i,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: ([, size]) =>
      `${formatBytes(Number(size))} could not be mapped for the NPU: its IOMMU domain is full or fragmented. User ` +
      'programs see errno 14, "Bad address".',
    remedy: 'Use another domain, smaller buffers, or end other users of the NPU.',
    source: 'rknpu 0.9.8, rknpu_gem.c',
  },
  {
    pattern: /out of I\/O virtual memory: -28/,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: "The display or video driver's address space is full: buffers are made faster than they are released.",
    remedy: 'Reuse buffers (a pool) instead of allocating one for each frame, and close their descriptors.',
    source: 'rockchip-linux/mpp#560',
  },
  {
    pattern: /failed to allocate (\d+) buffer/,
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, size]) =>
      `The rknpu driver found no ${formatBytes(Number(size))} of contiguous memory; programs see errno 22, ` +
      '"Invalid argument".',
    remedy:
      "Enlarge CMA (cma= on the kernel command line), free buffers, or use an image with the NPU's IOMMU enabled.",
    source: 'rknpu 0.9.8, rknpu_gem.c',
  },
  {
    pattern: /failed to destroy dma addr/,
    weight: 3,
    code: 'ERR_DOMAIN_BUSY',
    cause:
      "The driver could not switch to a buffer's IOMMU domain to free it, three times 6 s long: memory and " +
      'addresses are lost until the next boot.',
    remedy:
      'End jobs before buffers of another domain are freed; do not use different domains from several processes at ' +
      'once.',
    source: 'rknpu 0.9.8, rknpu_gem.c',
  },
  {
    pattern: /cma(?:: |_)\S*alloc.*failed, req-size: (\d+) pages, ret: -(\d+)/i,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, pages, errno]) =>
      `CMA has no ${formatBytes(Number(pages) * PAGE)} in one piece ` +
      `(${errno === '16' ? 'pages in it are pinned' : 'it is full or fragmented'}).`,
    remedy:
      'Enlarge it (cma=256M on the kernel command line), allocate early, and keep buffers instead of making new ones.',
    source: 'edk2-porting/edk2-rk3588#142',
  },
  {
    pattern: /swiotlb buffer is full \(sz: (\d+) bytes/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, size]) =>
      `Memory beyond what the device addresses had to be copied through swiotlb, and ${formatBytes(Number(size))} ` +
      'did not fit: an NPU without IOMMU on a board with much RAM.',
    remedy:
      "Enable the NPU's IOMMU in the device tree or reserve CMA for it below 4 GiB; swiotlb= on the command line " +
      'only helps small buffers.',
    source: 'rockchip-linux/rknn-toolkit2#218',
  },
  {
    pattern: /rknpu iommu is disabled, using non-iommu mode|using non-iommu mode/,
    weight: 2,
    code: null,
    cause:
      'The NPU runs without its IOMMU: all its memory has to be contiguous, from CMA or reserved memory, and there ' +
      'are no domains.',
    remedy: "Use an image whose device tree enables the NPU's IOMMU node, or enlarge CMA (cma=).",
    source: 'rockchip-linux/rknn-toolkit2#44',
  },
  {
    pattern: /rk_iommu (\S+): Page fault at (0x[0-9a-f]+) of type (read|write)/i,
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: ([, device, address, type]) =>
      `A device behind ${device} tried to ${type} ${address}, where nothing is mapped: a buffer was freed or is ` +
      'smaller than the job assumes.',
    remedy:
      'Keep buffers until their job has ended, check strides and sizes, and for the NPU that buffer and job are of ' +
      'one domain.',
    source: 'rockchip-linux/mpp#736',
  },
  {
    pattern: /already mapped.*cannot remap/i,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: 'The address that the driver picked is still mapped: an earlier mapping was not released.',
    remedy: 'End the processes that used the NPU; if it stays, reboot: the mapping is lost to the kernel.',
    source: 'airockchip/rknn3-toolkit#16',
  },
  {
    pattern: /RGA_MMU unsupported memory larger than 4G/i,
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause: 'The 2D engine (RGA2) reaches only RAM below 4 GiB, and this buffer is above.',
    remedy: 'Take buffers for it from a *-dma32 heap (/dev/dma_heap/system-dma32), or use an RGA3 core.',
    source: 'airockchip/librga#120',
  },
  {
    pattern: /rga_mm.*dma_buf_get fail fd\[?(-?\d+)?/i,
    weight: 3,
    code: 'ERR_UNKNOWN_BUFFER',
    cause: (m) =>
      `RGA was given a descriptor${m[1] === undefined ? '' : ` (${m[1]})`} that is not an open dma-buf of this ` +
      'process.',
    remedy: 'Keep the descriptor open until the job has ended; descriptors are numbers of one process only.',
    source: 'airockchip/librga#141',
  },
  {
    pattern: /RGA IOMMU: page fault|RGA.*IOMMU intr fault, IOVA\[(0x[0-9a-f]+)\]/i,
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'RGA read or wrote beyond its buffer.',
    remedy: "Check width and height strides against the buffer's size: formats of video decoders are padded.",
    source: 'rockchip-linux/mpp#736',
  },
  {
    pattern: /RGA_BLIT fail: (.+?)\s*$|Failed to call RockChipRga interface/i,
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
    pattern:
      /open dma heap type (\d+) (\S*)\s*failed|dma-heap open (\S+) (No such file or directory|Permission denied)/,
    weight: 3,
    code: (m) => (m[4] === 'No such file or directory' ? 'ERR_DEVICE_NOT_FOUND' : 'ERR_DEVICE_PERMISSION'),
    cause: (m) =>
      m[4] === 'No such file or directory'
        ? `${m[3]} does not exist: this kernel has no such DMA heap (mainline ones have no uncached heaps), or the ` +
          'container does not show it.'
        : `The DMA heap ${m[3] ?? m[2]} could not be opened: heaps belong to root unless a udev rule changes that.`,
    remedy:
      'Add SUBSYSTEM=="dma_heap", GROUP="video", MODE="0660" to /etc/udev/rules.d/99-npu.rules and add the user to ' +
      'that group; in containers pass --device /dev/dma_heap; newer MPP falls back to DRM.',
    source: 'rockchip-linux/mpp#626',
  },
  {
    pattern: /mpp_allocator_get type (\d+) failed|failed to get allocater with mode/,
    weight: 2,
    code: 'ERR_DEVICE_PERMISSION',
    cause: 'MPP has no allocator: it could open neither the DMA heaps nor the DRM node; the line before names it.',
    remedy: 'Check /dev/dma_heap and /dev/dri for this user, and in containers that they are passed in.',
    source: 'rockchip-linux/mpp#556',
  },
  {
    pattern: /dma_heap_alloc failed ret|mpp_buffer_create failed to create buffer with size (\d+)/,
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: (m) =>
      `MPP got no buffer${m[1] === undefined ? '' : ` of ${formatBytes(Number(m[1]))}`}: if it was small, ` +
      'descriptors have probably run out, not memory.',
    remedy: 'Count descriptors (ls /proc/PID/fd | wc -l), return buffers with mpp_buffer_put, and limit their group.',
    source: 'rockchip-linux/mpp#465',
  },
  {
    pattern: /mpp_group \S+ .*deinit with (\d+) bytes not released/,
    weight: 2,
    code: null,
    cause: ([, size]) => `MPP buffers of ${formatBytes(Number(size))} were still held when their group ended.`,
    remedy: 'Release every frame and packet (mpp_frame_deinit, mpp_buffer_put) before the group.',
    source: 'rockchip-linux/mpp#689',
  },
  {
    pattern: /Out of memory: Killed process (\d+) \(([^)]+)\).*anon-rss:(\d+)kB/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, pid, name, kib]) =>
      `The kernel ended process ${pid} (${name}) for lack of RAM; it held ${formatBytes(Number(kib) * 1024)}. NPU ` +
      'memory comes on top of that figure.',
    remedy:
      'Use 4-bit weights, a smaller context or fewer models; planModels() with ramAvailable finds models that fit.',
    source: 'airockchip/rknn-llm#249',
  },
  {
    pattern: /lowmemorykiller: Kill(?:ing)? '([^']+)' \((\d+)\)/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, name, pid]) => `Android ended ${name} (process ${pid}) for lack of RAM.`,
    remedy: 'Use 4-bit weights, a smaller context or fewer models.',
    source: 'airockchip/rknn-llm#249',
  },
  {
    pattern: /Too many open files in system/,
    weight: 2,
    code: 'ERR_TOO_MANY_FDS',
    cause: 'The whole system has no free entry for open files (ENFILE).',
    remedy: 'Raise fs.file-max; /proc/sys/fs/file-nr shows how many are used.',
    source: 'Pelochus/ezrknpu#3',
  },
  {
    pattern: /Too many open files|EMFILE/,
    weight: 2,
    code: 'ERR_TOO_MANY_FDS',
    cause: 'The process has no free file descriptor (EMFILE).',
    remedy: 'Raise the limit (ulimit -n, LimitNOFILE=), close unused files, share NPU buffers (slabs and pools).',
    source: 'airockchip/rknn-llm#47',
  },
  {
    pattern: anyOf(
      /(\/dev\/(?:dri\/\S+|rknpu|dma_heap\/\S+|rk_dma_heap\/\S+|accel\/\S+?))['":,]*\s.*?(Permission denied|EACCES)/,
      /EACCES.*?(\/dev\/(?:dri|rknpu|dma_heap|rk_dma_heap|accel)[^\s'"]*)/,
    ),
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause: (m) => `${m[1] ?? m[3]} exists and this user may not open it.`,
    remedy:
      'Add the user to the group that owns it (ls -l), mostly "render" or "video", and log in again; nodes of root ' +
      'need a udev rule.',
    source: 'rockchip-linux/mpp#670',
  },
]

module.exports = ENTRIES
