/**
 * Sources of requests: a CSV in the format of the Azure LLM inference trace, or a generator fitted to that trace. Both
 * return `{ arrival, context, generated }`: seconds since the first request, tokens in, tokens out.
 */

import { readFileSync } from 'node:fs'

/**
 * Quantiles that the generator is fitted to. AzureLLMInferenceTrace_code.csv (Azure/AzurePublicDataset, CC-BY; Patel et
 * al., Splitwise, ISCA 2024) holds 8,819 requests in 3,436 s. Below are its quantiles at PROBABILITIES: seconds between
 * arrivals, context tokens, generated tokens. A sample is the inverse of that distribution at a uniform random number,
 * interpolated in the logarithm. Means of the samples against the trace: gaps 0.403 s / 0.390 s (2.5 requests per
 * second), context tokens 2,057 / 2,048, generated tokens 28.7 / 27.9. The generator draws the three independently: in
 * the trace context and generated tokens correlate with r = 0.001. It does not model that busy minutes of the trace
 * follow one another.
 */
const PROBABILITIES = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1]
const GAP_SECONDS = [
  6e-6, 8.8e-5, 2.09e-4, 1.18e-3, 3.29e-3, 0.0151, 0.0638, 0.095, 0.1, 0.16, 0.273, 0.401, 0.799, 2.205, 9.978, 79.23,
  217.2,
]
const CONTEXT_TOKENS = [
  3, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7436, 7436, 7437, 7437,
]
const GENERATED_TOKENS = [6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 171, 251, 359, 825, 1899]

/** Generates a workload. The same seed gives the same workload on every machine. */
export function generateWorkload(count, seed) {
  const random = mulberry32(seed)
  const requests = []
  let arrival = 0
  for (let id = 0; id < count; id++) {
    if (id > 0) arrival += sample(GAP_SECONDS, random())
    const context = Math.round(sample(CONTEXT_TOKENS, random()))
    const generated = Math.round(sample(GENERATED_TOKENS, random()))
    requests.push({ id, arrival, context, generated })
  }
  return requests
}

/** Reads the columns TIMESTAMP, ContextTokens and GeneratedTokens, in any order, beside others. */
export function readTrace(path, limit = Infinity) {
  const lines = readFileSync(path, 'utf8').split(/\r?\n/)
  const header = lines[0].split(',').map((name) => name.trim().toLowerCase())
  const column = (name) => {
    const index = header.indexOf(name.toLowerCase())
    if (index < 0) throw new Error(`${path}: no column "${name}" in its first line`)
    return index
  }
  const [time, context, generated] = ['TIMESTAMP', 'ContextTokens', 'GeneratedTokens'].map(column)

  const requests = []
  let start
  for (let i = 1; i < lines.length && requests.length < limit; i++) {
    if (lines[i].trim() === '') continue
    const cells = lines[i].split(',')
    const request = {
      id: requests.length,
      arrival: parseTimestamp(cells[time]),
      context: Number(cells[context]),
      generated: Number(cells[generated]),
    }
    const readable =
      Number.isFinite(request.arrival) && isCount(request.context, 1) && isCount(request.generated, 0)
    if (!readable) throw new Error(`${path}:${i + 1}: cannot read "${lines[i]}"`)
    start ??= request.arrival
    request.arrival -= start
    requests.push(request)
  }
  if (requests.length === 0) throw new Error(`${path}: no requests in it`)
  return requests.sort((a, b) => a.arrival - b.arrival)
}

function isCount(value, least) {
  return Number.isSafeInteger(value) && value >= least
}

/**
 * Parses "2023-11-16 18:17:03.9799600" to seconds. Date keeps three decimals; arrivals in a burst are closer than that.
 */
function parseTimestamp(text) {
  const [, seconds, fraction = ''] = /^\s*(.*?)(\.\d+)?(?:Z|[+-]00:?00)?\s*$/.exec(text ?? '')
  return Date.parse(`${seconds.replace(' ', 'T')}Z`) / 1000 + Number(fraction)
}

function sample(quantiles, probability) {
  let i = PROBABILITIES.findIndex((p) => p > probability) - 1
  if (i < 0) i = 0
  const share = (probability - PROBABILITIES[i]) / (PROBABILITIES[i + 1] - PROBABILITIES[i])
  return quantiles[i] * (quantiles[i + 1] / quantiles[i]) ** share
}

function mulberry32(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
