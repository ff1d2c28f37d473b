/** Memory of RKNN models: what librknnrt lets the program own, and the calls that hand it over. */

import type { Buf, Cancellable } from './allocations.js'
import type { RKNNDataType } from './inference.js'
import type { MemoryManager } from './manager.js'

/**
 * Generation of rknn_api.h: its structs, flags and functions. '1.4' serves 1.4.0 to 1.5.0, '2.1' serves 2.1 to 2.3
 * (docs/design/rknn-api.md §1).
 */
export type RknnHeader = '1.3' | '1.4' | '1.5.2' | '1.6' | '2.0' | '2.1'

/** Cores of the NPU on which a context runs; 'all' from header 2.0. */
export type RknnCores = 'auto' | '0' | '1' | '2' | '0+1' | '0+1+2' | 'all'

/**
 * Memory that a tensor uses in place of memory that the manager allocates for it. The program keeps it until the
 * contexts have ended.
 */
export type RknnTensorMemory =
  /** NPU memory of this manager: a buffer or a view. */
  | { buffer: Buf }
  /** The output of another model of the same spec, by the names of model and output; of its context 0. */
  | { from: readonly [model: string, output: string] }
  /** Memory at a physical address, by rknn_create_mem_from_phys. */
  | { physical: bigint; address: bigint; size: number }
  /** An MB_BLK of the MPI, by rknn_create_mem_from_mb_blk: `size` bytes at `offset`. */
  | { mbBlk: bigint; offset?: number; size: number }

/** Wishes for one tensor. */
export interface RknnTensorOptions {
  /** Type of the elements in memory: the runtime converts. Default: the model's. */
  dtype?: RKNNDataType
  /** Order of the dimensions in memory. Default: as the query tells. */
  format?: 'nchw' | 'nhwc'
  /** 'native' asks for what the NPU reads and writes itself, 'native-nhwc' for the same as NHWC. Default 'plain'. */
  layout?: 'plain' | 'native' | 'native-nhwc'
  /** Inputs: the data is as the model's first layer wants it, and is not converted. Default false. */
  passThrough?: boolean
  /** Default: memory that the manager allocates. */
  memory?: RknnTensorMemory
}

/** One model. */
export interface RknnModelSpec<Name extends string = string> {
  /** Unique in the spec. */
  name: Name
  /** Path of the .rknn file. One of `file` and `buffer` is needed. */
  file?: string
  /** The file's bytes, in memory of this manager. The program owns it, and keeps it until the contexts have ended. */
  buffer?: Buf
  /**
   * Where the weights are:
   *
   * - 'file': in the model's buffer, which the runtime does not copy (MODEL_BUFFER_ZERO_COPY, header 2.1). The file is
   *   read straight into it.
   * - 'manager': in memory of the manager, which the runtime fills from the file (MEM_ALLOC_OUTSIDE,
   *   rknn_set_weight_mem).
   * - 'runtime': in memory of the runtime.
   *
   * Default: 'file' from header 2.1, else 'manager'; 'runtime' with `weightsOf`.
   */
  weights?: 'file' | 'manager' | 'runtime'
  /** The name of an earlier model whose weights a model without weights uses (SHARE_WEIGHT_MEM). */
  weightsOf?: string
  /**
   * The owner of the scratch memory of the layers: the manager (INTERNAL_ALLOC_OUTSIDE, or MEM_ALLOC_OUTSIDE with the
   * weights), or the runtime. Default 'manager'; 'runtime' with `sram`, and where the header cannot do otherwise.
   */
  scratch?: 'manager' | 'runtime'
  /**
   * Models of one group run one after another and share scratch memory: its size is that of the largest. Contexts of
   * one model may run at the same time, so that each has its own. Default 'shared'.
   */
  scratchGroup?: string
  /**
   * Scratch memory of the program: NPU memory of this manager, one buffer a context, in place of the group's. So models
   * of several `createRknnMemory`, which load and unload apart, share scratch too.
   */
  scratchMemory?: readonly Buf[]
  /** The cores of each context of the model: one context an entry. Default one, on 'auto': no call sets its cores. */
  contexts?: readonly RknnCores[]
  /**
   * How the contexts after the first are made: by rknn_dup_context, or each by rknn_init. With 'init', 'file' and
   * 'manager' weights are in memory once all the same. Default 'duplicate'.
   */
  contextsBy?: 'duplicate' | 'init'
  /** Default 'high', as the runtime's. */
  priority?: 'high' | 'medium' | 'low'
  /** Scratch memory of the runtime in SRAM (ENABLE_SRAM, header 1.6). Default false. */
  sram?: boolean
  /** Shares SRAM with other contexts (SHARE_SRAM); needs `sram`. Default false. */
  shareSram?: boolean
  /** False: the runtime syncs no inputs (header 2.1), and the program calls syncToDevice. Default true. */
  flushInputs?: boolean
  /** False: the runtime syncs no outputs (header 2.1), and the program calls syncFromDevice. Default true. */
  flushOutputs?: boolean
  /** Wishes for inputs, by name. */
  inputs?: Readonly<Record<string, RknnTensorOptions>>
  /** Wishes for outputs, by name. */
  outputs?: Readonly<Record<string, RknnTensorOptions>>
}

