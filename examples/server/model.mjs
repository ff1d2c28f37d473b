/** One loaded model: its session, and one run at a time. */

import { clearTimeout, setTimeout } from 'node:timers'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'

import { ApiError } from './errors.mjs'
import { loadRuntime } from './runtime.mjs'

/** Room for a prompt: bytes for each token of the context. */
const BYTES_PER_TOKEN = 8

/** Headers with sampling and a length for each run; earlier ones have them at the load only. */
const SAMPLES_BY_RUN = new Set(['1.3'])

export class Model {
  #session
  #runtime
  #stallMs
  /** Whether a run hangs in the runtime. Only the end of the process ends it. */
  stuck = false

  /**
   * @param {import('../../index.js').MemoryManager} memory
   * @param {{ id: string, file: string, library: string, context: number, hidden?: number, param?: object,
   * stallMs: number }} options
   */
  static async load(memory, { id, file, library, context, hidden, param, stallMs }) {
    const rows = hidden === undefined ? {} : { hiddenSize: hidden, hiddenStates: true, embeddings: false }
    const promptBytes = context * BYTES_PER_TOKEN
    const spec = { library, contextLength: context, promptBytes, tag: id, name: id, ...rows }
    const session = memory.createInferenceBuffers(spec)
    let runtime
    try {
      runtime = await loadRuntime(library, session.header, memory)
      const status = runtime.init(session, session.param({ model: file, async: true, ...param }))
      if (status !== 0) throw new Error(`rkllm_init of ${file} returned ${status}: its log on stderr says why`)
      if (runtime.useRawPrompts() !== 0) throw new Error('rkllm_set_chat_template refused an empty template')
    } catch (error) {
      runtime?.destroy()
      session.dispose()
      throw error
    }
    return new Model(id, session, runtime, { context, hidden, stallMs })
  }

  constructor(id, session, runtime, { context, hidden, stallMs }) {
    Object.assign(this, { id, context, hidden, created: Math.floor(Date.now() / 1000) })
    this.#session = session
    this.#runtime = runtime
    this.#stallMs = stallMs
  }

  get ffi() {
    return this.#runtime.ffi
  }

  get header() {
    return this.#session.header
  }

  get samplesByRun() {
    return SAMPLES_BY_RUN.has(this.header)
  }

  /** Bytes of the longest prompt. */
  get maxPromptBytes() {
    return this.context * BYTES_PER_TOKEN - 1
  }

  /** The rows of the last result, in order, up to the next result. */
  rowsOf({ rows }) {
    return this.#session.hiddenStates.subarray(0, rows * this.hidden)
  }

  /**
   * Runs one request, and calls `onResult` with each result; false from it ends the run. Returns once the runtime is
   * idle: then the next request may be written.
   *
   * @param {{ prompt: string | number[], mode?: 'generate' | 'hiddenStates', sampling?: object, maxNewTokens?: number,
   * signal: AbortSignal }} request
   * @param {(result: import('../../index.js').RKLLMResult) => boolean | void} onResult
   */
  async run({ prompt, mode, sampling, maxNewTokens, signal }, onResult) {
    signal.throwIfAborted()
    const session = this.#session
    const own = this.samplesByRun ? { sampling, maxNewTokens } : {}
    const infer = session.inferParam({ mode, ...own })
    const input = typeof prompt === 'string' ? session.promptInput(prompt) : this.#tokenInput(prompt)
    const stop = new AbortController()
    const aborted = () => stop.abort(signal.reason)
    signal.addEventListener('abort', aborted, { once: true })
    const watch = setTimeout(() => stop.abort(stalled(this.#stallMs)), this.#stallMs)
    const results = session.results({ signal: stop.signal })
    let finished = false
    try {
      if (this.#runtime.run(session, input, infer) !== 0) {
        throw new ApiError(500, 'server_error', 'rkllm_run_async refused the request: the log on stderr may say why')
      }
      for await (const result of results) {
        watch.refresh()
        if (onResult(result) === false) break
        finished = result.state === 'finish'
      }
    } finally {
      clearTimeout(watch)
      signal.removeEventListener('abort', aborted)
      await results.return()
      await this.#end(finished)
    }
  }

  #tokenInput(ids) {
    this.#session.tokens.set(ids)
    return this.#session.tokenInput(ids.length)
  }

  /** Waits until the runtime is idle; ends a run before its end. */
  async #end(finished) {
    if (!finished) this.#runtime.abort()
    for (let turns = 0; turns < 100 && this.#runtime.isRunning(); turns++) await turn()
    for (let waited = 0; this.#runtime.isRunning(); waited += 2) {
      if (waited > this.#stallMs) {
        this.stuck = true
        throw stalled(this.#stallMs)
      }
      await sleep(2)
    }
    // An aborted run may end without a last callback. With new callbacks, one that comes late finds nothing.
    if (!finished) this.#session.releaseCallbacks()
  }

  /** Ends the model: first the runtime, then the memory that it reads and writes. */
  destroy() {
    this.#runtime.destroy()
    this.#session.releaseCallbacks()
    this.#session.dispose()
  }
}

const stalled = (ms) => new ApiError(504, 'timeout', `the runtime gave no result for ${ms / 1000} s`)
