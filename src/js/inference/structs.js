'use strict'

// Writes the C structs of one request, and the texts that they point to, into memory of the session's pool. FFI passes
// one pointer.

const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { headers, rknn, roundUp, write } = require('./layouts.js')
const { Buffer, TextEncoder } = require('../core/runtime.js')
const { dtypes, formats } = require('./spec.js')

/** Room for a role or a marker, in UTF-8 with the final NUL. */
const LABEL_BYTES = 64
const LABELS = ['role', 'imageStart', 'imageEnd', 'imageContent']
/** Structs begin at cache lines, so that no two share a line. */
const LINE = 64
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

const encoder = new TextEncoder()

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
  },
}

/**
 * @typedef {ReturnType<typeof import('./spec.js').readSpec>} Spec
 * @typedef {import('./layouts.js').Layout} Layout
 * @typedef {import('../types/inference.js').RKLLMTalkOptions} TalkOptions
 * @typedef {Record<string, number | bigint | boolean>} Values
 */

/**
 * Lays out the memory of one set's structs: their offsets, and the total bytes.
 *
 * @param {Spec} spec
 * @returns {Record<string, number>}
 */
function placeStructs({ header, promptBytes, rknnInputs, rknnOutputs }) {
  const { RKLLMInput, RKLLMInferParam, RKLLMCrossAttnParam } = headers[header]
  let bytes = 0
  const place = (/** @type {number} */ size) => {
    const at = bytes
    bytes = roundUp(at + size, LINE)
    return at
  }
  return {
    input: place(RKLLMInput.size),
    inferParam: place(RKLLMInferParam.size),
    crossAttention: place(RKLLMCrossAttnParam?.size ?? 0),
    rknnInputs: place(rknnInputs.length * rknn.rknn_input.size),
    rknnOutputs: place(rknnOutputs.length * rknn.rknn_output.size),
    ...Object.fromEntries(LABELS.map((label) => [label, place(LABEL_BYTES)])),
    prompt: place(promptBytes),
    bytes,
  }
}

class Structs {
  #spec
  #layouts
  #places
  /** The addresses of arrays by name; null for arrays that the spec does not ask for. */
  #arrays
  #base
  #bytes
  #view

  /**
   * @param {Spec} spec
   * @param {Record<string, number>} places
   * @param {ArrayBuffer} buffer
   * @param {bigint} base the address of `buffer`
   * @param {Record<string, any>} arrays addresses by name; those of tensors are under `inputs` and `outputs`
   */
  constructor(spec, places, buffer, base, arrays) {
    this.#spec = spec
    this.#layouts = headers[spec.header]
    this.#places = places
    this.#arrays = arrays
    this.#base = base
    this.#bytes = new Uint8Array(buffer)
    this.#view = new DataView(buffer)
    this.#writeTensors()
  }

  get gone() {
    return this.#bytes.length === 0
  }

