/**
 * Compares index.d.ts with contract.d.ts and contract-2.d.ts, the contract of version 1, in the members that both have.
 * Results may be narrower than the contract and parameters wider, never the other way round.
 */

import type { EventEmitter } from 'node:events'

import type * as built from '../../index.js'
import type * as contract from './contract.js'
import type * as more from './contract-2.js'

type Both<A, B> = keyof A & keyof B

/** Results: every common member must be assignable to the contract's. */
type Gives<Built, Contract> = Pick<Built, Both<Built, Contract>> extends Pick<Contract, Both<Built, Contract>>
  ? true
  : { [Key in Both<Built, Contract>]: Built[Key] extends Contract[Key] ? never : Key }[Both<Built, Contract>]

/** Parameters: the library must accept every value that the contract allows. */
type Takes<Built, Contract> = Gives<Contract, Built>

/** Compares parameters separately: TypeScript checks those of methods bivariantly. */
type TakesParameters<Built, Contract> = {
  [Key in Both<Built, Contract>]: Contract[Key] extends (...args: infer Allowed) => unknown
    ? Built[Key] extends (...args: infer Accepted) => unknown
      ? Allowed extends Accepted
        ? never
        : Key
      : Key
    : never
}[Both<Built, Contract>] extends infer Wrong
  ? [Wrong] extends [never]
    ? true
    : Wrong
  : never

/** The manager's own members. Inherited ones return `this`, which differs between the two. */
type BuiltManager = Omit<built.MemoryManager, keyof EventEmitter | PoolVerbs>

/** Pools are compared below: with private constructors, neither class is assignable to the other. */
type PoolVerbs = 'createMemoryPool' | 'getMemoryPool' | 'allocateFromPool' | 'destroyMemoryPool'

/** Fails to compile, and names the members, where T is not `true`. */
function holds<_T extends true>(): void {}

// Values.
holds<Gives<built.DeviceInfo, contract.DeviceInfo>>()
holds<Gives<built.DeviceRefusal, contract.DeviceRefusal>>()
holds<Gives<built.BufferInfo, contract.BufferInfo>>()
holds<Gives<built.CounterStats, contract.CounterStats>>()
holds<Gives<built.DomainStats, contract.DomainStats>>()
holds<Gives<built.NPUMemoryStats, contract.NPUMemoryStats>>()
holds<Gives<built.SystemMemoryStats, contract.SystemMemoryStats>>()
holds<Gives<built.MemoryStats, contract.MemoryStats>>()
holds<Gives<built.MemoryUsage, contract.MemoryUsage>>()
holds<Gives<built.MemoryError, contract.MemoryError>>()
holds<Gives<BuiltManager, contract.MemoryManager>>()
holds<Gives<built.MemoryPool, contract.MemoryPool>>()
holds<Gives<built.MemoryBlock, contract.MemoryBlock>>()
holds<Gives<built.PoolStats, contract.PoolStats>>()
holds<Gives<built.MemoryWarning, contract.MemoryWarning>>()
holds<Gives<built.Reservation, contract.Reservation>>()
holds<Gives<built.BlockMove, contract.BlockMove>>()
holds<Gives<built.DefragmentResult, contract.DefragmentResult>>()
holds<Gives<built.OptimizeResult, contract.OptimizeResult>>()
holds<Gives<built.MemorySnapshot, contract.MemorySnapshot>>()
holds<Gives<built.MemoryProfile, contract.MemoryProfile>>()

// Options.
holds<Takes<built.SimulatedDeviceOptions, contract.SimulatedDeviceOptions>>()
holds<Takes<built.AllocationOptions, contract.AllocationOptions>>()
holds<Takes<built.NPUAllocationOptions, contract.NPUAllocationOptions>>()
holds<Takes<built.SystemAllocationOptions, contract.SystemAllocationOptions>>()
holds<Takes<built.SlabOptions, contract.SlabOptions>>()
holds<Takes<built.Limit, contract.Limit>>()
holds<Takes<built.CleanupOptions, contract.CleanupOptions>>()
holds<Takes<built.DefragmentOptions, contract.DefragmentOptions>>()
holds<Takes<built.OptimizeOptions, contract.OptimizeOptions>>()
holds<Takes<built.ProfilingOptions, contract.ProfilingOptions>>()
holds<Takes<built.MemoryManagerOptions, contract.MemoryManagerOptions>>()
holds<Takes<built.MemoryLimits, contract.MemoryLimits>>()
holds<Takes<built.MemoryPoolOptions, contract.MemoryPoolOptions>>()
holds<Takes<built.PoolAllocationOptions, contract.PoolAllocationOptions>>()
holds<TakesParameters<BuiltManager, contract.MemoryManager>>()
holds<TakesParameters<built.MemoryPool, contract.MemoryPool>>()
holds<PoolVerbs extends keyof built.MemoryManager ? true : Exclude<PoolVerbs, keyof built.MemoryManager>>()

// Names and functions.
holds<contract.Buf extends built.Buf ? true : 'Buf'>()
holds<built.MemoryKind extends contract.MemoryKind ? true : 'MemoryKind'>()
holds<built.Backend extends contract.Backend ? true : 'Backend'>()
holds<
  built.MemoryErrorCode extends contract.MemoryErrorCode
    ? true
    : Exclude<built.MemoryErrorCode, contract.MemoryErrorCode>
>()
holds<typeof built.probeDevices extends typeof contract.probeDevices ? true : 'probeDevices'>()

