/** Inference buffers: the memory of one RKLLM or RKNN session. */

import type { MemoryKind, NPUAllocationOptions, SystemAllocationOptions } from './allocations.js'
import type { MemoryManager } from './manager.js'

/**
 * The version of rkllm.h that the runtime was built with: 1.1 (all of 1.1.x), 1.2.0, 1.2 (1.2.1 to 1.2.3), 1.3. What differs is where the
 * fields of RKLLMInput and RKLLMInferParam lie.
 */
export type RKLLMHeader = '1.1' | '1.2.0' | '1.2' | '1.3'

/** Element types of rknn_api.h. float16 and bfloat16 come as their bits (Uint16Array), bool as bytes (Uint8Array), int64 as BigInt64Array. */
export type RKNNDataType =
  | 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'bool'

export interface RKNNTensorSpec {
  /** Unique among the inputs, or the outputs. */
  name: string
  /** 1 to 16 dimensions, the slowest first. */
  shape: readonly number[]
  dtype: RKNNDataType
  /** Default 'nhwc' for four dimensions, 'undefined' for others. */
  format?: 'nchw' | 'nhwc' | 'undefined'
}

/** What a session needs. Sizes are counts of elements unless they say bytes; whatever is left out is not allocated. */
export interface InferenceSpec {
  /** Default 'npu'. The RKLLM runtime reads its inputs with the CPU: 'system' does for it. */
  kind?: MemoryKind
  /** Default '1.3'. */
  header?: RKLLMHeader
  /** The longest input, in tokens. Default: contextLength. */
  maxTokens?: number
  /** The model's, in tokens. */
  contextLength?: number
  /** Floats of one embedding. */
  hiddenSize?: number
  /** Floats of one row of logits. */
  vocabSize?: number
  /** Default: whether hiddenSize and maxTokens are known. */
  embeddings?: boolean
  /** Room for a prompt, in bytes of UTF-8 with its end. Default: 8 for each token, at least 4096; 0 for RKNN alone. */
  promptBytes?: number
  /** Tokens of one image; floats of one of them (default: hiddenSize); images at once (default 1); pixels, for multimodalInput. */
  image?: { tokens: number; hiddenSize?: number; count?: number; width?: number; height?: number }
  /** `heads` are those of keys and values. From header 1.2. */
  crossAttention?: { layers: number; heads: number; headDim: number; tokens: number }
  /** Default: one row where vocabSize is known. Needs vocabSize. */
  logits?: boolean | { tokens: number }
  /** `true`: a row for each of maxTokens. Default false. Needs hiddenSize. */
  hiddenStates?: boolean | { tokens: number }
  rknnInputs?: ReadonlyArray<RKNNTensorSpec & { /** Default false. */ passThrough?: boolean }>
  rknnOutputs?: ReadonlyArray<RKNNTensorSpec>
  /** Two sets of everything: one is filled while the other is read. Default false. */
  doubleBuffered?: boolean
  /** The pool's. Default: 'inference ' and a number. */
  name?: string
  tag?: string
  /** How the pool's memory is made. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/** An array of an RKNN tensor, by its {@link RKNNDataType}. */
export type RKNNArray =
  | Float32Array | Uint16Array | Int8Array | Uint8Array | Int16Array | Int32Array | Uint32Array | BigInt64Array

/** Plain addresses (CPU, for FFI) of arrays and structs; null for what the spec did not ask for. */
export interface InferenceAddresses {
  readonly tokens: bigint | null
  readonly embeddings: bigint | null
  readonly imageEmbeddings: bigint | null
  readonly encoderKeys: bigint | null
  readonly encoderValues: bigint | null
  readonly encoderMask: bigint | null
  readonly encoderPositions: bigint | null
  readonly logits: bigint | null
  readonly hiddenStates: bigint | null
  readonly inputs: Readonly<Record<string, bigint>>
  readonly outputs: Readonly<Record<string, bigint>>
  /** RKLLMInput, as the last of promptInput, tokenInput, embedInput and multimodalInput wrote it. */
  readonly rkllmInput: bigint
  /** The RKLLMEmbedInput, RKLLMTokenInput or RKLLMMultiModalInput inside of it. */
  readonly rkllmInputUnion: bigint
  readonly rkllmInferParam: bigint
  readonly rkllmCrossAttnParam: bigint | null
  /** rknn_input[], rknn_output[]: filled from the start. */
  readonly rknnInputs: bigint | null
  readonly rknnOutputs: bigint | null
}

/** The arrays of one set; null for what the spec did not ask for. Each begins at a cache line (64 bytes). */
export interface InferenceArrays {
  /** [maxTokens] */
  readonly tokens: Int32Array | null
  /** [maxTokens, hiddenSize] */
  readonly embeddings: Float32Array | null
  /** [count, tokens, hiddenSize] */
  readonly imageEmbeddings: Float32Array | null
  /** [layers, tokens, heads, headDim] */
  readonly encoderKeys: Float32Array | null
  /** [layers, heads, headDim, tokens] */
  readonly encoderValues: Float32Array | null
  /** [tokens] of the encoder */
  readonly encoderMask: Float32Array | null
  /** [tokens] of the encoder */
  readonly encoderPositions: Int32Array | null
  /** [tokens, vocabSize] */
  readonly logits: Float32Array | null
  /** [tokens, hiddenSize] */
  readonly hiddenStates: Float32Array | null
  readonly inputs: Readonly<Record<string, RKNNArray>>
  readonly outputs: Readonly<Record<string, RKNNArray>>
  readonly addresses: InferenceAddresses
}

export interface RKLLMTalkOptions {
  /** Default 'user'. From header 1.2; at most 63 bytes. */
  role?: string
  /** Default false. From header 1.2. */
  enableThinking?: boolean
}

/**
 * The memory of one session. Made by {@link MemoryManager.createInferenceBuffers}. Requests allocate nothing: they write into the arrays, and one of the
 * `...Input` methods fills RKLLMInput and returns its address. The arrays are those of the front set.
 *
 * Nothing is freed while any of its arrays is in use; dropped altogether, it is freed some time after it is collected. Everything but
 * `disposed`, `bytes`, `kind`, `header` and `shapes` throws ERR_BUFFER_FREED after `dispose`, ERR_MANAGER_DISPOSED after the manager's.
 */
export interface InferenceBuffers extends InferenceArrays {
  readonly kind: MemoryKind
  readonly header: RKLLMHeader
  /** Of all sets, alignment and structs included. */
  readonly bytes: number
  readonly disposed: boolean
  /** Dimensions by name, those of tensors under `inputs` and `outputs`. */
  readonly shapes: Readonly<Record<string, any>>
  /** The other set, to be filled while the front is read; null unless doubleBuffered. */
  readonly back: InferenceArrays | null
  /** Front and back change places. @throws ERR_UNSUPPORTED unless doubleBuffered. */
  swap(): void
  /**
   * Zeroes what the next request must not see: all arrays, texts and request structs of one set. `tokens`: your word that no more rows than this were
   * written of tokens, embeddings and hiddenStates; the rest of those is left. What lies behind rknnInputs and rknnOutputs stays good.
   */
  reset(options?: { tokens?: number; side?: 'front' | 'back' }): void
  /** RKLLM_INPUT_PROMPT. @throws ERR_OUT_OF_RANGE for more than promptBytes, or a NUL. */
  promptInput(prompt: string, options?: RKLLMTalkOptions): bigint
  /** RKLLM_INPUT_TOKEN: the first `count` of `tokens`. */
  tokenInput(count: number, options?: RKLLMTalkOptions): bigint
  /** RKLLM_INPUT_EMBED: the first `count` rows of `embeddings`. */
  embedInput(count: number, options?: RKLLMTalkOptions): bigint
  /**
   * RKLLM_INPUT_MULTIMODAL: images, tokens of each, and pixels as the spec says unless given here. The markers are of header 1.3 (before, they are
   * parameters of rkllm_init), at most 63 bytes each.
   */
  multimodalInput(
    prompt: string,
    options?: RKLLMTalkOptions & {
      images?: number
      tokens?: number
      width?: number
      height?: number
      imageStart?: string
      imageEnd?: string
      imageContent?: string
    },
  ): bigint
  /** RKLLMInferParam, without LoRA or prompt cache. Default mode 'generate'; maxNewTokens from header 1.3. */
  inferParam(options?: { mode?: 'generate' | 'hiddenStates' | 'logits'; keepHistory?: boolean; maxNewTokens?: number }): bigint
  /**
   * RKLLMCrossAttnParam, for rkllm_set_cross_attn_params. Where `count` is less than the spec's tokens, it takes the place of tokens in the
   * shapes of encoderKeys and encoderValues.
   */
  crossAttention(count?: number): bigint
  /** `manager.syncToDevice` for the arrays named ('tokens', 'inputs.NAME'), or all that the host writes. Nothing for system memory. */
  syncToDevice(...names: string[]): void
  /** `manager.syncFromDevice` for the arrays named ('logits', 'outputs.NAME'), or all that the device writes. Nothing for system memory. */
  syncFromDevice(...names: string[]): void
  /** While pinned, `dispose` refuses (ERR_BUFFER_BUSY): for as long as native code runs. Pins nest. */
  pin(): void
  /** @throws ERR_OUT_OF_RANGE when they are not pinned. */
  unpin(): void
  /** Frees all of it, detaching the arrays. Idempotent. @throws ERR_BUFFER_BUSY while pinned. */
  dispose(): void
  [Symbol.dispose](): void
}
