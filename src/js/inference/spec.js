'use strict'

// Checks the spec of inference buffers and lists the arrays that it asks for. Allocates nothing.

const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { headers } = require('./layouts.js')
const { headerOfLibrary, libraryPath, runtimeVersion, runtimeVersionAsync } = require('./runtime-version.js')

const WHAT = 'createInferenceBuffers'
/** The default of `header`: the latest version. */
const NEWEST = '1.3'
/** The default room for a prompt: bytes for each token, and the least. */
const [PROMPT_BYTES_PER_TOKEN, MIN_PROMPT_BYTES] = [8, 4096]
/** C counts tokens and layers in int, and a tensor's bytes in uint32_t. */
const [MAX_INT, MAX_TENSOR_BYTES] = [2 ** 31 - 1, 2 ** 32 - 1]
const MAX_DIMENSIONS = 16
/** The default of `loraAdapters`. */
const LORA_ADAPTERS = 4

/**
 * Element types of rknn_api.h: their numbers and array classes. Half floats are Uint16Arrays of bits: not all runtimes
 * have Float16Array.
 */
/**
 * @typedef {import('../types/inference.js').RKLLMHeader} RKLLMHeader
 * @typedef {import('../types/inference.js').RKNNDataType} RKNNDataType
 * @typedef {import('../types/inference.js').RKNNTensorSpec} RKNNTensorSpec
 */

const dtypes = {
  float32: { number: 0, Array: Float32Array },
  float16: { number: 1, Array: Uint16Array },
  int8: { number: 2, Array: Int8Array },
  uint8: { number: 3, Array: Uint8Array },
  int16: { number: 4, Array: Int16Array },
  uint16: { number: 5, Array: Uint16Array },
  int32: { number: 6, Array: Int32Array },
  uint32: { number: 7, Array: Uint32Array },
  int64: { number: 8, Array: BigInt64Array },
  bool: { number: 9, Array: Uint8Array },
  bfloat16: { number: 11, Array: Uint16Array },
}

const formats = { nchw: 0, nhwc: 1, undefined: 3 }

const count = kinds.integer(1, MAX_INT)

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/** @typedef {import('../core/options.js').Schema} Schema */
/**
 * The result of a nested schema: the keys of `Needed` are present.
 *
 * @template {Schema} S
 * @template {keyof S} Needed
 * @typedef {{ [K in Needed]: ReturnType<S[K]> } & import('../core/options.js').Checked<S>} Nested
 */

/**
 * Validates a nested object of options; `needed` are required.
 *
 * @type {<S extends Schema, K extends keyof S & string>(schema: S, ...needed: K[]) => Validator<Nested<S, K>>}
 */
const nested =
  (schema, ...needed) =>
  (name, value) => {
    const checked = check(name, value, schema)
    for (const key of needed) if (checked[key] === undefined) throw invalid(`${name} needs ${JSON.stringify(key)}`)
    return /** @type {any} */ (checked)
  }

/** @type {Validator<boolean | { tokens: number }>} Validates `true`, `false` or `{ tokens }`. */
const output = (name, value) => (typeof value === 'boolean' ? value : nested({ tokens: count }, 'tokens')(name, value))

const tensorSchema = {
  name: kinds.string,
  /** @type {Validator<readonly number[]>} */
  shape: (name, value) => {
    if (!Array.isArray(value)) throw invalid(`${name} must be an array of dimensions, not ${formatValue(value)}`)
    if (value.length < 1 || value.length > MAX_DIMENSIONS) {
      throw outOfRange(`${name} has ${value.length} dimensions; it must have from 1 to ${MAX_DIMENSIONS}`)
    }
    return Object.freeze(Array.from(value, (length, at) => integer(`${name}[${at}]`, length, 1)))
  },
  dtype: kinds.oneOf(.../** @type {RKNNDataType[]} */ (Object.keys(dtypes))),
  format: kinds.oneOf(.../** @type {Array<keyof typeof formats>} */ (Object.keys(formats))),
}

