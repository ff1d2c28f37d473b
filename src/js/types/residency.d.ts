/** Residency: the models that are in memory, and the ones that go. Sizes are bytes, times milliseconds. */

import { EventEmitter } from 'node:events'

import type { Cancellable } from './allocations.js'
import type { MemoryError } from './errors.js'
import type { ModelEstimate, ModelSpec } from './models.js'

/**
 * State of a model. `stuck`: it was unloaded, and a part of its memory did not come back; that part stays accounted.
 * `failed`: its last load failed twice; the next request tries again.
 */
export type ModelState = 'cold' | 'queued' | 'loading' | 'ready' | 'unloading' | 'stuck' | 'failed'

/**
 * Reason of an unload: its keep-alive ended; another model needs the room; the kernel reports memory pressure; `evict`
 * or a cancelled load asked for it; the residency was closed; its engine ended by itself.
 */
export type EvictionReason = 'idle' | 'room' | 'pressure' | 'asked' | 'closed' | 'died'

/** Argument of {@link ModelDefinition.load}. */
export interface ModelLoadContext {
  name: string
  /** The IOMMU domain to load into (`RKLLMExtendParam.base_domain_id`); null on a device without domains. */
  domain: number | null
  estimate: ModelEstimate
  /** Aborts when no request waits for the model any more, at `loadTimeoutMs`, and at `close`. */
  signal: AbortSignal
  /**
   * Tells how many bytes are loaded ('progress'). Without a call, the bytes of the model's file that the process has
   * read or mapped are told.
   */
  progress(bytes: number, total?: number): void
}

/**
 * A model: what it takes (the fields of {@link ModelSpec}, or `ramBytes`), and how it is loaded.
 *
 * Reserved are the upper ends of the estimate's bands, `full` in RAM and `domain.max` in a domain, as by
 * {@link planModels}.
 */
export interface ModelDefinition<Model = unknown> extends ModelSpec {
  /** Loads the model in this process. A load that fails is tried once more, after which its requests are refused. */
  load?(context: ModelLoadContext): Model | Promise<Model>
  /** Ends what `load` made. The model's memory counts until this has settled. */
  unload?(model: Model, context: { name: string; reason: EvictionReason }): void | Promise<void>
  /**
   * In place of `load`: the module that loads the model, run in a process of its own. A relative path begins at the
   * working directory; `new URL('./worker.mjs', import.meta.url)` does not depend on it.
   *
   * The module exports `load(context)` and `unload({ name, reason })` where it needs them; `context` is
   * {@link ModelLoadContext} with `args`. Its other functions are the methods of the model ({@link WorkerModel}).
   */
  worker?: string | URL | WorkerOptions
  /** The most RAM that the model takes, in place of the estimate; alone, for a model that cannot be estimated. */
  ramBytes?: number
  /** The most NPU memory that the model takes, in place of the estimate. Default beside `ramBytes` alone: the same. */
  npuBytes?: number
  /** The model is unloaded when it was idle for so long. 0: after its last lease. Default: the residency's. */
  keepAliveMs?: number
  /** Higher goes later. Default 0. */
  priority?: number
  /** A pinned model is never unloaded but by a forced `evict` and `close`. Default false. */
  pinned?: boolean
  /** Leases at once. Default 1: the runtime runs one request at a time. */
  concurrency?: number
  /** Models of a group stay in one IOMMU domain. */
  group?: string
  /** A load that has not settled by then has failed; its memory stays accounted until it settles. Default 600,000. */
  loadTimeoutMs?: number
}

/** A worker with options. */
export interface WorkerOptions {
  module: string | URL
  /** The `args` of the context of `load`. */
  args?: string[]
  /** Added to this process's environment. */
  env?: Record<string, string>
  /** The runtime that runs the module. Default: that of this process. */
  execPath?: string
  /** Gets what the process writes, as it comes. The last 64 KiB are kept for messages in any case. */
  onOutput?: (text: string) => void
}

