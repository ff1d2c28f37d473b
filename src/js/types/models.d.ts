/** Model planning: memory estimates, and placement in IOMMU domains. Sizes are bytes. */

import type { DeviceInfo } from './devices.js'
import type { DomainStats } from './stats.js'

/**
 * Quantisation of weights, in the terms of rkllm-toolkit. `_g128` has one scale for each 128 numbers of a channel;
 * without it a channel has one scale. The vendor publishes memory of `w8a8`, `w8a8_g128`, `w8a8_g512`, `w4a16` and
 * `w4a16_g128`.
 */
export type QuantizedType = `${'w8a8' | 'w4a16'}${'' | `_g${32 | 64 | 128 | 256 | 512}`}` | 'w4a8_g32'

/** Description of a model. */
export interface ModelSpec {
  /**
   * Path of a .rkllm, .rknn or .gguf file. A .rkllm file holds the weights and the float16 table of input embeddings;
   * with `config` the estimate knows both, and `warnings` says where file and configuration disagree. Of a .gguf file
   * the head is read, which has the shape.
   */
  path?: string
  /** Bytes of the weights in NPU memory; overrides `path` and `config`. */
  weightBytes?: number
  /**
   * A Hugging Face config.json, as a path or as contents. Used beside or in place of the five fields below. Fields that
   * it leaves to its family's defaults are filled, and named in `warnings`.
   */
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
  /** Quantisation of the weights; another word is refused. Default: by the name and the size of `path`, else "w8a8". */
  dtype?: QuantizedType | (string & {})
  /** Version of librkllmrt, e.g. "1.2.3". Default: the newest with measurements, "1.3.0". */
  runtime?: string
  /**
   * RKLLMExtendParam.embed_flash: the table of input embeddings stays in the file. Default true. Before runtime 1.2.0
   * the table is in RAM as float32, whatever is set here.
   */
  embedFlash?: boolean
  /** Chip: "rk3588" (default), "rk3576", "rk3562", "rv1126b". */
  soc?: string
  /**
   * The file with measurements of this machine ({@link measureModel}); false leaves them out. They are found by the
   * contents of `path`. Default: the file where `measureModel` stores them.
   */
  calibration?: string | false
  /** "vision" is a .rknn model, or the vision part of `config`: weights without a KV cache. Default: by the file. */
  type?: 'language' | 'vision'
}

/** Estimate of a model's memory, in bytes. `measured` and `derived` list the source of each figure. */
export interface ModelEstimate {
  /** Quantised matrices, output head included and input embeddings not. */
  weights: number
  /** The KV cache of a full context, and the state of linear layers. */
  kvCache: number
  /** One chunk of a prompt in one layer, and its scores against the context. */
  activations: number
  /** Memory of the runtime itself: tokenizer, logits, commands of the NPU, libraries; before 1.2.0 the embeddings. */
  hostBuffers: number
  /** weights + kvCache + activations. */
  npuTotal: number
  /** The same as `full`. */
  total: number
  /** Half-width of the 90 % band around `full`, as a fraction. The KV cache is arithmetic, and widens the band. */
  uncertainty: number
  /**
   * Resident memory of the process once the model is loaded and has answered a first short prompt (192 tokens, as in
   * the vendor's measurements). The KV cache becomes resident as it fills.
   */
  loaded: number
  /** Half-width of the 90 % band around `loaded`, as a fraction of it. */
  loadedUncertainty: number
  /** Resident memory of the process once the context is full. */
  full: number
  /**
   * Bytes that take addresses in the NPU's IOMMU domain, or CMA, and the most that they may be. The KV cache is not
   * among them: six models of which each has 448 MiB of it fit in 4 GiB with their weights (airockchip/rknn-llm#437).
   */
  domain: { bytes: number; max: number }
  /**
   * Bytes of the vision part of `config`, which is a .rknn file of its own; the other figures do not count it. Null
   * without one, or if its sizes are not given.
   */
  vision: number | null
  /**
   * Where the figures come from: `measured-here`, of this file on this machine; `calibrated` on the vendor's
   * measurements; or `arithmetic`, where a size, an unknown format or a given number takes the calibration's place.
   */
  basis: 'measured-here' | 'calibrated' | 'arithmetic'
  /** `model_type` of the configuration; "rknn" of vision models. */
  architecture: string | null
  /** The quantisation that was estimated; null where the size of the weights was given. */
  dtype: QuantizedType | null
  /** The runtime whose measurements were used; null of models that RKLLM does not load. */
  runtime: string | null
  source: 'file' | 'config' | 'numbers'
  /** Figures that were measured. */
  measured: string[]
  /** Figures that only follow from the model's shape. */
  derived: string[]
  /** Assumptions, disagreements, and reasons for a wide band. */
  warnings: string[]
}

