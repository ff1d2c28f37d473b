/** The models, boards and storage of the benchmark of residency. */

const MiB = 2 ** 20
const GiB = 2 ** 30

/**
 * Eight models on the RK3588 in w8a8, from the smallest to the largest. The sizes are peak resident memory at 128
 * prompt tokens and 64 new ones, in the benchmark table of the vendor's RKLLM toolkit (airockchip/rknn-llm).
 */
export const MODELS = [
  { name: 'qwen2-0.5b', mb: 669.56 },
  { name: 'qwen3.5-0.8b', mb: 1039.66 },
  { name: 'rwkv7-1.5b', mb: 1486.19 },
  { name: 'qwen3-vl-2b', mb: 1868.98 },
  { name: 'telechat2-3b', mb: 2788.39 },
  { name: 'deepseek-ocr-3b', mb: 3066.66 },
  { name: 'minicpm3-4b', mb: 4384.02 },
  { name: 'qwen3.5-4b', mb: 4575.78 },
].map(({ name, mb }) => ({ name, bytes: Math.round(mb * MiB) }))

/** What the system and other programs take of a board's RAM. */
const SYSTEM = 1.5 * GiB

/** The boards. Each serves one of `every` requests of the trace, which keeps it busy and lets it keep up. */
export const BOARDS = [
  { name: '8 GiB', bytes: 8 * GiB - SYSTEM, every: 35 },
  { name: '16 GiB', bytes: 16 * GiB - SYSTEM, every: 20 },
  { name: '32 GiB', bytes: 32 * GiB - SYSTEM, every: 20 },
]

/** Bytes read in a millisecond. */
export const STORAGES = [
  { name: 'eMMC, 200 MB/s', speed: 200_000 },
  { name: 'NVMe, 1.5 GB/s', speed: 1_500_000 },
]

/** IOMMU domains of rknpu 0.9.8, and what the runtime puts into one before it continues in the next. */
export const DOMAINS = Array.from({ length: 16 }, (_, id) => ({ id, limit: 4 * GiB }))
export const SPREAD = 3.78 * GiB

/**
 * How long a model takes for a request. The vendor's benchmark has 11 ms for a token of a prompt and 170 ms for a new
 * one with a model of 4.4 GB; both grow with the weights.
 */
export function serviceMs({ bytes }, { prompt, answer }) {
  return ((prompt * 2.5 + answer * 38) * bytes) / 1e9
}

/** Tokens of a prompt at most. The trace's prompts are source code, most of which a prompt cache holds. */
export const MAX_PROMPT = 512
