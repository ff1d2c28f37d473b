/** explainError: log lines from users' issues, and this package's own messages. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { explainError, MemoryManager } from '../../../index.js'
import { MiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

const { TABLE } = createRequire(import.meta.url)('../../../src/js/explain/explain.js')

/** [line, code, pattern of the cause, pattern of the remedy] */
const LINES = [
  // airockchip/rknn-llm#62, #68, #195, #335, #139, #232, #129, #249, #522; rknn-toolkit2#44, #218, #532, #281, #405,
  // #531, #536, #534
  [
    'E RKNN: [10:49:05.216] failed to convert handle(1020) to fd, ret: -1, errno: 24, errstr: Too many open files',
    'ERR_TOO_MANY_FDS', /handle 1020/, /ulimit -n/,
  ],
  [
    'E RKNN: failed to convert handle(7000) to fd, ret: -1, errno: 23, errstr: Too many open files in system',
    'ERR_TOO_MANY_FDS', /whole system.*7000/, /fs\.file-max/,
  ],
  [
    'failed to convert fd(11) to handle, ret: -1, errno: 12, errstr: Cannot allocate memory', 'ERR_OUT_OF_MEMORY',
    /descriptor 11/, /Import each buffer once/,
  ],
  [
    'E RKNN: [15:47:03.156] failed to allocate handle, ret: -1, errno: 14, errstr: Bad address', 'ERR_IOVA_EXHAUSTED',
    /4 GiB/, /base_domain_id/,
  ],
  [
    'E RKNN: [10:48:59.683] failed to allocate handle, ret: -1, errno: 12, errstr: Cannot allocate memory',
    'ERR_OUT_OF_MEMORY', /below 4 GiB/, /0\.9\.8/,
  ],
  [
    '09-14 08:45:03.277  6912  6912 E RKNN    : failed to allocate handle, ret: -1, errno: 22, ' +
      'errstr: Invalid argument',
    'ERR_OUT_OF_MEMORY', /CMA/, /cma=256M/,
  ],
  [
    '2022-07-06 15:37:03.100 12848-12876 E/RKNN: failed to allocate handle, ret: -1', 'ERR_OUT_OF_MEMORY',
    /does not report why/, /dmesg/,
  ],
  ['can not create weight memory for domain1', 'ERR_IOVA_EXHAUSTED', /domain 1/, /0\.9\.8/],
  ['Error: iommu_context->weight_memory is NULL', 'ERR_IOVA_EXHAUSTED', /crash/, /Update/],
  [
    'E RKNN: [09:40:45.140] failed to malloc npu memory, size: 3085697024, flags: 0x2', 'ERR_IOVA_EXHAUSTED',
    /2\.8 GiB.*more than 2 GiB/, /4-bit/,
  ],
  [
    'E RKNN: [10:49:05.216] failed to malloc npu memory, size: 1792, flags: 0x2', null, /1\.7 KiB.*descriptors/,
    /ulimit/,
  ],
  ['failed to malloc npu memory!, size: 59187712, flags: 0x2', 'ERR_IOVA_EXHAUSTED', /56\.4 MiB/, /CMA/],
  ['E RKNN: failed to map memory', 'ERR_TOO_MANY_MAPS', /vm\.max_map_count/, /sysctl/],
  ['W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7.', null, /\(0\.9\.7\)/, /0\.9\.8/],
  ['E RKNN: [08:48:14.826] invalid rknn llm model magic', null, /\.rkllm/, /Convert/],
  [
    'Warning: The model version is too old, please use the latest toolkit to reconvert the model!', null,
    /older runtime/, /Convert/,
  ],
  ['The model target_platform does not match!', null, /another chip/, /target_platform/],
  ['E RKNN: [14:34:00.922] Invalid RKNN model version 6', null, /version 6/, /librknnrt/],
  ['E RKNN: incompatible model version: 1', null, /version 1/, /librknnrt/],
  ['parseRKNN: invalid RKNN_MAGIC!', null, /not a \.rknn/, /LFS/],
  [
    "E rkllm: max_context[16384] must be less than the model's max_context_limit[4096]", 'ERR_OUT_OF_RANGE',
    /16384.*4096/, /4096 or less/,
  ],
  [
    'Prompt is 11543 tokens but the model context window is 4096 tokens.', 'ERR_OUT_OF_RANGE', /11543.*4096/,
    /max_context_len/,
  ],
  [
    'error: prompt gather than max context (prompt: 1299 tokens, max context: 1020)', 'ERR_OUT_OF_RANGE', /1299.*1020/,
    /Shorten/,
  ],
  [
    'E RKNN: [16:43:57.198] failed to submit!, op id: 119, op name: OutputOperator:net_output, flags: 0x5, ' +
      'task start: 0, task number: 823, run task counter: 819, int status: 0',
    'ERR_DEVICE_IO', /operator 119, OutputOperator:net_output/, /threads/,
  ],
  [
    'E RKNN: [01:39:03.186] failed to open rknpu module, need to insmod rknpu dirver!', 'ERR_DEVICE_PERMISSION',
    /device node/, /usermod/,
  ],
  ['E RKNN: [12:35:17.433] failed to open rknn device!', 'ERR_DEVICE_NOT_FOUND', /no NPU/, /renderD/],
  ['E RKNN: Meet unsupported target type: 0xffffffff', 'ERR_UNSUPPORTED', /0xffffffff/, /device-tree/],
  ['RKNN init failed. error code: RKNN_ERR_MALLOC_FAIL', 'ERR_OUT_OF_MEMORY', /no memory/, /CmaFree/],
  ['rknn_run fail: RKNN_ERR_TIMEOUT', 'ERR_DEVICE_IO', /in time/, /dmesg/],
  ['E RKNN: [01:13:18.656] Import rknn model failed!', null, /not loaded/, /Paste/],
  ['E rkllm: rkllm_init failed', null, /not loaded/, /handle/],
  ['Error: External buffers are not allowed', 'ERR_EXTERNAL_BUFFERS_FORBIDDEN', /Electron/, /child_process/],
  // The kernel.
  [
    '[Wed Apr  1 10:09:24 2026] RKNPU: failed to wait job, task counter: 74, flags: 0x1, ret = -512, ' +
      'elapsed time: 13624us',
    'ERR_DEVICE_IO', /interrupted.*74/, /OOM/,
  ],
  [
    'RKNPU: failed to wait job, task counter: 0, flags: 0x5, ret = 0, elapsed time: 6252728us', 'ERR_DEVICE_IO',
    /did not end/, /synced/,
  ],
  [
    'RKNPU: job: 000000004eb23a7b, iommu domain id: 0, wait_count: 1, continue wait: 0, ' +
      'commit elapse time: 6251358us, wait time: 6251362us, timeout: 6000000us',
    'ERR_DEVICE_IO', /domain 0.*6 s/, /update/,
  ],
  ['RKNPU: job timeout, flags: 0x0:', 'ERR_DEVICE_IO', /aborted a job/, /cooling/],
  ['RKNPU fdab0000.npu: RKNPU: failed to allocate IOVA: -12', 'ERR_IOVA_EXHAUSTED', /4 GiB/, /domain/],
  ['RKNPU fdab0000.npu: RKNPU: dma map 93323264 fail', 'ERR_IOVA_EXHAUSTED', /89 MiB/, /domain/],
  ['[drm:rockchip_gem_iommu_map] *ERROR* out of I/O virtual memory: -28', 'ERR_IOVA_EXHAUSTED', /display/, /Reuse/],
  ['[drm] failed to allocate 8388608 buffer.', 'ERR_OUT_OF_MEMORY', /8 MiB/, /cma=/],
  ['RKNPU fdab0000.npu: failed to destroy dma addr: fffe0000, size: 65536', 'ERR_DOMAIN_BUSY', /next boot/, /domain/],
  ['cma: cma_alloc: alloc failed, req-size: 2025 pages, ret: -12', 'ERR_OUT_OF_MEMORY', /7\.9 MiB.*fragmented/, /cma=/],
  [
    'cma: cma_alloc: reserved: alloc failed, req-size: 512 pages, ret: -16', 'ERR_OUT_OF_MEMORY', /2 MiB.*pinned/,
    /early/,
  ],
  [
    '01-01 04:02:47.025     0     0 W RKNPU fde40000.npu: swiotlb buffer is full (sz: 6422528 bytes)',
    'ERR_OUT_OF_MEMORY', /6\.1 MiB/, /IOMMU/,
  ],
  ['RKNPU fde40000.npu: RKNPU: rknpu iommu is disabled, using non-iommu mode', null, /contiguous/, /device tree/],
  [
    'rk_iommu 27920f00.iommu: Page fault at 0x0000000002010040 of type read', 'ERR_DEVICE_IO',
    /27920f00\.iommu.*read 0x0000000002010040/, /Keep buffers/,
  ],
  ['iova 0xfff00000 already mapped to 0x1000, cannot remap', 'ERR_IOVA_EXHAUSTED', /still mapped/, /reboot/],
  ['rga_mmu: RGA_MMU unsupported memory larger than 4G!', 'ERR_UNSUPPORTED', /below 4 GiB/, /dma32/],
  ['rga_mm: rga_mm_get_channel_external_buffer dma_buf_get fail fd[148]', 'ERR_UNKNOWN_BUFFER', /148/, /open/],
  ['rga: 0      0     : RGA IOMMU: page fault! Please check the memory size.', 'ERR_DEVICE_IO', /beyond/, /strides/],
  [' RgaBlit(1465) RGA_BLIT fail: Invalid argument', null, /refused/, /dmesg/],
  [
    'mpp[6698]: mpp_dma_heap: os_allocator_dma_heap_open open dma heap type 0 system-uncached failed!',
    'ERR_DEVICE_PERMISSION', /system-uncached/, /udev/,
  ],
  [
    'mpp_dma_heap: dma-heap open /dev/dma_heap/system-uncached No such file or directory', 'ERR_DEVICE_NOT_FOUND',
    /does not exist/, /container/,
  ],
  ['mpp_allocator: mpp_allocator_get type 1 failed', 'ERR_DEVICE_PERMISSION', /no allocator/, /dri/],
  [
    'mpp[5488]: mpp_buffer: mpp_buffer_create failed to create buffer with size 1024', 'ERR_OUT_OF_MEMORY', /1 KiB/,
    /mpp_buffer_put/,
  ],
  [
    'mpp_buffer: mpp_group 5 mode internal deinit with 3110400 bytes not released', null, /2\.9 MiB/,
    /mpp_frame_deinit/,
  ],
  [
    'Out of memory: Killed process 1234 (llm_demo) total-vm:9000000kB, anon-rss:5242880kB, file-rss:0kB',
    'ERR_OUT_OF_MEMORY', /1234 \(llm_demo\).*5 GiB/, /ramAvailable/,
  ],
  ["lowmemorykiller: Killing 'llm_demo' (4321), adj 0", 'ERR_OUT_OF_MEMORY', /llm_demo.*4321/, /4-bit/],
  ['Error: EMFILE: too many open files', 'ERR_TOO_MANY_FDS', /EMFILE/, /ulimit/],
  ['open: /dev/dri/renderD129: Permission denied', 'ERR_DEVICE_PERMISSION', /renderD129/, /render/],
]

