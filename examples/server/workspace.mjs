/**
 * The memory of one request, under its tenant's tag: the prompt while it waits, then the reply until the client has it.
 * A run writes the reply at the speed of the NPU and a client reads it at its own: a slow client costs its tenant
 * memory, and no other tenant time.
 */

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** Room for the text of a reply: bytes for each token. */
const BYTES_PER_TOKEN = 16

export class Workspace {
  #memory
  #buffer
  #prompt
  #reply
  #written = 0
  #read = 0
  #ended = false
  #failure
  #wake = () => {}

  /**
   * Takes memory for a prompt, and for a reply of `maxTokens` tokens or `floats` numbers.
   *
   * @param {import('../../index.js').MemoryManager} memory
   * @param {{ kind: 'npu' | 'system', tag: string, prompts: (string | number[])[], maxTokens?: number,
   * floats?: number, signal: AbortSignal }} request
   */
  static async take(memory, { kind, tag, prompts, maxTokens = 0, floats = 0, signal }) {
    const bytesOf = (prompt) => (typeof prompt === 'string' ? encoder.encode(prompt) : Int32Array.from(prompt))
    const bytes = prompts.map(bytesOf)
    const size = bytes.reduce((sum, { byteLength }) => sum + byteLength, 0)
    const begin = Math.ceil(size / 4) * 4
    const total = begin + maxTokens * BYTES_PER_TOKEN + 4 * floats
    // A driver may block for seconds; system memory takes microseconds.
    const buffer =
      kind === 'npu'
        ? await memory.allocateNPUMemoryAsync(total, { tag, signal })
        : memory.allocateSystemMemory(total, { tag })
    return new Workspace(memory, buffer, bytes, begin)
  }

  constructor(memory, buffer, prompts, begin) {
    this.#memory = memory
    this.#buffer = buffer
    this.#reply = new Uint8Array(buffer, begin)
    const all = new Uint8Array(buffer)
    let at = 0
    this.#prompt = prompts.map((bytes) => {
      all.set(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), at)
      at += bytes.byteLength
      return { begin: at - bytes.byteLength, end: at, tokens: bytes instanceof Int32Array }
    })
  }

  get bytes() {
    return this.#buffer.byteLength
  }

  /** The prompt at `index`, as text or as tokens. */
  prompt(index) {
    const { begin, end, tokens } = this.#prompt[index]
    const bytes = this.#buffer.slice(begin, end)
    return tokens ? [...new Int32Array(bytes)] : decoder.decode(bytes)
  }

  /** The room for numbers. */
  get floats() {
    return new Float32Array(this.#buffer, this.#reply.byteOffset, Math.floor(this.#reply.byteLength / 4))
  }

  /** Appends text to the reply. Returns false where it does not fit. */
  append(text) {
    const { read, written } = encoder.encodeInto(text, this.#reply.subarray(this.#written))
    this.#written += written
    this.#wake()
    return read === text.length
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