/** @type {<S extends typeof tensorSchema>(schema: S) => Validator<Nested<S, 'name' | 'shape' | 'dtype'>[]>} */
const tensors = (schema) => (name, value) => {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of tensors, not ${formatValue(value)}`)
  const checked = Array.from(value, (tensor, at) => nested(schema, 'name', 'shape', 'dtype')(`${name}[${at}]`, tensor))
  const names = new Set()
  for (const { name: own } of checked) {
    if (names.has(own)) throw outOfRange(`${name} has two tensors named ${JSON.stringify(own)}`)
    names.add(own)
  }
  return checked
}

const schema = {
  kind: kinds.oneOf('npu', 'system'),
  header: kinds.oneOf(.../** @type {RKLLMHeader[]} */ (Object.keys(headers))),
  maxTokens: count,
  contextLength: count,
  hiddenSize: count,
  vocabSize: count,
  embeddings: kinds.boolean,
  promptBytes: kinds.integer(1, MAX_INT),
  image: nested({ tokens: count, hiddenSize: count, count, width: count, height: count }, 'tokens'),
  crossAttention: nested(
    { layers: count, heads: count, headDim: count, tokens: count },
    'layers',
    'heads',
    'headDim',
    'tokens',
  ),
  logits: output,
  hiddenStates: output,
  rknnInputs: tensors({ ...tensorSchema, passThrough: kinds.boolean }),
  rknnOutputs: tensors(tensorSchema),
  library: libraryPath,
  loraAdapters: kinds.integer(0, 1024),
  doubleBuffered: kinds.boolean,
  name: kinds.string,
  tag: kinds.tag,
  /** @type {Validator<any>} createMemoryPool checks it with the schema of the kind. */
  allocation: (_name, value) => value,
}

/**
 * Multiplies sizes. Throws if the product is not a safe integer.
 *
 * @param {string} what
 * @param {number[]} factors
 */
function product(what, factors) {
  const bytes = factors.reduce((product, factor) => product * factor, 1)
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw outOfRange(`${WHAT}: ${what} of ${factors.join(' × ')} bytes is too large; the product must be below 2^53`)
  }
  return bytes
}

/** @typedef {'' | 'inputs' | 'outputs'} Group */

/**
 * @typedef {object} Part
 * @property {string} name
 * @property {Group} group
 * @property {'host' | 'device'} written
 * @property {RKNNDataType} dtype
 * @property {readonly number[]} shape
 * @property {number} bytes
 */

/**
 * @param {string} name
 * @param {Part['written']} written
 * @param {RKNNDataType} dtype
 * @param {readonly number[]} shape
 * @param {Group} [group]
 * @returns {Part}
 */
function part(name, written, dtype, shape, group = '') {
  const bytes = product(group === '' ? name : `${group}.${name}`, [...shape, dtypes[dtype].Array.BYTES_PER_ELEMENT])
  return { name, group, written, dtype, shape: Object.freeze([...shape]), bytes }
}

/**
 * Returns the rows of `logits` or `hiddenStates`; 0 for none.
 *
 * @param {string} name
 * @param {boolean | { tokens: number } | undefined} asked
 * @param {number} fallback
 * @param {number | undefined} rowLength
 * @param {string} rowName
 */
function rows(name, asked, fallback, rowLength, rowName) {
  if (asked === false || (asked === undefined && fallback === 0)) return 0
  if (rowLength === undefined) throw invalid(`${WHAT}: ${name} needs ${JSON.stringify(rowName)}`)
  if (typeof asked === 'object') return asked.tokens
  return fallback
}

/**
 * Checks a spec. Reads its library.
 *
 * @param {unknown} options
 */
function readSpec(options) {
  const checked = checkSpec(options, {})
  return specOf(checked, checked.library === undefined ? null : runtimeVersion(checked.library))
}

/**
 * Checks a spec that may have a signal too. Reads its library without blocking the event loop.
 *
 * @param {unknown} options
 */
async function readSpecAsync(options) {
  const checked = checkSpec(options, { signal: kinds.signal })
  const version = checked.library === undefined ? null : await runtimeVersionAsync(checked.library)
  return { ...specOf(checked, version), signal: checked.signal }
}

/**
 * @param {unknown} options
 * @param {{ signal?: Validator<AbortSignal> }} cancellable
 */
function checkSpec(options, cancellable) {
  if (options === undefined) throw invalid(`${WHAT} needs a spec`)
  return check(WHAT, options, /** @type {typeof schema & { signal: Validator<AbortSignal> }} */ ({
    ...schema,
    ...cancellable,
  }))
}

/**
 * @param {ReturnType<typeof checkSpec>} checked
 * @param {string | null} version that of the library; null where it carries none
 * @returns the spec with its defaults, and `parts`: the arrays of one set
 */
function specOf(checked, version) {
  const { contextLength, hiddenSize, vocabSize, image, crossAttention, library, loraAdapters = LORA_ADAPTERS } = checked
  const header =
    library === undefined ? (checked.header ?? NEWEST) : headerOfLibrary(WHAT, library, version, checked.header)
  const {
    maxTokens = contextLength,
    embeddings = hiddenSize !== undefined && maxTokens !== undefined,
    doubleBuffered = false,
  } = checked
  const { rknnInputs = [], rknnOutputs = [], name, tag, allocation } = checked
  // The RKLLM runtime reads with the CPU; the NPU reads only tensors.
  const { kind = rknnInputs.length + rknnOutputs.length > 0 ? 'npu' : 'system' } = checked
  if (contextLength !== undefined && maxTokens !== undefined && maxTokens > contextLength) {
    throw outOfRange(`${WHAT}: maxTokens is ${maxTokens}, more than the contextLength of ${contextLength}`)
  }
  if (embeddings && (hiddenSize === undefined || maxTokens === undefined)) {
    throw invalid(`${WHAT}: embeddings need "hiddenSize" and "maxTokens" (or "contextLength")`)
  }
  if (crossAttention !== undefined && headers[header].RKLLMCrossAttnParam === undefined) {
    throw memoryError('ERR_UNSUPPORTED', `${WHAT}: rkllm.h ${header} has no cross-attention`, {
      hint: 'it came with 1.2.1: header "1.2"',
    })
  }

  /** @type {Part[]} */
  const parts = []
  const add = (/** @type {Parameters<typeof part>} */ ...of) => parts.push(part(...of))
  if (maxTokens !== undefined) add('tokens', 'host', 'int32', [maxTokens])
  if (embeddings) add('embeddings', 'host', 'float32', [Number(maxTokens), Number(hiddenSize)])
  if (image !== undefined) {
    const { count: images = 1, tokens, hiddenSize: width = hiddenSize } = image
    if (width === undefined) throw invalid(`${WHAT}: image needs "hiddenSize", its own or the model's`)
    add('imageEmbeddings', 'host', 'float32', [images, tokens, width])
  }
  if (crossAttention !== undefined) {
    const { layers, heads, headDim, tokens } = crossAttention
    add('encoderKeys', 'host', 'float32', [layers, tokens, heads, headDim])
    add('encoderValues', 'host', 'float32', [layers, heads, headDim, tokens])
    add('encoderMask', 'host', 'float32', [tokens])
    add('encoderPositions', 'host', 'int32', [tokens])
  }
  const logitsRows = rows(
    'logits',
    checked.logits,
    vocabSize === undefined && checked.logits === undefined ? 0 : 1,
    vocabSize,
    'vocabSize',
  )
  if (logitsRows > 0) add('logits', 'device', 'float32', [logitsRows, Number(vocabSize)])
  const all = checked.hiddenStates === true ? maxTokens : 0
  if (all === undefined) throw invalid(`${WHAT}: hiddenStates need "maxTokens" (or "contextLength"), or { tokens }`)
  const hiddenRows = rows('hiddenStates', checked.hiddenStates, all, hiddenSize, 'hiddenSize')
  if (hiddenRows > 0) add('hiddenStates', 'device', 'float32', [hiddenRows, Number(hiddenSize)])
  for (const tensor of rknnInputs) parts.push(tensorPart(tensor, 'inputs', 'host'))
  for (const tensor of rknnOutputs) parts.push(tensorPart(tensor, 'outputs', 'device'))
  if (parts.length === 0) {
    throw invalid(
      `${WHAT}: this spec asks for no array`,
      'give maxTokens, image, crossAttention, vocabSize, rknnInputs or rknnOutputs',
    )
  }

  const hasPrompt = maxTokens !== undefined || image !== undefined
  const promptBytes =
    checked.promptBytes ?? (hasPrompt ? Math.max(MIN_PROMPT_BYTES, (maxTokens ?? 0) * PROMPT_BYTES_PER_TOKEN) : 0)
  /** @type {Record<string, any>} */
  const shapes = { inputs: Object.create(null), outputs: Object.create(null) }
  for (const { name: own, group, shape } of parts) (group === '' ? shapes : shapes[group])[own] = shape
  Object.values(shapes).forEach(Object.freeze)
  return {
    kind,
    header,
    maxTokens,
    contextLength,
    hiddenSize,
    rkllm: parts.some(({ group }) => group === ''),
    loraAdapters,
    image,
    crossAttention,
    doubleBuffered,
    name,
    tag,
    allocation,
    promptBytes,
    rknnInputs,
    rknnOutputs,
    parts,
    shapes: Object.freeze(shapes),
  }
}

/**
 * @param {Pick<RKNNTensorSpec, 'name' | 'shape' | 'dtype'>} tensor
 * @param {Group} group
 * @param {Part['written']} written
 */
function tensorPart({ name, shape, dtype }, group, written) {
  const made = part(name, written, dtype, shape, group)
  if (made.bytes > MAX_TENSOR_BYTES) {
    throw outOfRange(
      `${WHAT}: ${group}.${name} has ${made.bytes} bytes; rknn_api.h counts at most ${MAX_TENSOR_BYTES}`,
      {
        requested: made.bytes,
        limit: MAX_TENSOR_BYTES,
      },
    )
  }
  return made
}

module.exports = { dtypes, formats, readSpec, readSpecAsync }
