/** Inference buffers: the memory that one RKLLM or RKNN session passes across its API. */

import type { MemoryKind, NPUAllocationOptions, SystemAllocationOptions } from './allocations.js'
import type { MemoryManager } from './manager.js'

/**
 * Version of rkllm.h that the runtime was built with: 1.1 (all of 1.1.x), 1.2.0, 1.2 (1.2.1 to 1.2.3), 1.3. The
 * versions differ in the offsets of the fields of RKLLMInput and RKLLMInferParam.
 */
export type RKLLMHeader = '1.1' | '1.2.0' | '1.2' | '1.3'

/**
 * Element types of rknn_api.h. float16 and bfloat16 arrays hold the bits (Uint16Array), bool arrays hold bytes
 * (Uint8Array), and int64 arrays are BigInt64Arrays.
 */
export type RKNNDataType =
  | 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'bool'

/** Description of one RKNN tensor. */
export interface RKNNTensorSpec {
  /** Name, unique among the inputs, or among the outputs. */
  name: string
  /** 1 to 16 dimensions, the slowest first. */
  shape: readonly number[]
  dtype: RKNNDataType
  /** Default 'nhwc' for four dimensions, 'undefined' for others. */
  format?: 'nchw' | 'nhwc' | 'undefined'
}

/**
 * Needs of one session. Sizes count elements unless the name says bytes. An array is allocated only if its fields are
 * present.
 */
export interface InferenceSpec {
  /**
   * Kind of memory. Default 'npu' with RKNN tensors, for the NPU may read them in place, and 'system' without: the
   * RKLLM runtime reads its inputs with the CPU.
   */
  kind?: MemoryKind
  /** Default: that of `library`; '1.3' without one. A header that contradicts the library is ERR_UNSUPPORTED. */
  header?: RKLLMHeader
  /**
   * Path of librkllmrt.so, by whose version `header` is chosen ({@link runtimeVersion}). The file is read, not loaded.
   * ERR_UNSUPPORTED if it does not say its version and `header` is left out, or if its structs are not known.
   */
  library?: string
  /** Length of the longest input, in tokens. Default: `contextLength`. */
  maxTokens?: number
  /** Context length of the model, in tokens. */
  contextLength?: number
  /** Floats of one embedding. */
  hiddenSize?: number
  /** Floats of one row of logits. */
  vocabSize?: number
  /** Allocates `embeddings`. Default: true if `hiddenSize` and `maxTokens` are known. */
  embeddings?: boolean
  /**
   * Room for a prompt, in bytes of UTF-8 with the terminating NUL. Default: 8 for each token and at least 4096; 0 for
   * RKNN alone.
   */
  promptBytes?: number
  /**
   * Images: tokens of each, floats of one token (default: `hiddenSize`), number of images (default 1), and their size
   * in pixels, for `multimodalInput`.
   */
  image?: { tokens: number; hiddenSize?: number; count?: number; width?: number; height?: number }
  /** Cross-attention, from header 1.2. `heads` counts the heads of keys and values. */
  crossAttention?: { layers: number; heads: number; headDim: number; tokens: number }
  /** Rows of logits. Requires `vocabSize`. Default: one row if `vocabSize` is known. */
  logits?: boolean | { tokens: number }
  /** Rows of hidden states. `true` is one row for each of `maxTokens`. Requires `hiddenSize`. Default false. */
  hiddenStates?: boolean | { tokens: number }
  rknnInputs?: ReadonlyArray<RKNNTensorSpec & { /** Default false. */ passThrough?: boolean }>
  rknnOutputs?: ReadonlyArray<RKNNTensorSpec>
  /** Adapters that `loraAdapter` has room for, about 4.4 KB each. Default 4; of no use with RKNN tensors alone. */
  loraAdapters?: number
  /**
   * Allocates two sets of everything: the program fills one while the runtime reads the other. Default false.
   *
   * Deprecated for sessions without RKNN tensors: a handle of RKLLM runs one request at a time, and to write a request
   * takes microseconds beside a run of seconds. There the second set only takes memory.
   */
  doubleBuffered?: boolean
  /** Name of the pool. Default: 'inference ' and a number. */
  name?: string
  tag?: string | null
  /** Allocation options of the pool's memory. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/** The array of an RKNN tensor, by its {@link RKNNDataType}. */
export type RKNNArray =
  | Float32Array | Uint16Array | Int8Array | Uint8Array | Int16Array | Int32Array | Uint32Array | BigInt64Array

/** CPU addresses of arrays and structs, for FFI; null for those that the spec does not include. */
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
  /** RKLLMInput, as the last call of promptInput, tokenInput, embedInput or multimodalInput wrote it. */
  readonly rkllmInput: bigint
  /** The RKLLMEmbedInput, RKLLMTokenInput or RKLLMMultiModalInput inside RKLLMInput. */
  readonly rkllmInputUnion: bigint
  readonly rkllmInferParam: bigint
  readonly rkllmCrossAttnParam: bigint | null
  /** rknn_input[], filled from the start. */
  readonly rknnInputs: bigint | null
  /** rknn_output[], filled from the start. */
  readonly rknnOutputs: bigint | null
}

