'use strict'

// `rkllm-memory bench`: measures the cost of allocating on this machine, relative to `new ArrayBuffer` in the same run.
//
// Each round measures every case once, so that a machine that slows down slows all cases alike. The result is the
// median of the rounds.

const { oneOf, expectWords, wholeNumber } = require('./args.js')
const { makeProgress } = require('./progress.js')
const { setImmediate } = require('../core/runtime.js')
const { bytes, columns } = require('./style.js')

const [KiB, MiB] = [1024, 2 ** 20]
const SIZES = [4 * KiB, 64 * KiB, MiB]
const BATCH = 200
const ROUNDS = 15
const BACKENDS = ['auto', 'rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated']
/** The case that all others are compared with. */
const BASELINE = 'new ArrayBuffer'

/** @type {import('./args.js').Command} */
const command = {
  name: 'bench',
  summary: 'measures the cost of allocating, relative to new ArrayBuffer',
  words: '',
  options: {
    backend: { type: 'string', value: 'NAME', text: `${BACKENDS.join(', ')}; default auto`, parse: oneOf(...BACKENDS) },
    rounds: {
      type: 'string',
      value: 'N',
      text: `measurements of each case; default ${ROUNDS}`,
      parse: wholeNumber(3, 1000),
    },
    json: { type: 'boolean', text: 'as JSON, times in ns' },
  },
  notes: ['Allocates and frees without writing to the memory. The repository has more benchmarks: npm run bench.'],
  async run({ values, words, io, paint, print, json }) {
    expectWords(words, [])
    const { MemoryManager } = require('../../../index.js')
    const manager = new MemoryManager({ backend: values.backend ?? 'auto' })
    try {
      const rounds = values.rounds ?? ROUNDS
      const progress = makeProgress(io.stderr, rounds)
      const results = await measure(casesOf(manager), rounds, progress)
      progress.clear()
      if (values.json) json({ device: manager.device, rounds, batch: BATCH, results })
      else show(results, manager.device, { paint, print })
    } finally {
      manager.dispose()
    }
  },
}

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {{ name: string, size: number, once: () => void }} Case `once` allocates and frees
 * @typedef {{ name: string, size: number, medianNs: number, minNs: number, maxNs: number, ratio: number }} Result
 */

/**
 * @param {MemoryManager} manager
 * @returns {Case[]}
 */
function casesOf(manager) {
  const pool = manager.createMemoryPool({ name: 'bench', kind: 'npu', initialSize: 8 * MiB })
  /** @type {unknown[]} */
  const stored = []
  /** @type {Record<string, (size: number) => void>} */
  const operations = {
    [BASELINE]: (size) => {
      // Stored, because an engine may optimise away an unused allocation.
      stored[0] = new ArrayBuffer(size)
    },
    'pool.allocate + free': (size) => pool.allocate(size).free(),
    'allocateFromPool + deallocate': (size) => manager.deallocate(manager.allocateFromPool(pool, size)),
    'allocateNPUMemory + deallocate': (size) => manager.deallocate(manager.allocateNPUMemory(size)),
    'the same, dedicated': (size) => manager.deallocate(manager.allocateNPUMemory(size, { dedicated: true })),
    'allocateSystemMemory + deallocate': (size) => manager.deallocate(manager.allocateSystemMemory(size)),
  }
  return SIZES.flatMap((size) =>
    Object.entries(operations).map(([name, operation]) => ({ name, size, once: () => operation(size) })),
  )
}

/**
 * @param {Case[]} cases
 * @param {number} rounds
 * @param {ReturnType<typeof makeProgress>} progress
 * @returns {Promise<Result[]>}
 */
async function measure(cases, rounds, progress) {
  const times = cases.map(() => /** @type {number[]} */ ([]))
  // The first round is a warm-up.
  for (let round = -1; round < rounds; round++) {
    for (const [at, { name, once }] of cases.entries()) {
      const began = process.hrtime.bigint()
      for (let i = 0; i < BATCH; i++) once()
      if (round >= 0) times[at].push(Number(process.hrtime.bigint() - began) / BATCH)
      progress.update(round + 1 + at / cases.length, name)
      // Lets finalizers and the driver's thread run outside the measurement.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  return cases
    .map(({ name, size }, at) => {
      const sorted = times[at].sort((a, b) => a - b)
      return { name, size, medianNs: median(sorted), minNs: sorted[0], maxNs: sorted[sorted.length - 1] }
    })
    .map((result, _, all) => {
      const baseline = all.find(({ name, size }) => name === BASELINE && size === result.size)
      return { ...result, ratio: result.medianNs / (baseline?.medianNs ?? NaN) }
    })
}

/**
 * Formats µs with about three digits, so that a line fits into 80 columns.
 *
 * @param {number} us
 */
function micros(us) {
  return us.toFixed(us >= 100 ? 0 : us >= 10 ? 1 : 2)
}

/** @param {number[]} sorted */
function median(sorted) {
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/**
 * @param {Result[]} results
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {Pick<import('./args.js').Context, 'paint' | 'print'>} context
 */
function show(results, device, { paint, print }) {
  print(
    `${paint.bold('µs for one, median')}; in brackets times ${BASELINE}; on ` +
      `${device.simulated ? 'the simulated ' : ''}${device.soc ?? device.backend}\n`,
  )
  const names = [...new Set(results.map(({ name }) => name))]
  const cell = (/** @type {string} */ name, /** @type {number} */ size) => {
    const result = results.find((candidate) => candidate.name === name && candidate.size === size)
    const { medianNs, ratio } = result ?? { medianNs: NaN, ratio: NaN }
    const times =
      name === BASELINE
        ? ''
        : ` (${ratio >= 10 ? Math.round(ratio) : ratio >= 0.1 ? ratio.toFixed(1) : ratio.toPrecision(1)})`
    return [micros(medianNs / 1000), times]
  }
  const rows = names.map((name) => [name, ...SIZES.flatMap((size) => cell(name, size))])
  const heads = ['', ...SIZES.flatMap((size) => [bytes(size), ''])]
  columns([heads, ...rows], { gap: 1 }).forEach((row, at) => print(at === 0 ? paint.dim(row) : row))
}

module.exports = command