/**
 * The model of a worker: each exported function of its module is a method, which returns a promise. A generator is one
 * here too, with at most 64 items on their way.
 *
 * Arguments and results are data: JSON's values, bytes (ArrayBuffer and its views), bigint, undefined, NaN, Date, Map,
 * Set and errors. An argument may contain an AbortSignal. A call whose process ends rejects with ERR_DEVICE_LOST.
 */
export interface WorkerModel {
  readonly [method: string]: (...args: any[]) => any
}

/** The model that a definition loads. */
export type ModelOf<D> = D extends { worker: string | URL | WorkerOptions }
  ? WorkerModel
  : D extends { load: (context: ModelLoadContext) => infer Model }
  ? Awaited<Model>
  : D extends ModelDefinition<infer Model>
    ? Model
    : unknown

/** The right to use a loaded model until `release`. */
export interface ModelLease<Model> {
  readonly name: string
  readonly model: Model
  /** Aborts when the model's engine ends under the lease, at a forced `evict`, and at `close`. */
  readonly signal: AbortSignal
  /** Idempotent. A lease that is dropped is released when it is collected, with a process warning. */
  release(): void
  [Symbol.dispose](): void
}

/** Figures of one model. */
export interface ModelStats {
  name: string
  state: ModelState
  /** The IOMMU domain that it is in; null while it is not loaded, and without domains. */
  domain: number | null
  bytes: {
    /** The estimate with a full context. */
    estimated: number
    /** RAM that counts for the model now. */
    reserved: number
    /** What its last load took; null before the first, and where the kernel does not tell. */
    measured: number | null
    /** RAM that did not come back after its last unload. */
    stuck: number
  }
  leases: number
  waiting: number
  /** Time since its last lease; null while it is leased or not loaded. */
  idleMs: number | null
  loads: number
  /** Number of unloads. */
  evictions: number
  /** Duration of its last load; null before the first. */
  loadMs: number | null
  /** Process of the model; null if it is in this one, or not loaded. */
  pid: number | null
}

/** Options of {@link MemoryManager.createModelResidency}. */
export interface ResidencyOptions<Models extends Record<string, ModelDefinition<any>>> {
  models: Models
  /**
   * Bytes that the models may take together. Default: those of the machine, its cgroup and the device, less `keepFree`.
   * The bytes of other processes, tags and pools are subtracted in any case.
   */
  limits?: { ram?: number; npu?: number }
  /** RAM to leave to other processes. Default 256 MiB. */
  keepFree?: number
  /**
   * {@link ModelDefinition.keepAliveMs} of models that have none. Default Infinity: an idle model stays until another
   * model or memory pressure needs its bytes.
   */
  keepAliveMs?: number
  /**
   * Which idle model goes first: the one whose load costs least for its bytes and that is used least ('cost'), or the
   * one that was used longest ago ('lru'). Default 'cost'.
   */
  policy?: 'cost' | 'lru'
}

/** Options of a request. */
export interface ModelRequestOptions extends Cancellable {
  /** The request is refused (`ERR_POOL_BUSY`) if it has no lease by then. Default: it waits. */
  timeoutMs?: number
  /** A priority is worth 30 seconds of waiting. Default 0. */
  priority?: number
}

/**
 * Bytes of the whole machine that are taken after an unload, and were not before the load; null where the kernel does
 * not tell. Other programs change these figures too: they prove nothing by themselves.
 */
export interface MachineChange {
  /** MemAvailable is lower by so much. */
  availableDrop: number | null
  /** The CMA area. */
  cma: number | null
  /** The NPU's SRAM, by its driver. */
  sram: number | null
  /** The vendor's DMA heap. */
  heap: number | null
}

/** Argument of a residency's listeners. */
export interface ModelEvent {
  name: string
  reason?: EvictionReason
  bytes?: number
  /** Of 'progress': the size of the model's file, or what its load reports; absent if neither is known. */
  total?: number
  ms?: number
  /** Of 'stuck': the library in this process, or the kernel, which holds a process that was killed. */
  keptBy?: 'library' | 'kernel'
  /** Of 'gone' and 'stuck': what else is taken since the load. */
  machine?: MachineChange
  error?: MemoryError
}