/** Models whose memory belongs together. */
export interface RknnMemorySpec<Name extends string = string> {
  /** Default: that of `library`, or '2.1'. */
  header?: RknnHeader
  /** Path of librknnrt.so. Its version chooses the header: it is read, not loaded. */
  library?: string
  models: ReadonlyArray<RknnModelSpec<Name>>
  /** How memory of the manager is told to the runtime: as a dma-buf, or by its physical address. Default 'fd'. */
  via?: 'fd' | 'phys'
  /** Maps the memory CPU-cached. Default true. */
  cacheable?: boolean
  /** IOMMU domain of the memory. Default 0: librknnrt has no other. */
  iommuDomain?: number
  /** Tag of all of the memory. Default 'rknn'. */
  tag?: string | null
}

/** The functions of rknn_api.h that {@link RknnCall} names. */
export type RknnFunction =
  | 'rknn_init'
  | 'rknn_dup_context'
  | 'rknn_query'
  | 'rknn_set_core_mask'
  | 'rknn_create_mem_from_fd'
  | 'rknn_create_mem_from_phys'
  | 'rknn_create_mem_from_mb_blk'
  | 'rknn_set_weight_mem'
  | 'rknn_set_internal_mem'
  | 'rknn_set_io_mem'
  | 'rknn_destroy_mem'
  | 'rknn_destroy'

/** The type of an argument or a result of C. Pointers and 64-bit numbers are bigints, others numbers. */
export type RknnCType = 'pointer' | 'u64' | 'i32' | 'u32'

/** A call for the program to make. */
export interface RknnCall {
  readonly name: RknnFunction
  /** In the order of C. */
  readonly args: ReadonlyArray<bigint | number>
  readonly takes: readonly RknnCType[]
  readonly returns: 'i32' | 'pointer'
  readonly model: string
  /** Number of the model's context. */
  readonly context: number
  /**
   * Takes what the function returned. Call it once, before the next call is asked for.
   *
   * @throws the runtime's error as a MemoryError: ERR_OUT_OF_MEMORY for MALLOC_FAIL; ERR_UNSUPPORTED for a model,
   * device or parameter that it does not take; ERR_DEVICE_NOT_FOUND; ERR_DEVICE_IO for the others, and for NULL.
   */
  done(result: bigint | number | null): void
}

/** One tensor of one context. */
export interface RknnTensor {
  readonly name: string
  readonly index: number
  readonly dims: readonly number[]
  readonly dtype: RKNNDataType | 'int4'
  readonly format: 'nchw' | 'nhwc' | 'nc1hwc2' | 'undefined'
  readonly elements: number
  /** Pixels of a row in memory, of an NHWC input: the width, or more. 0 where the runtime tells none. */
  readonly widthStride: number
  /** Bytes that the runtime reads or writes, with strides. */
  readonly bytes: number
  /** Value = (number - zeroPoint) * scale; null where the model is not quantized by an affine map. */
  readonly quantization: { readonly scale: number; readonly zeroPoint: number } | null
  /** Address of the first byte. */
  readonly address: bigint
  /**
   * The memory as an array of `dtype`, `bytes` long: strides are in it. Half floats are Uint16Arrays of bits, int4 is a
   * Uint8Array. Null where the program gave an address.
   */
  readonly array: ArrayBufferView | null
  /**
   * Writes an input from its elements without strides, row by row, and returns the bytes written. The rest of each row
   * stays.
   *
   * @throws ERR_OUT_OF_RANGE: other than `elements` elements; ERR_UNSUPPORTED: an output, NC1HWC2, or memory that the
   * program gave by address; ERR_BUFFER_FREED.
   */
  write(elements: ArrayBufferView): number
}