/** The arrays of one set; null for those that the spec does not include. Each starts at a cache line (64 bytes). */
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
  /** [tokens of the encoder] */
  readonly encoderMask: Float32Array | null
  /** [tokens of the encoder] */
  readonly encoderPositions: Int32Array | null
  /** [tokens, vocabSize] */
  readonly logits: Float32Array | null
  /** [tokens, hiddenSize] */
  readonly hiddenStates: Float32Array | null
  readonly inputs: Readonly<Record<string, RKNNArray>>
  readonly outputs: Readonly<Record<string, RKNNArray>>
  readonly addresses: InferenceAddresses
}

/** Options of one request. */
export interface RKLLMTalkOptions {
  /** Role of the input, at most 63 bytes, from header 1.2. Default 'user'. */
  role?: string
  /** Enables thinking, from header 1.2. Default false. */
  enableThinking?: boolean
}

/** Numbers of sampling. */
export interface RKLLMSamplingOptions {
  /** Candidates, from 0. Default 40. */
  topK?: number
  /** From 0 to 1. Default 0.9. */
  topP?: number
  /** From 0. Default 0.8. */
  temperature?: number
  /** From 0. Default 1.1. */
  repeatPenalty?: number
  /** Default 0. */
  frequencyPenalty?: number
  /** Default 0. */
  presencePenalty?: number
  /** 0 (off), 1 or 2. Default 0. */
  mirostat?: number
  /** From 0. Default 5. */
  mirostatTau?: number
  /** From 0. Default 0.1. */
  mirostatEta?: number
}

/**
 * Options of {@link InferenceSession.param}. The defaults are this package's: those of rkllm_createDefaultParam are not
 * documented.
 */
export interface RKLLMParamOptions extends RKLLMSamplingOptions {
  /** Path of the .rkllm file, at most 4095 bytes. */
  model: string
  /** At least 1; no header defines −1. Default: the context length. */
  maxNewTokens?: number
  /** First tokens that stay when the context moves on, from header 1.2.0. Default 0. */
  keep?: number
  /** Default true. */
  skipSpecialTokens?: boolean
  /** From header 1.3. Default false. */
  ignoreEos?: boolean
  /** For rkllm_run_async. Default false. */
  async?: boolean
  /** Markers of images up to header 1.2, at most 63 bytes each; from 1.3 multimodalInput has them. Default ''. */
  imageStart?: string
  imageEnd?: string
  imageContent?: string
  /** IOMMU domain of the runtime's memory, 0 to 15. Default 0. */
  domain?: number
  /** Leaves the table of embeddings in the model's file, from header 1.2.0. Default true. */
  embedFlash?: boolean
  /** CPUs of the runtime, each 0 to 31, from header 1.2.0. Default: the last four of the machine. */
  cpus?: number[]
  /** Requests of a batch, 1 to 255, from header 1.2. Default 1. */
  batch?: number
  /** From header 1.2. Default: whether the spec has `crossAttention`. */
  crossAttention?: boolean
}

