// The RKNN and RKLLM runtimes, ggml and llama.cpp. Facts in the same log decide.

const RAM = 'ERR_OUT_OF_MEMORY'
const FULL = 'ERR_IOVA_EXHAUSTED'
const E = 'E RKNN: [09:40:45.140] '
const rkllm = (runtime, driver) =>
  `I rkllm: rkllm-runtime version: ${runtime}, rknpu driver version: ${driver}, platform: RK3588`
const E14 = `${E}failed to allocate handle, ret: -1, errno: 14, errstr: Bad address`
const E12 = `${E}failed to allocate handle, ret: -1, errno: 12, errstr: Cannot allocate memory`
const E22 = `${E}failed to allocate handle, ret: -1, errno: 22, errstr: Invalid argument`

export const runtime = [
  {
    kind: 'runtime-job',
    code: 'ERR_DEVICE_IO',
    cause: /rknpu 0\.8\.2/,
    remedy: /0\.9\.8/,
    logs: [
      'I rkllm: rkllm-runtime version: 1.2.1b1, rknpu driver version: 0.8.2, platform: RK3588\n' +
        'rkllm init success\nE rkllm: matmul(w8a8) run failed',
    ],
  },
  {
    kind: 'runtime-job',
    code: 'ERR_DEVICE_IO',
    not: /too old/,
    logs: [
      'E rkllm: matmul(w4a16) run failed',
      'I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.8, platform: RK3588\n' +
        'E rkllm: matmul(w8a8) run failed',
      'E RKNN: failed to submit! Op id:3 , op name: conv:inputs.3_Conv_pads_conv, flags: 0x5, task start:0,task ' +
        'number:218,run task number:218 , run task counter: 146 int status: 0',
      'E RKNN: [08:24:12.287] failed to submit!',
      'RKNPU_SUBMIT returned -1',
    ],
  },
  {
    kind: 'driver-version',
    code: null,
    cause: /0\.8\.8/,
    remedy: /0\.9\.8/,
    logs: [
      'W RKNN: [02:17:34.734] Current driver version: 0.8.2, recommend to upgrade the driver to the new version: >= ' +
        '0.8.8',
    ],
  },
  {
    kind: 'driver-version',
    code: 'ERR_UNSUPPORTED',
    remedy: /one release/,
    logs: [
      'E RKNN: [10:14:32.606] Mismatch driver version, librknnrt version: 1.3.0 need driver version: 0.7.2 or above',
    ],
  },
  {
    kind: 'runtime-device',
    code: 'ERR_DEVICE_NOT_FOUND',
    logs: ['E RKNN: [12:35:17.533] Device is not available'],
  },
  {
    kind: 'container',
    code: 'ERR_DEVICE_NOT_FOUND',
    remedy: /--device/,
    logs: ['frigate.detectors.plugins.rknn E : Error initializing rknn runtime. Do you run docker in privileged mode?'],
  },
  {
    kind: 'fds',
    code: 'ERR_TOO_MANY_FDS',
    cause: /handle 1020/,
    remedy: /ulimit -n/,
    logs: [`${E}failed to convert handle(1020) to fd, ret: -1, errno: 24, errstr: Too many open files`],
  },
  {
    kind: 'fds',
    code: 'ERR_TOO_MANY_FDS',
    cause: /whole system.*7000/,
    remedy: /fs\.file-max/,
    logs: ['E RKNN: failed to convert handle(7000) to fd, ret: -1, errno: 23, errstr: Too many open files in system'],
  },
  {
    kind: 'runtime-ram',
    code: RAM,
    cause: /descriptor 11/,
    remedy: /Import each buffer once/,
    logs: ['failed to convert fd(11) to handle, ret: -1, errno: 12, errstr: Cannot allocate memory'],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /4 GiB/,
    remedy: [/base_domain_id/, /0\.9\.8/],
    logs: [E14, 'E/RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad addr'],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: [/rknpu 0\.9\.[26] \(from the log\)/, /changes nothing/],
    remedy: /0\.9\.8/,
    not: /Put the model into another domain/,
    logs: [
      `${rkllm('1.1.4', '0.9.6')}\n${E14}\n${E}failed to malloc npu memory, size: 4059037696, flags: 0x2`,
      `${rkllm('1.2.1', '0.9.6')}\n${E14}\n${E}failed to malloc npu memory, size: 3085697024, flags: 0x2\n` +
        `${E}load model file error!\nE rkllm: rkllm_init failed\nrkllm init failed`,
      `${E14}\nRKNPU driver: v0.9.2`,
    ],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: [/rknpu 0\.9\.8/, /1\.3 GiB/],
    remedy: /base_domain_id = 1/,
    logs: [
      `${rkllm('1.1.4', '0.9.8')}\n${E14}\n${E}failed to malloc npu memory, size: 1427746880, flags: 0x2`,
      `I RKNN: [01:13:18.600] RKNN Driver Information, version: 0.9.8\n${E14}\n` +
        `${E}failed to malloc npu memory, size: 1427746880, flags: 0x2`,
    ],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /IOMMU domain 1/,
    remedy: /no other model uses/,
    logs: [`base_domain_id = 1\n${rkllm('1.2.2', '0.9.8')}\n${E14}`],
  },
  {
    kind: 'runtime-ram',
    code: RAM,
    cause: [/RAM is used up/, /below 4 GiB/],
    remedy: /0\.9\.8/,
    logs: [E12, 'errno: 12, errstr: Cannot allocate memory'],
  },
  {
    kind: 'runtime-ram',
    code: RAM,
    cause: [/RAM is used up/, /0\.9\.8 \(from the log\)/],
    not: /Update/,
    logs: [
      `I RKNN: [09:50:24.867] RKNN Driver Information, version: 0.9.8\n${E12}`,
      `${rkllm('1.2.3', '0.9.8')}\n${E12}\nE rkllm: rkllm_init failed`,
    ],
  },
  {
    kind: 'runtime-ram',
    code: RAM,
    cause: [/0\.8\.2/, /below 4 GiB/],
    remedy: /Update/,
    logs: [
      `rkllm-runtime version: 1.0.1, rknpu driver version: 0.8.2, platform: RK3588\n${E12}`,
      `api version: 1.5.2\ndriver version: 0.8.2\n${E12}`,
    ],
  },
  {
    kind: 'runtime-refused',
    code: RAM,
    cause: /CMA/,
    remedy: /cma=256M/,
    logs: [
      E22,
      `RKNPU fde40000.npu: RKNPU: rknpu iommu is disabled, using non-iommu mode\n${E22}`,
      '09-14 08:45:03.277  6912  6912 E RKNN    : failed to allocate handle, ret: -1, errno: 22, errstr: Invalid ' +
        'argument',
    ],
  },
  {
    kind: 'runtime-refused',
    code: 'ERR_DOMAIN_BUSY',
    cause: /IOMMU domain/,
    remedy: /domain 0/,
    logs: [`RKNPU fdab0000.npu: RKNPU: rknpu iommu is enabled, using iommu mode\n${E22}`],
  },
  {
    kind: 'runtime-refused',
    code: RAM,
    cause: /does not report why/,
    remedy: /dmesg/,
    logs: [
      '2022-07-06 15:37:03.100 12848-12876 E/RKNN: failed to allocate handle, ret: -1',
      'E RKNN: failed to allocate handle, ret: -1, err',
    ],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /domain 1/,
    remedy: /0\.9\.8/,
    logs: ['can not create weight memory for domain1'],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: [/domain 2/, /0\.9\.8/],
    not: /Update/,
    logs: [`${rkllm('1.1.4', '0.9.8')}\ncan not create weight memory for domain2`],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /crash/,
    remedy: /Update/,
    logs: ['Error: iommu_context->weight_memory is NULL'],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /2\.8 GiB.*more than 2 GiB/,
    remedy: /4-bit/,
    logs: [`${E}failed to malloc npu memory, size: 3085697024, flags: 0x2`],
  },
  {
    kind: 'runtime-addresses',
    code: FULL,
    cause: /56\.4 MiB/,
    remedy: /CMA/,
    logs: ['failed to malloc npu memory!, size: 59187712, flags: 0x2'],
  },
  {
    kind: 'fds',
    code: null,
    cause: /1\.7 KiB.*descriptors/,
    remedy: /ulimit/,
    logs: [`${E}failed to malloc npu memory, size: 1792, flags: 0x2`],
  },
  {
    kind: 'maps',
    code: 'ERR_TOO_MANY_MAPS',
    cause: /vm\.max_map_count/,
    remedy: /sysctl/,
    logs: ['E RKNN: failed to map memory', 'failed to map memory'],
  },
  {
    kind: 'runtime-ram',
    code: RAM,
    cause: /no memory/,
    remedy: /CmaFree/,
    logs: [
      'rknn_init fail! ret=-4',
      'RKNN init failed. error code: RKNN_ERR_MALLOC_FAIL',
      'rknn_create_mem2 failed!',
      'rknn_create_mem fail! ret=-1',
      'E rkllm: failed to malloc memory for kv cache',
      'Exception: RKNN init failed. error code: RKNN_ERR_MALLOC_FAIL',
    ],
  },
  {
    kind: 'driver-version',
    code: null,
    cause: /\(0\.9\.7\)/,
    remedy: /0\.9\.8/,
    logs: [
      'W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7.',
      'Warning: Your rknpu driver version is too low, please upgrade to 0.9.7',
    ],
  },
  {
    kind: 'driver-version',
    code: 'ERR_UNSUPPORTED',
    cause: /different generations/,
    remedy: /one release/,
    logs: [
      'E RKNNAPI: rknn_init, driver open fail! ret = -12(ERROR_NOT_SUPPORTED)!',
      'rknn_init: RKNN_ERR_DRIVER_VERSION_MISMATCH',
      'E RKNNAPI: rknn_init,  driver open fail! ret = -12(ERROR_NOT_SUPPORTED)!\nrknn_init fail! ret=-12',
    ],
  },
  {
    kind: 'model',
    code: null,
    cause: /rknn_tensor_attr has 372 bytes, the library wants 376/,
    remedy: /rknn_api\.h/,
    logs: [
      'E RKNN: [07:13:44.229] rknn_query, info_len(372) < sizeof(rknn_tensor_attr)(376)!\nrknn_init error ret=-5',
    ],
  },
  {
    kind: 'model',
    code: null,
    cause: /\.rkllm|\.rknn|converted|format/,
    remedy: /[Cc]onvert|Install|LFS/,
    logs: [
      'E RKNN: [08:48:14.826] invalid rknn llm model magic',
      'Warning: The model version is too old, please use the latest toolkit to reconvert the model!',
      'The model target_platform does not match!',
      'E RKNN    : The rknn model does not match the RKNPU hardware version!',
      'RKNN_ERR_TARGET_PLATFORM_UNMATCH',
      'E RKNN: Invalid RKNN fromat!',
      'E RKNN: [14:34:00.922] Invalid RKNN model version 6',
      'E RKNN: incompatible model version: 1',
      'parseRKNN: invalid RKNN_MAGIC!',
      'E RKNN: Invalid RKNN format!',
    ],
  },
  {
    kind: 'context',
    code: 'ERR_OUT_OF_RANGE',
    cause: /\d{4,}.*\d{4}/,
    remedy: /max_context|[Ss]horten/,
    logs: [
      "E rkllm: max_context[16384] must be less than the model's max_context_limit[4096]",
      'Prompt is 11543 tokens but the model context window is 4096 tokens.',
      'error: prompt gather than max context (prompt: 1299 tokens, max context: 1020)',
    ],
  },
  {
    kind: 'runtime-job',
    code: 'ERR_DEVICE_IO',
    cause: /did not finish|in time/,
    remedy: /dmesg/,
    logs: [
      'E RKNN: [16:43:57.198] failed to submit!, op id: 119, op name: OutputOperator:net_output, flags: 0x5, ' +
        'task start: 0, task number: 823, run task counter: 819, int status: 0',
      'rknn_run fail: RKNN_ERR_TIMEOUT',
      'rknn_run fail! ret=-1',
    ],
  },
  {
    kind: 'runtime-device',
    code: 'ERR_DEVICE_PERMISSION',
    cause: /device node/,
    remedy: /usermod/,
    logs: [
      'E RKNN: [01:39:03.186] failed to open rknpu module, need to insmod rknpu dirver!',
      'E RKNN: [01:39:03.186] failed to open rknpu module, need to insmod rknpu dirver!\nE RKNN: failed to open rknn ' +
        'device!',
    ],
  },
  {
    kind: 'runtime-device',
    code: 'ERR_DEVICE_PERMISSION',
    cause: [/container/, /0\.9\.8/],
    remedy: /--device/,
    logs: [
      '$ sudo cat /sys/kernel/debug/rknpu/version\nRKNPU driver: v0.9.8\n$ docker run rknn-test\n' +
        'E RKNN: failed to open rknpu module, need to insmod rknpu dirver!',
    ],
  },
  {
    kind: 'runtime-device',
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: /no NPU/,
    remedy: /renderD/,
    logs: [
      'E RKNN: [12:35:17.433] failed to open rknn device!',
      'E RKNN: Get device properties failed!',
      'rknn_init: RKNN_ERR_DEVICE_UNAVAILABLE',
    ],
  },
  {
    kind: 'device-tree',
    code: 'ERR_UNSUPPORTED',
    cause: /chip/,
    remedy: /systempaths=unconfined/,
    logs: [
      'E RKNN: Meet unsupported target type: 0xffffffff',
      'E RKNN: Meet unsupported target type: -1',
      'failed to init hw, hw_version=0xffffffff',
      'Exception: Please specify the target in init_runtime!',
      "FileNotFoundError: [Errno 2] No such file or directory: '/proc/device-tree/compatible'",
      'Exception: Make sure to run docker in privileged mode.',
      'D RKNN: hw_version: -1',
      'mpp_soc: can not found match soc name: ',
      'E RKNN: failed to get soc name',
      'E RKNN: unsupport soc: unknown',
      'cat: /proc/device-tree/compatible: No such file or directory',
    ],
  },
  {
    kind: 'device-tree',
    code: 'ERR_UNSUPPORTED',
    cause: /not the NPU's/,
    remedy: /\/dev\/rknpu/,
    logs: [`${E}failed to allocate handle, ret: -1, errno: 25, errstr: Inappropriate ioctl for device`],
  },
  {
    kind: 'container',
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: /not passed in/,
    remedy: /--device/,
    logs: [
      '!!! It is detected that some necessary files are missing in the container.\n  -v ' +
        '/dev/dri/renderD129:/dev/dri/renderD129',
    ],
  },
  {
    kind: 'bare-failure',
    code: null,
    cause: /not loaded/,
    logs: [
      'E RKNN: [01:13:18.656] Import rknn model failed!',
      'E rkllm: rkllm_init failed',
      'rknn_init fail! ret=-6',
      'rknn_init: RKNN_ERR_MODEL_INVALID',
      'E RKNN: rknn_init, load model failed!',
      'Error: RKLLM init failed',
      'rknn_init error ret=-1',
      'RuntimeError: Failed to init runtime, error code: -1',
      'llama_model_load_from_file_impl: failed to load model',
      'Init runtime environment failed',
      "srv load_model: failed to load model, '/models/a.gguf'",
      "common_init_from_params: failed to load model '/models/a.gguf'",
      'llama_model_load: error loading model: unknown tensor',
      'Exception: RKNN init failed. error code: RKNN_ERR_FAIL',
    ],
  },
  {
    kind: 'external-buffers',
    code: 'ERR_EXTERNAL_BUFFERS_FORBIDDEN',
    cause: /Electron/,
    remedy: /child_process/,
    logs: ['Error: External buffers are not allowed', 'Error: NoExternalBuffersAllowed'],
  },
  {
    kind: 'ggml-ram',
    code: RAM,
    cause: /repack/,
    remedy: /--no-repack/,
    logs: [
      'ggml_aligned_malloc: insufficient memory (attempted to allocate 60480.00 MB)\n' +
        'ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 63417876480\n' +
        'alloc_tensor_range: failed to allocate CPU_REPACK buffer of size 63417876480\n' +
        'llama_model_load: error loading model: unable to allocate CPU_REPACK buffer',
      'alloc_tensor_range: failed to allocate CPU_REPACK buffer of size 5242880000',
      'llama_model_load: error loading model: unable to allocate CPU_AARCH64 buffer',
    ],
  },
  {
    kind: 'ggml-ram',
    code: RAM,
    cause: /RAM/,
    remedy: /quantiz/,
    logs: [
      'ggml_aligned_malloc: insufficient memory (attempted to allocate 6048.00 MB)',
      'ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9000000000',
      'llama_kv_cache_init: failed to allocate buffer for kv cache',
      'llama_init_from_model: llama_kv_cache_init() failed for self-attention cache',
      'ggml_calloc: failed to allocate   0.00 MB',
      'llama_model_load: error loading model: unable to allocate CPU buffer',
      'ggml_gallocr_reserve_n: failed to allocate CPU buffer of size 1234567890',
    ],
  },
  {
    kind: 'ggml-npu',
    code: RAM,
    cause: /NPU memory/,
    remedy: /-ngl/,
    logs: ['RKNN error -4 at /src/ggml/src/ggml-rknpu2/ggml-rknpu2.cpp:375: set_io_mem B segment'],
  },
  {
    kind: 'ggml-npu',
    code: 'ERR_DEVICE_IO',
    cause: /rknn_matmul_run/,
    remedy: /-ngl/,
    logs: ['ggml_rknpu2: rknn_matmul_run call failed: -1'],
  },
  {
    kind: 'ggml-npu',
    code: RAM,
    cause: /500 MiB/,
    remedy: /-ngl/,
    logs: ['alloc_tensor_range: failed to allocate RKNPU buffer of size 524288000'],
  },
  {
    kind: 'mlock',
    code: 'ERR_MEMORY_LIMIT',
    cause: /lock/,
    remedy: /memlock|ulimit -l/,
    logs: [
      'warning: failed to mlock 1073741824-byte buffer (after previously locking 0 bytes): Cannot allocate memory',
    ],
  },
]
