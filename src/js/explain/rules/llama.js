'use strict'

// ggml and llama.cpp, with the NPU behind them (rk-llama.cpp) or without.

/** @typedef {import('../explain.js').Rule} Rule */

const SMALLER =
  'Use a quantization with fewer bits, a smaller context (-c), or a quantized KV cache (-ctk q8_0 -ctv q8_0).'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'ggml-ram',
    patterns: [
      /allocate (?:CPU_REPACK|CPU_AARCH64) buffer(?: of size (?<bytes>\d+))?/,
      /unable to allocate (?:CPU_REPACK|CPU_AARCH64) buffer/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'RAM does not hold a second copy of the weights[ ({bytes|bytes})]: ggml repacks weights for the CPU ' +
      '(CPU_REPACK), on top of the file that is mapped.',
    remedy: `Start with --no-repack, or use a quantization that is not repacked. ${SMALLER}`,
    source: 'invisiofficial/rk-llama.cpp#15',
  },
  {
    kind: 'ggml-ram',
    patterns: [
      /ggml_aligned_malloc: insufficient memory \(attempted to allocate (?<mib>[\d.]+) MB\)/,
      /ggml_(?:calloc|malloc): failed to allocate +(?<mib>[\d.]+) ?MB/,
      /ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size (?<bytes>\d+)/,
      /failed to allocate CPU(?:_Mapped)? buffer of size (?<bytes>\d+)/,
      /ggml_gallocr_reserve_n\w*: failed to allocate (?:CPU |compute )?buffer of size (?<bytes>\d+)/,
      /unable to allocate (?:CPU|compute) buffer/,
      /llama_(?:kv_cache|init|new_context)\w*:.*failed to (?:allocate|initialize).*(?:kv|cache|buffer|context)/i,
      /llama_kv_cache_init\(\) failed for self-attention cache/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'RAM (of the CPU side) is used up: ggml got no buffer[ of {mib|mib}][ of {bytes|bytes}].',
    remedy: SMALLER,
    variants: [
      {
        when: ({ mib }) => mib !== undefined && Number(mib) === 0,
        cause: 'ggml got not even a small buffer: RAM is used up, or the runtime and the model do not fit together.',
        remedy: `Look at MemAvailable; update the runtime and convert the model again. ${SMALLER}`,
      },
      {
        when: (_, { repack }) => repack !== undefined,
        cause:
          'RAM does not hold a second copy of the weights: ggml asked for[ {mib|mib}][ {bytes|bytes}] to repack them ' +
          'for the CPU ({repack} in the log), on top of the file that is mapped.',
        remedy: `Start with --no-repack, or use a quantization that is not repacked. ${SMALLER}`,
      },
      {
        when: ({ bytes, mib }) => Number(bytes ?? 0) > 2 ** 33 || Number(mib ?? 0) > 8192,
        cause: 'RAM does not hold the model: ggml asked for[ {mib|mib}][ {bytes|bytes}] in one buffer.',
      },
    ],
    source: 'invisiofficial/rk-llama.cpp#15, airockchip/rknn-llm#183',
  },
  {
    kind: 'ggml-npu',
    patterns: [
      /RKNN error (?<errno>-\d+) at .*ggml-rknpu\S*: (?<call>\S+)/,
      /ggml_rknpu.{0,160}(?<call>rknn_\w{1,60}) .{0,160}(?:fail|error)/i,
    ],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause:
      'A call of the NPU backend of llama.cpp failed[ ({call})][ (error {errno})]; the line before names the reason.',
    remedy: 'Offload fewer layers to the NPU (-ngl), and bring driver and librknnrt to one release.',
    variants: [
      {
        when: ({ errno }) => errno === '-4',
        code: 'ERR_OUT_OF_MEMORY',
        cause: 'The NPU backend of llama.cpp got no NPU memory[ ({call})]: RKNN error -4 is RKNN_ERR_MALLOC_FAIL.',
        remedy:
          'Offload fewer layers to the NPU (-ngl), or use a smaller model or context; each import takes NPU ' +
          'addresses.',
      },
    ],
    source: 'invisiofficial/rk-llama.cpp#6',
  },
  {
    kind: 'ggml-npu',
    patterns: [/(?:un|fail)\w* to allocate RKNPU\w* buffer(?: of size (?<bytes>\d+))?/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The NPU backend of llama.cpp got no buffer[ of {bytes|bytes}]: NPU addresses (4 GiB a domain) or RAM are used ' +
      'up.',
    remedy: 'Offload fewer layers to the NPU (-ngl), or use a smaller model or context.',
    source: 'invisiofficial/rk-llama.cpp#6',
  },
  {
    kind: 'mlock',
    patterns: [/failed to mlock (?<bytes>\d+)-byte buffer.*?(?:Cannot allocate memory|Operation not permitted)/],
    weight: 2,
    code: 'ERR_MEMORY_LIMIT',
    cause: 'The process may not lock {bytes|bytes} of memory (RLIMIT_MEMLOCK); without the lock it runs nevertheless.',
    remedy:
      'ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, docker run --ulimit memlock=-1; or drop --mlock.',
    source: 'ggml-org/llama.cpp',
  },
  {
    kind: 'bare-failure',
    patterns: [/llama_model_load: error loading model/, /failed to load model(?:,? '|$)/, /error loading model:/],
    weight: 1,
    code: null,
    cause: 'The model was not loaded. The lines before it name the cause (memory, version, format).',
    remedy: 'Paste those lines too.',
    source: 'ggml-org/llama.cpp',
  },
]
