'use strict'

// Computes the layouts of the C structs of rkllm.h and rknn_api.h, as a 64-bit C compiler does.
//
// The structs of rkllm.h differ between versions (runtime-api.md §1). The library reads a struct of another version at
// the wrong places, without an error.

/**
 * Sizes of scalar fields, which are aligned to their size. An enum is an `int`, a bool a `byte`.
 *
 * @typedef {'pointer' | 'size' | 'int' | 'float' | 'byte'} Scalar
 * @type {Record<Scalar, number>}
 */
const SCALARS = { pointer: 8, size: 8, int: 4, float: 4, byte: 1 }

/**
 * @typedef {{ size: number, align: number, fields: Record<string, { offset: number, type: Scalar }> }} Layout
 * Fields of nested structs are named as in C: `image.n_image`. Fields of anonymous members have no prefix.
 */

/** @typedef {[name: string, type: Scalar | Layout]} Member */

/**
 * @param {Member[]} members
 * @param {boolean} together
 * @returns {Layout}
 */
function layOut(members, together) {
  /** @type {Layout['fields']} */
  const fields = {}
  let [end, align] = [0, 1]
  for (const [name, type] of members) {
    const [size, alignment] =
      typeof type === 'object' ? [type.size, type.align] : [SCALARS[type], SCALARS[type]]
    const offset = together ? 0 : roundUp(end, alignment)
    end = Math.max(end, offset + size)
    align = Math.max(align, alignment)
    if (typeof type !== 'object') fields[name] = { offset, type }
    else {
      for (const [inner, field] of Object.entries(type.fields)) {
        fields[name === '' ? inner : `${name}.${inner}`] = { ...field, offset: offset + field.offset }
      }
    }
  }
  return { size: roundUp(end, align), align, fields }
}

/** @type {(...members: Member[]) => Layout} */
const struct = (...members) => layOut(members, false)
/** @type {(...members: Member[]) => Layout} */
const union = (...members) => layOut(members, true)
/** @type {(value: number, to: number) => number} */
const roundUp = (value, to) => Math.ceil(value / to) * to

const embedInput = struct(['embed', 'pointer'], ['n_tokens', 'size'])
const tokenInput = struct(['input_ids', 'pointer'], ['n_tokens', 'size'])

const oneImage = struct(['prompt', 'pointer'], ['image_embed', 'pointer'], ['n_image_tokens', 'size'])
const images = struct(
  ['prompt', 'pointer'],
  ['image_embed', 'pointer'],
  ['n_image_tokens', 'size'],
  ['n_image', 'size'],
  ['image_width', 'size'],
  ['image_height', 'size'],
)
const imagesAndVideos = struct(
  ['prompt', 'pointer'],
  [
    'image',
    struct(
      ['image_embed', 'pointer'],
      ['n_image_tokens', 'size'],
      ['n_image', 'size'],
      ['image_start', 'pointer'],
      ['image_end', 'pointer'],
      ['image_content', 'pointer'],
      ['image_width', 'size'],
      ['image_height', 'size'],
    ),
  ],
  [
    'video',
    struct(
      ['video_embed', 'pointer'],
      ['n_frame_tokens', 'size'],
      ['n_frame_per_video', 'size'],
      ['n_video', 'size'],
      ['video_start', 'pointer'],
      ['video_end', 'pointer'],
      ['video_content', 'pointer'],
      ['frame_width', 'size'],
      ['frame_height', 'size'],
    ),
  ],
)

/** @type {(multimodal: Layout) => Layout} */
const content = (multimodal) =>
  union(
    ['prompt_input', 'pointer'],
    ['embed_input', embedInput],
    ['token_input', tokenInput],
    ['multimodal_input', multimodal],
  )

/** @type {(multimodal: Layout) => Layout} */
const plainInput = (multimodal) => struct(['input_type', 'int'], ['', content(multimodal)])
/** @type {(multimodal: Layout) => Layout} */
const roleInput = (multimodal) =>
  struct(['role', 'pointer'], ['enable_thinking', 'byte'], ['input_type', 'int'], ['', content(multimodal)])

