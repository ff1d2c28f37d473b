'use strict'

// Computes the layouts of the C structs of rkllm.h and rknn_api.h, as a 64-bit C compiler does.
//
// The structs of rkllm.h differ between versions. Only the structs that a session passes in are here. `RKLLMInput` is
// passed by pointer, so that a library may read a shorter struct than a later version has.

/**
 * Sizes of scalar fields, which are aligned to their size. An enum is an `int`, a bool a `byte`.
 *
 * @typedef {'pointer' | 'size' | 'int' | 'byte'} Scalar
 * @type {Record<Scalar, number>}
 */
const SCALARS = { pointer: 8, size: 8, int: 4, byte: 1 }

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

const inferParam = struct(
  ['mode', 'int'],
  ['lora_params', 'pointer'],
  ['prompt_cache_params', 'pointer'],
  ['keep_history', 'int'],
)
const inferParamWithSampling = struct(
  ['mode', 'int'],
  ['lora_params', 'pointer'],
  ['prompt_cache_params', 'pointer'],
  ['sampling_params', 'pointer'],
  ['keep_history', 'int'],
  ['max_new_tokens', 'int'],
)

const crossAttnParam = struct(
  ['encoder_k_cache', 'pointer'],
  ['encoder_v_cache', 'pointer'],
  ['encoder_mask', 'pointer'],
  ['encoder_pos', 'pointer'],
  ['num_tokens', 'int'],
)

/**
 * By version of rkllm.h. 1.2.0 has an entry of its own: its headers have no role yet, and only some copies count
 * images. This layout suits both kinds of copies.
 *
 * @typedef {{ RKLLMInput: Layout, RKLLMInferParam: Layout, RKLLMCrossAttnParam?: Layout }} Header
 * @type {Record<import('../types/inference.js').RKLLMHeader, Header>}
 */
const headers = {
  1.1: { RKLLMInput: plainInput(oneImage), RKLLMInferParam: inferParam },
  '1.2.0': { RKLLMInput: plainInput(images), RKLLMInferParam: inferParam },
  1.2: { RKLLMInput: roleInput(images), RKLLMInferParam: inferParam, RKLLMCrossAttnParam: crossAttnParam },
  1.3: {
    RKLLMInput: roleInput(imagesAndVideos),
    RKLLMInferParam: inferParamWithSampling,
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

module.exports = { headers, rknn, roundUp, write }