/** Options of {@link InferenceSession.inferParam}. */
export interface RKLLMInferOptions {
  /** Default 'generate'. */
  mode?: 'generate' | 'hiddenStates' | 'logits'
  /** From header 1.2.0. Default false. */
  keepHistory?: boolean
  /** At least 1. From header 1.3; earlier it belongs to `param`. */
  maxNewTokens?: number
  /** Name of an adapter that rkllm_load_lora loaded, at most 255 bytes. */
  lora?: string
  /** File of the prompt's KV, at most 4095 bytes, and whether the run writes it. */
  promptCache?: { path: string; save: boolean }
  /** From header 1.3; earlier it belongs to `param`. Numbers that are left out are those of the last `param`. */
  sampling?: RKLLMSamplingOptions
}

/** Options of {@link InferenceSession.callbacks}. */
export interface RKLLMCallbackOptions {
  /** Bytes of the ring that keeps results until they are read, from 1024: 36 a token, and its text. Default 65536. */
  ringBytes?: number
  /** Address of an LLMTokenizerCallback of the program's, from header 1.3, and its userdata. Default: none. */
  tokenizer?: bigint
  tokenizerUserdata?: bigint
  /** Table that answers the embedding callback, from header 1.3. Default: no embedding callback. */
  embeddingTable?: RKLLMEmbeddingTable
}

/**
 * A file of embeddings: one row of numbers for each token, by the token's number, in the machine's byte order. It is
 * mapped once in a process, read-only, and its pages are shared by all processes. Replace it by rename, never in place:
 * a process that reads a row while its file is cut off ends by SIGBUS.
 */
export interface RKLLMEmbeddingTable {
  path: string
  /** Rows of float16 are widened where the runtime wants float32. */
  dtype: 'float16' | 'float32'
  /** Numbers of a row. Default: the `hiddenSize` of the session, from which it may not differ. */
  width?: number
  /** Rows. Default: all of the file from `offset` on, which has no part of a row then. */
  rows?: number
  /** Bytes of the file before the first row. Default 0. */
  offset?: number
}

/** One call of the runtime's result callback. */
export interface RKLLMResult {
  /** 'waiting': the token is the beginning of a character, whose text comes with a later one. */
  state: 'normal' | 'waiting' | 'finish' | 'error'
  /** Text that is complete with this result. Bytes that are not UTF-8 are U+FFFD. */
  text: string
  /** The token; -1 where the runtime gave none. */
  tokenId: number
  /**
   * Rows that were written to `logits` or `hiddenStates` of the session, from the first. They stay until the next call
   * of `next` or `return`. Those of 'finish' stay too, or until `results` is called for the next run. A run that has
   * the next rows before that waits.
   */
  rows: number
  /** Figures of the run, from header 1.2 with 'finish'; null elsewhere. */
  perf: {
    prefillMs: number
    prefillTokens: number
    generateMs: number
    generateTokens: number
    /** The peak of the process's resident memory, in MB, as the runtime tells it. */
    peakResidentMB: number
  } | null
}

/** Options of {@link InferenceSession.results}. */
export interface RKLLMResultOptions {
  /** Ends the iteration with the signal's reason. It does not abort the run: rkllm_abort does. */
  signal?: AbortSignal
  /**
   * Lets the run pause while the ring is nearly full (header 1.2 and later). Called when everything was read, to resume
   * it. Without it, the runtime's thread waits for room.
   */
  resume?: () => void
}

/**
 * The memory of one session. Made by {@link MemoryManager.createInferenceBuffers}. The arrays are those of the front
 * set.
 *
 * Requests allocate nothing: the program writes into the arrays, and a `...Input` method fills RKLLMInput and returns
 * its address.
 *
 * Nothing is freed while any of the arrays is reachable; unreachable buffers are freed some time after they are
 * collected. After `dispose`, everything but `disposed`, `bytes`, `kind`, `header` and `shapes` throws
 * ERR_BUFFER_FREED; after the manager's `dispose`, ERR_MANAGER_DISPOSED.
 */