  /** The addresses of the structs; null for structs that the spec does not need. */
  get addresses() {
    const { rknnInputs, rknnOutputs, crossAttention } = this.#spec
    const at = (/** @type {string} */ place) => this.#base + BigInt(this.#places[place])
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
    } else if (images !== 1) {
      throw this.#unsupported(what, 'images', 'it has one image; 1.2 and later have several')
    }
    for (const [option, field] of MARKERS) {
      if (checked[option] === undefined) continue
      if (!(`${prefix}${field}` in fields))
        throw this.#unsupported(what, option, 'before 1.3 it is a parameter of rkllm_init (RKLLMParam)')
      values[`${prefix}${field}`] = this.#text(`${what}: ${option}`, option, LABEL_BYTES, checked[option])
    }
    values['multimodal_input.prompt'] = this.#prompt(what, prompt)
    return this.#input(MULTIMODAL, values, what, checked)
  }

  /** @param {unknown} options */
  inferParam(options) {
    const { mode = 'generate', keepHistory, maxNewTokens } = check('inferParam', options, optionsOf.inferParam)
    const { RKLLMInferParam: layout } = this.#layouts
    if (maxNewTokens !== undefined && layout.fields.max_new_tokens === undefined) {
      throw this.#unsupported('inferParam', 'maxNewTokens', 'before 1.3 it is a parameter of rkllm_init (RKLLMParam)')
    }
    if (keepHistory !== undefined && layout.fields.keep_history === undefined)
      throw this.#unsupported('inferParam', 'keepHistory', 'it came with 1.2.0')
    /** @type {Values} */
    const values = { mode: modes[mode] }
    if (keepHistory !== undefined) values.keep_history = keepHistory
    if (maxNewTokens !== undefined) values.max_new_tokens = maxNewTokens
    return this.#fill('inferParam', layout, values)
  }

  /** @param {number} [count] */
  crossAttention(count) {
    const keys = this.#array('encoderKeys', 'crossAttention')
    const { tokens } = /** @type {NonNullable<Spec['crossAttention']>} */ (this.#spec.crossAttention)
    return this.#fill('crossAttention', /** @type {Layout} */ (this.#layouts.RKLLMCrossAttnParam), {
      encoder_k_cache: keys,
      encoder_v_cache: this.#arrays.encoderValues,
      encoder_mask: this.#arrays.encoderMask,
      encoder_pos: this.#arrays.encoderPositions,
      num_tokens: count === undefined ? tokens : integer('crossAttention: count', count, 1, tokens),
    })
  }

  /** Clears the texts and structs of the request. The arrays of rknn_input and rknn_output stay. */
  reset() {
    const { rknnInputs, role } = this.#places
    this.#bytes.fill(0, 0, rknnInputs)
    this.#bytes.fill(0, role)
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
      all.role = this.#text(`${what}: role`, 'role', LABEL_BYTES, role ?? 'user')
      all.enable_thinking = enableThinking ?? false
    } else {
      if (role !== undefined) throw this.#unsupported(what, 'role', 'roles came with 1.2.1')
      if (enableThinking !== undefined) throw this.#unsupported(what, 'enableThinking', 'it came with 1.2.1')
    }
    return this.#fill('input', layout, all)
  }

  /**
   * Writes a struct of `values`, zero elsewhere. Returns its address.
   *
   * @param {string} place
   * @param {Layout} layout
   * @param {Values} values
   */
  #fill(place, layout, values) {
    const at = this.#places[place]
    this.#bytes.fill(0, at, at + layout.size)
    write(this.#view, at, layout, values)
    return this.#base + BigInt(at)
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
    return this.#text(`${what}: prompt`, 'prompt', promptBytes, text, 'make room with promptBytes')
  }

  /**
   * Writes a C string to its place. Returns its address.
   *
   * @param {string} what
   * @param {string} place
   * @param {number} room
   * @param {unknown} text
   * @param {string} [hint]
   */
  #text(what, place, room, text, hint) {
    if (typeof text !== 'string') throw invalid(`${what} must be a string, not ${formatValue(text)}`)
    if (text.includes('\0')) throw outOfRange(`${what} has a NUL in it, which would end it in C`)
    const at = this.#places[place]
    const bytes = this.#bytes.subarray(at, at + room)
    const { read, written } = encoder.encodeInto(text, bytes)
    if (read < text.length || written === room) {
      const requested = Buffer.byteLength(text) + 1
      throw outOfRange(`${what} takes ${requested} bytes of UTF-8 with its final NUL, and there is room for ${room}`, {
        requested,
        limit: room,
        ...(hint && { hint }),
      })
    }
    bytes.fill(0, written)
    return this.#base + BigInt(at)
  }

  /**
   * @param {string} what
   * @param {string} option
   * @param {string} hint
   */
  #unsupported(what, option, hint) {
    return memoryError('ERR_UNSUPPORTED', `${what}: rkllm.h ${this.#spec.header} has no ${option}`, { hint })
  }

  /** Writes the arrays of rknn_input and rknn_output, which never change. */
  #writeTensors() {
    const { rknnInputs, rknnOutputs, parts } = this.#spec
    /** @type {(group: 'inputs' | 'outputs', name: string) => number} */
    const bytesOf = (group, name) => parts.find((part) => part.group === group && part.name === name)?.bytes ?? 0
    rknnInputs.forEach(
      ({ name, shape, dtype, format = shape.length === 4 ? 'nhwc' : 'undefined', passThrough = false }, index) =>
        write(this.#view, this.#places.rknnInputs + index * rknn.rknn_input.size, rknn.rknn_input, {
          index,
          buf: this.#arrays.inputs[name],
          size: bytesOf('inputs', name),
          pass_through: passThrough,
          type: dtypes[dtype].number,
          fmt: formats[format],
        }),
    )
    rknnOutputs.forEach(({ name, dtype }, index) =>
      write(this.#view, this.#places.rknnOutputs + index * rknn.rknn_output.size, rknn.rknn_output, {
        want_float: dtype === 'float32',
        is_prealloc: true,
        index,
        buf: this.#arrays.outputs[name],
        size: bytesOf('outputs', name),
      }),
    )
  }
}

module.exports = { Structs, placeStructs }
