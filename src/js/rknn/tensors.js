'use strict'

// Tensors: how many bytes the runtime needs, the attributes to set, and the object that a program sees.

const { memoryError } = require('../core/errors.js')
const { publicClass } = require('../core/border.js')
const { formatValue, invalid, outOfRange } = require('../core/options.js')
const { FORMATS, TYPES } = require('./numbers.js')
const { MAX_SIZE } = require('./spec.js')

/** The construction key: only this room has it. */
const kConstruct = Symbol('constructed by RknnMemory')
/** RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC. */
const AFFINE = 2
/** Widths of NHWC tensors of four dimensions. */
const WIDTH = 2

/**
 * @typedef {import('./layouts.js').Attributes} Attributes
 * @typedef {import('../types/rknn.js').RknnTensorOptions} TensorOptions
 * @typedef {import('./numbers.js').ElementType} ElementType
 * @typedef {import('./regions.js').Region} Region
 */

/**
 * The needs of a tensor, by the runtime's answer and the wishes of the spec.
 *
 * @typedef {object} Need
 * @property {Attributes} attributes
 * @property {ElementType} type of the elements in memory
 * @property {number} format
 * @property {number} bytes with strides: never fewer than the runtime reads or writes
 * @property {Record<string, number | boolean>} fields that rknn_set_io_mem gets otherwise than the query told
 */

/** @type {(elements: number, type: ElementType) => number} */
const bytesOf = (elements, { bits }) => Math.ceil((elements * bits) / 8)

/**
 * @param {string} what
 * @param {Attributes} attributes
 * @param {TensorOptions} options
 * @returns {Need}
 */
function needOf(what, attributes, options) {
  const own = TYPES[attributes.type]
  if (own === undefined) {
    throw memoryError('ERR_UNSUPPORTED', `${what} has the element type ${attributes.type}, which is not known`, {
      hint: 'is the runtime of the header?',
    })
  }
  const type = TYPES.find((one) => one?.name === options.dtype) ?? own
  // Elements with those between the rows, of the model's own type.
  const strided = Math.ceil((attributes.sizeWithStride * 8) / own.bits)
  const bytes = Math.max(
    bytesOf(Math.max(strided, attributes.elements), type),
    type === own ? Math.max(attributes.size, attributes.sizeWithStride) : 0,
  )
  if (bytes < 1 || bytes > MAX_SIZE) {
    throw memoryError('ERR_UNSUPPORTED', `${what} has ${bytes} bytes; rknn_api.h counts from 1 to ${MAX_SIZE}`, {
      hint: 'is the runtime of the header?',
    })
  }
  const format = options.format === undefined ? attributes.format : FORMATS.indexOf(options.format)
  return {
    attributes,
    type,
    format,
    bytes,
    fields: {
      type: TYPES.indexOf(type),
      fmt: format,
      pass_through: options.passThrough ?? false,
      size: type === own ? attributes.size : bytesOf(attributes.elements, type),
      size_with_stride: bytes,
    },
  }
}

/**
 * Refuses an input that would read what another model did not write.
 *
 * @param {string} what
 * @param {Need} need
 * @param {string} source
 * @param {Need} written
 */
function checkSource(what, need, source, written) {
  const shown = (/** @type {Need} */ { attributes, type, format }) =>
    `${attributes.elements} ${type.name} as ${FORMATS[format] ?? `format ${format}`}`
  const [reads, writes] = [shown(need), shown(written)]
  if (reads !== writes) {
    throw outOfRange(`${what} reads ${reads}; ${source} writes ${writes}`, {
      hint: 'give both the same dtype, format and layout',
    })
  }
}

class RknnTensor {
  #need
  #region
  #isInput

  /**
   * @param {symbol} key
   * @param {Need} need
   * @param {Region} region
   * @param {boolean} isInput
   */
  constructor(key, need, region, isInput) {
    if (key !== kConstruct) throw invalid('tensors are made by createRknnMemory')
    this.#need = need
    this.#region = region
    this.#isInput = isInput
  }