export interface InferenceSession extends InferenceArrays {
  readonly kind: MemoryKind
  readonly header: RKLLMHeader
  /** Bytes of all sets, with alignment and structs. */
  readonly bytes: number
  readonly disposed: boolean
  /** Dimensions by name; those of tensors are under `inputs` and `outputs`. */
  readonly shapes: Readonly<Record<string, any>>
  /** The other set, to be filled while the runtime reads the front set; null unless doubleBuffered. */
  readonly back: InferenceArrays | null
  /**
   * Swaps front and back.
   *
   * @throws ERR_UNSUPPORTED: not doubleBuffered.
   */
  swap(): void
  /**
   * Zeroes all data of the last request in one set: arrays, texts and request structs. The structs behind rknnInputs
   * and rknnOutputs stay valid.
   *
   * `tokens` is the caller's promise that at most that many rows of tokens, embeddings and hiddenStates were written;
   * `reset` leaves the other rows.
   */
  reset(options?: { tokens?: number; side?: 'front' | 'back' }): void
  /**
   * Writes RKLLM_INPUT_PROMPT and returns the address of RKLLMInput.
   *
   * @throws ERR_OUT_OF_RANGE: more than promptBytes, or a NUL in the prompt.
   */
  promptInput(prompt: string, options?: RKLLMTalkOptions): bigint
  /** Writes RKLLM_INPUT_TOKEN, with the first `count` of `tokens`, and returns the address of RKLLMInput. */
  tokenInput(count: number, options?: RKLLMTalkOptions): bigint
  /** Writes RKLLM_INPUT_EMBED, with the first `count` rows of `embeddings`, and returns the address of RKLLMInput. */
  embedInput(count: number, options?: RKLLMTalkOptions): bigint
  /**
   * Writes RKLLM_INPUT_MULTIMODAL and returns the address of RKLLMInput.
   *
   * The number of images, the tokens of each and their pixels are the spec's unless given here. The markers are of
   * header 1.3 (earlier, they are parameters of rkllm_init), at most 63 bytes each.
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
  /**
   * Writes RKLLMParam, for rkllm_init, and returns its address. Each call overwrites the last. The struct and its texts
   * keep their memory until `dispose`; `reset` and `swap` leave them.
   *
   * The context length is the spec's. An option that the header does not have is ERR_UNSUPPORTED.
   *
   * @throws ERR_OUT_OF_RANGE: a text that does not fit, or that has a NUL or half of a surrogate pair; a number beyond
   * its bounds.
   * @throws ERR_UNSUPPORTED: the header has no such field, or the spec has RKNN tensors alone.
   */
  param(options: RKLLMParamOptions): bigint
  /**
   * Writes RKLLMLoraAdapter, for rkllm_load_lora, and returns its address. Each name has a slot of its own, which keeps
   * its memory until `dispose`; the same name again overwrites its slot.
   *
   * @throws ERR_OUT_OF_RANGE: more names than `loraAdapters`, or a text that does not fit.
   * @throws ERR_UNSUPPORTED: the spec has RKNN tensors alone.
   */
  loraAdapter(options: {
    /** At most 4095 bytes. */
    path: string
    /** At most 255 bytes. */
    name: string
    /** Default 1. */
    scale?: number
  }): bigint
  /**
   * Writes RKLLMInferParam and returns its address. The struct, and those that it points to, are valid until the next
   * call or `reset`: with rkllm_run_async, make the next call when the run has ended.
   *
   * @throws ERR_OUT_OF_RANGE: a text that does not fit, or a number beyond its bounds.
   * @throws ERR_UNSUPPORTED: the header has no such field.
   */
  inferParam(options?: RKLLMInferOptions): bigint
  /**
   * Writes RKLLMCrossAttnParam, for rkllm_set_cross_attn_params, and returns its address. If `count` is less than the
   * tokens of the spec, it replaces them in the shapes of encoderKeys and encoderValues.
   */
  crossAttention(count?: number): bigint
  /**
   * Calls `manager.syncToDevice` for the named arrays ('tokens', 'inputs.NAME'), or for all that the host writes. Does
   * nothing for system memory.
   */
  syncToDevice(...names: string[]): void
  /**
   * Calls `manager.syncFromDevice` for the named arrays ('logits', 'outputs.NAME'), or for all that the device writes.
   * Does nothing for system memory.
   */
  syncFromDevice(...names: string[]): void
  /**
   * Returns the addresses of native functions for rkllm_init, which run no JavaScript on the runtime's thread.
   * `userdata` is a number that only this session has, for rkllm_run and inside `struct`. `struct` is an RKLLMCallback
   * for rkllm_init of header 1.3; null before.
   *
   * The functions stay callable to the end of the process: after the session's end they do nothing.
   *
   * The embedding callback writes the rows of the tokens that the runtime asks for. If the table does not have a token,
   * or the runtime wants rows of another width or type, it returns −1, and `results` throws the reason
   * (ERR_OUT_OF_RANGE; ERR_DEVICE_IO if the file has lost bytes) in place of the rest of the run.
   *
   * @throws ERR_BUFFER_BUSY: options, though the session has callbacks.
   * @throws ERR_UNSUPPORTED: a tokenizer or a table before header 1.3, or a table that is no file.
   * @throws ERR_OUT_OF_RANGE: the file is shorter than the rows, or has a part of a row where `rows` is left out; the
   * width is not `hiddenSize`.
   * @throws ERR_DEVICE_IO, ERR_DEVICE_PERMISSION, ERR_TOO_MANY_FDS, ERR_OUT_OF_MEMORY: the file cannot be mapped.
   */
  callbacks(options?: RKLLMCallbackOptions): {
    readonly result: bigint
    readonly userdata: bigint
    readonly struct: bigint | null
  }
  /**
   * Reads the results of one run, in order, up to 'finish'. Call it before rkllm_run_async, or after: results wait in
   * the ring. A reader that stops early drops the rest of the run.
   *
   * Throws when the run fails: ERR_DEVICE_IO if the runtime says 'error', ERR_OUT_OF_RANGE for rows or text that do not
   * fit, ERR_BUFFER_BUSY if the ring was full, or the last rows were not read yet, and the run blocked the event loop,
   * ERR_BUFFER_FREED for rows whose array the program has freed by hand.
   *
   * @throws ERR_BUFFER_BUSY: the results are being read already.
   * @throws ERR_UNSUPPORTED: `resume` before header 1.2.
   */
  results(options?: RKLLMResultOptions): AsyncIterableIterator<RKLLMResult>
  /**
   * States that the runtime has let go of the session: rkllm_destroy has returned, or no run was started. A read of
   * results throws ERR_BUFFER_FREED. A later `callbacks()` makes others.
   */
  releaseCallbacks(): void
  /** Makes `dispose` throw ERR_BUFFER_BUSY until `unpin`, for as long as native code runs. Pins nest. */
  pin(): void
  /**
   * Removes one pin.
   *
   * @throws ERR_OUT_OF_RANGE: not pinned.
   */
  unpin(): void
  /**
   * Frees all of the memory and detaches the arrays. Idempotent. A run that begins at the same time either is seen, and
   * nothing is freed, or finds no session, and its callbacks do nothing.
   *
   * @throws ERR_BUFFER_BUSY: pinned, or a run is under way: from the first callback, or `results()`, up to 'finish' or
   * 'error'.
   */
  dispose(): void
  [Symbol.dispose](): void
}