/** Start of {@link measureModel}. */
export interface MeasureStart {
  /** The program that loads the model, e.g. "llm_demo". It is ended once the model is loaded. */
  command: string
  args?: string[]
  /** Added to this process's environment. */
  env?: Record<string, string>
  /** Path of the model file that the command loads. */
  model: string
  /**
   * The sign that the model is loaded: text of the command's output, or milliseconds after its start. Default: its
   * memory has not grown for 10 seconds, or the command has ended by itself.
   */
  until?: RegExp | number
  /** RKLLMParam.max_context_len of the run, so that estimates of the same context are exact. */
  contextLength?: number
  /** Version of librkllmrt. Default: the one that the command's output names. */
  runtime?: string
  /**
   * The calibration file; false stores nothing. Default: `$XDG_STATE_HOME/rkllm-memory/models.json`, or
   * `~/.local/state/rkllm-memory/models.json`.
   */
  calibration?: string | false
}

/** Memory of a loaded model, as it was measured. Sizes are bytes of the command and its children. */
export interface MeasuredModel {
  path: string
  /** Version of librkllmrt; null if neither the command nor the caller named it. */
  runtime: string | null
  /** Version of the driver; null if it is unknown. */
  driver: string | null
  contextLength: number | null
  /** `resident`, and the NPU's bytes that it does not have: what estimates use. */
  footprint: number
  /** Resident set; a page that several of the processes share counts once. */
  resident: number
  /** The resident set by kind: heap, files, shared memory. */
  anonymous: number
  file: number
  shmem: number
  /** Objects of the NPU's device nodes in the mappings. */
  npu: number
  /** Open dma-bufs, each once. */
  dmaBufs: number
  processes: number
  /** The largest footprint of the run. */
  peak: number
  /** Bytes by which MemAvailable fell and used CMA grew; others' memory counts too. Null where the kernel is silent. */
  availableDrop: number | null
  cma: number | null
  command: string
  /** Milliseconds since 1970. */
  at: number
  /** The file where the measurement is stored; null if it is not. */
  calibration: string | null
}

/** Options of {@link planModels}. */
export interface PlanOptions {
  /** Domains that are already in use, e.g. `manager.getNPUMemoryStats().domains`. */
  domains?: Array<Partial<DomainStats> & { id: number }>
  /**
   * RAM that the models may take; null to leave RAM out. Default: what is available on this machine and in its cgroups,
   * if the device is one of this machine (`device.path`).
   */
  ramAvailable?: number | null
  /** RAM to leave to other processes. Default 256 MiB. */
  keepFree?: number
  /**
   * Whether a model that exceeds a domain may continue in the next ones, as the runtime lets it with rknpu 0.9.8 and
   * later. The vendor documents `base_domain_id` as the domain where a model *starts*. Default true; with rknpu below
   * 0.9.8, which has one usable domain, no model continues.
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
  /** The RAM that the plan counted with; null if RAM was left out. */
  ramAvailable: number | null
  /** The reason why the models do not fit, and a set-up that would. */
  reason: string | null
  estimates: Record<string, ModelEstimate>
  warnings: string[]
}

/**
 * Estimates the memory of a model: `loaded` and `full`, each with its band. Calibrated on the vendor's measurements of
 * runtimes 1.1 to 1.3; docs/planning.md states the error.
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
 * chat.loaded < chat.full && chat.full === chat.total // => true
 */
export function estimateModelMemory(spec: ModelSpec): ModelEstimate

/**
 * Places each model in an IOMMU domain, with the upper ends of its bands: `domain.max` there, `full` in RAM.
 * Models of one `group` (a vision encoder and its language model) share a domain. .rknn models go to domain 0: their
 * API has no other.
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

/**
 * Runs a command that loads a model, watches it and its children until the model is loaded, ends them, and stores the
 * figures in the calibration file: resident memory by kind, dma-bufs, mapped NPU objects, CMA. Estimates of the same
 * file, found by its contents, then are `measured-here`. Measure on a quiet machine.
 *
 * @throws ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE; ERR_DEVICE_IO: the command cannot be started, or ended before the
 * model was loaded; ERR_DEVICE_PERMISSION: it runs as another user; ERR_UNSUPPORTED: the file is no model, or the
 * calibration file is damaged; the signal's reason.
 */
export function measureModel(start: MeasureStart, options?: { signal?: AbortSignal }): Promise<MeasuredModel>