for (const [line, code, cause, remedy] of LINES) {
  test(line.slice(0, 100), () => {
    const answer = explainError(line)
    assert.ok(answer, 'it is known')
    assert.equal(answer.code, code)
    assert.match(answer.cause, cause)
    assert.match(answer.remedy, remedy)
  })
}

test('every pattern matches a line of these tests, or belongs to this package', () => {
  const unmet = TABLE.filter(
    ({ pattern, source }) => source !== 'this package' && !LINES.some(([line]) => pattern.test(line)),
  )
  assert.deepEqual(unmet.map(({ pattern }) => String(pattern)), [])
  assert.ok(TABLE.length >= 60)
  assert.ok(TABLE.every(({ source, weight }) => typeof source === 'string' && weight >= 1 && weight <= 3))
})

test('every pattern of this package matches a message in its sources', () => {
  const folder = new URL('../../../src/', import.meta.url)
  const texts = readdirSync(folder, { recursive: true })
    .filter((name) => /\.(rs|js)$/.test(name) && !name.startsWith('js/explain/'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8').replace(/\\\n\s*/g, ''))
  const literal = /"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g
  const messages = texts.flatMap((text) =>
    [...text.matchAll(literal)].map(([, a, b, c]) => (a ?? b ?? c).replace(/\$?\{[^{}]*\}/g, '7')),
  )
  const own = TABLE.filter(({ source }) => source === 'this package')
  const stale = own.filter(({ pattern }) => !messages.some((message) => pattern.test(message)))
  assert.ok(own.length >= 15)
  assert.deepEqual(stale.map(({ pattern }) => String(pattern)), [])
})

test('own errors explain themselves', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { domains: 1, domainBytes: 4 * MiB } })
  const buffer = manager.allocateNPUMemory(3 * MiB)
  const full = refuses(() => manager.allocateNPUMemory(2 * MiB), 'ERR_IOVA_EXHAUSTED')
  const answer = explainError(`${full.name}: ${full.message}`)
  assert.equal(answer.code, full.code)
  assert.match(answer.cause, /domain 0.*2 MiB/)
  manager.deallocate(buffer)

  manager.setMemoryLimits({ npu: { max: 1 << 20 } })
  const limit = refuses(() => manager.allocateNPUMemory(1 << 21), 'ERR_MEMORY_LIMIT')
  assert.equal(explainError(limit.message).code, 'ERR_MEMORY_LIMIT')
  assert.match(explainError(limit.message).cause, /1 MiB.*2 MiB/)
  const other = new MemoryManager({ backend: 'simulated' })
  other.dispose()
  assert.equal(
    explainError(refuses(() => other.getMemoryStats(), 'ERR_MANAGER_DISPOSED').message).code,
    'ERR_MANAGER_DISPOSED',
  )
})

