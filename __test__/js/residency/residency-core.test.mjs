// The pure core of residency: a seeded model-based test in virtual time, and cases by name.
// RKLLM_TEST_STEPS sets the number of random steps, RKLLM_TEST_SEED the first seed.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const { ResidencyCore } = createRequire(import.meta.url)('../../../src/js/residency/core/residency.js')

const STEPS = Number(process.env.RKLLM_TEST_STEPS ?? 30_000)
const SEED = Number(process.env.RKLLM_TEST_SEED ?? 1)
const STEPS_OF_RUN = 500

/** Mulberry32: random numbers that a seed repeats. */
function randomOf(seed) {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

/** Carries out commands as a perfect shell would, and checks each against the invariants. */
class World {
  loading = new Map()
  unloading = new Set()
  ready = new Set()
  stuck = new Set()
  waiting = new Map()
  leases = new Map()
  counts = { grant: 0, deadline: 0, cancelled: 0, failed: 0, died: 0, 'never-fits': 0 }
  now = 0

  constructor(options) {
    this.options = options
    this.core = new ResidencyCore(options)
  }
  request(id, name, more = {}) {
    this.waiting.set(id, { name, ...more })
    this.apply(this.core.request({ id, name, now: this.now, ...more }))
  }
  apply(commands) {
    for (const { type, name, id, reason } of commands) {
      if (type === 'load') {
        assert.ok(!this.loading.has(name) && !this.ready.has(name) && !this.unloading.has(name), `${name} loads once`)
        assert.ok(!this.stuck.has(name), `${name} is stuck and is loaded`)
        this.loading.set(name, { cancelled: false })
      } else if (type === 'cancel-load') {
        assert.equal(this.loading.get(name)?.cancelled, false)
        this.loading.get(name).cancelled = true
      } else if (type === 'unload') {
        assert.ok(this.ready.delete(name), `${name} is unloaded from ready`)
        assert.ok(![...this.leases.values()].includes(name), `${name} is unloaded under a lease`)
        this.unloading.add(name)
      } else if (type === 'grant') {
        assert.ok(this.ready.has(name), `${name} is granted and not ready`)
        assert.equal(this.waiting.get(id)?.name, name)
        assert.ok((this.waiting.get(id).deadline ?? Infinity) > this.now, 'granted after its deadline')
        this.waiting.delete(id)
        this.leases.set(id, name)
        this.counts.grant += 1
      } else {
        assert.ok(this.waiting.delete(id) || (reason === 'died' && this.leases.delete(id)), `${id} is rejected once`)
        this.counts[reason] += 1
      }
    }
    this.check()
  }
  check() {
    const { ram, npu, domains, models } = this.core.stats()
    assert.ok(ram.reserved <= ram.limit && ram.reserved >= 0, `${ram.reserved} of ${ram.limit} are reserved`)
    for (const { reserved, limit } of domains) assert.ok(reserved <= limit && reserved >= 0)
    assert.ok(npu.reserved <= npu.limit && npu.reserved >= 0, `${npu.reserved} of ${npu.limit} are reserved`)
    for (const { name, state, waiting, leases, reserved } of models) {
      assert.equal(state === 'loading', this.loading.has(name), `${name} is ${state}`)
      assert.equal(state === 'ready', this.ready.has(name), `${name} is ${state}`)
      assert.equal(state === 'unloading', this.unloading.has(name), `${name} is ${state}`)
      assert.equal(state === 'stuck', this.stuck.has(name), `${name} is ${state}`)
      assert.equal(waiting, [...this.waiting.values()].filter((request) => request.name === name).length)
      assert.equal(leases, [...this.leases.values()].filter((lease) => lease === name).length)
      assert.ok(leases <= (this.options.models.find((each) => each.name === name).concurrency ?? 1))
      if (['cold', 'queued', 'failed'].includes(state)) assert.equal(reserved.ram, 0)
      if (['cold', 'failed'].includes(state)) assert.equal(waiting, 0, `${name} is ${state} and has waiting requests`)
    }
  }
  loaded(name, ms = 10) {
    this.loading.delete(name)
    this.ready.add(name)
    this.apply(this.core.loaded(name, this.now, ms))
  }
  loadFailed(name) {
    this.loading.delete(name)
    this.apply(this.core.loadFailed(name, this.now))
  }
  unloaded(name, stuck) {
    this.unloading.delete(name)
    if (stuck) this.stuck.add(name)
    this.apply(this.core.unloaded(name, this.now, stuck))
  }
  recovered(name) {
    this.stuck.delete(name)
    this.apply(this.core.recovered(name, this.now))
  }
  died(name) {
    // The core lets leases go before it unloads.
    this.apply(this.core.died(name, this.now))
  }
  release(id) {
    this.leases.delete(id)
    this.apply(this.core.release(id, this.now))
  }
  cancel(id) {
    this.apply(this.core.cancel(id, this.now))
  }
  /** Others hold some memory, in the first domain too. */
  setOthers({ ram, npu, domain }) {
    const { domains = [] } = this.options
    const others = { ram, npu, domains: new Map(domains.slice(0, 1).map(({ id }) => [id, domain])) }
    const { ram: limit, npu: npuLimit = Infinity } = this.options
    this.apply(this.core.setRoom({ ram: limit, npu: npuLimit, domains, others }, this.now))
  }
  /** Lets everything under way end well; fails if requests are left. */
  drain() {
    this.setOthers({ ram: 0, npu: 0, domain: 0 })
    for (let turn = 0; turn < 10_000; turn++) {
      const [loading] = this.loading.entries()
      const [unloading] = this.unloading
      const [stuck] = this.stuck
      const [lease] = this.leases.keys()
      this.now += 1
      if (loading) loading[1].cancelled ? this.loadFailed(loading[0]) : this.loaded(loading[0])
      else if (unloading) this.unloaded(unloading)
      else if (stuck) this.recovered(stuck)
      else if (lease !== undefined) this.release(lease)
      else if (this.waiting.size === 0) return
      else assert.fail(`${this.waiting.size} wait and nothing is under way: ${JSON.stringify(this.core.stats())}`)
    }
    assert.fail('livelock: 10,000 events did not serve the requests')
  }
}

const pick = (random, items) => items[random(items.length)]

function randomWorld(random) {
  const domains = Array.from({ length: random(4) }, (_, id) => ({ id, limit: 20 + random(40) }))
  const models = Array.from({ length: 2 + random(7) }, (_, i) => ({
    name: `m${i}`,
    ram: 1 + random(60),
    npu: random(50),
    concurrency: 1 + random(3),
    keepAliveMs: pick(random, [0, 50, 5000]),
    domain: domains.length > 0 && random(6) === 0 ? 0 : null,
    pinned: random(5) === 0,
  }))
  const npu = pick(random, [Infinity, 30 + random(60)])
  return new World({ models, domains, ram: 40 + random(80), npu, policy: pick(random, ['cost', 'lru']) })
}

function randomStep(world, random, id) {
  world.now += random(8) === 0 ? random(20_000) : random(20)
  const act = random(100)
  const { models } = world.options
  const one = (items) => (items.length === 0 ? undefined : pick(random, items))
  if (act < 35) {
    const more = { priority: random(3), deadline: random(3) === 0 ? world.now + random(200) : Infinity }
    return world.request(id, pick(random, models).name, more)
  }
  const loading = one([...world.loading.keys()])
  const unloading = one([...world.unloading])
  const stuck = one([...world.stuck])
  const lease = one([...world.leases.keys()])
  const ready = one([...world.ready])
  if (act < 55 && loading) return random(6) === 0 ? world.loadFailed(loading) : world.loaded(loading, random(1000))
  if (act < 68 && unloading) return world.unloaded(unloading, random(10) === 0 ? { ram: 1, npu: 0 } : undefined)
  if (act < 85 && lease !== undefined) return world.release(lease)
  if (act < 89 && stuck) return world.recovered(stuck)
  if (act < 91 && ready) return world.died(ready)
  if (act < 93 && world.waiting.size > 0) return world.cancel(one([...world.waiting.keys()]))
  if (act < 95 && ready) return world.apply(world.core.evict(ready, world.now))
  if (act < 97) return world.setOthers({ ram: random(40), npu: random(40), domain: random(40) })
  return world.apply(world.core.tick(world.now))
}

test(`${STEPS} random steps keep bytes, states, one load a model, and progress`, (t) => {
  const total = {}
  for (let run = 0; run * STEPS_OF_RUN < STEPS; run++) {
    const seed = SEED + run
    const random = randomOf(seed)
    const world = randomWorld(random)
    try {
      for (let step = 0; step < STEPS_OF_RUN; step++) {
        randomStep(world, random, step)
        // By its deadline a request has been served, refused or cancelled.
        world.apply(world.core.tick(world.now))
        for (const { deadline = Infinity } of world.waiting.values()) assert.ok(deadline > world.now)
      }
      world.drain()
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`
      throw error
    }
    for (const [name, count] of Object.entries(world.counts)) total[name] = (total[name] ?? 0) + count
  }
  t.diagnostic(JSON.stringify(total))
  for (const [name, count] of Object.entries(total)) assert.ok(count > 0, `no request ended with ${name}`)
})

const two = (more = {}) =>
  new World({ ram: 10, models: ['a', 'b'].map((name) => ({ name, ram: 8, npu: 0, ...more })) })

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
  world.request(2, 'c')
  assert.ok(world.unloading.has('a'))
  world.release(1)
  world.request(3, 'b')
  assert.equal(world.leases.get(3), 'b')
})

test('memory that did not come back stays accounted, and is not given out (omlx#1785, ollama#18264)', () => {
  const world = two()
  world.request(1, 'a')
  world.loaded('a')
  world.release(1)
  world.request(2, 'b')
  world.unloaded('a', { ram: 3, npu: 0 })
  assert.equal(world.core.stats().ram.reserved, 3)
  assert.equal(world.loading.size, 0)
  world.recovered('a')
  assert.ok(world.loading.has('b'))
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
  world.request(4, 'c')
  assert.ok(world.unloading.has('b'), 'both were used twice, and "b" loads a little faster')
})

test('memory of others delays a load, and refuses none', () => {
  const models = [{ name: 'a', ram: 8, npu: 8 }]
  for (const others of [{ ram: 3, npu: 0, domain: 0 }, { ram: 0, npu: 3, domain: 0 }, { ram: 0, npu: 0, domain: 3 }]) {
    const world = new World({ ram: 10, npu: 10, domains: [{ id: 0, limit: 10 }], models })
    world.setOthers(others)
    world.request(1, 'a')
    assert.deepEqual([world.loading.size, world.waiting.size], [0, 1], JSON.stringify(others))
    world.setOthers({ ram: 2, npu: 2, domain: 2 })
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
  world.release(1)
  assert.ok(world.unloading.has('a'))
})