/**
 * Returns the version that a librkllmrt.so carries, as "1.2.3"; null where it carries none, or more than one. The file
 * is read in pieces and not loaded.
 *
 * @throws ERR_UNSUPPORTED: not an ELF library, truncated, or for another machine than this process runs on.
 * @throws ERR_DEVICE_IO: it does not exist, or cannot be read.
 * @throws ERR_DEVICE_PERMISSION: this user may not read it.
 * @throws ERR_TOO_MANY_FDS: no descriptor is left to read it with.
 * @throws ERR_OUT_OF_RANGE: the path is empty or has a NUL.
 */
export function runtimeVersion(library: string): string | null

/**
 * Returns the version like {@link runtimeVersion}, without blocking the event loop while the file is read.
 * `createInferenceBuffersAsync` reads its `library` like this.
 */
export function runtimeVersionAsync(library: string): Promise<string | null>

/** Whether a spec surely has the option `K`: true, or false where it may be left out. */
type Has<S, K extends PropertyKey> = K extends keyof S
  ? undefined extends S[K] ? false : false extends S[K] ? false : null extends S[K] ? false : true
  : false
/** Whether a spec surely does not turn the option `K` off. */
type Keeps<S, K extends PropertyKey> = K extends keyof S ? Has<S, K> : true
type Both<A, B> = A extends true ? B : false
type Either<A, B> = A extends true ? true : B
/** `T` where the spec surely asks for it; else it may be null. */
type Asked<Surely, T> = Surely extends true ? T : T | null