/** One context of one model. */
export interface RknnContext {
  /** The rknn_context, for rknn_run and other functions. 0n before it is made and after it is destroyed. */
  readonly handle: bigint
  readonly cores: RknnCores
  readonly inputs: Readonly<Record<string, RknnTensor>>
  readonly outputs: Readonly<Record<string, RknnTensor>>
}

/** One model of {@link RknnMemory}. */
export interface RknnModel {
  readonly name: string
  readonly contexts: readonly RknnContext[]
  /** Bytes of weights and of one context's scratch, as the runtime tells them; null before. */
  readonly weightBytes: number | null
  readonly scratchBytes: number | null
}

/** Bytes that the manager holds for the models, as requested of it. */
export interface RknnMemoryUsage {
  /** Model files that weights stay in, and weights beside them. */
  weights: number
  /** Scratch of all groups. */
  scratch: number
  /** Inputs and outputs. */
  tensors: number
  /** C structs, in system memory. */
  structs: number
  total: number
}

/**
 * Memory of RKNN models. Made by {@link MemoryManager.createRknnMemory}. The package calls no runtime: it fills
 * structs, allocates what the runtime's answers ask for, and names the calls to make.
 *
 * The memory belongs to the thread and the manager that made it, and is freed by `dispose`, or with the manager; never
 * by the garbage collector while contexts exist.
 */
export interface RknnMemory<Name extends string = string> {
  readonly header: RknnHeader
  /** 'new', 'loading', 'loaded', 'unloading', 'unloaded' or 'disposed'. */
  readonly state: 'new' | 'loading' | 'loaded' | 'unloading' | 'unloaded' | 'disposed'
  /** By name. */
  readonly models: Readonly<Record<Name, RknnModel>>
  /** The versions that the runtime tells; null before. */
  readonly runtime: { readonly api: string; readonly driver: string } | null
  readonly usage: RknnMemoryUsage
  /**
   * The calls that load the models, in their order: each is known when the one before was answered. Ends with contexts
   * that are ready for rknn_run. If a call fails, the calls of `unload` undo those that were made.
   *
   * @example
   * for (const call of rknn.load()) call.done(library[call.name](...call.args))
   *
   * @throws ERR_OUT_OF_RANGE: a call was not answered; memory that the program gave is smaller than the runtime asks
   * for, or an input or output has no such name; ERR_UNSUPPORTED: the runtime is of another header, or has a struct too
   * large for it; ERR_BUFFER_BUSY: not 'new'; ERR_DEVICE_IO: the file cannot be read; and the errors of
   * {@link MemoryManager.allocateNPUMemory} and {@link MemoryManager.exportDmaBuf}.
   */
  load(): IterableIterator<RknnCall>
  /** Loads like {@link load}. Files are read and memory is allocated off the JavaScript thread; an abort ends it. */
  loadAsync(options?: Cancellable): AsyncIterableIterator<RknnCall>
  /**
   * The calls that destroy memory structs and contexts, last first. A call whose `done` throws counts as made: ask
   * `unload` for the others.
   *
   * @throws ERR_BUFFER_BUSY: a load is under way.
   */
  unload(): IterableIterator<RknnCall>
  /**
   * Frees all of the memory and closes its descriptors. Idempotent.
   *
   * @throws ERR_BUFFER_BUSY: contexts exist, which use the memory: make the calls of `unload`.
   */
  dispose(): void
  /** Waits for a `loadAsync` that allocates or reads, and disposes. */
  disposeAsync(): Promise<void>
  [Symbol.dispose](): void
  [Symbol.asyncDispose](): Promise<void>
}
