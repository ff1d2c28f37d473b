'use strict'

// What a session asks for, checked, as the list of arrays that it comes to. Nothing is allocated here.

const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds, outOfRange, shown } = require('../core/options.js')
const { headers } = require('./layouts.js')

const WHAT = 'createInferenceBuffers'
/** The default of `header`: what was published last. */
const NEWEST = '1.3'
/** Room for a prompt: bytes for each token that fits, and never less than the other. */
const [PROMPT_BYTES_PER_TOKEN, LEAST_PROMPT_BYTES] = [8, 4096]
/** Tokens and layers are counted in C ints; a tensor's bytes in uint32_t. */
const [MOST, MOST_TENSOR_BYTES] = [2 ** 31 - 1, 2 ** 32 - 1]
const MOST_DIMENSIONS = 16

/** Element types of rknn_api.h: its number for it, and the array for it. Half floats come as their bits: not all runtimes have them. */
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

const count = kinds.integer(1, MOST)

/** An object of its own among the options, some of which it needs. */
const nested =
  (schema, ...needed) =>
  (name, value) => {
    const checked = check(name, value, schema)
    for (const key of needed) if (checked[key] === undefined) throw invalid(`${name} needs ${JSON.stringify(key)}`)
    return checked
  }

/** `true`, `false`, or how many tokens. */
const output = (name, value) => (typeof value === 'boolean' ? value : nested({ tokens: count }, 'tokens')(name, value))

const tensorSchema = {
  name: kinds.string,
  shape: (name, value) => {
    if (!Array.isArray(value)) throw invalid(`${name} must be an array of dimensions, not ${shown(value)}`)
    if (value.length < 1 || value.length > MOST_DIMENSIONS) {
      throw outOfRange(`${name} has ${value.length} dimensions; it must have from 1 to ${MOST_DIMENSIONS}`)
    }
    return Object.freeze(Array.from(value, (length, at) => integer(`${name}[${at}]`, length, 1)))
  },
  dtype: kinds.oneOf(...Object.keys(dtypes)),
  format: kinds.oneOf(...Object.keys(formats)),
}

const tensors = (schema) => (name, value) => {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of tensors, not ${shown(value)}`)
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
  header: kinds.oneOf(...Object.keys(headers)),
  maxTokens: count,
  contextLength: count,
  hiddenSize: count,
  vocabSize: count,
  embeddings: kinds.boolean,
  promptBytes: kinds.integer(1, MOST),
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
  doubleBuffered: kinds.boolean,
  name: kinds.string,
  tag: kinds.string,
  // Checked by createMemoryPool, with the options of its kind.
  allocation: (_name, value) => value,
}

/** A product that a number holds, or an error that names `what`. */
function product(what, factors) {
  const bytes = factors.reduce((product, factor) => product * factor, 1)
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw outOfRange(
      `${WHAT}: ${what} of ${factors.join(' × ')} bytes do not exist; the sizes must come to less than 2^53`,
    )
  }
  return bytes
}

/**
 * @typedef {{ name: string, group: '' | 'inputs' | 'outputs', written: 'host' | 'device', dtype: string, shape: readonly number[], bytes: number }} Part
 */

/** @returns {Part} */
function part(name, written, dtype, shape, group = '') {
  const bytes = product(group === '' ? name : `${group}.${name}`, [...shape, dtypes[dtype].Array.BYTES_PER_ELEMENT])
  return { name, group, written, dtype, shape: Object.freeze([...shape]), bytes }
}

/** How many rows `logits` or `hiddenStates` have, or 0. */
function rows(name, asked, fallback, rowLength, rowName) {
  if (asked === false || (asked === undefined && fallback === 0)) return 0
  if (rowLength === undefined) throw invalid(`${WHAT}: ${name} needs ${JSON.stringify(rowName)}`)
  if (typeof asked === 'object') return asked.tokens
  return fallback
}

/**
 * @param {unknown} options
 * @returns what was asked for with the defaults in, and `parts`: the arrays of one set
 */
function readSpec(options) {
  if (options === undefined) throw invalid(`${WHAT} needs a spec`)
  const checked = check(WHAT, options, schema)
  const { kind = 'npu', header = NEWEST, contextLength, hiddenSize, vocabSize, image, crossAttention } = checked
  const {
    maxTokens = contextLength,
    embeddings = hiddenSize !== undefined && maxTokens !== undefined,
    doubleBuffered = false,
  } = checked
  const { rknnInputs = [], rknnOutputs = [], name, tag, allocation } = checked
  if (contextLength !== undefined && maxTokens > contextLength) {
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

  const parts = []
  const add = (...of) => parts.push(part(...of))
  if (maxTokens !== undefined) add('tokens', 'host', 'int32', [maxTokens])
  if (embeddings) add('embeddings', 'host', 'float32', [maxTokens, hiddenSize])
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
  if (logitsRows > 0) add('logits', 'device', 'float32', [logitsRows, vocabSize])
  const all = checked.hiddenStates === true ? maxTokens : 0
  if (all === undefined) throw invalid(`${WHAT}: hiddenStates need "maxTokens" (or "contextLength"), or { tokens }`)
  const hiddenRows = rows('hiddenStates', checked.hiddenStates, all, hiddenSize, 'hiddenSize')
  if (hiddenRows > 0) add('hiddenStates', 'device', 'float32', [hiddenRows, hiddenSize])
  for (const tensor of rknnInputs) parts.push(tensorPart(tensor, 'inputs', 'host'))
  for (const tensor of rknnOutputs) parts.push(tensorPart(tensor, 'outputs', 'device'))
  if (parts.length === 0) {
    throw invalid(
      `${WHAT}: this spec comes to no array at all`,
      'give maxTokens, image, crossAttention, vocabSize, rknnInputs or rknnOutputs',
    )
  }

  const speaks = maxTokens !== undefined || image !== undefined
  const promptBytes =
    checked.promptBytes ?? (speaks ? Math.max(LEAST_PROMPT_BYTES, (maxTokens ?? 0) * PROMPT_BYTES_PER_TOKEN) : 0)
  const shapes = { inputs: Object.create(null), outputs: Object.create(null) }
  for (const { name: own, group, shape } of parts) (group === '' ? shapes : shapes[group])[own] = shape
  Object.values(shapes).forEach(Object.freeze)
  return {
    kind,
    header,
    maxTokens,
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

function tensorPart({ name, shape, dtype }, group, written) {
  const made = part(name, written, dtype, shape, group)
  if (made.bytes > MOST_TENSOR_BYTES) {
    throw outOfRange(
      `${WHAT}: ${group}.${name} has ${made.bytes} bytes; rknn_api.h counts at most ${MOST_TENSOR_BYTES}`,
      {
        requested: made.bytes,
        limit: MOST_TENSOR_BYTES,
      },
    )
  }
  return made
}

module.exports = { WHAT, dtypes, formats, readSpec }
