// A seeded model-based test of the pure core of residency, in virtual time. RKLLM_TEST_STEPS sets the number of random
// steps, RKLLM_TEST_SEED the first seed.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { World, randomOf } from '../../support/residency-world.mjs'

const STEPS = Number(process.env.RKLLM_TEST_STEPS ?? 10_000)
const SEED = Number(process.env.RKLLM_TEST_SEED ?? 1)
const STEPS_OF_RUN = 500

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
