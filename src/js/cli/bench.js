'use strict'

// `rkllm-memory bench`: what allocating costs here, beside `new ArrayBuffer` in the same run.
//
// Every case is measured once in each round, in turn, so that a machine that slows down slows all of them; the median over the rounds counts.

const { oneOf, expectWords, whole } = require('./args.js')
const { makeProgress } = require('./progress.js')
const { bytes, columns } = require('./style.js')

const [KiB, MiB] = [1024, 2 ** 20]
const SIZES = [4 * KiB, 64 * KiB, MiB]
const BATCH = 200
const ROUNDS = 15
const BACKENDS = ['auto', 'rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated']
/** What all are compared with. */
const YARDSTICK = 'new ArrayBuffer'

module.exports = {
  name: 'bench',
  summary: 'what allocating costs here, beside new ArrayBuffer',
  words: '',
  options: {
    backend: { type: 'string', value: 'NAME', text: `${BACKENDS.join(', ')}; default auto`, parse: oneOf(...BACKENDS) },
    rounds: {
      type: 'string',
      value: 'N',
      text: `how often each is measured; default ${ROUNDS}`,
      parse: whole(3, 1000),
    },
    json: { type: 'boolean', text: 'as JSON, times in ns' },
  },
  notes: ['Allocates and frees; nothing is written to the memory. The repository has more: npm run bench.'],
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

/** { name, size, once }: `once` allocates and frees. */
function casesOf(manager) {
  const pool = manager.createMemoryPool({ name: 'bench', kind: 'npu', initialSize: 8 * MiB })
  const kept = []
  const ways = {
    [YARDSTICK]: (size) => {
      // Kept for a moment: an engine may leave out what nobody sees.
      kept[0] = new ArrayBuffer(size)
    },
    'pool.allocate + free': (size) => pool.allocate(size).free(),
    'allocateFromPool + deallocate': (size) => manager.deallocate(manager.allocateFromPool(pool, size)),
    'allocateNPUMemory + deallocate': (size) => manager.deallocate(manager.allocateNPUMemory(size)),
    'the same, dedicated': (size) => manager.deallocate(manager.allocateNPUMemory(size, { dedicated: true })),
    'allocateSystemMemory + deallocate': (size) => manager.deallocate(manager.allocateSystemMemory(size)),
  }
  return SIZES.flatMap((size) => Object.entries(ways).map(([name, way]) => ({ name, size, once: () => way(size) })))
}

async function measure(cases, rounds, progress) {
  const times = cases.map(() => [])
  // The first round only warms up.
  for (let round = -1; round < rounds; round++) {
    for (const [at, { name, once }] of cases.entries()) {
      const began = process.hrtime.bigint()
      for (let i = 0; i < BATCH; i++) once()
      if (round >= 0) times[at].push(Number(process.hrtime.bigint() - began) / BATCH)
      progress.update(round + 1 + at / cases.length, name)
      // Finalizers and the driver's thread come round, outside what is measured.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  return cases
    .map(({ name, size }, at) => {
      const sorted = times[at].sort((a, b) => a - b)
      return { name, size, medianNs: median(sorted), minNs: sorted[0], maxNs: sorted.at(-1) }
    })
    .map((result, _, all) => {
      const yardstick = all.find(({ name, size }) => name === YARDSTICK && size === result.size)
      return { ...result, ratio: result.medianNs / yardstick.medianNs }
    })
}

/** Three figures or more: slow machines have a line of 80 columns too. */
function micros(us) {
  return us.toFixed(us >= 100 ? 0 : us >= 10 ? 1 : 2)
}

function median(sorted) {
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

function show(results, device, { paint, print }) {
  print(
    `${paint.bold('µs for one, median')}; in brackets times ${YARDSTICK}; on ${device.simulated ? 'the simulated ' : ''}${device.soc ?? device.backend}\n`,
  )
  const names = [...new Set(results.map(({ name }) => name))]
  const cell = (name, size) => {
    const { medianNs, ratio } = results.find((result) => result.name === name && result.size === size)
    const times =
      name === YARDSTICK
        ? ''
        : ` (${ratio >= 10 ? Math.round(ratio) : ratio >= 0.1 ? ratio.toFixed(1) : ratio.toPrecision(1)})`
    return [micros(medianNs / 1000), times]
  }
  const rows = names.map((name) => [name, ...SIZES.flatMap((size) => cell(name, size))])
  const heads = ['', ...SIZES.flatMap((size) => [bytes(size), ''])]
  columns([heads, ...rows], { gap: 1 }).forEach((row, at) => print(at === 0 ? paint.dim(row) : row))
}
