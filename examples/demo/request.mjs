/**
 * One request and its buffers.
 *
 *   token ids    system memory, int32, prompt and answer
 *   embeddings   NPU memory, float32, one chunk of the prompt at a time
 *   logits       NPU memory, float32, rewritten for every token
 *   KV cache     NPU memory, a list of blocks that grows while the request decodes
 *
 * A later step checks the bytes of an earlier one, after the other requests of the batch have written theirs. So the
 * check finds memory that two buffers share by mistake.
 */

import * as model from './model.mjs'
import { fillFloats, fillWords, seedOf, wrongInFloats, wrongInWords } from './pattern.mjs'

/** Parts of a request, each with its own pattern; KV blocks are numbered from KV_PART on. */
const TOKENS_PART = 0
const EMBEDDINGS_PART = 1
const LOGITS_PART = 2
const KV_PART = 3

const LOGITS_STRIDE = Math.floor(model.VOCABULARY / model.LOGITS_CHECKED)

export class Request {
  wrongBytes = 0
  #job
  #manager
  #meter
  #tokenIds
  #embeddings
  #embeddedRows = 0
  #logits
  #logitsToken = -1
  #kvBlocks = []
  #prefilled = 0
  #decoded = 0

  constructor(job, manager, meter) {
    this.#job = job
    this.#manager = manager
    this.#meter = meter
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
    new Uint8Array(this.#kvBlocks[0])[0] ^= 1
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
    this.#manager.syncToDevice(this.#embeddings, 0, rows * model.EMBEDDING_ROW_BYTES)
  }

  #checkEmbeddings() {
    const floats = new Float32Array(this.#embeddings)
    for (let row = 0; row < this.#embeddedRows; row += model.EMBEDDING_ROW_STEP) {
      const seed = this.#seed(EMBEDDINGS_PART) + row
      this.wrongBytes += wrongInFloats(floats, row * model.EMBEDDING_FLOATS, model.EMBEDDING_FLOATS, seed)
    }
  }

  /** Writes the logits in place of the NPU. */
  #writeLogits(token) {
    const seed = this.#seed(LOGITS_PART) + token
    fillFloats(new Float32Array(this.#logits), 0, model.LOGITS_CHECKED, seed, LOGITS_STRIDE)
    this.#logitsToken = token
  }

  #checkLogits() {
    if (this.#logitsToken < 0) return
    const seed = this.#seed(LOGITS_PART) + this.#logitsToken
    this.#manager.syncFromDevice(this.#logits)
    this.wrongBytes += wrongInFloats(new Float32Array(this.#logits), 0, model.LOGITS_CHECKED, seed, LOGITS_STRIDE)
  }

  /** Writes the keys of the tokens [from, to), and allocates new blocks as needed. */
  #growKvCache(from, to) {
    for (const { block, first, last } of blocksOf(from, to)) {
      if (block === this.#kvBlocks.length) this.#kvBlocks.push(this.#meter.npu(model.KV_BLOCK_BYTES, 'kv-cache'))
      const buffer = this.#kvBlocks[block]
      const { words, byteOffset } = checkedPlane(buffer, block)
      fillWords(words, first * WORDS_PER_ROW, last * WORDS_PER_ROW, this.#seed(KV_PART + block))
      const start = byteOffset + first * model.KV_ROW_BYTES
      this.#manager.syncToDevice(buffer, start, (last - first) * model.KV_ROW_BYTES)
    }
  }

  #checkKvCache(tokens) {
    for (const { block, last } of blocksOf(0, tokens)) {
      const buffer = this.#kvBlocks[block]
      this.#manager.syncFromDevice(buffer)
      const { words } = checkedPlane(buffer, block)
      this.wrongBytes += wrongInWords(words, 0, last * WORDS_PER_ROW, this.#seed(KV_PART + block))
    }
  }
}

const WORDS_PER_ROW = model.KV_ROW_BYTES / 4

/** Returns the checked plane of a KV block: another one in each block, so that every offset is covered. */
function checkedPlane(buffer, block) {
  const byteOffset = (block % model.KV_PLANES) * model.KV_PLANE_BYTES
  return { words: new Int32Array(buffer, byteOffset, model.KV_PLANE_BYTES / 4), byteOffset }
}

/** Yields the blocks of tokens [from, to), with their rows. */
function* blocksOf(from, to) {
  for (let token = from; token < to; ) {
    const block = Math.floor(token / model.BLOCK_TOKENS)
    const end = Math.min(to, (block + 1) * model.BLOCK_TOKENS)
    yield { block, first: token - block * model.BLOCK_TOKENS, last: end - block * model.BLOCK_TOKENS }
    token = end
  }
}
