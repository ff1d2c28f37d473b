// The pure core of residency: cases by name, in virtual time.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { ResidencyCore, World, two } from '../../support/residency-world.mjs'

/** Two models with room for one: `b` waits until the idle `a` is unloaded. */
function swapping() {
  const world = two()
  world.request(1, 'a')
  world.loaded('a')
  world.release(1)
  world.now = 100
  world.request(2, 'b')
  return world
}

test('two models that take turns do not evict each other before they served (ollama#18282)', () => {
  const world = two()
  for (let id = 0; id < 20; id++) world.request(id, id % 2 ? 'b' : 'a')
  world.drain()
  const loads = world.core.stats().models.reduce((sum, model) => sum + model.loads, 0)
  assert.equal(world.counts.grant, 20)
  assert.ok(loads <= 20, `${loads} loads for 20 requests`)
})

test('an engine that dies rejects its leases, and no request gets it while it goes (omlx#2431)', () => {
  const world = two()
  world.request(1, 'a')
  world.loaded('a')
  world.request(2, 'a')
  world.died('a')
  assert.deepEqual([world.counts.died, world.leases.size, world.waiting.size], [1, 0, 1])
  world.drain()
  assert.equal(world.counts.grant, 2)
})

test('a queued model does not hold up requests for a loaded one that stays', () => {
  const models = [['a', 4], ['b', 4], ['c', 5]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  const world = new World({ ram: 10, models })
  for (const [id, name] of ['a', 'b'].entries()) {
    world.request(id, name)
    world.loaded(name)
  }
  world.release(0)
  world.now = 100
  world.request(2, 'c')
  assert.ok(world.unloading.has('a'))
  world.release(1)
  world.request(3, 'b')
  assert.equal(world.leases.get(3), 'b')
})

test('memory that did not come back stays accounted, and is not given out (omlx#1785, ollama#18264)', () => {
  const world = swapping()
  world.unloaded('a', { ram: 3, npu: 0 })
  assert.equal(world.core.stats().ram.reserved, 3)
  assert.equal(world.loading.size, 0)
  world.recovered('a')
  assert.ok(world.loading.has('b'))
})

test('no load starts before the memory it waits for is back, however long that takes (sleep(1) of rkllama)', () => {
  const world = swapping()
  for (const ms of [250, 1000, 60_000]) {
    world.now += ms
    world.apply(world.core.tick(world.now))
    assert.deepEqual([world.unloading.has('a'), world.loading.size], [true, 0], `after ${ms} ms`)
  }
  world.unloaded('a')
  assert.ok(world.loading.has('b'))
})

test('admission, refusal, plan and the guard of limits have one threshold (omlx#2319)', () => {
  const models = [{ name: 'a', ram: 6, npu: 4 }, { name: 'b', ram: 4, npu: 2 }]
  const rooms = []
  for (let ram = 4; ram <= 11; ram++)
    for (let npu = 2; npu <= 7; npu++) for (const limit of [3, 4, 5, 6]) rooms.push({ ram, npu, limit })
  for (const { ram, npu, limit } of rooms) {
    const world = new World({ ram, npu, models, domains: [{ id: 0, limit }] })
    const fits = (...names) => world.core.plan(names, 0) !== null
    const [alone, both] = [fits('a'), fits('a', 'b')]
    const where = `${ram} of RAM, ${npu} of NPU memory, ${limit} in the domain`
    assert.equal(alone, ram >= 6 && npu >= 4 && limit >= 4, where)
    assert.equal(both, ram >= 10 && npu >= 6 && limit >= 6, where)
    world.request(1, 'a')
    assert.deepEqual([world.loading.has('a'), world.counts['never-fits']], alone ? [true, 0] : [false, 1], where)
    if (!alone) continue
    world.loaded('a')
    world.release(1)
    world.now = 100
    world.request(2, 'b')
    assert.deepEqual([world.loading.has('b'), world.unloading.has('a')], both ? [true, false] : [false, true], where)
    if (!both) continue
    world.loaded('b')
    // The guard looks once a size was measured; it is the one that was admitted.
    world.measure('a', { ram: 6, npu: 4 })
    assert.equal(world.unloading.size, 0, `the guard unloads what was admitted: ${where}`)
  }
})

test('a model that does not fit beside pinned ones is refused, and holds back no other', () => {
  const models = [['a', 6, true], ['b', 6, false], ['c', 3, false]]
  const world = new World({ ram: 10, models: models.map(([name, ram, pinned]) => ({ name, ram, npu: 0, pinned })) })
  world.request(1, 'a')
  world.loaded('a')
  world.request(2, 'b')
  world.request(3, 'c')
  assert.deepEqual([world.counts['never-fits'], world.loading.has('c'), world.waiting.size], [1, true, 1])
})

test('waiting outweighs priority at one moment, and the order of two requests never flips back', () => {
  const models = ['x', 'a', 'b'].map((name) => ({ name, ram: 8, npu: 0 }))
  for (let at = 0; at < 90_000; at += 5_000) {
    const world = new World({ ram: 10, models })
    world.request(0, 'x')
    world.loaded('x')
    world.request(1, 'a')
    world.now = 15_000
    world.request(2, 'b', { priority: 1 })
    world.now += at
    world.release(0)
    world.unloaded('x')
    assert.ok(world.loading.has('b'), `after ${at} ms`)
  }
})

test('a load is no use: a model that is loaded again is not valued for it', () => {
  const models = ['a', 'b', 'c'].map((name) => ({ name, ram: 5, npu: 0 }))
  const world = new World({ ram: 10, models, policy: 'cost' })
  for (const [id, name] of ['a', 'b'].entries()) {
    world.request(id, name)
    world.loaded(name, 1000)
    world.release(id)
  }
  // Two uses of one load; then "b" is loaded anew for its second use.
  world.request(2, 'a')
  world.release(2)
  world.apply(world.core.evict('b', world.now))
  world.unloaded('b')
  world.request(3, 'b')
  world.loaded('b', 999)
  world.release(3)
  world.now = 2000
  world.request(4, 'c')
  assert.ok(world.unloading.has('b'), 'both were used twice, and "b" loads a little faster')
})

test('a model that is preloaded is loaded once, without a lease, and stays for its keep-alive', () => {
  const world = two({ keepAliveMs: 1000 })
  world.preload(1, 'a')
  world.preload(2, 'a')
  world.loaded('a')
  assert.deepEqual([world.counts.preloaded, world.leases.size, world.core.stats().models[0].loads], [2, 0, 1])
  assert.equal(world.core.wakeAt, 1000)
  world.request(3, 'a')
  assert.equal(world.leases.get(3), 'a')
})

test('without a keep-alive an idle model stays until its memory is needed', () => {
  const world = two()
  world.request(1, 'a')
  world.loaded('a')
  world.release(1)
  assert.equal(world.core.wakeAt, Infinity)
  world.now = 1e9
  world.apply(world.core.tick(world.now))
  assert.ok(world.ready.has('a'))
  world.apply(world.core.pressure(1, world.now))
  assert.ok(world.unloading.has('a'))
})

test('a forced eviction rejects leases and waiting requests; a draining one waits for the leases', () => {
  const world = two()
  for (const id of [1, 2]) world.request(id, 'a')
  world.loaded('a')
  world.apply(world.core.evict('a', world.now, 'asked', { drain: true }))
  assert.ok(world.ready.has('a'))
  world.release(1)
  assert.deepEqual([world.unloading.has('a'), world.leases.size, world.waiting.size], [true, 0, 1])
  world.unloaded('a')
  world.loaded('a')
  world.request(3, 'a')
  world.apply(world.core.evict('a', world.now, 'asked', { force: true }))
  assert.deepEqual([world.unloading.has('a'), world.counts.evicted, world.waiting.size], [true, 2, 0])
})

test('pressure evicts idle models for the bytes asked for, and counts those on their way (omlx#2179)', () => {
  const models = [['a', 3], ['b', 4], ['c', 5]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  const world = new World({ ram: 12, models })
  for (const [id, { name }] of models.entries()) {
    world.request(id, name)
    world.loaded(name)
  }
  for (const id of [0, 1]) world.release(id)
  world.apply(world.core.pressure(4, world.now))
  assert.deepEqual([...world.unloading], ['b'])
  world.apply(world.core.pressure(4, world.now))
  assert.deepEqual([...world.unloading], ['b'], 'a second report of the same pressure evicts nothing more')
  world.apply(world.core.pressure(100, world.now))
  assert.deepEqual([...world.unloading], ['b', 'a'], 'the busy one stays')
})

test('models of a group share a domain, which has room for all of them', () => {
  const models = [['x', 30, null], ['words', 25, 'vl'], ['eyes', 25, 'vl']].map(([name, npu, group]) => ({
    name, npu, group, ram: 1,
  }))
  const world = new World({ ram: 100, models, domains: [{ id: 0, limit: 60 }, { id: 1, limit: 90 }] })
  for (const [id, { name }] of models.entries()) {
    world.request(id, name)
    world.loaded(name)
  }
  const domains = Object.fromEntries(world.core.stats().models.map(({ name, domain }) => [name, domain]))
  assert.deepEqual(domains, { x: 0, words: 1, eyes: 1 })
})

test('a model that no domain holds continues in the next ones', () => {
  const models = [{ name: 'a', ram: 1, npu: 70, spread: 40 }, { name: 'b', ram: 1, npu: 25 }]
  const domains = [{ id: 0, limit: 50 }, { id: 1, limit: 50 }]
  const world = new World({ ram: 10, models, domains })
  world.request(1, 'a')
  world.loaded('a')
  assert.deepEqual(world.core.stats().domains.map(({ reserved }) => reserved), [40, 30])
  world.release(1)
  world.now = 100
  world.request(2, 'b')
  assert.ok(world.unloading.has('a'))
  const [a] = new ResidencyCore({ models: [{ ...models[0], spread: null }], ram: 10, domains })
    .request({ id: 1, name: 'a', now: 0 })
  assert.equal(a.reason, 'never-fits')
})

test('placement keeps a domain for a pinned model that is not loaded yet', () => {
  const models = [{ name: 'a', ram: 1, npu: 30 }, { name: 'p', ram: 1, npu: 38, pinned: true }]
  const world = new World({ ram: 10, models, domains: [{ id: 0, limit: 40 }, { id: 1, limit: 35 }] })
  world.request(1, 'a')
  world.loaded('a')
  world.request(2, 'p')
  assert.deepEqual([world.unloading.size, world.places.get('a').domain, world.places.get('p').domain], [0, 1, 0])
})

test('a plan says what would be evicted and where models would be, and changes nothing', () => {
  const models = [['a', 6], ['b', 5], ['c', 4]].map(([name, ram]) => ({ name, ram, npu: ram }))
  const world = new World({ ram: 12, models, domains: [{ id: 0, limit: 6 }, { id: 1, limit: 6 }] })
  world.request(1, 'c')
  world.loaded('c')
  world.release(1)
  const before = world.core.stats()
  assert.deepEqual(world.core.plan(['a'], 0), { evict: [], placements: [{ model: 'a', domain: 1, bytes: 6, ram: 6 }] })
  assert.deepEqual(world.core.plan(['a', 'b'], 0), {
    evict: ['c'],
    placements: [{ model: 'a', domain: 0, bytes: 6, ram: 6 }, { model: 'b', domain: 1, bytes: 5, ram: 5 }],
  })
  assert.equal(world.core.plan(['a', 'b', 'c'], 0), null)
  assert.deepEqual(world.core.stats(), before)
})

test('a failed load is tried again once, after idle models went', () => {
  const models = [['a', 4], ['b', 4], ['c', 4]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  const world = new World({ ram: 12, models })
  for (const [id, name] of ['a', 'b'].entries()) {
    world.request(id, name)
    world.loaded(name)
    world.release(id)
  }
  world.request(2, 'c')
  world.loadFailed('c')
  // With "a" gone there would be room for "c" twice.
  assert.deepEqual([world.unloading.size, world.loading.size, world.counts.failed], [1, 0, 0])
  world.unloaded([...world.unloading][0])
  assert.ok(world.loading.has('c'))
  world.loadFailed('c')
  assert.deepEqual([world.counts.failed, world.unloading.size], [1, 0])
  world.request(3, 'c')
  world.loadFailed('c', false)
  assert.deepEqual([world.counts.failed, world.unloading.size], [2, 0], 'a load that more room does not help')
})

test('a load that lacked bytes is tried again after idle models with as many went, though it seemed to fit', () => {
  const models = [['a', 2], ['b', 3], ['c', 1]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  for (const [lacks, unloading] of [[0, 0], [1, 1], [4, 2], [100, 2]]) {
    const world = new World({ ram: 100, models })
    for (const [id, name] of ['a', 'b'].entries()) {
      world.request(id, name)
      world.loaded(name)
      world.release(id)
    }
    world.request(2, 'c')
    world.loadFailed('c', true, lacks)
    assert.equal(world.unloading.size, unloading, `for ${lacks} bytes`)
    world.drain()
    assert.equal(world.counts.grant, 3)
  }
})

test('memory of others delays a load, and refuses none', () => {
  const models = [{ name: 'a', ram: 8, npu: 8 }]
  const cases = [{ ram: 3 }, { npu: 3 }, { domains: new Map([[0, 3]]) }]
  for (const others of cases) {
    const world = new World({ ram: 10, npu: 10, domains: [{ id: 0, limit: 10 }], models })
    world.setOthers(others)
    world.request(1, 'a')
    assert.deepEqual([world.loading.size, world.waiting.size], [0, 1], JSON.stringify(others))
    world.setOthers({ ram: 2, npu: 2, domains: new Map([[0, 2]]) })
    assert.ok(world.loading.has('a'))
  }
})

test('the limit of NPU memory bounds all domains together', () => {
  const models = ['a', 'b'].map((name) => ({ name, ram: 1, npu: 6 }))
  const domains = [0, 1].map((id) => ({ id, limit: 10 }))
  const world = new World({ ram: 10, npu: 11, domains, models })
  world.request(1, 'a')
  world.loaded('a')
  world.request(2, 'b')
  assert.equal(world.loading.size, 0)
  world.now = 100
  world.release(1)
  assert.ok(world.unloading.has('a'))
})

test('a model that was loaded late serves before it goes: no load is in vain', () => {
  // "b" is loaded beside the claim of "c", which came long before and waits for "a".
  const models = [['a', 6], ['b', 4], ['c', 6]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  const world = new World({ ram: 10, models })
  world.request(1, 'a')
  world.loaded('a')
  world.request(2, 'c')
  world.now = 60_000
  world.request(3, 'b')
  world.loaded('b')
  assert.equal(world.leases.get(3), 'b')
  world.request(4, 'b')
  world.release(3)
  world.release(1)
  assert.ok(world.unloading.has('a'))
  assert.equal(world.leases.get(4), 'b')
})

test('a model that has to go serves what it was loaded for, also behind a later request of a higher priority', () => {
  const models = [['a', 6], ['b', 6]].map(([name, ram]) => ({ name, ram, npu: 0 }))
  const world = new World({ ram: 10, models })
  world.request(1, 'a')
  world.now = 90_000
  world.request(2, 'a')
  world.now = 95_000
  world.request(3, 'b', { priority: 3 })
  world.now = 100_000
  world.loaded('a')
  world.now = 110_000
  world.request(4, 'a', { priority: 1 })
  world.release(1)
  world.drain()
  assert.deepEqual([world.waiting.size, world.counts.grant], [0, 4])
})

test('a busy set of models that has to go stays chosen, however busy the others are', () => {
  const models = [['a', 5], ['b', 5], ['c', 6]].map(([name, ram]) => ({ name, ram, npu: 0, concurrency: 9 }))
  const world = new World({ ram: 10, models })
  let id = 0
  for (const name of ['a', 'b']) {
    world.request(++id, name)
    world.loaded(name)
  }
  world.request(++id, 'c')
  let turns = 0
  // Each model is asked for again before its last lease ends.
  while (world.waiting.has(3) && turns++ < 100) {
    for (const name of ['a', 'b']) {
      world.now += 1000
      const held = [...world.leases].filter(([, other]) => other === name).map(([lease]) => lease)
      if (held.length > 0) world.request(++id, name)
      for (const lease of held) world.release(lease)
    }
    for (const name of world.unloading) world.unloaded(name)
    if (world.loading.has('c')) world.loaded('c')
  }
  assert.ok(turns < 30, `"c" waited ${world.now} ms`)
})

test('a measured size counts at once, and evicts idle models if it is too much (ollama#18264)', () => {
  const models = ['a', 'b'].map((name) => ({ name, ram: 5, npu: 0 }))
  const world = new World({ ram: 10, models })
  for (const [id, name] of ['a', 'b'].entries()) {
    world.request(id, name)
    world.loaded(name)
  }
  world.release(0)
  world.measure('b', { ram: 6, npu: 0 })
  assert.ok(world.unloading.has('a'))
  const [, b] = world.core.stats().models
  assert.deepEqual([b.estimated.ram, b.measured.ram, b.reserved.ram], [5, 6, 6])
})