// Values must have all members of the contract: a missing one would break the contract silently.
holds<Exclude<keyof contract.DeviceInfo, keyof built.DeviceInfo> extends never ? true : false>()
holds<Exclude<keyof contract.BufferInfo, keyof built.BufferInfo> extends never ? true : false>()
holds<Exclude<keyof contract.NPUMemoryStats, keyof built.NPUMemoryStats> extends never ? true : false>()
holds<Exclude<keyof contract.SystemMemoryStats, keyof built.SystemMemoryStats> extends never ? true : false>()
holds<Exclude<keyof contract.MemoryStats, keyof built.MemoryStats> extends never ? true : false>()
holds<Exclude<keyof contract.MemoryUsage, keyof built.MemoryUsage> extends never ? true : false>()
holds<Exclude<keyof contract.MemoryError, keyof built.MemoryError> extends never ? true : false>()
holds<Exclude<keyof contract.PoolStats, keyof built.PoolStats> extends never ? true : false>()
holds<Exclude<keyof contract.MemoryBlock, keyof built.MemoryBlock> extends never ? true : false>()

// Model planning.
holds<Gives<built.ModelEstimate, contract.ModelEstimate>>()
holds<Gives<built.DomainPlan, contract.DomainPlan>>()
holds<Takes<built.ModelSpec, contract.ModelSpec>>()
holds<Exclude<keyof contract.ModelEstimate, keyof built.ModelEstimate> extends never ? true : false>()
holds<Exclude<keyof contract.DomainPlan, keyof built.DomainPlan> extends never ? true : false>()
holds<typeof built.estimateModelMemory extends typeof contract.estimateModelMemory ? true : 'estimateModelMemory'>()
holds<typeof built.planModels extends typeof contract.planModels ? true : 'planModels'>()
holds<typeof built.explainError extends typeof contract.explainError ? true : 'explainError'>()

// The contract's second part.
type MoreVerbs = keyof (more.FreeingVerbs & more.AsyncVerbs)
holds<MoreVerbs extends keyof built.MemoryManager ? true : Exclude<MoreVerbs, keyof built.MemoryManager>>()
holds<Gives<built.MemoryManager, more.FreeingVerbs & more.AsyncVerbs>>()
holds<TakesParameters<built.MemoryManager, more.FreeingVerbs & more.AsyncVerbs>>()
holds<'allocateAsync' extends keyof built.MemoryPool ? true : 'allocateAsync'>()
holds<Gives<built.MemoryPool, more.AsyncPoolVerbs>>()
holds<TakesParameters<built.MemoryPool, more.AsyncPoolVerbs>>()
holds<Takes<built.MemoryPoolOptions, more.PoolReuseOptions>>()
holds<Takes<built.DmaBufImportOptions, more.DmaBufImportOptions>>()
holds<Gives<built.DmaBufPiece, more.DmaBufPiece>>()
holds<Takes<built.ModelSpec, more.ModelSpecMore>>()
holds<Gives<built.ModelEstimate, more.ModelEstimateMore>>()
holds<Exclude<keyof more.ModelEstimateMore, keyof built.ModelEstimate> extends never ? true : false>()
holds<Gives<built.MeasuredModel, more.MeasuredModel>>()
holds<Exclude<keyof more.MeasuredModel, keyof built.MeasuredModel> extends never ? true : false>()
holds<typeof built.explainAll extends typeof more.explainAll ? true : 'explainAll'>()
holds<typeof built.measureModel extends typeof more.measureModel ? true : 'measureModel'>()
holds<Gives<built.InferenceSession, more.RKLLMSessionParameters>>()
holds<Gives<built.InferenceSession, more.RKLLMSessionResults>>()
holds<TakesParameters<built.InferenceSession, more.RKLLMSessionParameters>>()
holds<typeof built.runtimeVersion extends typeof more.runtimeVersion ? true : 'runtimeVersion'>()

// Residency. Inherited members return `this`, which differs between the two.
type Models = { chat: { contextLength: number; load(): Promise<string> }; embed: { contextLength: number } }
type BuiltResidency = Omit<built.ModelResidency<Models>, Exclude<keyof EventEmitter, 'on'>>
holds<'createModelResidency' extends keyof built.MemoryManager ? true : 'createModelResidency'>()
holds<TakesParameters<built.MemoryManager, more.ResidencyVerbs>>()
// The types of models are computed, and compared for one definition.
holds<Gives<Omit<BuiltResidency, 'on' | 'acquire' | 'use'>, more.ModelResidency<Models>>>()
holds<built.ModelOf<Models['chat']> extends more.ModelOf<Models['chat']> ? true : 'ModelOf'>()
holds<TakesParameters<BuiltResidency, more.ModelResidency<Models>>>()
holds<Exclude<keyof more.ModelResidency<Models>, keyof built.ModelResidency> extends never ? true : false>()
holds<Gives<built.ModelLease<string>, more.ModelLease<string>>>()
holds<Gives<built.ModelStats, more.ModelStats>>()
holds<Exclude<keyof more.ModelStats, keyof built.ModelStats> extends never ? true : false>()
holds<Takes<built.ModelDefinition<string>, more.ModelDefinition<string>>>()
holds<Takes<built.ResidencyOptions<Models>, more.ResidencyOptions<Models>>>()
holds<built.ModelState extends more.ModelState ? true : Exclude<built.ModelState, more.ModelState>>()
holds<built.EvictionReason extends more.EvictionReason ? true : Exclude<built.EvictionReason, more.EvictionReason>>()
