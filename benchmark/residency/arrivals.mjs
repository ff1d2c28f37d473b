/** Requests: arrivals of a production trace, or generated ones like it, and a model for each. */

import { readFileSync } from 'node:fs'

import { MAX_PROMPT } from './boards.mjs'

/** Mulberry32: numbers from 0 to 1 that a seed repeats. */
export function randomOf(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/**
 * Reads a trace of Azure/AzurePublicDataset (TIMESTAMP, ContextTokens, GeneratedTokens).
 *
 * @returns {{ at: number, prompt: number, answer: number }[]} `at` in milliseconds from the first one
 */
export function readTrace(path) {
  const [head, ...lines] = readFileSync(path, 'utf8').trim().split(/\r?\n/)
  if (head !== 'TIMESTAMP,ContextTokens,GeneratedTokens') throw new Error(`${path} is not such a trace: ${head}`)
  const rows = lines.map((line) => {
    const [time, prompt, answer] = line.split(',')
    // Date reads milliseconds; the trace has ten millionths of a second.
    const at = Date.parse(`${time.slice(0, 23).replace(' ', 'T')}Z`)
    return { at, prompt: Number(prompt), answer: Number(answer) }
  })
  return rows.map((row) => ({ ...row, at: row.at - rows[0].at }))
}

/** Keeps one of `every` rows of a trace, at random. */
export function thin(trace, every, seed) {
  const random = randomOf(seed)
  return trace.filter(() => random() * every < 1)
}

/** A number of the gamma distribution with mean 1; below 1 `shape` means bursts. Marsaglia and Tsang. */
function gamma(shape, random) {
  const boost = shape < 1 ? random() ** (1 / shape) : 1
  const d = (shape < 1 ? shape + 1 : shape) - 1 / 3
  for (;;) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    const v = (1 + normal / Math.sqrt(9 * d)) ** 3
    const isTaken = v > 0 && Math.log(1 - random()) < 0.5 * normal ** 2 + d - d * v + d * Math.log(v)
    if (isTaken) return (boost * d * v) / shape
  }
}

/**
 * Generates an hour that looks like the trace thinned by `every`: the mean of its gaps (0.39 s times `every`), their
 * bursts (deviation over mean of 2.4), and tokens with the trace's means.
 */
export function generate(every, seed) {
  const random = randomOf(seed + 1e6)
  const shape = 1 / 2.4 ** 2
  const rows = []
  for (let at = 0; at < 3_436_000; at += gamma(shape, random) * 389.65 * every) {
    const prompt = Math.ceil(gamma(0.9, random) * 2048)
    rows.push({ at, prompt, answer: Math.ceil(gamma(0.5, random) * 28) })
  }
  return rows
}

/**
 * Gives each row a model. Popularity follows Zipf's law; in each phase other models are the popular ones. `order` has
 * the names by popularity in the request's phase.
 *
 * @param {{ at: number, prompt: number, answer: number }[]} rows
 * @param {{ models: { name: string }[], exponent: number, phaseMs: number, seed: number }} options
 */
export function withModels(rows, { models, exponent, phaseMs, seed }) {
  const random = randomOf(seed + 2e6)
  const weights = models.map((_, i) => (i + 1) ** -exponent)
  const sum = weights.reduce((a, b) => a + b)
  const orders = []
  return rows.map(({ at, prompt, answer }, id) => {
    const phase = Math.floor(at / phaseMs)
    while (orders.length <= phase) orders.push(shuffle(models, random))
    let left = random() * sum
    const popularity = weights.findIndex((weight) => (left -= weight) < 0)
    const model = orders[phase][popularity < 0 ? models.length - 1 : popularity]
    const order = orders[phase].map(({ name }) => name)
    return { id, at, name: model.name, prompt: Math.min(prompt, MAX_PROMPT), answer, order }
  })
}

function shuffle(items, random) {
  const left = [...items]
  return items.map(() => left.splice(Math.floor(random() * left.length), 1)[0])
}
