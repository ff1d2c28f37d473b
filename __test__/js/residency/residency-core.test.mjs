// The pure core of residency: a seeded model-based test in virtual time, and cases by name.
// RKLLM_TEST_STEPS sets the number of random steps, RKLLM_TEST_SEED the first seed.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const { ResidencyCore } = createRequire(import.meta.url)('../../../src/js/residency/core/residency.js')

const STEPS = Number(process.env.RKLLM_TEST_STEPS ?? 10_000)
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

const NONE = { ram: 0, npu: 0, domains: new Map() }

/** Carries out commands as a perfect shell would, and checks each against the invariants. */
class World {
  loading = new Map()
  unloading = new Set()
  ready = new Set()
  stuck = new Set()
  waiting = new Map()
  leases = new Map()
  counts = { grant: 0, deadline: 0, cancelled: 0, failed: 0, died: 0, 'never-fits': 0, evicted: 0, preloaded: 0 }
  now = 0
  /** What each model takes: bytes of RAM, and of each domain. */
  places = new Map()
  measured = new Map()
  others = NONE

  constructor(options) {
    this.options = options
    this.core = new ResidencyCore(options)
  }
  /** Adds up by itself what is taken, and not by the core's figures. */
  place(name, domain) {
    const { ram, npu: npuLimit = Infinity, domains = [], models } = this.options
    const { npu, ram: own, spread = null, group = null, domain: only = null } = this.sizeOf(name)
    assert.equal(domain === null, domains.length === 0)
    assert.ok(only === null || only === domain, `${name} is in domain ${domain}, and may be in ${only} only`)
    const pieces = new Map()
    let rest = domain === null ? 0 : npu
    for (let id = domain; rest > 0; id++) {
      assert.ok(id < domains.length, `${name} continues in domain ${id}, which is not there`)
      const bytes = npu <= domains[domain].limit ? rest : Math.min(rest, spread ?? 0, domains[id].limit)
      assert.ok(bytes > 0, `${name} has no room in domain ${id}`)
      pieces.set(id, bytes)
      rest -= bytes
    }
    this.places.set(name, { ram: own, npu, pieces, domain })
    const taken = (of) => [...this.places.values()].reduce((sum, place) => sum + of(place), 0)
    assert.ok(taken((place) => place.ram) + this.others.ram <= ram, `RAM is over-committed by ${name}`)
    assert.ok(taken((place) => place.npu) + this.others.npu <= npuLimit, `NPU memory is over-committed by ${name}`)
    for (const [id] of pieces) {
      const bytes = taken((place) => place.pieces.get(id) ?? 0) + (this.others.domains.get(id) ?? 0)
      assert.ok(bytes <= domains[id].limit, `domain ${id} is over-committed by ${name}`)
    }
    for (const mate of models.filter((each) => group !== null && each.group === group))
      assert.equal(this.places.get(mate.name)?.domain ?? domain, domain, `${mate.name} and ${name} are apart`)
  }
  sizeOf(name) {
    return { ...this.options.models.find((model) => model.name === name), ...this.measured.get(name) }
  }
  /** What stays of a model's place; nothing without `stuck`. */
  leave(name, stuck) {
    const place = this.places.get(name)
    this.places.delete(name)
    if (!stuck) return
    const pieces = new Map()
    let rest = stuck.npu
    for (const [id, bytes] of place.pieces) {
      pieces.set(id, Math.min(rest, bytes))
      rest -= pieces.get(id)
    }
    this.places.set(name, { ...place, ...stuck, pieces })
  }
  /** Others hold some memory. */
  setOthers(others) {
    this.others = { ...NONE, ...others }
    const { ram, npu = Infinity, domains = [] } = this.options
    this.apply(this.core.setRoom({ ram, npu, domains, others: this.others }, this.now))
  }
  measure(name, bytes) {
    this.measured.set(name, bytes)
    const { domains = [] } = this.options
    const place = this.places.get(name)
    if (this.ready.has(name)) {
      Object.assign(place, bytes)
      if (domains.length > 0 && place.pieces.size < 2) place.pieces = new Map([[place.domain, bytes.npu]])
      let rest = bytes.npu
      const last = [...place.pieces.keys()].at(-1)
      for (const [id, had] of place.pieces) {
        place.pieces.set(id, id === last ? rest : Math.min(rest, had))
        rest -= place.pieces.get(id)
      }
    }
    this.apply(this.core.measured(name, bytes, this.now))
  }
  request(id, name, more = {}) {
    this.waiting.set(id, { name, ...more })
    this.apply(this.core.request({ id, name, now: this.now, ...more }))
  }
  preload(id, name, more = {}) {
    this.waiting.set(id, { name, preload: true, ...more })
    this.apply(this.core.preload({ id, name, now: this.now, ...more }))
  }
  apply(commands) {
    for (const command of commands) {
      const { type, name, id, reason } = command
      if (type === 'load') {
        assert.ok(!this.loading.has(name) && !this.ready.has(name) && !this.unloading.has(name), `${name} loads once`)
        assert.ok(!this.stuck.has(name), `${name} is stuck and is loaded`)
        this.loading.set(name, { cancelled: false })
        this.place(name, command.domain)
      } else if (type === 'cancel-load') {
        assert.equal(this.loading.get(name)?.cancelled, false)
        this.loading.get(name).cancelled = true
      } else if (type === 'unload') {
        assert.ok(this.ready.delete(name), `${name} is unloaded from ready`)
        assert.ok(![...this.leases.values()].includes(name), `${name} is unloaded under a lease`)
        this.unloading.add(name)
      } else if (type === 'preloaded') {
        assert.ok(this.ready.has(name), `${name} is preloaded and not ready`)
        assert.equal(this.waiting.get(id)?.preload, true)
        this.waiting.delete(id)
        this.counts.preloaded += 1
      } else if (type === 'grant') {
        assert.ok(!this.waiting.get(id)?.preload)
        assert.ok(this.ready.has(name), `${name} is granted and not ready`)
        assert.equal(this.waiting.get(id)?.name, name)
        assert.ok((this.waiting.get(id).deadline ?? Infinity) > this.now, 'granted after its deadline')
        this.waiting.delete(id)
        this.leases.set(id, name)
        this.counts.grant += 1
      } else {
        const isLost = ['died', 'evicted'].includes(reason) && this.leases.delete(id)
        assert.ok(isLost || this.waiting.delete(id), `${id} is rejected once`)
        this.counts[reason] += 1
      }
    }
    this.check()
  }
  check() {
    const { ram, npu, domains, models } = this.core.stats()
    const taken = (of) => [...this.places.values()].reduce((sum, place) => sum + of(place), 0)
    assert.equal(ram.reserved, taken((place) => place.ram), 'the core counts what is taken')
    assert.equal(npu.reserved, taken((place) => place.npu))
    for (const { id, reserved } of domains) assert.equal(reserved, taken((place) => place.pieces.get(id) ?? 0))
    // A second look finds nothing to do, and neither does one before the core's next time.
    for (const at of [this.now, Math.max(this.now, Math.min(this.core.wakeAt - 0.5, this.now + 1e6))]) {
      const more = this.core.tick(at)
      if (more.length > 0) assert.fail(`not followed up at ${this.now}, but at ${at}: ${JSON.stringify(more)}`)
    }
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
  loadFailed(name, retry = true, lacks = 0) {
    this.loading.delete(name)
    this.leave(name)
    this.apply(this.core.loadFailed(name, this.now, undefined, { retry, lacks }))
  }
  unloaded(name, stuck) {
    this.unloading.delete(name)
    this.leave(name, stuck)
    if (stuck) this.stuck.add(name)
    this.apply(this.core.unloaded(name, this.now, stuck))
  }
  recovered(name) {
    this.stuck.delete(name)
    this.leave(name)
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
  /** Goes on to the time at which the core has something to do by itself. */
  wake() {
    this.now = Math.max(this.now, this.core.wakeAt)
    this.apply(this.core.tick(this.now))
  }
  /** Lets everything under way end well; fails if requests are left. */
  drain() {
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
      else if (this.core.wakeAt < Infinity) this.wake()
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
    ram: 1 + random(50),
    npu: random(40),
    concurrency: 1 + random(3),
    keepAliveMs: pick(random, [0, 50, 5000]),
    priority: random(3) === 0 ? random(3) : 0,
    domain: domains.length > 0 && random(6) === 0 ? 0 : null,
    group: random(4) === 0 ? 'g' : null,
    spread: random(3) === 0 ? 15 : null,
    pinned: random(5) === 0,
  }))
  const npu = pick(random, [Infinity, 30 + random(60)])
  return new World({ models, domains, ram: 50 + random(90), npu, policy: pick(random, ['cost', 'lru']) })
}