/** @type {(type: Scalar, ...names: string[]) => Member[]} */
const all = (type, ...names) => names.map((name) => [name, type])
/** @type {(size: number) => Member} Bytes that the header reserves; no field is in them. */
const reserved = (size) => ['reserved', { size, align: 1, fields: {} }]

const inferParam = struct(['mode', 'int'], ...all('pointer', 'lora_params', 'prompt_cache_params'))
const inferParamWithHistory = struct(
  ['mode', 'int'],
  ...all('pointer', 'lora_params', 'prompt_cache_params'),
  ['keep_history', 'int'],
)
const inferParamWithSampling = struct(
  ['mode', 'int'],
  ...all('pointer', 'lora_params', 'prompt_cache_params', 'sampling_params'),
  ...all('int', 'keep_history', 'max_new_tokens'),
)

const crossAttnParam = struct(
  ...all('pointer', 'encoder_k_cache', 'encoder_v_cache', 'encoder_mask', 'encoder_pos'),
  ['num_tokens', 'int'],
)

/** The numbers of sampling that RKLLMParam and RKLLMSamplingParam have in the same order, after `top_k`. */
const sampling = [
  ...all('float', 'top_p', 'temperature', 'repeat_penalty', 'frequency_penalty', 'presence_penalty'),
  .../** @type {Member[]} */ ([['mirostat', 'int']]),
  ...all('float', 'mirostat_tau', 'mirostat_eta'),
]
const samplingParam = struct(['top_k', 'int'], ...sampling)

const domainOnly = struct(['base_domain_id', 'int'], reserved(112))
/** @type {Member[]} */
const flashAndCpus = [
  ['base_domain_id', 'int'],
  ...all('byte', 'embed_flash', 'enabled_cpus_num'),
  ['enabled_cpus_mask', 'int'],
]
const flashParam = struct(...flashAndCpus, reserved(106))
const batchParam = struct(...flashAndCpus, ...all('byte', 'n_batch', 'use_cross_attn'), reserved(104))

const head = [
  .../** @type {Member[]} */ ([['model_path', 'pointer']]),
  ...all('int', 'max_context_len', 'max_new_tokens', 'top_k'),
]
const keepAndSampling = [.../** @type {Member[]} */ ([['n_keep', 'int']]), ...sampling]
const switches = all('byte', 'skip_special_token', 'is_async')
const imageMarkers = all('pointer', 'img_start', 'img_end', 'img_content')

/** @type {(extended: Layout) => Layout} */
const paramOf12 = (extended) =>
  struct(...head, ...keepAndSampling, ...switches, ...imageMarkers, ['extend_param', extended])
const param11 = struct(...head, ...sampling, ...switches, ...imageMarkers, ['extend_param', domainOnly])
const param13 = struct(
  ...head,
  ...keepAndSampling,
  ...all('byte', 'skip_special_token', 'ignore_eos_token', 'is_async'),
  ['extend_param', batchParam],
)

const loraAdapter = struct(...all('pointer', 'lora_adapter_path', 'lora_adapter_name'), ['scale', 'float'])
const loraParam = struct(['lora_adapter_name', 'pointer'])
const promptCacheParam = struct(['save_prompt_cache', 'int'], ['prompt_cache_path', 'pointer'])
const common = {
  RKLLMLoraAdapter: loraAdapter,
  RKLLMLoraParam: loraParam,
  RKLLMPromptCacheParam: promptCacheParam,
}

/** @type {Member[]} The argument of the result callback, which native code reads. */
const result = [
  ['text', 'pointer'],
  ['token_id', 'int'],
  ['last_hidden_layer', struct(['hidden_states', 'pointer'], ...all('int', 'embd_size', 'num_tokens'))],
]
/** @type {Member[]} */
const resultWithLogits = [
  ...result,
  ['logits', struct(['logits', 'pointer'], ...all('int', 'vocab_size', 'num_tokens'))],
]
const perfStat = struct(
  ['prefill_time_ms', 'float'],
  ['prefill_tokens', 'int'],
  ['generate_time_ms', 'float'],
  ['generate_tokens', 'int'],
  ['memory_usage_mb', 'float'],
)
const resultWithPerf = struct(...resultWithLogits, ['perf', perfStat])

