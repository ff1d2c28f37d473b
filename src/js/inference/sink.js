'use strict'

// The native callbacks of one session: the runtime calls them on its own thread, and `results` reads what they store.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { check, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { results } = require('./results.js')
const { libraryPath } = require('./runtime-version.js')

/** The default bytes of the ring: about a thousand tokens. */
const RING_BYTES = 64 * 1024
/** Bounds of the ring: a result with its end fits, and the native part allocates all of it at once. */
const [MIN_RING_BYTES, MAX_RING_BYTES] = [1024, 2 ** 30]

/** The runtime counts tokens and columns in int. */
const MAX_INT = 2 ** 31 - 1

/** @type {import('../core/options.js').Validator<bigint>} Validates an address that the user supplies. */
const address = (name, value) => {
  if (typeof value !== 'bigint') throw invalid(`${name} must be a bigint, not ${formatValue(value)}`)
  if (value < 0n || value >= 2n ** 64n) throw outOfRange(`${name} must be an address of 64 bits, not ${value}`)
  return value
}

const embeddingTableSchema = {
  path: libraryPath,
  dtype: kinds.oneOf('float16', 'float32'),
  width: kinds.integer(1, MAX_INT),
  rows: kinds.integer(1, MAX_INT),
  offset: kinds.integer(0),
}

const callbacksOptions = {
  ringBytes: kinds.integer(MIN_RING_BYTES, MAX_RING_BYTES),
  tokenizer: address,
  tokenizerUserdata: address,
  embeddingTable: kinds.nested(embeddingTableSchema),
}

/** Options of callbacks that came with header 1.3. */
const SINCE_13 = /** @type {const} */ ([
  ['tokenizer', 'tokenizer callback'],
  ['tokenizerUserdata', 'tokenizer callback'],
  ['embeddingTable', 'embedding callback'],
])

/** @type {(value: unknown) => value is () => void} */
const isFunction = (value) => typeof value === 'function'

const resultsOptions = {
  signal: kinds.signal,
  /** @type {import('../core/options.js').Validator<() => void>} */
  resume: (name, value) => {
    if (!isFunction(value)) throw invalid(`${name} must be a function, not ${formatValue(value)}`)
    return value
  },
}

/** Headers whose result callback has an answer. */
const ANSWERING = new Set(['1.2', '1.3'])

/** Ends the sinks of sessions that were dropped without `dispose`. */
const dropped = new FinalizationRegistry((/** @type {number} */ sink) => native.closeSink(sink, false))

/**
 * @typedef {{ address: bigint, width: number, rows: number }} RowsTarget
 * @typedef {{ hiddenStates?: RowsTarget, logits?: RowsTarget }} Targets
 */

/**
 * Returns the native request of a table of embeddings.
 *
 * @param {import('../core/options.js').Checked<typeof embeddingTableSchema>} table
 * @param {number | undefined} hiddenSize that of the spec
 */
function embeddingsOf(table, hiddenSize) {
  const what = 'callbacks: embeddingTable'
  const { path, dtype, width = hiddenSize, rows, offset = 0 } = table
  if (path === undefined || dtype === undefined) throw invalid(`${what} needs "path" and "dtype"`)
  if (width === undefined) throw invalid(`${what} needs "width", or hiddenSize in the spec of the session`)
  if (hiddenSize !== undefined && width !== hiddenSize) {
    throw outOfRange(`${what}.width is ${width}, and the hiddenSize of the session is ${hiddenSize}`)
  }
  return { path, half: dtype === 'float16', width, rows, offset }
}

class Sink {
  #sink
  #header
  #addresses
  #reading = false
  /** @type {object | undefined} The last reader, whose rows the arrays may hold. */
  #reader

  /**
   * @param {object} session
   * @param {{ header: string, hiddenSize?: number }} spec
   * @param {unknown} options
   * @param {Targets} targets
   * @param {ArrayBuffer[]} buffers the session's memory
   */
  constructor(session, { header, hiddenSize }, options, targets, buffers) {
    const checked = check('callbacks', options, callbacksOptions)
    const { ringBytes: ring = RING_BYTES, embeddingTable, ...tokenizer } = checked
    const later = header === '1.3' ? undefined : SINCE_13.find(([option]) => checked[option] !== undefined)
    if (later !== undefined) {
      throw memoryError('ERR_UNSUPPORTED', `callbacks: rkllm.h ${header} has no ${later[1]}`, {
        hint: 'it came with 1.3',
      })
    }
    const embeddings = embeddingTable && embeddingsOf(embeddingTable, hiddenSize)
    const request = { header, ring, ...targets, ...tokenizer, embeddings }
    const { sink, result, userdata, struct } = native.openSink(request, buffers)
    this.#sink = sink
    this.#header = header
    this.#addresses = Object.freeze({ result, userdata, struct: struct ?? null })
    dropped.register(session, sink, this)
  }

  get addresses() {
    return this.#addresses
  }

  /**
   * Ends the sink, and from then on no callback writes to the session's memory. Throws, and ends nothing, while the
   * runtime uses that memory, as far as it is known.
   */
  closeIfIdle() {
    if (!native.closeSinkIfIdle(this.#sink)) {
      throw memoryError('ERR_BUFFER_BUSY', 'the runtime uses these buffers: nothing was freed', {
        hint:
          'abort the run and read results() to its end; ' +
          'or call releaseCallbacks(), after rkllm_destroy or if no run was started',
      })
    }
    dropped.unregister(this)
  }

  /** Calls of the callbacks, and what became of them. For tests. */
  get counters() {
    const [calls, late, dropped, waits, wakes] = native.sinkStats(this.#sink)
    return { calls, late, dropped, waits, wakes }
  }

  /** @param {Targets} targets */
  setTargets({ hiddenStates, logits }) {
    native.sinkSetTargets(this.#sink, hiddenStates, logits)
  }

  /**
   * @param {object} session kept alive while the results are read
   * @param {unknown} options
   */
  results(session, options) {
    const { signal, resume } = check('results', options, resultsOptions)
    if (resume !== undefined && !ANSWERING.has(this.#header)) {
      throw memoryError('ERR_UNSUPPORTED', `results: a run of rkllm.h ${this.#header} cannot pause`, {
        hint: 'leave "resume" out: the run waits while the ring is full',
      })
    }
    if (this.#reading) {
      throw memoryError('ERR_BUFFER_BUSY', 'the results of these buffers are being read', {
        hint: 'read them to their end, or call return() of the first iterator',
      })
    }
    signal?.throwIfAborted()
    native.sinkAttach(this.#sink, resume !== undefined)
    this.#reading = true
    const end = (/** @type {boolean} */ atEnd) => {
      this.#reading = false
      native.sinkDetach(this.#sink, atEnd)
    }
    const rowsRead = () => {
      if (this.#reader === reader) native.sinkRowsRead(this.#sink)
    }
    const reader = { signal, resume, end, rowsRead, session }
    this.#reader = reader
    return results(this.#sink, reader)
  }

  /**
   * Ends the sink. The pool is gone, or the runtime has let go of the memory.
   *
   * @param {boolean} released whether the runtime has let go
   */
  close(released) {
    dropped.unregister(this)
    native.closeSink(this.#sink, released)
  }
}

module.exports = { Sink }
