/**
 * One request and its buffers.
 *
 *   token ids    system memory, int32, prompt and answer
 *   embeddings   NPU memory, float32, one chunk of the prompt at a time
 *   logits       NPU memory, float32, rewritten for every token
 *   KV cache     NPU memory, a list of blocks that grows while the request decodes
 *
 * The CPU writes the embeddings, and the NPU reads them. The NPU writes the logits and the KV cache, and the CPU reads
 * them. The caches of the simulated board are not coherent, as on the real ones: a missing sync shows up as wrong
 * bytes.
 *
 * A later step checks the bytes of an earlier one, after the other requests of the batch have written theirs. So the
 * check finds memory that two buffers share by mistake.
 */

import * as model from './model.mjs'
import { fillFloats, fillWords, seedOf, wrongInFloats, wrongInWords } from './pattern.mjs'

/** The buffers that a request syncs; `--forget-sync` names one. */
export const SYNCED = ['embeddings', 'logits', 'kv-cache']

/** Parts of a request, each with its own pattern; KV blocks are numbered from KV_PART on. */
const TOKENS_PART = 0
const EMBEDDINGS_PART = 1
const LOGITS_PART = 2
const KV_PART = 3

/** The checked logits are runs of a few, spread over the buffer. */
const LOGITS_RUN = 16
const LOGITS_RUNS = model.LOGITS_CHECKED / LOGITS_RUN
const LOGITS_STRIDE = Math.floor(model.VOCABULARY / LOGITS_RUNS / LOGITS_RUN) * LOGITS_RUN

export class Request {
  wrongBytes = 0
  #job
  #manager
  #npu
  #meter
  #forgetSync
  #tokenIds
  #embeddings
  #embeddedRows = 0
  #logits
  #logitsToken = -1
  #kvBlocks = []
  #prefilled = 0
  #decoded = 0

