'use strict'

// Writes the C structs of one request, and the texts that they point to, into memory of the session's pool. FFI passes
// one pointer.

const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds } = require('../core/options.js')
const { headers, rknn } = require('./layouts.js')
const { readSampling, samplingSchema } = require('./sampling.js')
const { dtypes, formats } = require('./spec.js')
const { LABEL_BYTES, LORA_NAME_BYTES, PATH_BYTES, StructMemory, cString, placeAll } = require('./struct-memory.js')

const LABELS = ['role', 'imageStart', 'imageEnd', 'imageContent']
/** Values of `RKLLMInputType` and `RKLLMInferMode`. */
const [PROMPT, TOKEN, EMBED, MULTIMODAL] = [0, 1, 2, 3]
const modes = { generate: 0, hiddenStates: 1, logits: 2 }
const INT_MAX = 2 ** 31 - 1
/** The options of markers, and their fields. */
const MARKERS = /** @type {const} */ ([
  ['imageStart', 'image_start'],
  ['imageEnd', 'image_end'],
  ['imageContent', 'image_content'],
])

const talk = { role: kinds.string, enableThinking: kinds.boolean }
const optionsOf = {
  talk,
  multimodal: {
    ...talk,
    images: kinds.integer(1, INT_MAX),
    tokens: kinds.integer(1, INT_MAX),
    width: kinds.integer(1, INT_MAX),
    height: kinds.integer(1, INT_MAX),
    imageStart: kinds.string,
    imageEnd: kinds.string,
    imageContent: kinds.string,
  },
  inferParam: {
    mode: kinds.oneOf(.../** @type {Array<keyof typeof modes>} */ (Object.keys(modes))),
    keepHistory: kinds.boolean,
    maxNewTokens: kinds.integer(1, INT_MAX),
    lora: kinds.nonEmptyString,
    promptCache: kinds.nested({ path: kinds.nonEmptyString, save: kinds.boolean }),
    sampling: kinds.nested(samplingSchema),
  },
}

/**
 * @typedef {ReturnType<typeof import('./spec.js').readSpec>} Spec
 * @typedef {import('./layouts.js').Layout} Layout
 * @typedef {import('../types/inference.js').RKLLMTalkOptions} TalkOptions
 * @typedef {import('./struct-memory.js').Values} Values
 */

/**
 * Lays out the memory of one set's structs: their offsets, and the total bytes.
 *
 * @param {Spec} spec
 * @returns {Record<string, number>}
 */
function placeStructs({ header, promptBytes, rkllm, rknnInputs, rknnOutputs }) {
  const layouts = headers[header]
  const { RKLLMInput, RKLLMInferParam, RKLLMCrossAttnParam } = layouts
  return placeAll({
    input: RKLLMInput.size,
    inferParam: RKLLMInferParam.size,
    crossAttention: RKLLMCrossAttnParam?.size ?? 0,
    rknnInputs: rknnInputs.length * rknn.rknn_input.size,
    rknnOutputs: rknnOutputs.length * rknn.rknn_output.size,
    ...Object.fromEntries(LABELS.map((label) => [label, LABEL_BYTES])),
    ...(rkllm && {
      sampling: layouts.RKLLMSamplingParam?.size ?? 0,
      lora: layouts.RKLLMLoraParam.size,
      loraName: LORA_NAME_BYTES,
      promptCache: layouts.RKLLMPromptCacheParam.size,
      promptCachePath: PATH_BYTES,
    }),
    prompt: promptBytes,
  })
}

class Structs {
  #spec
  #layouts
  #memory
  /** The addresses of arrays by name; null for arrays that the spec does not ask for. */
  #arrays
  /** The sampling of `param`, shared by the sets of a session. */
  #defaults

  /**
   * @param {Spec} spec
   * @param {Record<string, number>} places
   * @param {ArrayBuffer} buffer
   * @param {bigint} base the address of `buffer`
   * @param {Record<string, any>} arrays addresses by name; those of tensors are under `inputs` and `outputs`
   * @param {{ sampling: Values }} defaults
   */
  constructor(spec, places, buffer, base, arrays, defaults) {
    this.#spec = spec
    this.#layouts = headers[spec.header]
    this.#memory = new StructMemory(spec.header, places, buffer, base)
    this.#arrays = arrays
    this.#defaults = defaults
    this.#writeTensors()
  }

  get gone() {
    return this.#memory.gone
  }

