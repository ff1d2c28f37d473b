'use strict'

// Reads the head of a GGUF file: its metadata and its table of tensors. The file is read in pieces; long arrays, such
// as a tokenizer's, are walked and not kept.
//
// The format is documented in ggml's docs/gguf.md. llama.cpp's fork for the NPU (rk-llama.cpp) multiplies matrices of
// F16, Q8_0 and Q4_0 on the NPU, converted to two, one and half a byte a number; other types stay on the CPU.

const fs = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { Buffer } = require('../core/runtime.js')

const PIECE = 1 << 18
const MAX_ENTRIES = 1 << 20
const MAX_STRING = 1 << 24
const ALIGNMENT = 32

/** @type {Record<number, [name: string, numbers: number, bytes: number]>} Blocks of each type of tensor. */
const TENSOR_TYPES = {
  0: ['F32', 1, 4], 1: ['F16', 1, 2], 2: ['Q4_0', 32, 18], 3: ['Q4_1', 32, 20], 6: ['Q5_0', 32, 22],
  7: ['Q5_1', 32, 24], 8: ['Q8_0', 32, 34], 9: ['Q8_1', 32, 36], 10: ['Q2_K', 256, 84], 11: ['Q3_K', 256, 110],
  12: ['Q4_K', 256, 144], 13: ['Q5_K', 256, 176], 14: ['Q6_K', 256, 210], 15: ['Q8_K', 256, 292],
  16: ['IQ2_XXS', 256, 66], 17: ['IQ2_XS', 256, 74], 18: ['IQ3_XXS', 256, 98], 19: ['IQ1_S', 256, 50],
  20: ['IQ4_NL', 32, 18], 21: ['IQ3_S', 256, 110], 22: ['IQ2_S', 256, 82], 23: ['IQ4_XS', 256, 136],
  24: ['I8', 1, 1], 25: ['I16', 1, 2], 26: ['I32', 1, 4], 27: ['I64', 1, 8], 28: ['F64', 1, 8],
  29: ['IQ1_M', 256, 56], 30: ['BF16', 1, 2], 34: ['TQ1_0', 256, 54], 35: ['TQ2_0', 256, 66], 39: ['MXFP4', 32, 17],
}

/** @type {Record<string, number>} Bytes a number of the types that the NPU multiplies. */
const NPU_BYTES = { F16: 2, Q8_0: 1, Q4_0: 0.5 }

/** Bytes of a value of each kind; 8 is a string and 9 an array. */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]
const [STRING, ARRAY] = [8, 9]

/** Reads numbers from a file in order, without holding the file. */
class Reader {
  #fd
  #path
  #size
  #piece = Buffer.alloc(0)
  #start = 0
  /** The offset of the next byte. */
  at = 0

  /**
   * @param {number} fd
   * @param {string} path
   * @param {number} size
   */
  constructor(fd, path, size) {
    this.#fd = fd
    this.#path = path
    this.#size = size
  }

  /** @param {string} what */
  refuse(what) {
    return memoryError('ERR_UNSUPPORTED', `${this.#path} is a GGUF file ${what}`, {
      hint: 'download it again, and compare its size with the page that offers it',
      path: this.#path,
    })
  }