/** What may happen, and how often. An entry without anything to happen to is left out. */
function possible(world, random, id) {
  const { models, domains } = world.options
  const one = (items) => (items.length === 0 ? undefined : pick(random, items))
  const any = pick(random, models).name
  const loading = one([...world.loading.keys()])
  const unloading = one([...world.unloading])
  const stuck = one([...world.stuck])
  const lease = one([...world.leases.keys()])
  const ready = one([...world.ready])
  const waiting = one([...world.waiting.keys()])
  const more = { priority: random(3), deadline: random(3) === 0 ? world.now + random(200) : Infinity }
  const evict = (name, how) => world.apply(world.core.evict(name, world.now, 'asked', how))
  const domainsOfOthers = () => new Map(domains.map((domain) => [domain.id, random(30)]))
  const others = () => ({ ram: random(60), npu: random(40), domains: domainsOfOthers() })
  return [
    [30, any, () => world.request(id, any, more)],
    [4, any, () => world.preload(id, any, more)],
    [20, loading, () => world.loaded(loading, random(1000))],
    [4, loading, () => world.loadFailed(loading, random(4) > 0, random(3) * random(60))],
    [15, unloading, () => world.unloaded(unloading, random(10) === 0 ? { ram: 1, npu: 0 } : undefined)],
    [25, lease, () => world.release(lease)],
    [4, stuck, () => world.recovered(stuck)],
    [2, ready, () => world.died(ready)],
    [2, waiting, () => world.cancel(waiting)],
    [2, ready, () => evict(ready, pick(random, [{}, { drain: true }, { force: true }]))],
    [1, any, () => evict(any, { force: true })],
    [1, any, () => world.apply(world.core.pressure(random(60), world.now))],
    [1, any, () => world.measure(any, { ram: 1 + random(50), npu: random(40) })],
    [1, any, () => world.setOthers(random(3) === 0 ? others() : {})],
    [3, any, () => world.apply(world.core.tick(world.now))],
  ].filter(([, subject]) => subject !== undefined)
}

function randomStep(world, random, id) {
  world.now += random(8) === 0 ? random(20_000) : random(20)
  const actions = possible(world, random, id)
  let left = random(actions.reduce((sum, [weight]) => sum + weight, 0))
  actions.find(([weight]) => (left -= weight) < 0)[2]()
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
        // By its deadline, a request has been served, refused or cancelled.
        for (const { deadline = Infinity } of world.waiting.values()) assert.ok(deadline > world.now)
      }
      world.setOthers({})
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
  world.now = 100
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
  world.now = 100
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
