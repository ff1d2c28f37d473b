/** The second part of the contract: what version 1 is given beside contract.d.ts. Its chapters that are built. */

import { EventEmitter } from 'node:events'

// The classes are the built ones: of two classes with private members neither is assignable to the other.
import type { MemoryBlock, MemoryPool } from '../../index.js'
import type {
  Buf, MemoryError, MemoryPoolOptions, ModelEstimate, ModelSpec, PoolAllocationOptions,
} from './contract.js'

export interface FreeingVerbs {
  deallocateWhen(buffer: Buf | MemoryBlock, done: PromiseLike<unknown> | EventEmitter): Promise<void>
  disposeAsync(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}
export interface PoolReuseOptions {
  reuseAfterMs?: number
  growAhead?: number
}

export interface Cancellable {
  signal?: AbortSignal
}
export interface AsyncVerbs {
  createMemoryPoolAsync(options: MemoryPoolOptions & PoolReuseOptions & Cancellable): Promise<MemoryPool>
  allocateFromPoolAsync(
    pool: MemoryPool | string,
    size: number,
    options?: PoolAllocationOptions & Cancellable,
  ): Promise<ArrayBuffer>
  importDmaBufAsync(fd: number, options?: DmaBufImportOptions & Cancellable): Promise<ArrayBuffer>
}
export interface AsyncPoolVerbs {
  allocateAsync(size: number, options?: PoolAllocationOptions & Cancellable): Promise<MemoryBlock>
}
export interface DmaBufImportOptions {
  size?: number
  offset?: number
  tag?: string | null
}
export interface DmaBufPiece {
  fd: number
  offset: number
  size: number
}

export interface ModelSpecMore extends ModelSpec {
  runtime?: string
  embedFlash?: boolean
  dtype?: string
  soc?: string
}
export interface ModelEstimateMore extends ModelEstimate {
  loaded: number
  loadedUncertainty: number
  full: number
  basis: 'measured-here' | 'calibrated' | 'arithmetic'
  warnings: string[]
}
export function explainAll(log: string): Array<{ cause: string; remedy: string; code: string | null; line: number }>
export interface MeasuredModel {
  path: string
  runtime: string | null
  driver: string | null
  resident: number
  npu: number
  dmaBufs: number
  peak: number
  at: number
}
export function measureModel(
  start: {
    command: string
    args?: string[]
    env?: Record<string, string>
    model: string
    until?: RegExp | number
  },
  options?: Cancellable,
): Promise<MeasuredModel>
/** Numbers of sampling, in RKLLMParam and for one run. */
interface Sampling {
  topK?: number
  topP?: number
  temperature?: number
  repeatPenalty?: number
  frequencyPenalty?: number
  presencePenalty?: number
}
export interface RKLLMSessionParameters {
  param(
    options: Sampling & {
      model: string
      maxNewTokens?: number
      mirostat?: number
      mirostatTau?: number
      mirostatEta?: number
      keep?: number
      skipSpecialTokens?: boolean
      ignoreEos?: boolean
      async?: boolean
      domain?: number
      embedFlash?: boolean
      cpus?: number[]
      batch?: number
      crossAttention?: boolean
    },
  ): bigint
  loraAdapter(options: { path: string; name: string; scale?: number }): bigint
  inferParam(options?: {
    mode?: 'generate' | 'hiddenStates' | 'logits'
    keepHistory?: boolean
    maxNewTokens?: number
    lora?: string
    promptCache?: { path: string; save: boolean }
    sampling?: Sampling
  }): bigint
}
export interface RKLLMResult {
  state: 'normal' | 'waiting' | 'finish' | 'error'
  text: string
  tokenId: number
  rows: number
  perf: {
    prefillMs: number
    prefillTokens: number
    generateMs: number
    generateTokens: number
    peakResidentMB: number
  } | null
}
export interface RKLLMSessionResults {
  callbacks(): { result: bigint; userdata: bigint; struct: bigint | null }
  results(options?: Cancellable): AsyncIterableIterator<RKLLMResult>
}
export function runtimeVersion(library: string): string | null

export interface ModelDefinition<Model = unknown> extends ModelSpecMore {
  load?(context: {
    name: string
    domain: number | null
    estimate: ModelEstimateMore
    signal: AbortSignal
  }): Model | Promise<Model>
  unload?(model: Model, context: { name: string; reason: EvictionReason }): void | Promise<void>
  worker?: string | { module: string; args?: string[]; env?: Record<string, string>; execPath?: string }
  keepAliveMs?: number
  priority?: number
  pinned?: boolean
  concurrency?: number
  group?: string
}
export type ModelState = 'cold' | 'queued' | 'loading' | 'ready' | 'unloading' | 'stuck' | 'failed'
export type EvictionReason = 'idle' | 'room' | 'pressure' | 'asked' | 'closed' | 'died'
export interface ModelLease<Model> extends Disposable {
  readonly name: string
  readonly model: Model
  readonly signal: AbortSignal
  release(): void
}
export interface ModelStats {
  name: string
  state: ModelState
  domain: number | null
  bytes: { estimated: number; reserved: number; measured: number | null; stuck: number }
  leases: number
  waiting: number
  idleMs: number | null
  loads: number
  evictions: number
  loadMs: number | null
  pid: number | null
}
export interface ResidencyOptions<Models extends Record<string, ModelDefinition<any>>> {
  models: Models
  limits?: { ram?: number; npu?: number }
  keepFree?: number
  keepAliveMs?: number
  policy?: 'cost' | 'lru'
}
export interface ModelRequest extends Cancellable {
  timeoutMs?: number
  priority?: number
}
export class ModelResidency<Models extends Record<string, ModelDefinition<any>>> extends EventEmitter {
  acquire<Name extends keyof Models & string>(
    name: Name,
    options?: ModelRequest,
  ): Promise<ModelLease<ModelOf<Models[Name]>>>
  use<Name extends keyof Models & string, Result>(
    name: Name,
    work: (model: ModelOf<Models[Name]>, context: { signal: AbortSignal }) => Result | Promise<Result>,
    options?: ModelRequest,
  ): Promise<Result>
  preload(name: keyof Models & string, options?: Cancellable): Promise<void>
  evict(name: keyof Models & string, options?: { force?: boolean }): Promise<void>
  plan(...names: Array<keyof Models & string>): {
    evict: string[]
    placements: Array<{ model: string; domain: number | null; bytes: number }>
  } | null
  stats(): {
    ram: { limit: number; reserved: number }
    domains: Array<{ id: number; limit: number; reserved: number }>
    models: ModelStats[]
    waiting: number
  }
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
  on(
    event: 'load' | 'ready' | 'evict' | 'gone' | 'fail' | 'stuck',
    listener: (event: {
      name: string
      reason?: EvictionReason
      bytes?: number
      ms?: number
      error?: MemoryError
    }) => void,
  ): this
}
export type ModelOf<D> = D extends ModelDefinition<infer Model> ? Model : unknown
export interface ResidencyVerbs {
  createModelResidency<Models extends Record<string, ModelDefinition<any>>>(
    options: ResidencyOptions<Models>,
  ): ModelResidency<Models>
}