  /** @param {number} count */
  skip(count) {
    if (!(count >= 0) || this.at + count > this.#size)
      throw this.refuse(`that ends early: it has ${formatBytes(this.#size)}, and its head needs more`)
    this.at += count
  }

  /**
   * Reads bytes into the piece. Returns their offset in it: a view of each number would cost more than its reading.
   *
   * @param {number} count
   */
  #read(count) {
    const from = this.at
    this.skip(count)
    if (from < this.#start || from + count > this.#start + this.#piece.length) {
      const piece = Buffer.alloc(Math.min(Math.max(PIECE, count), this.#size - from))
      const read = fs.readSync(this.#fd, piece, 0, piece.length, from)
      if (read < count) throw this.refuse('that ends early')
      this.#piece = piece.subarray(0, read)
      this.#start = from
    }
    return from - this.#start
  }

  /** @param {number} count at most PIECE */
  bytes(count) {
    const at = this.#read(count)
    return this.#piece.subarray(at, at + count)
  }

  u32() {
    const at = this.#read(4)
    return this.#piece.readUInt32LE(at)
  }

  /** Reads a count or an offset; larger ones than 2^53 are no true ones. */
  u64() {
    const at = this.#read(8)
    const high = this.#piece.readUInt32LE(at + 4)
    if (high >= 2 ** 21) throw this.refuse('with a size beyond every file')
    return high * 2 ** 32 + this.#piece.readUInt32LE(at)
  }

  string() {
    const length = this.u64()
    if (length > MAX_STRING) throw this.refuse('with a name beyond every length')
    return this.bytes(length).toString('utf8')
  }
}

/**
 * Reads a value; of an array only its length, or its numbers if they are few.
 *
 * @param {Reader} reader
 * @param {number} kind
 * @returns {unknown}
 */
function readValue(reader, kind) {
  if (kind === STRING) return reader.string()
  if (kind === ARRAY) return readArray(reader)
  const bytes = VALUE_BYTES[kind]
  if (!(bytes > 0)) throw reader.refuse(`with metadata of an unknown kind (${kind})`)
  const raw = reader.bytes(bytes)
  if (kind === 6) return raw.readFloatLE(0)
  if (kind === 12) return raw.readDoubleLE(0)
  if (kind === 10 || kind === 11) return Number(raw.readBigInt64LE(0))
  return kind === 1 || kind === 3 || kind === 5 ? raw.readIntLE(0, bytes) : raw.readUIntLE(0, bytes)
}

/**
 * @param {Reader} reader
 * @returns {{ length: number, numbers: number[] | null }}
 */
function readArray(reader) {
  const kind = reader.u32()
  const length = reader.u64()
  if (length > 2 ** 28) throw reader.refuse('with a list beyond every length')
  if (kind === STRING) {
    for (let i = 0; i < length; i++) reader.skip(reader.u64())
    return { length, numbers: null }
  }
  const bytes = VALUE_BYTES[kind]
  if (!(bytes > 0)) throw reader.refuse(`with a list of an unknown kind (${kind})`)
  if (length > 4096) {
    reader.skip(length * bytes)
    return { length, numbers: null }
  }
  const numbers = Array.from({ length }, () => Number(readValue(reader, kind)))
  return { length, numbers }
}

/**
 * @typedef {object} Gguf
 * @property {Map<string, unknown>} metadata
 * @property {string | null} architecture
 * @property {number} tensors
 * @property {number} weights bytes of all tensors
 * @property {number} npu bytes that rk-llama.cpp converts for the NPU
 * @property {number} converted bytes of those tensors in the file
 * @property {Record<string, number>} types bytes by type of tensor
 * @property {number} dataStart
 */

/**
 * Reads the head of a GGUF file.
 *
 * @param {string} path
 * @returns {Gguf}
 */
function readGguf(path) {
  const fd = fs.openSync(path, 'r')
  try {
    const { size } = fs.fstatSync(fd)
    return readHead(new Reader(fd, path, size), size)
  } finally {
    fs.closeSync(fd)
  }
}

/**
 * @param {Reader} reader
 * @param {number} size
 * @returns {Gguf}
 */
function readHead(reader, size) {
  reader.skip(4)
  const version = reader.u32()
  if (version < 2 || version > 3) throw reader.refuse(`of version ${version}; 2 and 3 are known`)
  const [tensors, entries] = [reader.u64(), reader.u64()]
  if (tensors > MAX_ENTRIES || entries > MAX_ENTRIES) throw reader.refuse('whose head has impossible counts')
  /** @type {Map<string, unknown>} */
  const metadata = new Map()
  for (let i = 0; i < entries; i++) {
    const name = reader.string()
    metadata.set(name, readValue(reader, reader.u32()))
  }
  const found = readTensors(reader, tensors)
  const alignment = Number(metadata.get('general.alignment') ?? ALIGNMENT)
  const dataStart = Math.ceil(reader.at / alignment) * alignment
  if (dataStart + found.end > size) {
    throw reader.refuse(
      `that is truncated: it has ${formatBytes(size)}, and its tensors need ${formatBytes(dataStart + found.end)}`,
    )
  }
  const architecture = metadata.get('general.architecture')
  const { weights, npu, converted, types } = found
  return {
    metadata,
    architecture: typeof architecture === 'string' ? architecture : null,
    tensors,
    weights,
    npu,
    converted,
    types,
    dataStart,
  }
}

/**
 * @param {Reader} reader
 * @param {number} count
 */
function readTensors(reader, count) {
  let [weights, npu, converted, end] = [0, 0, 0, 0]
  /** @type {Record<string, number>} */
  const types = {}
  for (let i = 0; i < count; i++) {
    const name = reader.string()
    const dimensions = reader.u32()
    if (dimensions > 8) throw reader.refuse(`whose tensor ${JSON.stringify(name)} has ${dimensions} dimensions`)
    const shape = Array.from({ length: dimensions }, () => reader.u64())
    const type = reader.u32()
    const offset = reader.u64()
    const known = TENSOR_TYPES[type]
    if (known === undefined) throw reader.refuse(`whose tensor ${JSON.stringify(name)} is of an unknown type (${type})`)
    const [typeName, numbers, bytes] = known
    const elements = shape.reduce((product, side) => product * side, 1)
    const size = Math.ceil(elements / numbers) * bytes
    weights += size
    types[typeName] = (types[typeName] ?? 0) + size
    end = Math.max(end, offset + size)
    const matrix = shape.filter((side) => side > 1).length >= 2 && !/^token_embd/.test(name)
    if (matrix && NPU_BYTES[typeName] !== undefined) {
      npu += elements * NPU_BYTES[typeName]
      converted += size
    }
  }
  return { weights, npu, converted, types, end }
}

/**
 * Returns the numbers of a model's shape, as far as the metadata has them.
 *
 * @param {Gguf} gguf
 */
function shapeOfGguf({ metadata, architecture }) {
  /** @type {(name: string) => number | null} */
  const number = (name) => {
    const value = metadata.get(`${architecture}.${name}`)
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
    const numbers = /** @type {{ numbers?: number[] | null } | undefined} */ (value)?.numbers
    // A list has one number for each layer.
    return numbers && numbers.length > 0 ? numbers.reduce((a, b) => a + b, 0) / numbers.length : null
  }
  const tokens = /** @type {{ length?: number } | undefined} */ (metadata.get('tokenizer.ggml.tokens'))?.length ?? null
  const [hiddenSize, heads] = [number('embedding_length'), number('attention.head_count')]
  return {
    layers: number('block_count'),
    hiddenSize,
    kvHeads: number('attention.head_count_kv') ?? heads,
    headDim: number('attention.key_length') ?? (hiddenSize !== null && heads ? Math.floor(hiddenSize / heads) : null),
    vocabSize: number('vocab_size') ?? tokens,
    /** Attention layers only, where others have a state of fixed size. */
    interval: number('full_attention_interval'),
    trainedContext: number('context_length'),
    parts: Number(metadata.get('split.count') ?? 1),
  }
}

module.exports = { readGguf, shapeOfGguf }
