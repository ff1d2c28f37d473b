/** planModels: optimal up to eight models, proved by brute force; and the reasons of a failure. */

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { configOf } from '../../../benchmark/estimator/data.mjs'
import { estimateModelMemory, planModels } from '../../../index.js'
import { GiB, MiB, refuses } from '../../support/helpers.mjs'

const { pack, EXACT } = createRequire(import.meta.url)('../../../src/js/models/pack.js')

const board = {
  backend: 'rknpu', simulated: false, path: null, soc: 'rk3588', driverVersion: '0.9.8', npuCores: 3, iommu: true,
  iommuDomains: 16, domainBytes: 4 * GiB, sramTotal: 0, sramFree: 0,
}
const cma = { ...board, soc: 'rk3566', iommu: false, iommuDomains: 0, domainBytes: 256 * MiB }
const model = (name, weightBytes, more) => ({ name, weightBytes, contextLength: 1024, ...more })

function random(seed) {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** Tries every assignment. Returns [bins used, least room left in a used one] of the best, or null. */
function bruteForce(sizes, rooms, fixed = []) {
  let best = null
  const bins = new Array(sizes.length)
  const visit = (item) => {
    if (item < sizes.length) {
      for (bins[item] = 0; bins[item] < rooms.length; bins[item]++)
        if ((fixed[item] ?? bins[item]) === bins[item]) visit(item + 1)
      return
    }
    const score = scoreOf(sizes, rooms, bins)
    if (score !== null && (best === null || score[0] < best[0] || (score[0] === best[0] && score[1] > best[1])))
      best = score
  }
  visit(0)
  return best
}

function scoreOf(sizes, rooms, bins) {
  const left = [...rooms]
  sizes.forEach((size, i) => (left[bins[i]] -= size))
  const used = [...new Set(bins)]
  const least = Math.min(...used.map((bin) => left[bin]))
  return least < 0 ? null : [used.length, least]
}

test('as good as the best of all assignments', () => {
  const next = random(7)
  let fitting = 0
  for (let round = 0; round < 300; round++) {
    const rooms = Array.from({ length: 1 + next(4) }, () => 20 + next(60))
    const sizes = Array.from({ length: 1 + next(6) }, () => 1 + next(45))
    const best = bruteForce(sizes, rooms)
    const bins = pack(sizes, rooms)
    assert.equal(bins === null, best === null, `${sizes} into ${rooms}`)
    if (bins === null) continue
    fitting++
    assert.deepEqual(scoreOf(sizes, rooms, bins), best, `${sizes} into ${rooms}`)
  }
  assert.ok(fitting > 100 && fitting < 300, `${fitting} of 300 fit`)
})

test('eight models in 16 domains', () => {
  const bins = pack([9, 8, 7, 6, 5, 4, 3, 2], new Array(16).fill(11))
  assert.deepEqual(scoreOf([9, 8, 7, 6, 5, 4, 3, 2], new Array(16).fill(11), bins), [4, 0])
})

test('the search ends early in domains that all differ', () => {
  const next = random(11)
  for (let round = 0; round < 20; round++) {
    const rooms = Array.from({ length: 16 }, () => 300 + next(100))
    const sizes = Array.from({ length: EXACT }, () => 80 + next(90))
    const bins = pack(sizes, rooms)
    const [used, least] = scoreOf(sizes, rooms, bins)
    const total = sizes.reduce((a, b) => a + b)
    assert.ok(least >= 0 && used >= Math.ceil(total / Math.max(...rooms)))
  }
})

test('fixed items stay in their bins, and the others use the fewest beside them', () => {
  const next = random(5)
  let fitting = 0
  for (let round = 0; round < 200; round++) {
    const rooms = Array.from({ length: 1 + next(4) }, () => 20 + next(60))
    const sizes = Array.from({ length: 1 + next(5) }, () => 1 + next(45))
    const fixed = sizes.map(() => (next(3) === 0 ? 0 : null))
    const best = bruteForce(sizes, rooms, fixed)
    const bins = pack(sizes, rooms, fixed)
    assert.equal(bins === null, best === null, `${sizes} into ${rooms}, ${fixed}`)
    if (bins === null) continue
    fitting++
    fixed.forEach((bin, item) => assert.ok(bin === null || bins[item] === bin))
    assert.deepEqual(scoreOf(sizes, rooms, bins), best, `${sizes} into ${rooms}, ${fixed}`)
  }
  assert.ok(fitting > 60 && fitting < 200, `${fitting} of 200 fit`)
})

test('above eight: within 11/9 of the fewest, plus one', () => {
  const next = random(3)
  for (let round = 0; round < 100; round++) {
    // The pieces of full bins: as many bins are enough.
    const enough = 4 + next(6)
    const sizes = Array.from({ length: enough }, () => { const cut = 20 + next(61); return [cut, 100 - cut] }).flat()
    if (sizes.length <= EXACT) continue
    const bins = pack(sizes, new Array(2 * enough).fill(100))
    assert.ok(new Set(bins).size <= Math.floor((11 / 9) * enough + 1), `${new Set(bins).size} for ${enough}`)
  }
})

test('two 4-bit models share a domain, a third gets the next', () => {
  const spec = { config: configOf('Qwen3.5 4B'), contextLength: 4096, dtype: 'w4a16' }
  const plan = planModels(['a', 'b', 'c'].map((name) => ({ name, ...spec })), board)
  assert.equal(plan.fits, true)
  assert.equal(plan.reason, null)
  assert.deepEqual(plan.placements.map((placement) => placement.model), ['a', 'b', 'c'])
  const used = plan.domains.filter((domain) => domain.used > 0)
  assert.equal(used.length, new Set(plan.placements.map(({ domain }) => domain)).size)
  for (const { id, used: bytes } of used) {
    const own = plan.placements
      .filter(({ domain }) => domain === id)
      .reduce((sum, placement) => sum + placement.bytes, 0)
    assert.equal(own, bytes)
    assert.ok(bytes <= 4 * GiB)
  }
  const { domain } = estimateModelMemory(spec)
  assert.equal(plan.placements[0].bytes, domain.max, 'the upper end of the band')
})

test('memory already in a domain counts', () => {
  const domains = [{ id: 0, total: 4 * GiB, used: 3 * GiB, reservedForOthers: GiB / 2 }, { id: 2, used: GiB }]
  const plan = planModels([model('a', GiB)], { ...board, iommuDomains: 3 }, { domains })
  assert.deepEqual(plan.placements.map(({ domain }) => domain), [1])
  assert.equal(plan.domains[2].used, GiB)
  const full = planModels([model('a', GiB)], { ...board, iommuDomains: 1 }, { domains: domains.slice(0, 1) })
  assert.equal(full.fits, false)
  assert.match(full.reason, /no IOMMU domain has more than 512 MiB free/)
})

test('a group stays together', () => {
  const plan = planModels(
    [
      model('eyes', GiB, { type: 'vision', group: 'vl' }), model('other', 2 * GiB),
      model('words', GiB, { group: 'vl' }),
    ],
    board,
  )
  const where = Object.fromEntries(plan.placements.map((placement) => [placement.model, placement.domain]))
  assert.equal(where.eyes, where.words)
  const large = planModels(
    [model('eyes', 2 * GiB, { type: 'vision', group: 'vl' }), model('words', 2 * GiB, { group: 'vl' })],
    board,
  )
  assert.equal(large.fits, false)
  assert.match(large.reason, /apart, in domains of their own/)
})

const qwen3 = (layers, hidden, wide, heads) => ({
  model_type: 'qwen3', num_hidden_layers: layers, hidden_size: hidden, intermediate_size: wide,
  num_attention_heads: heads, num_key_value_heads: 8, head_dim: 128, vocab_size: 151936, tie_word_embeddings: true,
})

test('what people have run in one domain fits, and one model more does not', () => {
  // airockchip/rknn-llm#437, contexts of 4096: a 4B model, two of 1.7B, six of 0.6B; the next of each failed.
  const one = { ...board, iommuDomains: 1 }
  for (const [config, most] of [
    [qwen3(36, 2560, 9728, 32), 1],
    [qwen3(28, 2048, 6144, 16), 2],
    [qwen3(28, 1024, 3072, 16), 6],
  ]) {
    const models = (count) =>
      Array.from({ length: count }, (_, i) => ({ name: `${i}`, config, contextLength: 4096, dtype: 'w8a8' }))
    assert.equal(planModels(models(most), one).fits, true, `${most} of ${config.hidden_size}`)
    assert.equal(planModels(models(most + 1), one).fits, false, `${most + 1} of ${config.hidden_size}`)
    assert.equal(planModels(models(most + 1), board).fits, true, 'with a second domain')
  }
})

test('a model above 4 GiB: by the version of the driver', () => {
  const large = { name: 'large', config: configOf('ChatGLM3 6B'), contextLength: 2048, dtype: 'w8a8' }
  const plan = planModels([large, model('small', GiB)], board)
  assert.equal(plan.fits, true)
  assert.deepEqual(
    plan.placements.map((placement) => [placement.model, placement.domain]),
    [
      ['large', 0],
      ['large', 1],
      ['small', 2],
    ],
    'where most is free',
  )
  assert.match(plan.warnings.join(), /does not document/)
  for (const driverVersion of ['0.8.2', '0.9.6', '0.9.7', 'v0.9.7']) {
    const old = planModels([large], { ...board, driverVersion })
    assert.equal(old.fits, false, driverVersion)
    assert.match(old.reason, /has one usable domain, 0\.9\.8 and later have 16/)
    assert.match(old.reason, /w4a16/)
    const smaller = planModels([{ ...large, dtype: 'w4a16' }], { ...board, driverVersion })
    assert.equal(smaller.fits, true, 'the proposed type')
    assert.equal(planModels([model('a', 3 * GiB), model('b', 3 * GiB)], { ...board, driverVersion }).fits, false)
  }
  const refused = planModels([large], board, { spread: false })
  assert.equal(refused.fits, false)
  assert.deepEqual(refused.placements, [])
  assert.match(refused.reason, /spread: true/)
  assert.equal(planModels([large], { ...board, iommuDomains: 1 }, { spread: true }).fits, false)
})

test('weights that the runtime splits are planned in two domains, though one could hold them', () => {
  // 4,074 million numbers: more than the 4.06 GB that the runtime puts into a domain, less than 4 GiB.
  const spec = { name: 'a', config: configOf('MiniCPM3 4B'), contextLength: 512, dtype: 'w8a8' }
  const plan = planModels([spec], board)
  assert.deepEqual(plan.placements.map(({ domain }) => domain), [0, 1])
  assert.equal(plan.placements[0].bytes, 4_060_000_000)
  assert.equal(planModels([spec], { ...board, iommuDomains: 1 }).placements.length, 1)
})

test('.rknn models go to domain 0, and the words go around them', () => {
  const eyes = model('eyes', 900 * MiB, { type: 'vision' })
  const domainsOf = (models) => planModels(models, board).placements.map((placement) => placement.domain)
  assert.deepEqual(domainsOf([model('words', 3 * GiB), eyes]), [1, 0])
  assert.deepEqual(domainsOf([model('words', 2 * GiB), eyes]), [0, 0], 'the fewest domains')
  assert.deepEqual(domainsOf([model('large', 6 * GiB), eyes]), [1, 2, 0], 'the runtime fills whole domains')
  const two = planModels([eyes, model('ears', 3 * GiB, { type: 'vision' })], board)
  assert.equal(two.fits, false)
  const one = planModels([model('ears', 4 * GiB, { type: 'vision' })], board)
  assert.match(one.reason, /domain 0, where \.rknn models go/)
})

test('a long context is a matter of RAM: the proposed one fits', () => {
  const long = { name: 'b', config: configOf('InternLM2 1.8B'), contextLength: 40_000, dtype: 'w4a16' }
  assert.equal(planModels([long], board).fits, true, 'the cache takes no addresses')
  const ramAvailable = 4 * GiB
  const refused = planModels([long], board, { ramAvailable })
  assert.equal(refused.fits, false)
  const [, fewer] = /a context of (\d+) instead of 40000/.exec(refused.reason)
  const fits = (contextLength) => planModels([{ ...long, contextLength }], board, { ramAvailable }).fits
  assert.equal(fits(Number(fewer)), true)
  assert.equal(fits(Number(fewer) + 64), false, 'and not much more does')
})

test('a driver that has one domain for its age is named', () => {
  const models = [model('a', 2 * GiB), model('b', 2 * GiB), model('c', 2 * GiB)]
  const reasonWith = (driverVersion, iommuDomains = 1) =>
    planModels(models, { ...board, driverVersion, iommuDomains }).reason ?? ''
  assert.match(reasonWith('0.9.7'), /rknpu 0\.9\.7 has one usable domain, 0\.9\.8 and later have 16/)
  assert.match(reasonWith('0.8.2'), /rknpu 0\.8\.2 has one usable domain/)
  for (const version of ['0.9.8', '0.9.10', '1.0.0', null]) assert.doesNotMatch(reasonWith(version), /usable/)
  assert.equal(reasonWith('0.9.8', 16), '')
})

test('without an IOMMU: one area', () => {
  assert.deepEqual(planModels([model('a', 100 * MiB)], cma).placements.map(({ domain }) => domain), [0])
  const plan = planModels([model('a', 100 * MiB), model('b', 100 * MiB)], cma)
  assert.equal(plan.fits, false)
  assert.match(plan.reason, /CMA area has 256 MiB free/)
  assert.equal(
    planModels([model('a', 100 * GiB)], { ...cma, domainBytes: 0 }).fits,
    true,
    'a size that is not known is no bound',
  )
})

test('RAM is the other bound', () => {
  const plan = planModels([model('a', GiB)], board, { ramAvailable: GiB })
  assert.equal(plan.fits, false)
  assert.match(plan.reason, /of RAM; 1 GiB is available/)
  assert.equal(planModels([model('a', GiB)], board, { ramAvailable: 2 * GiB }).fits, true)
  assert.equal(planModels([model('a', GiB)], board, { ramAvailable: 2 * GiB, keepFree: GiB }).fits, false)
  // A device of this machine: its RAM counts without being asked for.
  const here = { ...board, path: '/dev/dri/card1' }
  const large = planModels([model('a', 2 ** 46)], { ...here, domainBytes: 2 ** 47 })
  assert.equal(large.fits, false)
  assert.match(large.reason, /of RAM;/)
  assert.ok(large.ramAvailable > 0)
  const left = planModels([model('a', 2 ** 46)], { ...here, domainBytes: 2 ** 47 }, { ramAvailable: null })
  assert.deepEqual([left.fits, left.ramAvailable], [true, null])
})

test('no model fits', () => {
  assert.deepEqual(planModels([], board).placements, [])
  assert.equal(planModels([], board, { ramAvailable: 0 }).fits, true)
})

test('bad input', () => {
  for (const models of [
    undefined, null, {}, [null], [{}], [{ weightBytes: 1, contextLength: 1 }], [model('a', 1), model('a', 1)],
    [model('a', 1, { nmae: 1 })],
  ]) {
    refuses(() => planModels(models, board), 'ERR_INVALID_ARG_TYPE', JSON.stringify(models))
  }
  for (const device of [undefined, null, 1, {}, { ...board, iommu: 1 }, { ...board, domainBytes: -1 }]) {
    refuses(() => planModels([], device), 'ERR_INVALID_ARG_TYPE', JSON.stringify(device))
  }
  for (const options of [
    null, { ram: 1 }, { domains: {} }, { domains: [{ id: 16 }] }, { domains: [{}] }, { spread: 1 },
    { ramAvailable: '1' },
  ]) {
    refuses(() => planModels([], board, options), 'ERR_INVALID_ARG_TYPE', JSON.stringify(options))
  }
  refuses(() => planModels([], board, { ramAvailable: -1 }), 'ERR_OUT_OF_RANGE')
})
