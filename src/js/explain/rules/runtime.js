'use strict'

// The RKNN and RKLLM runtimes: models, jobs, versions, devices.

const { driverBelow } = require('../log-facts.js')

/** @typedef {import('../explain.js').Rule} Rule */

const PAIR =
  'Bring driver and runtime to one release: rknpu 0.9.8 with the newest librknnrt.so or librkllmrt.so, and no old ' +
  'copy of the library in /usr/lib.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'driver-version',
    patterns: [
      /driver version is too low, please upgrade to (?<version>[\d.]+?)\.?(?:\s|$)/i,
      /driver version: [\d.]+, recommend to upgrade the driver to the new version: >= (?<version>[\d.]+)/i,
    ],
    weight: 1,
    code: null,
    cause:
      "The kernel's rknpu driver[ ({driver})] is older than this runtime asks for ({version}); much works " +
      'nevertheless, and memory fails first.',
    remedy: 'Update the kernel or image of the board to one with rknpu 0.9.8; the driver is part of the kernel.',
    source: 'Pelochus/ezrknn-llm#19',
  },
  {
    kind: 'driver-version',
    patterns: [
      /driver open fail!? ret = -12\(ERROR_NOT_SUPPORTED\)/i,
      /rknn_init, (?:msg_\w+|driver open) (?:ioctl )?fail.*(?:NOT_SUPPORTED|mismatch)/i,
      /(?:RKNN_ERR_)?(?:DEVICE_)?(?:DRIVER_)?VERSION_(?:NOT_MATCH|UNMATCH|MISMATCH)/,
      /Mismatch driver version\b/i,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause:
      'Driver and runtime are of different generations: this runtime does not support the driver that it found[ ' +
      '(rknpu {driver})].',
    remedy: PAIR,
    source: 'airockchip/rknn-toolkit2#31',
  },
  {
    kind: 'model',
    patterns: [/invalid rknn llm model magic/i],
    weight: 3,
    code: null,
    cause:
      'The file is not a .rkllm model that this runtime can read: another toolkit generation made it, it is ' +
      'truncated, or it is another kind of file.',
    remedy:
      "Convert it again with the rkllm-toolkit of the runtime's version[ ({rkllm})]; compare the file's size and " +
      'checksum with the download page.',
    source: 'airockchip/rknn-llm#129',
  },
  {
    kind: 'model',
    patterns: [/model version is too old, please use the latest toolkit/i],
    weight: 3,
    code: null,
    cause: 'The model was converted for an older runtime.',
    remedy: "Convert it again with the rkllm-toolkit of the runtime's version[ ({rkllm})], or use the older runtime.",
    source: 'av1d/rk3588_npu_llm_server#2',
  },
  {
    kind: 'model',
    patterns: [
      /model target_platform does not match/i,
      /RKNN_ERR_TARGET_PLATFORM_UNMATCH/i,
      /model does not match the RKNPU hardware version/i,
    ],
    weight: 3,
    code: null,
    cause: 'The model was converted for another chip[ than {platform}].',
    remedy: "Convert it with target_platform set to this board's chip (such as rk3588, rk3576, rk3568, rk3562).",
    source: 'av1d/rk3588_npu_llm_server#2',
  },
  {
    kind: 'model',
    patterns: [/Invalid RKNN model version (?<version>\d+)/i, /incompatible model version: (?<version>\d+)/i],
    weight: 3,
    code: null,
    cause:
      "The model's format, version {version}, cannot be read by the installed librknnrt[ ({rknn})]: model and " +
      'runtime are of different releases.',
    remedy: 'Install the librknnrt.so of the toolkit that made the model (and look for an old copy in /usr/lib).',
    source: 'airockchip/rknn-toolkit2#281',
  },
  {
    kind: 'model',
    patterns: [/invalid RKNN_MAGIC/i, /Invalid RKNN fromat/i, /Invalid RKNN format/i],
    weight: 3,
    code: null,
    cause: 'The file or buffer is not a .rknn model.',
    remedy:
      'Check that it was copied completely (often it is a Git LFS pointer), and that its length was passed to ' +
      'rknn_init.',
    source: 'airockchip/rknn-toolkit2#405',
  },
  {
    kind: 'model',
    patterns: [/info_len\((?<given>\d+)\) ?< ?sizeof\((?<struct>\w+)\)\((?<wanted>\d+)\)/],
    weight: 3,
    code: null,
    cause:
      "The program and the installed librknnrt[ ({rknn})] are of different releases: the program's {struct} has " +
      '{given} bytes, the library wants {wanted}.',
    remedy: "Compile the program with the rknn_api.h of the installed library, or install that header's library.",
    source: 'rockchip-linux/rknn-toolkit#440',
  },
  {
    kind: 'context',
    patterns: [/max_context\[(?<asked>\d+)\] must be less than the model's max_context_limit\[(?<limit>\d+)\]/],
    weight: 3,
    code: 'ERR_OUT_OF_RANGE',
    cause: 'A context of {asked} tokens was asked for, and the model was converted for at most {limit}.',
    remedy: 'Set max_context_len to {limit} or less, or convert the model with a larger max_context.',
    source: 'NotPunchnox/rkllama#60',
  },
  {
    kind: 'context',
    patterns: [
      /Prompt is (?<tokens>\d+) tokens but the model context window is (?<limit>\d+)/i,
      /prompt: (?<tokens>\d+) tokens, max context: (?<limit>\d+)/i,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_RANGE',
    cause: 'The prompt has {tokens} tokens, the context {limit}.',
    remedy:
      'Shorten the prompt or its history, or open the model with a larger max_context_len: the KV cache grows with it.',
    source: 'jaylfc/taOS#1738',
  },
  {
    kind: 'runtime-job',
    patterns: [
      /failed to submit!?,?.*op id ?: ?(?<op>\d+) ?, op name ?: ?(?<name>[^,]+)/i,
      /failed to submit!?(?:,|$)/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'The NPU did not finish a job[ (operator {op}, {name})]: it timed out, was aborted with its process, or its ' +
      'memory was not what it expected.',
    remedy:
      'Do not share one rknn_context between threads, do not destroy a model while it runs, check that inputs have ' +
      "the model's type, and bring driver and runtime to the same release; dmesg has the kernel's messages.",
    source: 'airockchip/rknn-toolkit2#531',
  },
  {
    kind: 'runtime-job',
    patterns: [/matmul\((?<name>\w+)\) run failed/],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'The NPU did not finish a matrix product ({name}) of the model.',
    remedy: `dmesg | rkllm-memory explain has the kernel's reason. ${PAIR}`,
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.0'),
        cause:
          'The driver is too old for this model: rknpu {driver} (from the log) did not finish a matrix product ' +
          '({name}).',
        remedy: 'Update the kernel or image of the board to one with rknpu 0.9.8; the driver is part of the kernel.',
      },
    ],
    source: 'airockchip/rknn-llm#413, #290',
  },
  {
    kind: 'runtime-job',
    patterns: [
      /RKNPU_SUBMIT (?:returned -1|failed)/,
      /RKNN_ERR_TIMEOUT/,
      /rknn_run\w*\(?\)? *(?:fail|error)/i,
    ],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'A job did not end, or not in time.',
    remedy: 'Look for "job timeout" in dmesg; processes on the same NPU wait for each other.',
    source: 'rknn_api.h',
  },
  {
    kind: 'runtime-device',
    patterns: [/failed to open rknpu module, need to insmod rknpu (?:dirver|driver)/],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      "The runtime could not open the NPU's device node. Mostly this user may not open it; in containers it was not " +
      'passed in; otherwise the kernel has no rknpu driver.',
    remedy:
      'Add the user to the groups "video" and "render" (usermod -aG video,render USER) and log in again; in a ' +
      'container pass --device /dev/dri (and /dev/dma_heap). If dmesg | grep -i rknpu is empty, the kernel has no ' +
      'driver.',
    variants: [
      {
        when: (_, { driver, container }) => driver !== undefined && container !== undefined,
        cause:
          "The runtime could not open the NPU's device node in this container; the kernel has the driver (rknpu " +
          '{driver}, from the log).',
        remedy:
          'Pass the node in: docker run --device /dev/dri (and /dev/dma_heap) --group-add of the group render; for ' +
          'the DMA-heap flavour --device /dev/rknpu.',
      },
      {
        when: (_, { driver }) => driver !== undefined,
        cause:
          "The runtime could not open the NPU's device node, although the kernel has the driver (rknpu {driver}, " +
          'from the log): this user may not open it, or the container was not given it.',
      },
    ],
    source: 'rockchip-linux/rknn-toolkit2#244',
  },
  {
    kind: 'runtime-device',
    patterns: [
      /failed to open rknn device/,
      /Get device properties failed/,
      /RKNN_ERR_DEVICE_UNAVAILABLE/,
      /RKNN.*Device is not available/,
    ],
    weight: 2,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The runtime found no NPU that it can use.',
    remedy:
      'Check permissions of /dev/dri/renderD* and /dev/dri/card*, devices passed to the container, and dmesg | grep ' +
      '-i rknpu.',
    source: 'radxa-docs/docs#881',
  },
  {
    kind: 'runtime-device',
    patterns: [/RKNNAPI: rknn_init, .*driver open fail/i],
    weight: 2,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The runtime could not open the driver of the NPU.',
    remedy: `Check the permissions of the node. ${PAIR}`,
    source: 'airockchip/rknn-toolkit2#31',
  },
  {
    kind: 'device-tree',
    patterns: [
      /unsupported target type: (?<type>0x[0-9a-f]+|-?\d+)/i,
      /hw_version(?:\(| ?[:=] ?)(?:-1|0xffffffff)/i,
      /unsupport(?:ed)? (?:soc|platform|target).*(?:0xffffffff|unknown)/i,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause:
      'The runtime did not recognise the chip[ ({type})]: /proc/device-tree is hidden (containers), or the node it ' +
      "opened is not the NPU's, such as a stray /dev/rknpu.",
    remedy:
      'Show the container /proc/device-tree (--security-opt systempaths=unconfined); remove a link or mount at ' +
      '/dev/rknpu that leads to a DRM node: their interfaces differ.',
    source: 'airockchip/rknn-toolkit2#534, invisiofficial/rk-llama.cpp#19',
  },
  {
    kind: 'device-tree',
    patterns: [
      /Please specify the target in init_runtime/i,
      /Make sure to run docker in privileged mode/i,
      /(?:No such file or directory|Permission denied).*\/(?:proc\/)?device-tree\/(?:compatible|model)/i,
      /\/(?:proc\/)?device-tree\/(?:compatible|model)['": ].*(?:No such file|Permission denied|not found)/i,
      /can not found match soc name/,
      /(?:rknn|rkllm).*(?:can ?not|failed to|could not) (?:get|detect) (?:the )?(?:soc|chip|board|target)\b/i,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause:
      'The runtime could not find out which chip this is: it reads /proc/device-tree/compatible, which containers ' +
      'hide.',
    remedy:
      'Show the device tree to the container: docker run --security-opt systempaths=unconfined --security-opt ' +
      'apparmor=unconfined, or -v /proc/device-tree/compatible:/proc/device-tree/compatible:ro.',
    source: 'airockchip/rknn-toolkit2#153, #33',
  },
  {
    kind: 'container',
    patterns: [/necessary files are missing in the container/i, /Do you run docker in privileged mode/i],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: "The container does not have what the runtime needs: the NPU's node or the device tree was not passed in.",
    remedy:
      'Pass the node with --device (not -v): docker run --device /dev/dri --group-add of the group render, with ' +
      '--security-opt systempaths=unconfined for /proc/device-tree.',
    source: 'airockchip/rknn-toolkit2',
  },
  {
    kind: 'bare-failure',
    patterns: [
      /RKNN_ERR_MODEL_INVALID/,
      /Import rknn model failed/,
      /load model file error/,
      /rknn_init, load model failed/,
    ],
    weight: 1,
    code: null,
    cause: 'The model was not loaded. The lines before it name the cause (memory, version, format).',
    remedy: 'Paste those lines too.',
    source: 'airockchip/rknn-llm#195',
  },
  {
    kind: 'bare-failure',
    patterns: [
      /rkllm_init failed/,
      /rkllm init failed/,
      /RKLLM init failed/,
      /rknn_init (?:fail|error)\w*\W+ret ?[=:] ?-\d+/,
      /RKNN_ERR_FAIL\b/,
      /[Ii]nit runtime (?:environment )?failed|[Ff]ailed to init runtime/,
    ],
    weight: 1,
    code: null,
    cause:
      'The model was not loaded. Some runtimes continue nevertheless and crash later, so the process should end here.',
    remedy: 'Look at the lines before it; check the return value of rkllm_init, and that the handle is not null.',
    source: 'airockchip/rknn-llm#522',
  },
  {
    kind: 'external-buffers',
    patterns: [/NoExternalBuffersAllowed/, /External buffers are not allowed/],
    weight: 3,
    code: 'ERR_EXTERNAL_BUFFERS_FORBIDDEN',
    cause:
      'This JavaScript runtime (Electron, or a V8 with its memory cage) allows no ArrayBuffer over foreign memory.',
    remedy: 'Run the NPU in a plain Node.js process (utilityProcess, child_process) and copy what crosses over.',
    source: 'nodejs/node#45181',
  },
]