  /** The addresses of the structs; null for structs that the spec does not need. */
  get addresses() {
    const { rknnInputs, rknnOutputs, crossAttention } = this.#spec
    const at = (/** @type {string} */ place) => this.#memory.addressOf(place)
    return {
      rkllmInput: at('input'),
      rkllmInputUnion: at('input') + BigInt(this.#layouts.RKLLMInput.fields.prompt_input.offset),
      rkllmInferParam: at('inferParam'),
      rkllmCrossAttnParam: crossAttention === undefined ? null : at('crossAttention'),
      rknnInputs: rknnInputs.length === 0 ? null : at('rknnInputs'),
      rknnOutputs: rknnOutputs.length === 0 ? null : at('rknnOutputs'),
    }
  }

  /**
   * @param {string} prompt
   * @param {unknown} options
   */
  promptInput(prompt, options) {
    const talk = check('promptInput', options, optionsOf.talk)
    return this.#input(PROMPT, { prompt_input: this.#prompt('promptInput', prompt) }, 'promptInput', talk)
  }

  /**
   * @param {number} count
   * @param {unknown} options
   */
  tokenInput(count, options) {
    const talk = check('tokenInput', options, optionsOf.talk)
    const values = {
      'token_input.input_ids': this.#array('tokens', 'maxTokens'),
      'token_input.n_tokens': integer('tokenInput: count', count, 1, this.#spec.maxTokens),
    }
    return this.#input(TOKEN, values, 'tokenInput', talk)
  }

  /**
   * @param {number} count
   * @param {unknown} options
   */
  embedInput(count, options) {
    const talk = check('embedInput', options, optionsOf.talk)
    const values = {
      'embed_input.embed': this.#array('embeddings', 'maxTokens and hiddenSize'),
      'embed_input.n_tokens': integer('embedInput: count', count, 1, this.#spec.maxTokens),
    }
    return this.#input(EMBED, values, 'embedInput', talk)
  }

  /**
   * @param {string} prompt
   * @param {unknown} options
   */
  multimodalInput(prompt, options) {
    const what = 'multimodalInput'
    const checked = check(what, options, optionsOf.multimodal)
    const embeddings = this.#array('imageEmbeddings', 'image')
    const image = /** @type {NonNullable<Spec['image']>} */ (this.#spec.image)
    const {
      images = image.count ?? 1,
      tokens = image.tokens,
      width = image.width ?? 0,
      height = image.height ?? 0,
    } = checked
    integer(`${what}: images`, images, 1, image.count ?? 1)
    integer(`${what}: tokens`, tokens, 1, image.tokens)
    const { fields } = this.#layouts.RKLLMInput
    const prefix = 'multimodal_input.image.image_embed' in fields ? 'multimodal_input.image.' : 'multimodal_input.'
    /** @type {Values} */
    const values = { [`${prefix}image_embed`]: embeddings, [`${prefix}n_image_tokens`]: tokens }
    if (`${prefix}n_image` in fields) {
      Object.assign(values, {
        [`${prefix}n_image`]: images,
        [`${prefix}image_width`]: width,
        [`${prefix}image_height`]: height,
      })
    } else {
      if (images !== 1) throw this.#unsupported(what, 'images', 'it has one image; 1.2 and later have several')
      for (const option of /** @type {const} */ (['width', 'height'])) {
        if (checked[option] !== undefined) throw this.#unsupported(what, option, 'it came with 1.2.0')
      }
    }
    for (const [option, field] of MARKERS) {
      if (checked[option] === undefined) continue
      if (!(`${prefix}${field}` in fields))
        throw this.#unsupported(what, option, 'before 1.3 it is a parameter of rkllm_init: param()')
      values[`${prefix}${field}`] = this.#memory.text(`${what}: ${option}`, option, LABEL_BYTES, checked[option])
    }
    values['multimodal_input.prompt'] = this.#prompt(what, prompt)
    return this.#input(MULTIMODAL, values, what, checked)
  }

  /** @param {unknown} options */
  inferParam(options) {
    const what = 'inferParam'
    const { mode = 'generate', ...rest } = check(what, options, optionsOf.inferParam)
    const { keepHistory, maxNewTokens, lora, promptCache, sampling } = rest
    const { RKLLMInferParam: layout, RKLLMSamplingParam, RKLLMLoraParam, RKLLMPromptCacheParam } = this.#layouts
    if (keepHistory !== undefined && layout.fields.keep_history === undefined)
      throw this.#unsupported(what, 'keepHistory', 'it came with 1.2.0')
    for (const [name, value, field] of /** @type {const} */ ([
      ['maxNewTokens', maxNewTokens, 'max_new_tokens'],
      ['sampling', sampling, 'sampling_params'],
    ])) {
      if (value !== undefined && layout.fields[field] === undefined)
        throw this.#unsupported(what, name, 'before 1.3 it is a parameter of rkllm_init: param()')
    }
    // Checked before anything is written: a call that throws leaves the structs of the call before.
    if (lora !== undefined) cString(`${what}: lora`, lora, this.#rkllmRoom(what, LORA_NAME_BYTES))
    if (promptCache !== undefined) {
      const { path, save } = promptCache
      if (path === undefined) throw invalid(`${what}: promptCache needs "path"`)
      if (save === undefined) throw invalid(`${what}: promptCache needs "save"`)
      cString(`${what}: promptCache: path`, path, this.#rkllmRoom(what, PATH_BYTES))
    }
    /** @type {Values} */
    const values = { mode: modes[mode] }
    if (keepHistory !== undefined) values.keep_history = keepHistory
    if (maxNewTokens !== undefined) values.max_new_tokens = maxNewTokens
    if (sampling !== undefined) {
      this.#rkllmRoom(what, 0)
      const numbers = { ...this.#defaults.sampling, ...readSampling(sampling) }
      values.sampling_params = this.#memory.fill('sampling', /** @type {Layout} */ (RKLLMSamplingParam), numbers)
    }
    if (lora !== undefined) {
      const name = this.#memory.text(`${what}: lora`, 'loraName', LORA_NAME_BYTES, lora)
      values.lora_params = this.#memory.fill('lora', RKLLMLoraParam, { lora_adapter_name: name })
    }
    if (promptCache !== undefined) {
      const { path, save } = promptCache
      values.prompt_cache_params = this.#memory.fill('promptCache', RKLLMPromptCacheParam, {
        save_prompt_cache: Boolean(save),
        prompt_cache_path: this.#memory.text(`${what}: promptCache: path`, 'promptCachePath', PATH_BYTES, path),
      })
    }
    return this.#memory.fill('inferParam', layout, values)
  }

  /** @param {number} [count] */
  crossAttention(count) {
    const keys = this.#array('encoderKeys', 'crossAttention')
    const { tokens } = /** @type {NonNullable<Spec['crossAttention']>} */ (this.#spec.crossAttention)
    return this.#memory.fill('crossAttention', /** @type {Layout} */ (this.#layouts.RKLLMCrossAttnParam), {
      encoder_k_cache: keys,
      encoder_v_cache: this.#arrays.encoderValues,
      encoder_mask: this.#arrays.encoderMask,
      encoder_pos: this.#arrays.encoderPositions,
      num_tokens: count === undefined ? tokens : integer('crossAttention: count', count, 1, tokens),
    })
  }

  /** Clears the texts and structs of the request. The arrays of rknn_input and rknn_output stay. */
  reset() {
    this.#memory.clear('input', 'rknnInputs')
    this.#memory.clear('role')
  }

  /**
   * @param {number} type
   * @param {Values} values
   * @param {string} what
   * @param {TalkOptions} talk
   */
  #input(type, values, what, { role, enableThinking }) {
    const layout = this.#layouts.RKLLMInput
    /** @type {Values} */
    const all = { input_type: type, ...values }
    if ('role' in layout.fields) {
      all.role = this.#memory.text(`${what}: role`, 'role', LABEL_BYTES, role ?? 'user')
      all.enable_thinking = enableThinking ?? false
    } else {
      if (role !== undefined) throw this.#unsupported(what, 'role', 'roles came with 1.2.1')
      if (enableThinking !== undefined) throw this.#unsupported(what, 'enableThinking', 'it came with 1.2.1')
    }
    return this.#memory.fill('input', layout, all)
  }

  /**
   * @param {string} name
   * @param {string} needs
   * @returns {bigint}
   */
  #array(name, needs) {
    const address = this.#arrays[name]
    if (address !== null) return address
    throw memoryError('ERR_UNSUPPORTED', `these buffers have no ${name}`, {
      hint: `createInferenceBuffers makes them for ${needs}`,
    })
  }

  /**
   * @param {string} what
   * @param {unknown} text
   */
  #prompt(what, text) {
    const { promptBytes } = this.#spec
    return this.#memory.text(`${what}: prompt`, 'prompt', promptBytes, text, 'make room with promptBytes')
  }

  /**
   * @param {string} what
   * @param {string} option
   * @param {string} hint
   */
  #unsupported(what, option, hint) {
    return this.#memory.unsupported(what, option, hint)
  }

