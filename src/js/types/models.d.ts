/** Model planning: memory estimates and IOMMU domain placement. */

import type { DeviceInfo } from './devices.js'
import type { DomainStats } from './stats.js'

/** How weights are quantised, in rkllm-toolkit's words. */
export type QuantizedType = 'w8a8' | 'w4a16' | 'w4a16_g128'

export interface ModelSpec {
  /** A .rkllm or .rknn file: its size is the weights. */
  path?: string
  /** Bytes of weights; goes before the size of `path`. */
  weightBytes?: number
  /** A Hugging Face config.json, its path or its contents, beside or instead of the five below. */
  config?: string | Record<string, unknown>
  layers?: number
  hiddenSize?: number
  kvHeads?: number
  headDim?: number
  vocabSize?: number
  /** RKLLMParam.max_context_len, tokens. Needed of every language model, not of a vision model. */
  contextLength?: number
  /** Sequences at once. Default 1. */
  batch?: number
  /** Default 2 (float16). */
  kvBytesPerElement?: number
  /** For weights that `config` tells the number of. Default "w8a8". */
  dtype?: QuantizedType
  /** The chip: "rk3588" (default), "rk3576", "rk3562", "rv1126b". */
  soc?: string
  /** "vision" is a .rknn model: its weights, and no KV cache. Default: by the file. */
  type?: 'language' | 'vision'
}

/** Bytes. What is measured, and what only follows from the model's shape, is told in `measured` and `derived`. */
export interface ModelEstimate {
  weights: number
  kvCache: number
  activations: number
  /** The runtime's own memory: tokenizer, logits, libraries. */
  hostBuffers: number
  /** weights + kvCache + activations: what takes addresses in the NPU's IOMMU domain or CMA. */
  npuTotal: number
  /** npuTotal + hostBuffers: peak resident memory of the process. */
  total: number
  /** Half-width of the 90 % band around `total`, as a fraction. */
  uncertainty: number
  /** `model_type` of the configuration. */
  architecture: string | null
  source: 'file' | 'config' | 'numbers'
  measured: string[]
  derived: string[]
  /** What was assumed, and why the band is wide. */
  warnings: string[]
}

export interface PlanOptions {
  /** Domains with something in them already, e.g. `manager.getNPUMemoryStats().domains`. */
  domains?: Array<Partial<DomainStats> & { id: number }>
  /** RAM that can be taken. Default: not looked at. */
  ramAvailable?: number
  /** RAM to leave to others. Default 256 MiB. */
  keepFree?: number
  /**
   * Plan a model that no domain holds alone on going on in the next ones. The vendor documents `base_domain_id` as the domain a model
   * *starts* from, not where it goes on. Default false.
   */
  spread?: boolean
}

export interface DomainPlan {
  fits: boolean
  /** Which IOMMU domain each model goes to (RKLLMExtendParam.base_domain_id), and the upper end of what it takes there. */
  placements: Array<{ model: string; domain: number; bytes: number }>
  /** Every domain as it would be then; as it is where nothing fits. Without an IOMMU one entry: the CMA area (total 0: not known, RAM is the bound). */
  domains: DomainStats[]
  /** Why they do not fit, and what would. */
  reason: string | null
  estimates: Record<string, ModelEstimate>
  warnings: string[]
}

/**
 * How much memory a model will take. Calibrated on the vendor's measurements; see docs/planning.md for the error.
 *
 * Errors: `ERR_INVALID_ARG_TYPE` and `ERR_OUT_OF_RANGE` (what is missing or wrong in the spec), `ERR_UNSUPPORTED` (the file is empty, cut off, or no model),
 * `ERR_DEVICE_IO` and `ERR_DEVICE_PERMISSION` (it cannot be read).
 */
export function estimateModelMemory(spec: ModelSpec): ModelEstimate

/**
 * Which IOMMU domain each model goes to. Models of one `group` (a vision encoder and its language model) go together. Up to eight groups: the fewest domains,
 * and of those plans the one that leaves most room in its fullest domain; above, first fit of the largest first.
 *
 * Errors: those of {@link estimateModelMemory}.
 */
export function planModels(models: Array<ModelSpec & { name: string; group?: string }>, device: DeviceInfo, options?: PlanOptions): DomainPlan
