/** Model planning: memory estimates, and placement in IOMMU domains. Sizes are bytes. */

import type { DeviceInfo } from './devices.js'
import type { DomainStats } from './stats.js'

/** Quantisation of weights, in the terms of rkllm-toolkit. */
export type QuantizedType = 'w8a8' | 'w4a16' | 'w4a16_g128'

/** Description of a model. */
export interface ModelSpec {
  /** Path of a .rkllm or .rknn file. The size of the file is the size of the weights. */
  path?: string
  /** Bytes of the weights; overrides the size of `path`. */
  weightBytes?: number
  /** A Hugging Face config.json, as a path or as contents. Used beside or in place of the five fields below. */
  config?: string | Record<string, unknown>
  layers?: number
  hiddenSize?: number
  kvHeads?: number
  headDim?: number
  vocabSize?: number
  /** RKLLMParam.max_context_len, in tokens. Required for language models, not for vision models. */
  contextLength?: number
  /** Number of concurrent sequences. Default 1. */
  batch?: number
  /** Bytes of one element of the KV cache. Default 2 (float16). */
  kvBytesPerElement?: number
  /** Quantisation of the weights whose number `config` tells. Default "w8a8". */
  dtype?: QuantizedType
  /** Chip: "rk3588" (default), "rk3576", "rk3562", "rv1126b". */
  soc?: string
  /** "vision" is a .rknn model: weights without a KV cache. Default: by the file. */
  type?: 'language' | 'vision'
}

/** Estimate of a model's memory, in bytes. `measured` and `derived` list the source of each figure. */
export interface ModelEstimate {
  weights: number
  kvCache: number
  activations: number
  /** Memory of the runtime itself: tokenizer, logits, libraries. */
  hostBuffers: number
  /** weights + kvCache + activations: the part that takes addresses in the NPU's IOMMU domain or CMA. */
  npuTotal: number
  /** npuTotal + hostBuffers: peak resident memory of the process. */
  total: number
  /** Half-width of the 90 % band around `total`, as a fraction. */
  uncertainty: number
  /** `model_type` of the configuration. */
  architecture: string | null
  source: 'file' | 'config' | 'numbers'
  /** Figures that were measured. */
  measured: string[]
  /** Figures that only follow from the model's shape. */
  derived: string[]
  /** Assumptions, and reasons for a wide band. */
  warnings: string[]
}

/** Options of {@link planModels}. */
export interface PlanOptions {
  /** Domains that are already in use, e.g. `manager.getNPUMemoryStats().domains`. */
  domains?: Array<Partial<DomainStats> & { id: number }>
  /** RAM that the models may take. Default: RAM is not checked. */
  ramAvailable?: number
  /** RAM to leave to other processes. Default 256 MiB. */
  keepFree?: number
  /**
   * Lets a model that exceeds every domain continue in the next ones. The vendor documents `base_domain_id` as the
   * domain where a model *starts*, not where it continues. Default false.
   */
  spread?: boolean
}

/** Result of {@link planModels}. */
export interface DomainPlan {
  fits: boolean
  /** IOMMU domain of each model (RKLLMExtendParam.base_domain_id), and the upper bound of its bytes there. */
  placements: Array<{ model: string; domain: number; bytes: number }>
  /**
   * Every domain with the models placed, or unchanged if they do not fit. Without an IOMMU there is one entry, the CMA
   * area; its total is 0 if unknown, and then RAM is the bound.
   */
  domains: DomainStats[]
  /** The reason why the models do not fit, and a set-up that would. */
  reason: string | null
  estimates: Record<string, ModelEstimate>
  warnings: string[]
}

/**
 * Estimates the memory of a model. Calibrated on the vendor's measurements; docs/planning.md states the error.
 *
 * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE: a part of the spec is missing or wrong; ERR_UNSUPPORTED: the file is
 * empty, truncated, or not a model; ERR_DEVICE_IO, ERR_DEVICE_PERMISSION: the file cannot be read.
 *
 * @example
 * const shape = { layers: 28, hiddenSize: 1536, kvHeads: 2, headDim: 128, vocabSize: 151_936 }
 * const chat = estimateModelMemory({ ...shape, weightBytes: 1_900_000_000, contextLength: 4096 })
 * // Layers, keys and values, heads, elements of a head, bytes of an element, tokens.
 * chat.kvCache === 28 * 2 * 2 * 128 * 2 * 4096 // => true
 * chat.npuTotal === chat.weights + chat.kvCache + chat.activations // => true
 */
export function estimateModelMemory(spec: ModelSpec): ModelEstimate

/**
 * Places each model in an IOMMU domain. Models of one `group` (a vision encoder and its language model) share a domain.
 *
 * For up to eight groups, the plan uses the fewest domains; among such plans it leaves the most room in the fullest
 * domain. For more groups, it places the largest group first, in the first domain that fits.
 *
 * @throws the errors of {@link estimateModelMemory}.
 *
 * @example
 * const memory = new MemoryManager({ backend: 'simulated' })
 * const encoder = { name: 'encoder', type: 'vision', weightBytes: 900_000_000 }
 * planModels([encoder], memory.device).placements[0].domain // => 0
 * memory.dispose()
 */
export function planModels(
  models: Array<ModelSpec & { name: string; group?: string }>,
  device: DeviceInfo,
  options?: PlanOptions,
): DomainPlan