test('of several lines the most specific one decides', () => {
  const log = [
    'I rkllm: rkllm-runtime version: 1.2.1, rknpu driver version: 0.9.6, platform: RK3588',
    'W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7',
    'E RKNN: [09:40:45.140] failed to allocate handle, ret: -1, errno: 14, errstr: Bad address',
    'E RKNN: [09:40:45.140] failed to malloc npu memory, size: 3085697024, flags: 0x2',
    'E RKNN: [09:40:45.148] load model file error!',
    'E rkllm: rkllm_init failed',
  ]
  const answer = explainError(log[2])
  assert.deepEqual(explainError(log.join('\n')), answer)
  assert.deepEqual(explainError(log.reverse().join('\r\n')), answer)
})

test('an unknown line gives null', () => {
  for (const line of [
    '', '\n\n', 'hello', 'rkllm init success', 'TypeError: x is not a function',
    'I rkllm: rkllm-runtime version: 1.2.1, rknpu driver version: 0.9.6, platform: RK3588', '\u0000\ud800',
  ]) {
    assert.equal(explainError(line), null, JSON.stringify(line))
  }
})

test('long and hostile text neither crashes nor hangs it', () => {
  for (const line of [
    'failed to allocate handle, ret: -1 '.repeat(1e5), 'a'.repeat(1e6), `${'/dev/dri/'.repeat(1e5)} x`,
    '\n'.repeat(1e6), 'EACCES'.repeat(1e5),
  ])
    explainError(line)
})

test('bad input', () => {
  for (const value of [undefined, null, 1, {}, [], Symbol('x'), 1n, () => {}])
    refuses(() => explainError(value), 'ERR_INVALID_ARG_TYPE')
  assert.match(refuses(() => explainError(new Error('x')), 'ERR_INVALID_ARG_TYPE').hint, /message/)
})