/** Result of {@link ModelResidency.stats}. */
export interface ResidencyStats {
  /** `limit` is what models may take at most, `others` what of it other processes, tags and pools hold now. */
  ram: { limit: number; others: number; reserved: number }
  domains: Array<{ id: number; limit: number; others: number; reserved: number }>
  models: ModelStats[]
  waiting: number
}

/** Result of {@link ModelResidency.plan}. */
export interface ResidencyPlan {
  evict: string[]
  /** `bytes` are NPU memory. */
  placements: Array<{ model: string; domain: number | null; bytes: number; ram: number }>
}

/**
 * Keeps models in memory: loads them on demand where they fit, evicts idle ones for others, and unloads those that were
 * not used for their keep-alive. Made by {@link MemoryManager.createModelResidency}; docs/residency.md has the rules.
 *
 * Events: 'load' when a load starts (`bytes` are reserved), 'progress' (`bytes` of `total` are read), 'ready' (`ms`),
 * 'evict' when an unload starts (`reason`), 'gone' when its memory is back (`ms`), 'fail' when a load failed or an
 * engine ended (`error`), 'stuck' when memory did not come back (`bytes`).
 *
 * @example
 * const memory = new MemoryManager({ backend: 'simulated' })
 * const models = memory.createModelResidency({
 *   models: { adder: { ramBytes: 1_000_000, load: () => ({ add: (a, b) => a + b }) } },
 * })
 * models.stats().models[0].state // => 'cold'
 * models.close().then(() => memory.dispose())
 */
export class ModelResidency<
  Models extends Record<string, ModelDefinition<any>> = Record<string, ModelDefinition<any>>,
> extends EventEmitter {
  private constructor()

  readonly closed: boolean

  /**
   * Waits until the model is loaded and free, and leases it.
   *
   * @throws ERR_INVALID_ARG_TYPE: no such model; ERR_OUT_OF_MEMORY, ERR_MEMORY_LIMIT, ERR_IOVA_EXHAUSTED: it can never
   * fit; ERR_POOL_BUSY: `timeoutMs` is over; ERR_DEVICE_LOST: its engine ended; the code of its load's error,
   * if that has one, else ERR_DEVICE_IO (`cause` is the error); the signal's reason.
   */
  acquire<Name extends keyof Models & string>(
    name: Name,
    options?: ModelRequestOptions,
  ): Promise<ModelLease<ModelOf<Models[Name]>>>

  /**
   * Calls `work` with the model under a lease, and releases it when `work` has settled. Errors of `work` pass as they
   * are. Rejects at once when the engine ends, or at a forced `evict`, whatever `work` does.
   *
   * @throws the errors of {@link acquire}.
   */
  use<Name extends keyof Models & string, Result>(
    name: Name,
    work: (model: ModelOf<Models[Name]>, context: { signal: AbortSignal }) => Result | Promise<Result>,
    options?: ModelRequestOptions,
  ): Promise<Result>

  /**
   * Loads a model without a lease, evicting idle ones for it.
   *
   * @throws the errors of {@link acquire}.
   */
  preload(name: keyof Models & string, options?: Cancellable): Promise<void>

  /**
   * Unloads a model, and resolves when its memory is back. `force` ends leases first: their holders get
   * ERR_DEVICE_LOST.
   *
   * @throws ERR_POOL_BUSY: the model is leased or asked for, and `force` is not set.
   */
  evict(name: keyof Models & string, options?: { force?: boolean }): Promise<void>

  /**
   * Returns what loading these models together would evict, and where they are or would go; null if they can never be
   * in memory together. Changes nothing.
   */
  plan(...names: Array<keyof Models & string>): ResidencyPlan | null

  /** What is loaded, waits and is reserved. */
  stats(): ResidencyStats

  /**
   * Refuses requests from now on, waits for leases to end, and unloads all models. Resolves when the unloads have
   * settled.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>

  on(
    event: 'load' | 'progress' | 'ready' | 'evict' | 'gone' | 'fail' | 'stuck',
    listener: (event: ModelEvent) => void,
  ): this
}
