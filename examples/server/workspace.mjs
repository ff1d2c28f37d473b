/**
 * The memory of one request, under its tenant's tag: the prompts while it waits, then the reply until the client has
 * it. A run writes the reply at the speed of the NPU and a client reads it at its own: a slow client costs its tenant
 * memory, and no other tenant time.
 */

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export class Workspace {
  #memory
  #buffer
  #promptBytes
  #reply
  #written = 0
  #read = 0
  #ended = false
  #failure
  #wake = () => {}

  /**
   * Takes memory for prompts, and for a reply of `bytes`.
   *
   * @param {import('../../index.js').MemoryManager} memory
   * @param {{ kind: 'npu' | 'system', tag: string, prompts: (string | number[])[], bytes: number,
   * signal: AbortSignal }} request
   */
  static async take(memory, { kind, tag, prompts, bytes, signal }) {
    const text = encoder.encode(JSON.stringify(prompts))
    const begin = Math.ceil(text.length / 4) * 4
    // A driver may block for seconds; system memory takes microseconds.
    const buffer =
      kind === 'npu'
        ? await memory.allocateNPUMemoryAsync(begin + bytes, { tag, signal })
        : memory.allocateSystemMemory(begin + bytes, { tag })
    new Uint8Array(buffer).set(text)
    return new Workspace(memory, buffer, text.length, begin)
  }

  constructor(memory, buffer, promptBytes, begin) {
    this.#memory = memory
    this.#buffer = buffer
    this.#promptBytes = promptBytes
    this.#reply = new Uint8Array(buffer, begin)
  }

  get bytes() {
    return this.#buffer.byteLength
  }

  /** Bytes for the reply. */
  get room() {
    return this.#reply.length
  }

  prompts() {
    return JSON.parse(decoder.decode(this.#buffer.slice(0, this.#promptBytes)))
  }

  /** The room for numbers. */
  get floats() {
    return new Float32Array(this.#buffer, this.#reply.byteOffset, Math.floor(this.room / 4))
  }

  /** Appends text to the reply. */
  append(text) {
    this.#written += encoder.encodeInto(text, this.#reply.subarray(this.#written)).written
    this.#wake()
  }

  /** Ends the reply, with the error of a run that failed. */
  end(failure) {
    this.#ended = true
    this.#failure = failure
    this.#wake()
  }

  /** Returns all text that the client has not had, once there is any; undefined at the end. */
  async read() {
    while (this.#read === this.#written) {
      if (this.#failure !== undefined) throw this.#failure
      if (this.#ended) return undefined
      await new Promise((resolve) => (this.#wake = resolve))
    }
    const fresh = this.#reply.slice(this.#read, this.#written)
    this.#read = this.#written
    return decoder.decode(fresh)
  }

  /** Frees the memory. Idempotent. */
  free() {
    if (this.#buffer.byteLength > 0) this.#memory.deallocate(this.#buffer)
  }
}
