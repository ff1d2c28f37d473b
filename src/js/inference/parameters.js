'use strict'

// Writes the C structs that belong to a session and not to a request: RKLLMParam for rkllm_init, and an
// RKLLMLoraAdapter for each adapter. They keep their memory until the session ends: the runtime may keep the pointers.

const { availableParallelism } = require('node:os')
const { check, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { headers } = require('./layouts.js')
const { FLOAT_MAX, defaultSampling, float, readSampling, samplingSchema } = require('./sampling.js')
const { LABEL_BYTES, LORA_NAME_BYTES, PATH_BYTES, StructMemory, cString, placeAll } = require('./struct-memory.js')
const { rknnOnly } = require('./structs.js')

const INT_MAX = 2 ** 31 - 1
/** CPUs that `enabled_cpus_mask` can name, and the number that the runtime gets by default. */
const [MAX_CPUS, DEFAULT_CPUS] = [32, 4]
/** The context where neither the spec nor a model says it. */
const DEFAULT_CONTEXT = 4096

/** @type {import('../core/options.js').Validator<number[]>} */
const cpus = (name, value) => {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of CPU numbers, not ${formatValue(value)}`)
  if (value.length < 1 || value.length > MAX_CPUS)
    throw outOfRange(`${name} has ${value.length} CPUs; it must have from 1 to ${MAX_CPUS}`)
  const numbers = Array.from(value, (cpu, at) => kinds.integer(0, MAX_CPUS - 1)(`${name}[${at}]`, cpu))
  const twice = numbers.find((cpu, at) => numbers.indexOf(cpu) !== at)
  if (twice !== undefined) throw outOfRange(`${name} has CPU ${twice} twice`)
  return numbers
}

const paramSchema = {
  model: kinds.nonEmptyString,
  maxNewTokens: kinds.integer(1, INT_MAX),
  ...samplingSchema,
  keep: kinds.integer(0, INT_MAX),
  skipSpecialTokens: kinds.boolean,
  ignoreEos: kinds.boolean,
  async: kinds.boolean,
  imageStart: kinds.string,
  imageEnd: kinds.string,
  imageContent: kinds.string,
  domain: kinds.integer(0, 15),
  embedFlash: kinds.boolean,
  cpus,
  batch: kinds.integer(1, 255),
  crossAttention: kinds.boolean,
}
const loraSchema = { path: kinds.nonEmptyString, name: kinds.nonEmptyString, scale: float(-FLOAT_MAX) }

/** Options that not all versions have: the field, and the remark of the refusal. */
const BY_VERSION = /** @type {const} */ ([
  ['keep', 'n_keep', 'it came with 1.2.0'],
  ['ignoreEos', 'ignore_eos_token', 'it came with 1.3.0'],
  ['imageStart', 'img_start', 'since 1.3.0 markers belong to the input: give them to multimodalInput'],
  ['imageEnd', 'img_end', 'since 1.3.0 markers belong to the input: give them to multimodalInput'],
  ['imageContent', 'img_content', 'since 1.3.0 markers belong to the input: give them to multimodalInput'],
  ['embedFlash', 'extend_param.embed_flash', 'it came with 1.2.0'],
  ['cpus', 'extend_param.enabled_cpus_mask', 'it came with 1.2.0'],
  ['batch', 'extend_param.n_batch', 'it came with 1.2.1'],
  ['crossAttention', 'extend_param.use_cross_attn', 'it came with 1.2.1'],
])
const MARKERS = /** @type {const} */ (['imageStart', 'imageEnd', 'imageContent'])

/**
 * @typedef {ReturnType<typeof import('./spec.js').readSpec>} Spec
 * @typedef {import('./struct-memory.js').Values} Values
 */

/**
 * Lays out the memory of the session's structs; 0 bytes for RKNN tensors alone.
 *
 * @param {Spec} spec
 */
function placeParameters({ header, rkllm, loraAdapters }) {
  if (!rkllm) return { bytes: 0 }
  const { RKLLMParam, RKLLMLoraAdapter } = headers[header]
  /** @type {Record<string, number>} */
  const sizes = { param: RKLLMParam.size, model: PATH_BYTES }
  for (const marker of MARKERS) sizes[marker] = 'img_start' in RKLLMParam.fields ? LABEL_BYTES : 0
  for (let slot = 0; slot < loraAdapters; slot++) {
    sizes[`lora ${slot}`] = RKLLMLoraAdapter.size
    sizes[`loraName ${slot}`] = LORA_NAME_BYTES
    sizes[`loraPath ${slot}`] = PATH_BYTES
  }
  return placeAll(sizes)
}

class Parameters {
  #spec
  #layouts
  #memory
  #defaults
  /** @type {string[]} The names of the adapters, by slot. */
  #adapters = []

  /**
   * @param {Spec} spec
   * @param {import('../pools/block.js').MemoryBlock | undefined} block undefined for RKNN tensors alone
   * @param {{ sampling: Values }} defaults gets the sampling of `param`
   */
  constructor(spec, block, defaults) {
    this.#spec = spec
    this.#layouts = headers[spec.header]
    this.#memory = block && new StructMemory(spec.header, placeParameters(spec), block.buffer, block.address)
    this.#defaults = defaults
  }

  get gone() {
    return this.#memory?.gone ?? false
  }

  /** @param {unknown} options */
  param(options) {
    const what = 'param'
    const memory = this.#existing(what)
    const checked = check(what, options, paramSchema)
    const { RKLLMParam: layout } = this.#layouts
    const { maxTokens, contextLength = maxTokens ?? DEFAULT_CONTEXT } = this.#spec
    const { model, maxNewTokens = contextLength, keep = 0, skipSpecialTokens = true, ignoreEos = false } = checked
    if (model === undefined) throw invalid('param needs "model"', "it is the path of the model's file")
    for (const [option, field, hint] of BY_VERSION) {
      if (checked[option] !== undefined && !(field in layout.fields)) throw memory.unsupported(what, option, hint)
    }
    // Checked before anything is written: a call that throws leaves the structs of the call before.
    cString(`${what}: model`, model, PATH_BYTES)
    for (const marker of MARKERS) cString(`${what}: ${marker}`, checked[marker] ?? '', LABEL_BYTES)

    const chosen = checked.cpus ?? defaultCpus()
    const sampling = { ...defaultSampling, ...readSampling(checked) }
    /** @type {Values} */
    const values = {
      model_path: memory.text(`${what}: model`, 'model', PATH_BYTES, model),
      max_context_len: contextLength,
      max_new_tokens: maxNewTokens,
      ...sampling,
      n_keep: keep,
      skip_special_token: skipSpecialTokens,
      ignore_eos_token: ignoreEos,
      is_async: checked.async ?? false,
      'extend_param.base_domain_id': checked.domain ?? 0,
      'extend_param.embed_flash': checked.embedFlash ?? true,
      'extend_param.enabled_cpus_num': chosen.length,
      'extend_param.enabled_cpus_mask': chosen.reduce((mask, cpu) => mask | (1 << cpu), 0),
      'extend_param.n_batch': checked.batch ?? 1,
      'extend_param.use_cross_attn': checked.crossAttention ?? this.#spec.crossAttention !== undefined,
    }
    if ('img_start' in layout.fields) {
      // An empty text and not NULL: the header does not say that it may be NULL.
      const [start, end, content] = MARKERS.map((marker) =>
        memory.text(`${what}: ${marker}`, marker, LABEL_BYTES, checked[marker] ?? ''),
      )
      Object.assign(values, { img_start: start, img_end: end, img_content: content })
    }
    this.#defaults.sampling = sampling
    const present = Object.entries(values).filter(([field]) => field in layout.fields)
    return memory.fill('param', layout, Object.fromEntries(present))
  }

  /** @param {unknown} options */
  loraAdapter(options) {
    const what = 'loraAdapter'
    const memory = this.#existing(what)
    const { path, name, scale = 1 } = check(what, options, loraSchema)
    if (path === undefined) throw invalid('loraAdapter needs "path"', "it is the path of the adapter's file")
    if (name === undefined) throw invalid('loraAdapter needs "name"', 'inferParam chooses the adapter by it')
    cString(`${what}: path`, path, PATH_BYTES)
    cString(`${what}: name`, name, LORA_NAME_BYTES)
    const slot = this.#slotOf(name)
    return memory.fill(`lora ${slot}`, this.#layouts.RKLLMLoraAdapter, {
      lora_adapter_path: memory.text(`${what}: path`, `loraPath ${slot}`, PATH_BYTES, path),
      lora_adapter_name: memory.text(`${what}: name`, `loraName ${slot}`, LORA_NAME_BYTES, name),
      scale,
    })
  }

  /**
   * Returns the slot of an adapter: its own where it has one, else the next.
   *
   * @param {string} name
   */
  #slotOf(name) {
    const known = this.#adapters.indexOf(name)
    if (known !== -1) return known
    const limit = this.#spec.loraAdapters
    if (this.#adapters.length === limit) {
      throw outOfRange(`loraAdapter: there is room for ${limit} adapters, and ${formatValue(name)} is one more`, {
        requested: limit + 1,
        limit,
        hint: `make room with loraAdapters: ${limit + 1} in the spec`,
      })
    }
    return this.#adapters.push(name) - 1
  }

  /** @param {string} what */
  #existing(what) {
    if (this.#memory === undefined) throw rknnOnly(what)
    return this.#memory
  }
}

/** The last four CPUs of the machine: the fast ones of RK3588 and RK3576. */
function defaultCpus() {
  const count = Math.min(availableParallelism(), MAX_CPUS)
  const first = Math.max(0, count - DEFAULT_CPUS)
  return Array.from({ length: count - first }, (_, at) => first + at)
}

module.exports = { Parameters, placeParameters }
