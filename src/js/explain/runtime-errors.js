'use strict'

// Lines of the RKNN and RKLLM runtimes.
//
// weight: 3 for a line that names the cause, 2 for a consequence that narrows it down, 1 for a bare failure. source:
// the issue whose log has the line.

const { formatBytes } = require('../core/format-bytes.js')

/** @type {(text: string) => string} */
const bytes = (text) => formatBytes(Number(text))

/**
 * The probable cause of a refused NPU allocation, by its size.
 *
 * @param {string} size
 */
function causeBySize(size) {
  if (Number(size) > 2 ** 31) return 'One buffer of more than 2 GiB fits only into an almost empty domain.'
  if (Number(size) > 2 ** 20) return 'With an IOMMU the domain has no such piece left; without one, CMA has none.'
  return 'With so small a buffer, file descriptors have probably run out.'
}

/** @type {import('./explain.js').Entry[]} */
const ENTRIES = [
  {
    pattern: /failed to convert handle\((\d+)\) to fd.*errno: 24\b/,
    weight: 3,
    code: 'ERR_TOO_MANY_FDS',
    cause: ([, handle]) =>
      `The process ran out of file descriptors at handle ${handle}: the runtime takes one for each NPU buffer, and ` +
      'the usual limit is 1024.',
    remedy:
      'Raise the limit in the shell or service that starts the process (ulimit -n 65536, LimitNOFILE=65536), or ' +
      'load fewer models in one process; rkllm-runtime 1.1 and later need far fewer.',
    source: 'airockchip/rknn-llm#62',
  },
  {
    pattern: /failed to convert handle\((\d+)\) to fd.*errno: 23\b/,
    weight: 3,
    code: 'ERR_TOO_MANY_FDS',
    cause: ([, handle]) =>
      `The whole system has no free entry for open files (at handle ${handle}): every NPU buffer is one. Root is ` +
      'exempt, so it works for root.',
    remedy: 'Raise fs.file-max (sysctl -w fs.file-max=1000000); /proc/sys/fs/file-nr shows how many are used.',
    source: 'Pelochus/ezrknpu#3',
  },
  {
    pattern: /failed to convert fd\((\d+)\) to handle.*errno: 12\b/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: ([, fd]) =>
      `The dma-buf behind descriptor ${fd} was not imported: the kernel had no memory, or the IOMMU domain no ` +
      'addresses, for one more import.',
    remedy: 'Import each buffer once and keep the handle; every import takes NPU addresses until it is released.',
    source: 'rk-llama.cpp#6',
  },
  {
    pattern: /failed to allocate handle.*errno: 14\b/,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'The NPU\'s address space is full, although the error says "Bad address": one IOMMU domain addresses 4 GiB, ' +
      'whatever RAM the board has, and no piece of the size asked for is left in it.',
    remedy:
      'Put the model into another domain (RKLLMExtendParam.base_domain_id = 1), use 4-bit weights or a smaller ' +
      'context, or unload other models; planModels() finds a place for each.',
    source: 'airockchip/rknn-llm#195',
  },
  {
    pattern: /failed to allocate handle.*errno: 12\b/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The kernel had no pages for the NPU. Drivers before 0.9 only take RAM below 4 GiB, which can be full while ' +
      'RAM is free, and have no further domains.',
    remedy: 'Free memory, or update the rknpu driver to 0.9.8 and the runtime with it.',
    source: 'airockchip/rknn-llm#62',
  },
  {
    pattern: /failed to allocate handle.*errno: 22\b/,
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The driver refused the buffer. Without an IOMMU this means that contiguous memory (CMA) is used up; with ' +
      'one, that the domain could not be used.',
    remedy:
      "Check CmaFree in /proc/meminfo and enlarge it (cma=256M on the kernel command line), or enable the NPU's " +
      'IOMMU in the device tree; with an IOMMU use domain 0.',
    source: 'rockchip-linux/rknn-toolkit2#218',
  },
  {
    pattern: /failed to allocate handle, ret: -?\d+(?!.*errno)/,
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The driver made no buffer; this old runtime does not report why. On RK356x the common cause is an NPU ' +
      'without IOMMU and without reserved memory.',
    remedy:
      'Look at the kernel\'s log (dmesg | grep -i rknpu): "using non-iommu mode" means that all NPU memory comes ' +
      'from CMA.',
    source: 'rockchip-linux/rknn-toolkit2#44',
  },
  {
    pattern: /(?:can not|cannot) create weight memory for domain\s*(\d+)/i,
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: ([, domain]) =>
      `IOMMU domain ${domain} has no room for the model's weights, or the driver does not offer that domain.`,
    remedy:
      'Update the driver to 0.9.8 and the runtime to the newest; use 4-bit weights, or unload other models in that ' +
      'domain.',
    source: 'airockchip/rknn-llm#68',
  },
  {
    pattern: /iommu_context->weight_memory is NULL/,
    weight: 2,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'The weights found no NPU addresses in any domain; the crash that follows is the runtime using memory it did ' +
      'not get.',
    remedy: 'Update runtime and driver (0.9.8), use 4-bit weights, or unload other models.',
    source: 'airockchip/rknn-llm#68',
  },
  {
    pattern: /failed to malloc npu memory!?, size: (\d+), flags: (0x[0-9a-f]+)/i,
    weight: 2,
    code: ([, size]) => (Number(size) > 2 ** 20 ? 'ERR_IOVA_EXHAUSTED' : null),
    cause: ([, size]) =>
      `NPU memory of ${bytes(size)} could not be allocated; the line before names the errno. ${causeBySize(size)}`,
    remedy: ([, size]) =>
      Number(size) > 2 ** 20
        ? 'Use another domain (base_domain_id), 4-bit weights or a smaller context, or free NPU memory; without an ' +
          'IOMMU enlarge CMA.'
        : "Count the process's descriptors (ls /proc/PID/fd | wc -l) and raise ulimit -n.",
    source: 'airockchip/rknn-llm#335',
  },
  {
    pattern: /failed to map memory|failed to mmap.*npu/i,
    weight: 3,
    code: 'ERR_TOO_MANY_MAPS',
    cause: 'The process could map no more memory: near 65,530 mappings (vm.max_map_count) the kernel refuses.',
    remedy:
      'Raise it (sysctl -w vm.max_map_count=262144), and reuse buffers: rknn_create_mem2 without a context leaks ' +
      'one mapping and descriptor each.',
    source: 'airockchip/rknn-toolkit2#532',
  },
  {
    pattern: /rknpu driver version is too low, please upgrade to ([\d.]+?)\.?(?:\s|$)/i,
    weight: 1,
    code: null,
    cause: ([, version]) =>
      `The kernel's rknpu driver is older than this runtime asks for (${version}); much works nevertheless, and ` +
      'memory fails first.',
    remedy: 'Update the kernel or image of the board to one with rknpu 0.9.8; the driver is part of the kernel.',
    source: 'Pelochus/ezrknn-llm#19',
  },
  {
    pattern: /invalid rknn llm model magic/i,
    weight: 3,
    code: null,
    cause:
      'The file is not a .rkllm model that this runtime can read: another toolkit generation made it, it is ' +
      'truncated, or it is another kind of file.',
    remedy:
      "Convert it again with the rkllm-toolkit of the runtime's version; compare the file's size and checksum with " +
      'the download page.',
    source: 'airockchip/rknn-llm#129',
  },
  {
    pattern: /model version is too old, please use the latest toolkit/i,
    weight: 3,
    code: null,
    cause: 'The model was converted for an older runtime.',
    remedy: "Convert it again with the rkllm-toolkit of the runtime's version, or use the older runtime.",
    source: 'av1d/rk3588_npu_llm_server#2',
  },
  {
    pattern: /model target_platform does not match|RKNN_ERR_TARGET_PLATFORM_UNMATCH/i,
    weight: 3,
    code: null,
    cause: 'The model was converted for another chip.',
    remedy: "Convert it with target_platform set to this board's chip (rk3588, rk3576, rk3562, rv1126b).",
    source: 'av1d/rk3588_npu_llm_server#2',
  },
  {
    pattern: /Invalid RKNN model version (\d+)|incompatible model version: (\d+)/i,
    weight: 3,
    code: null,
    cause: (match) =>
      `The model's format, version ${match[1] ?? match[2]}, cannot be read by the installed librknnrt: model and ` +
      'runtime are of different releases.',
    remedy: 'Install the librknnrt.so of the toolkit that made the model (and look for an old copy in /usr/lib).',
    source: 'airockchip/rknn-toolkit2#281',
  },
  {
    pattern: /invalid RKNN_MAGIC|Invalid RKNN fromat|Invalid RKNN format/i,
    weight: 3,
    code: null,
    cause: 'The file or buffer is not a .rknn model.',
    remedy:
      'Check that it was copied completely (often it is a Git LFS pointer), and that its length was passed to ' +
      'rknn_init.',
    source: 'airockchip/rknn-toolkit2#405',
  },
  {
    pattern: /max_context\[(\d+)\] must be less than the model's max_context_limit\[(\d+)\]/,
    weight: 3,
    code: 'ERR_OUT_OF_RANGE',
    cause: ([, asked, limit]) =>
      `A context of ${asked} tokens was asked for, and the model was converted for at most ${limit}.`,
    remedy: ([, , limit]) => `Set max_context_len to ${limit} or less, or convert the model with a larger max_context.`,
    source: 'NotPunchnox/rkllama#60',
  },
  {
    pattern: /Prompt is (\d+) tokens but the model context window is (\d+)|prompt: (\d+) tokens, max context: (\d+)/i,
    weight: 3,
    code: 'ERR_OUT_OF_RANGE',
    cause: (m) => `The prompt has ${m[1] ?? m[3]} tokens, the context ${m[2] ?? m[4]}.`,
    remedy:
      'Shorten the prompt or its history, or open the model with a larger max_context_len: the KV cache grows with it.',
    source: 'jaylfc/taOS#1738',
  },
  {
    pattern: /failed to submit!?,.*op id: (\d+), op name: ([^,]+)/,
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: ([, op, name]) =>
      `The NPU did not finish a job (operator ${op}, ${name}): it timed out, was aborted with its process, or its ` +
      'memory was not what it expected.',
    remedy:
      'Do not share one rknn_context between threads, do not destroy a model while it runs, check that inputs have ' +
      "the model's type, and bring driver and runtime to the same release; dmesg has the kernel's messages.",
    source: 'airockchip/rknn-toolkit2#531',
  },
  {
    pattern: /failed to open rknpu module, need to insmod rknpu dirver/,
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      "The runtime could not open the NPU's device node. Mostly this user may not open it; in containers it was " +
      'not passed in; otherwise the kernel has no rknpu driver.',
    remedy:
      'Add the user to the groups "video" and "render" (usermod -aG video,render USER) and log in again; in a ' +
      'container pass --device /dev/dri (and /dev/dma_heap). If dmesg | grep -i rknpu is empty, the kernel has no ' +
      'driver.',
    source: 'rockchip-linux/rknn-toolkit2#244',
  },
  {
    pattern: /failed to open rknn device|Get device properties failed|RKNN_ERR_DEVICE_UNAVAILABLE/,
    weight: 2,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The runtime found no NPU that it can use.',
    remedy:
      'Check permissions of /dev/dri/renderD* and /dev/dri/card*, devices passed to the container, and dmesg | ' +
      'grep -i rknpu.',
    source: 'radxa-docs/docs#881',
  },
  {
    pattern: /unsupported target type: (0x[0-9a-f]+)/i,
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause: ([, type]) =>
      `The runtime did not recognise the chip (${type}): /proc/device-tree is hidden (containers), or the node it ` +
      `opened is not the NPU's.`,
    remedy:
      'Mount /proc/device-tree into the container; do not link /dev/rknpu to a DRM node: their interfaces differ.',
    source: 'airockchip/rknn-toolkit2#534',
  },
  {
    pattern: /RKNN_ERR_MALLOC_FAIL|rknn_init fail!? ret=-4\b/,
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: "The NPU's driver or the system gave the runtime no memory.",
    remedy: 'The lines before it name which; check CmaFree and MemAvailable in /proc/meminfo, and ulimit -n.',
    source: 'rockchip-linux/rknn-toolkit2#226',
  },
  {
    pattern: /RKNN_ERR_TIMEOUT/,
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'A job did not end in time.',
    remedy: 'Look for "job timeout" in dmesg; processes on the same NPU wait for each other.',
    source: 'rknn_api.h',
  },
  {
    pattern: /RKNN_ERR_MODEL_INVALID|Import rknn model failed|load model file error|rknn_init, load model failed/,
    weight: 1,
    code: null,
    cause: 'The model was not loaded. The lines before it name the cause (memory, version, format).',
    remedy: 'Paste those lines too.',
    source: 'airockchip/rknn-llm#195',
  },
  {
    pattern: /rkllm_init failed|rkllm init failed|RKLLM init failed|rknn_init fail!? ret=-\d+/,
    weight: 1,
    code: null,
    cause:
      'The model was not loaded. Some runtimes continue nevertheless and crash later, so the process should end here.',
    remedy: 'Look at the lines before it; check the return value of rkllm_init, and that the handle is not null.',
    source: 'airockchip/rknn-llm#522',
  },
  {
    pattern: /NoExternalBuffersAllowed|External buffers are not allowed/,
    weight: 3,
    code: 'ERR_EXTERNAL_BUFFERS_FORBIDDEN',
    cause:
      'This JavaScript runtime (Electron, or a V8 with its memory cage) allows no ArrayBuffer over foreign memory.',
    remedy: 'Run the NPU in a plain Node.js process (utilityProcess, child_process) and copy what crosses over.',
    source: 'nodejs/node#45181',
  },
]

module.exports = ENTRIES
