'use strict'

// The iterator of a run's results. It takes them from the native ring in batches, and waits for the next one without
// a function on the runtime's thread.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')

/** Numbers of a result (`src/node/sinks.rs`): the first row has the count, and whether the run pauses. */
const COLUMNS = 10
const [STATE, TOKEN, ROWS, UNITS, HAS_PERF, PERF] = [0, 1, 2, 3, 4, 5]
/** Results of a batch. */
const BATCH = 64

/** Names of `LLMCallState`. */
const STATES = /** @type {const} */ (['normal', 'waiting', 'finish', 'error'])

/**
 * @typedef {import('../types/inference.js').RKLLMResult} RKLLMResult
 * @typedef {object} Reader
 * @property {AbortSignal} [signal]
 * @property {() => void} [resume]
 * @property {(atEnd: boolean) => void} end
 * @property {() => void} rowsRead lets the next rows overwrite those of the last result
 * @property {object} session
 */

class Results {
  #sink
  /** @type {Reader | undefined} Undefined at the end. */
  #reader
  #numbers = new Float64Array(COLUMNS * (BATCH + 1))
  /** @type {RKLLMResult[]} The batch, and the place in it. */
  #batch = []
  #at = 0
  #paused = false
  /** @type {Promise<unknown>} Calls of `next` run one after the other. */
  #last = Promise.resolve()
  #calls = 0
  /** @type {{ reason: unknown } | undefined} The failure after the batch, told once. */
  #failure
  /** @type {(() => void) | undefined} Lets go of the rows that came with the end of the run. */
  #rowsRead

  /**
   * @param {number} sink
   * @param {Reader} reader
   */
  constructor(sink, reader) {
    this.#sink = sink
    this.#reader = reader
    reader.signal?.addEventListener('abort', this.#aborted, { once: true })
  }

  #aborted = () => {
    this.#failure = { reason: this.#reader?.signal?.reason }
    this.#end(false)
  }

  [Symbol.asyncIterator]() {
    return this
  }

  /** @returns {Promise<IteratorResult<RKLLMResult, undefined>>} */
  next() {
    if (this.#calls === 0 && this.#at < this.#batch.length) {
      return Promise.resolve({ value: this.#batch[this.#at++], done: false })
    }
    this.#calls++
    const next = this.#last.then(() => this.#next()).finally(() => this.#calls--)
    this.#last = next.catch(() => {})
    return next
  }

  /** @returns {Promise<IteratorResult<RKLLMResult, undefined>>} */
  async return() {
    this.#leave()
    return { value: undefined, done: true }
  }

  async [Symbol.asyncDispose]() {
    this.#leave()
  }

  #leave() {
    this.#end(false)
    this.#letRowsGo()
  }

  #letRowsGo() {
    this.#rowsRead?.()
    this.#rowsRead = undefined
  }

  /** @returns {Promise<IteratorResult<RKLLMResult, undefined>>} */
  async #next() {
    for (;;) {
      if (this.#at < this.#batch.length) return { value: this.#batch[this.#at++], done: false }
      if (this.#failure !== undefined) {
        const { reason } = this.#failure
        this.#failure = undefined
        throw reason
      }
      const reader = this.#reader
      if (reader === undefined) {
        this.#letRowsGo()
        return { value: undefined, done: true }
      }
      const taken = this.#takeOrEnd()
      if (this.#paused) {
        this.#paused = false
        try {
          reader.resume?.()
        } catch (error) {
          this.#end(false)
          throw error
        }
      }
      // The event loop stays alive while this promise is open.
      if (!taken) await native.sinkWait(this.#sink).promise
    }
  }

  #takeOrEnd() {
    try {
      return this.#take()
    } catch (error) {
      this.#end(true)
      throw error
    }
  }

  /** Takes a batch. Returns whether there was one. */
  #take() {
    const numbers = this.#numbers
    const text = native.sinkTake(this.#sink, numbers)
    this.#paused = numbers[1] === 1
    if (typeof text !== 'string') return false
    const count = numbers[0]
    /** @type {RKLLMResult[]} */
    const batch = []
    let [begin, row] = [0, COLUMNS]
    for (let at = 0; at < count; at++, row += COLUMNS) {
      const end = begin + numbers[row + UNITS]
      const state = STATES[numbers[row + STATE]]
      if (state === 'error') {
        const hint = 'read its log: explainAll() knows many of its lines'
        const reason = memoryError('ERR_DEVICE_IO', 'the RKLLM runtime ended the run with an error', { hint })
        this.#failure = { reason }
        this.#reader?.rowsRead()
        this.#end(true)
        break
      }
      batch.push({
        state,
        text: text.slice(begin, end),
        tokenId: numbers[row + TOKEN],
        rows: numbers[row + ROWS],
        perf: numbers[row + HAS_PERF] === 0 ? null : perfOf(numbers, row + PERF),
      })
      begin = end
      if (state === 'finish') {
        if (numbers[row + ROWS] > 0) this.#rowsRead = this.#reader?.rowsRead
        this.#end(true)
      }
    }
    this.#batch = batch
    this.#at = 0
    return true
  }

  /**
   * @param {boolean} atEnd whether the run was read up to its end
   */
  #end(atEnd) {
    const reader = this.#reader
    if (reader === undefined) return
    this.#reader = undefined
    reader.signal?.removeEventListener('abort', this.#aborted)
    if (!atEnd) this.#batch = []
    reader.end(atEnd)
  }
}

/** @type {(numbers: Float64Array, at: number) => NonNullable<RKLLMResult['perf']>} */
const perfOf = (numbers, at) => ({
  prefillMs: numbers[at],
  prefillTokens: numbers[at + 1],
  generateMs: numbers[at + 2],
  generateTokens: numbers[at + 3],
  peakResidentMB: numbers[at + 4],
})

/** @type {(sink: number, reader: Reader) => Results} */
const results = (sink, reader) => new Results(sink, reader)

module.exports = { results }
