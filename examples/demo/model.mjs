/**
 * The shape of Qwen2-0.5B, a model in use on the RK3588.
 *
 * Buffers have their true sizes. The demo writes and checks only a part of each, so that the run measures memory
 * management and not the speed of JavaScript: one plane of every KV block, every 32nd embedding row, 64 logits a token.
 */

const FLOAT32 = 4
const FLOAT16 = 2

const layers = 24
const hiddenSize = 896
const kvHeads = 2
const headDim = 64

/** Tokens whose keys and values share one KV block. */
export const BLOCK_TOKENS = 128
/** Bytes of the keys of one token in one layer; its values take as much. */
export const KV_ROW_BYTES = kvHeads * headDim * FLOAT16
/**
 * A block is a sequence of planes, each with the keys or the values of one layer. The rows of a plane are contiguous.
 */
export const KV_PLANE_BYTES = KV_ROW_BYTES * BLOCK_TOKENS
export const KV_PLANES = 2 * layers
export const KV_BLOCK_BYTES = KV_PLANE_BYTES * KV_PLANES

/** Prompt tokens that the NPU processes at once. */
export const CHUNK_TOKENS = 512
export const EMBEDDING_FLOATS = hiddenSize
export const EMBEDDING_ROW_BYTES = hiddenSize * FLOAT32
export const EMBEDDING_ROW_STEP = 32

export const VOCABULARY = 151_936
export const LOGITS_BYTES = VOCABULARY * FLOAT32
export const LOGITS_CHECKED = 64

export const TOKEN_ID_BYTES = 4

/** Requests that decode together. */
export const BATCH = 8

/** Round figures for such a model on that chip. They set the pace of the virtual clock only. */
export const PREFILL_SECONDS_PER_TOKEN = 1 / 1000
export const DECODE_SECONDS_PER_STEP = 0.03