type HasTokens<S> = Either<Has<S, 'maxTokens'>, Has<S, 'contextLength'>>
type HasEmbeddings<S> = Both<Both<HasTokens<S>, Has<S, 'hiddenSize'>>, Keeps<S, 'embeddings'>>
type HasLogits<S> = Both<Has<S, 'vocabSize'>, Keeps<S, 'logits'>>

/** The addresses of a spec, by what it surely asks for. */
interface AddressesOf<S> {
  readonly tokens: Asked<HasTokens<S>, bigint>
  readonly embeddings: Asked<HasEmbeddings<S>, bigint>
  readonly imageEmbeddings: Asked<Has<S, 'image'>, bigint>
  readonly encoderKeys: Asked<Has<S, 'crossAttention'>, bigint>
  readonly encoderValues: Asked<Has<S, 'crossAttention'>, bigint>
  readonly encoderMask: Asked<Has<S, 'crossAttention'>, bigint>
  readonly encoderPositions: Asked<Has<S, 'crossAttention'>, bigint>
  readonly logits: Asked<HasLogits<S>, bigint>
  readonly hiddenStates: Asked<Has<S, 'hiddenStates'>, bigint>
  readonly rkllmCrossAttnParam: Asked<Has<S, 'crossAttention'>, bigint>
  readonly rknnInputs: Asked<Has<S, 'rknnInputs'>, bigint>
  readonly rknnOutputs: Asked<Has<S, 'rknnOutputs'>, bigint>
}

/** The arrays of a spec, by what it surely asks for. */
interface ArraysOf<S> {
  readonly tokens: Asked<HasTokens<S>, Int32Array>
  readonly embeddings: Asked<HasEmbeddings<S>, Float32Array>
  readonly imageEmbeddings: Asked<Has<S, 'image'>, Float32Array>
  readonly encoderKeys: Asked<Has<S, 'crossAttention'>, Float32Array>
  readonly encoderValues: Asked<Has<S, 'crossAttention'>, Float32Array>
  readonly encoderMask: Asked<Has<S, 'crossAttention'>, Float32Array>
  readonly encoderPositions: Asked<Has<S, 'crossAttention'>, Int32Array>
  readonly logits: Asked<HasLogits<S>, Float32Array>
  readonly hiddenStates: Asked<Has<S, 'hiddenStates'>, Float32Array>
  readonly addresses: InferenceAddresses & AddressesOf<S>
}

/**
 * The memory of one session, by its spec: an array that the spec asks for is not null.
 */
export type InferenceBuffers<S extends InferenceSpec = InferenceSpec> = InferenceSession &
  ArraysOf<S> & { readonly back: Asked<Has<S, 'doubleBuffered'>, InferenceArrays & ArraysOf<S>> }