  /**
   * Returns `room`, or throws where the session has RKNN tensors alone and so no memory for it.
   *
   * @param {string} what
   * @param {number} room
   */
  #rkllmRoom(what, room) {
    if (this.#spec.rkllm) return room
    throw rknnOnly(what)
  }

  /** Writes the arrays of rknn_input and rknn_output, which never change. */
  #writeTensors() {
    const { rknnInputs, rknnOutputs, parts } = this.#spec
    /** @type {(group: 'inputs' | 'outputs', name: string) => number} */
    const bytesOf = (group, name) => parts.find((part) => part.group === group && part.name === name)?.bytes ?? 0
    for (const [index, { name, shape, dtype, format, passThrough = false }] of rknnInputs.entries()) {
      const values = {
        index,
        buf: this.#arrays.inputs[name],
        size: bytesOf('inputs', name),
        pass_through: passThrough,
        type: dtypes[dtype].number,
        fmt: formats[format ?? (shape.length === 4 ? 'nhwc' : 'undefined')],
      }
      this.#memory.fill('rknnInputs', rknn.rknn_input, values, index)
    }
    for (const [index, { name, dtype }] of rknnOutputs.entries()) {
      const values = {
        want_float: dtype === 'float32',
        is_prealloc: true,
        index,
        buf: this.#arrays.outputs[name],
        size: bytesOf('outputs', name),
      }
      this.#memory.fill('rknnOutputs', rknn.rknn_output, values, index)
    }
  }
}

/** @type {(what: string) => Error} */
const rknnOnly = (what) =>
  memoryError('ERR_UNSUPPORTED', `${what}: these buffers have RKNN tensors alone`, {
    hint: 'createInferenceBuffers makes room for it where the spec has an array of RKLLM, such as contextLength',
  })

module.exports = { Structs, placeStructs, rknnOnly }