  /** `forgetSync` names a buffer that is never synced, which `--forget-sync` sets for one request. */
  constructor(job, { manager, npu, meter, forgetSync = null }) {
    this.#job = job
    this.#manager = manager
    this.#npu = npu
    this.#meter = meter
    this.#forgetSync = forgetSync
    const rows = Math.min(job.context, model.CHUNK_TOKENS)
    this.#tokenIds = meter.system((job.context + job.generated) * model.TOKEN_ID_BYTES, 'token-ids')
    this.#embeddings = meter.npu(rows * model.EMBEDDING_ROW_BYTES, 'embeddings')
    this.#logits = meter.npu(model.LOGITS_BYTES, 'logits')
    fillWords(new Int32Array(this.#tokenIds), 0, job.context, this.#seed(TOKENS_PART))
  }

  get done() {
    return this.#prefilled === this.#job.context && this.#decoded === this.#job.generated
  }

  get prefilling() {
    return this.#prefilled < this.#job.context
  }

  /** Processes one chunk of the prompt, or one token of the answer. Returns the number of tokens. */
  step() {
    return this.prefilling ? this.#prefill() : this.#decode()
  }

  #prefill() {
    const count = Math.min(model.CHUNK_TOKENS, this.#job.context - this.#prefilled)
    this.#checkEmbeddings()
    this.#embed(count)
    this.#growKvCache(this.#prefilled, this.#prefilled + count)
    this.#prefilled += count
    return count
  }

  #decode() {
    const position = this.#job.context + this.#decoded
    this.#checkEmbeddings()
    this.#embed(1)
    this.#growKvCache(position, position + 1)
    this.#checkLogits()
    this.#writeLogits(position)
    fillWords(new Int32Array(this.#tokenIds), position, position + 1, this.#seed(TOKENS_PART))
    this.#decoded++
    return 1
  }

  /** Flips one bit of one byte that will be checked. `--corrupt` calls it to prove that checking works. */
  corruptOneByte() {
    const [byte] = this.#npu.read(this.#kvBlocks[0], 0, 1)
    this.#npu.write(this.#kvBlocks[0], Uint8Array.of(byte ^ 1))
  }

  /** Checks all buffers once more and frees them. `--lose` sets `keepOne`. */
  finish({ keepOne = false } = {}) {
    const tokens = this.#job.context + this.#job.generated
    this.wrongBytes += wrongInWords(new Int32Array(this.#tokenIds), 0, tokens, this.#seed(TOKENS_PART))
    this.#checkEmbeddings()
    this.#checkLogits()
    this.#checkKvCache(tokens)

    const buffers = [this.#tokenIds, this.#embeddings, this.#logits, ...this.#kvBlocks]
    for (const buffer of keepOne ? buffers.slice(1) : buffers) this.#meter.free(buffer)
    this.#kvBlocks = []
  }

  #seed(part) {
    return seedOf(this.#job.id, part)
  }

  #embed(rows) {
    const floats = new Float32Array(this.#embeddings)
    for (let row = 0; row < rows; row += model.EMBEDDING_ROW_STEP) {
      fillFloats(floats, row * model.EMBEDDING_FLOATS, model.EMBEDDING_FLOATS, this.#seed(EMBEDDINGS_PART) + row)
    }
    this.#embeddedRows = rows
    const bytes = rows * model.EMBEDDING_ROW_BYTES
    if (this.#forgetSync !== 'embeddings') this.#manager.syncToDevice(this.#embeddings, 0, bytes)
  }

  /** Checks what the NPU reads. */
  #checkEmbeddings() {
    for (let row = 0; row < this.#embeddedRows; row += model.EMBEDDING_ROW_STEP) {
      const bytes = this.#npu.read(this.#embeddings, row * model.EMBEDDING_ROW_BYTES, model.EMBEDDING_ROW_BYTES)
      const seed = this.#seed(EMBEDDINGS_PART) + row
      this.wrongBytes += wrongInFloats(new Float32Array(bytes.buffer), 0, model.EMBEDDING_FLOATS, seed)
    }
  }

  /** The NPU writes the logits. */
  #writeLogits(token) {
    const floats = new Float32Array(LOGITS_RUN)
    for (let run = 0; run < LOGITS_RUNS; run++) {
      fillFloats(floats, 0, LOGITS_RUN, this.#seed(LOGITS_PART) + token + run)
      this.#npu.write(this.#logits, floats, run * LOGITS_STRIDE * floats.BYTES_PER_ELEMENT)
    }
    this.#logitsToken = token
  }

  #checkLogits() {
    if (this.#logitsToken < 0) return
    const floats = new Float32Array(this.#logits)
    for (let run = 0; run < LOGITS_RUNS; run++) {
      const [start, bytes] = [run * LOGITS_STRIDE, LOGITS_RUN * floats.BYTES_PER_ELEMENT]
      if (this.#forgetSync !== 'logits')
        this.#manager.syncFromDevice(this.#logits, start * floats.BYTES_PER_ELEMENT, bytes)
      const seed = this.#seed(LOGITS_PART) + this.#logitsToken + run
      this.wrongBytes += wrongInFloats(floats, start, LOGITS_RUN, seed)
    }
  }

  /** The NPU writes the keys of the tokens [from, to). Allocates new blocks as needed. */
  #growKvCache(from, to) {
    for (const { block, first, last } of blocksOf(from, to)) {
      if (block === this.#kvBlocks.length) this.#kvBlocks.push(this.#meter.npu(model.KV_BLOCK_BYTES, 'kv-cache'))
      const plane = new Int32Array(last * WORDS_PER_ROW)
      const start = first * WORDS_PER_ROW
      fillWords(plane, start, plane.length, this.#seed(KV_PART + block))
      const rows = plane.subarray(start)
      this.#npu.write(this.#kvBlocks[block], rows, planeOffset(block) + first * model.KV_ROW_BYTES)
    }
  }

  #checkKvCache(tokens) {
    for (const { block, last } of blocksOf(0, tokens)) {
      const buffer = this.#kvBlocks[block]
      const offset = planeOffset(block)
      if (this.#forgetSync !== 'kv-cache') this.#manager.syncFromDevice(buffer, offset, model.KV_PLANE_BYTES)
      const words = new Int32Array(buffer, offset, model.KV_PLANE_BYTES / 4)
      this.wrongBytes += wrongInWords(words, 0, last * WORDS_PER_ROW, this.#seed(KV_PART + block))
    }
  }
}

const WORDS_PER_ROW = model.KV_ROW_BYTES / 4

/** Returns the offset of a KV block's checked plane: another one in each block, so that every offset is covered. */
const planeOffset = (block) => (block % model.KV_PLANES) * model.KV_PLANE_BYTES

/** Yields the blocks of tokens [from, to), with their rows. */
function* blocksOf(from, to) {
  for (let token = from; token < to; ) {
    const block = Math.floor(token / model.BLOCK_TOKENS)
    const end = Math.min(to, (block + 1) * model.BLOCK_TOKENS)
    yield { block, first: token - block * model.BLOCK_TOKENS, last: end - block * model.BLOCK_TOKENS }
    token = end
  }
}