  get name() {
    return this.#need.attributes.name
  }

  get index() {
    return this.#need.attributes.index
  }

  get dims() {
    return [...this.#need.attributes.dims]
  }

  get dtype() {
    return this.#need.type.name
  }

  get format() {
    return FORMATS[this.#need.format] ?? 'undefined'
  }

  get elements() {
    return this.#need.attributes.elements
  }

  get widthStride() {
    return this.#need.attributes.widthStride
  }

  get bytes() {
    return this.#need.bytes
  }

  get quantization() {
    const { quantization, scale, zeroPoint } = this.#need.attributes
    return quantization === AFFINE ? { scale, zeroPoint } : null
  }

  get address() {
    return this.#region.address
  }

  get array() {
    const { buffer, byteOffset } = this.#region
    if (buffer === null) return null
    const { Array } = this.#need.type
    if (buffer.byteLength === 0) return new Array(0)
    // A part that the program gave may begin anywhere.
    const isAligned = byteOffset % Array.BYTES_PER_ELEMENT === 0
    const length = Math.floor(this.#need.bytes / Array.BYTES_PER_ELEMENT)
    return isAligned ? new Array(buffer, byteOffset, length) : new Uint8Array(buffer, byteOffset, this.#need.bytes)
  }

  /** @param {ArrayBufferView} elements */
  write(elements) {
    const { attributes, type, format } = this.#need
    const { buffer, byteOffset } = this.#region
    const what = `the tensor ${formatValue(attributes.name)}`
    if (!ArrayBuffer.isView(elements)) throw invalid(`${what} is written from a view, not ${formatValue(elements)}`)
    const whole = bytesOf(attributes.elements, type)
    if (elements.byteLength !== whole) {
      throw outOfRange(
        `${what} has ${attributes.elements} elements of ${type.name} in ${whole} bytes, not ${elements.byteLength}`,
        { requested: elements.byteLength, limit: whole },
      )
    }
    if (!this.#isInput) throw unsupported(`${what} is an output`, 'the runtime writes it')
    if (buffer === null) throw unsupported(`${what} is in memory that was given by address`, 'write it there')
    if (FORMATS[format] === 'nc1hwc2') {
      throw unsupported(`${what} is NC1HWC2: its channels are in groups`, 'write the elements into array')
    }
    if (buffer.byteLength === 0) throw memoryError('ERR_BUFFER_FREED', `the memory of ${what} was freed`)
    const from = new Uint8Array(elements.buffer, elements.byteOffset, whole)
    const rows = rowsOf(attributes, format)
    const [row, step] = [whole / rows.count, (whole / rows.count) * rows.stretch]
    for (let at = 0; at < rows.count; at++) {
      const source = rows.count === 1 ? from : from.subarray(at * row, (at + 1) * row)
      new Uint8Array(buffer, byteOffset + at * step, row).set(source)
    }
    return whole
  }

  static {
    publicClass(RknnTensor, (value) => #need in value)
  }
}

/**
 * The rows of a tensor whose rows are not adjacent; one row where they are.
 *
 * @param {Attributes} attributes
 * @param {number} format
 */
function rowsOf({ dims, widthStride }, format) {
  const isStrided = dims.length === 4 && FORMATS[format] === 'nhwc' && widthStride > dims[WIDTH]
  return isStrided ? { count: dims[0] * dims[1], stretch: widthStride / dims[WIDTH] } : { count: 1, stretch: 1 }
}

/** @type {(message: string, hint: string) => Error} */
const unsupported = (message, hint) => memoryError('ERR_UNSUPPORTED', message, { hint })

/** @type {(need: Need, region: Region, isInput: boolean) => RknnTensor} */
const makeTensor = (need, region, isInput) => new RknnTensor(kConstruct, need, region, isInput)

module.exports = { RknnTensor, checkSource, makeTensor, needOf }