const callback = struct(
  ...all('pointer', 'result_callback', 'result_userdata', 'tokenizer_callback', 'tokenizer_userdata'),
  ...all('pointer', 'embed_callback', 'embed_userdata'),
)

/**
 * The structs of one version. A struct that a version does not have is absent.
 *
 * @typedef {Record<'RKLLMInput' | 'RKLLMParam' | 'RKLLMInferParam' | 'RKLLMResult' | 'RKLLMLoraAdapter' |
 *   'RKLLMLoraParam' | 'RKLLMPromptCacheParam', Layout> &
 *   Partial<Record<'RKLLMSamplingParam' | 'RKLLMCrossAttnParam' | 'RKLLMCallback', Layout>>} Header
 */

/**
 * By version of rkllm.h. 1.2.0 has an entry of its own: its headers have no role yet, and only some copies count
 * images. This layout suits both kinds of copies.
 *
 * @type {Record<import('../types/inference.js').RKLLMHeader, Header>}
 */
const headers = {
  1.1: {
    ...common,
    RKLLMInput: plainInput(oneImage),
    RKLLMParam: param11,
    RKLLMInferParam: inferParam,
    RKLLMResult: struct(...result),
  },
  '1.2.0': {
    ...common,
    RKLLMInput: plainInput(images),
    RKLLMParam: paramOf12(flashParam),
    RKLLMInferParam: inferParamWithHistory,
    RKLLMResult: struct(...resultWithLogits),
  },
  1.2: {
    ...common,
    RKLLMInput: roleInput(images),
    RKLLMParam: paramOf12(batchParam),
    RKLLMInferParam: inferParamWithHistory,
    RKLLMResult: resultWithPerf,
    RKLLMCrossAttnParam: crossAttnParam,
  },
  1.3: {
    ...common,
    RKLLMInput: roleInput(imagesAndVideos),
    RKLLMParam: param13,
    RKLLMInferParam: inferParamWithSampling,
    RKLLMSamplingParam: samplingParam,
    RKLLMResult: resultWithPerf,
    RKLLMCallback: callback,
    RKLLMCrossAttnParam: crossAttnParam,
  },
}

/** rknn_api.h, all versions of librknnrt. */
const rknn = {
  rknn_input: struct(
    ['index', 'int'],
    ['buf', 'pointer'],
    ['size', 'int'],
    ['pass_through', 'byte'],
    ['type', 'int'],
    ['fmt', 'int'],
  ),
  rknn_output: struct(
    ['want_float', 'byte'],
    ['is_prealloc', 'byte'],
    ['index', 'int'],
    ['buf', 'pointer'],
    ['size', 'int'],
  ),
}

const HOST_IS_LITTLE = true // arm64 and x64 are

/** @type {Record<Scalar, (view: DataView, at: number, value: any) => void>} */
const setters = {
  pointer: (view, at, value) => view.setBigUint64(at, value, HOST_IS_LITTLE),
  size: (view, at, value) => view.setBigUint64(at, BigInt(value), HOST_IS_LITTLE),
  int: (view, at, value) => view.setInt32(at, value, HOST_IS_LITTLE),
  float: (view, at, value) => view.setFloat32(at, value, HOST_IS_LITTLE),
  byte: (view, at, value) => view.setUint8(at, value),
}

/**
 * Writes `values` by the names of their fields; other fields stay unchanged.
 *
 * @param {DataView} view
 * @param {number} at the struct's offset
 * @param {Layout} layout
 * @param {Record<string, number | bigint | boolean>} values
 */
function write(view, at, { fields }, values) {
  for (const [name, value] of Object.entries(values)) {
    const { offset, type } = fields[name]
    setters[type](view, at + offset, value)
  }
}

module.exports = { headers, rknn, roundUp, struct, write }
