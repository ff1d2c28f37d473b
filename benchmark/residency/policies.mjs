/** The policies, each a function that serves requests in a world. */

import { createRequire } from 'node:module'

import { randomOf } from './arrivals.mjs'
import { DOMAINS, SPREAD } from './boards.mjs'

const { ResidencyCore } = createRequire(import.meta.url)('../../src/js/residency/core/residency.js')

/**
 * Drives the core through its events and commands. `policyOf` is given the requests that will come. Without
 * `keepAliveMs`, models have the default of the library.
 */
export const core = ({ policyOf, keepAliveMs }) => (world, { requests, models, board }) => {
  const definitions = models.map(({ name, bytes }) => ({ name, ram: bytes, npu: bytes, spread: SPREAD, keepAliveMs }))
  const policy = policyOf(requests)
  const residency = new ResidencyCore({ models: definitions, ram: board.bytes, domains: DOMAINS, policy })
  const waiting = new Map()
  let wakeAt = Infinity
  const apply = (commands) => {
    for (const { type, name, id } of commands) {
      if (type === 'load') world.load(name, (ms) => apply(residency.loaded(name, world.now, ms)))
      else if (type === 'unload') world.unload(name, () => apply(residency.unloaded(name, world.now)))
      else if (type === 'grant') {
        world.serve(waiting.get(id), () => apply(residency.release(id, world.now)))
        waiting.delete(id)
      } else throw new Error(`${type} of ${name}`)
    }
    const next = residency.wakeAt
    if (next === wakeAt || next === Infinity) return
    wakeAt = next
    world.at(next, () => {
      if (wakeAt === next) wakeAt = Infinity
      apply(residency.tick(world.now))
    })
  }
  for (const request of requests) {
    world.at(request.at, () => {
      waiting.set(request.id, request)
      apply(residency.request({ id: request.id, name: request.name, now: world.now }))
    })
  }
  return () => {
    if (waiting.size > 0) throw new Error(`${waiting.size} requests were not served`)
  }
}

/**
 * Ollama's scheduler (server/sched.go): one queue, whose head waits for its model before anything behind it. Victims
 * are idle models in no useful order, one at a time. No load beside another.
 */
export const ollama = ({ maxLoaded = 3, keepAliveMs = 300_000 }) => (world, { requests, models, board, seed }) => {
  const random = randomOf(seed + 4e6)
  const bytesOf = new Map(models.map(({ name, bytes }) => [name, bytes]))
  /** name → { state, refs, queue, running, timer } */
  const loaded = new Map()
  const queue = []
  let served = 0
  let evicting = false

  const pump = () => {
    while (queue.length > 0 && !evicting) {
      const [head] = queue
      const model = loaded.get(head.name)
      if (model?.state === 'ready' && !model.expired) {
        queue.shift()
        model.refs += 1
        model.queue.push(head)
        run(model)
        continue
      }
      const others = [...loaded.values()]
      if (others.some(({ state }) => state === 'loading')) {
        // It waits for its own load at the head, and for another one at the end of the queue.
        if (model?.state === 'loading') return
        queue.shift()
        world.at(world.now + 250, () => {
          queue.push(head)
          pump()
        })
        continue
      }
      const taken = others.reduce((sum, { name }) => sum + bytesOf.get(name), 0)
      const fits = others.length < maxLoaded && taken + bytesOf.get(head.name) <= board.bytes
      if (model === undefined && fits) {
        load(head.name)
        return
      }
      evicting = true
      const idle = others.filter(({ refs }) => refs === 0)
      const candidates = idle.length > 0 ? idle : others
      const victim = model ?? candidates[Math.floor(random() * candidates.length)]
      victim.expired = true
      if (victim.refs === 0) unload(victim)
    }
  }
  const load = (name) => {
    const model = { name, state: 'loading', refs: 0, queue: [], running: false, expired: false, timer: 0 }
    loaded.set(name, model)
    world.load(name, () => {
      model.state = 'ready'
      pump()
      expireLater(model)
    })
  }
  const unload = (model) => {
    if (model.state === 'unloading') return
    model.state = 'unloading'
    world.unload(model.name, () => {
      loaded.delete(model.name)
      evicting = false
      pump()
    })
  }
  const run = (model) => {
    if (model.running || model.queue.length === 0) return
    model.running = true
    world.serve(model.queue.shift(), () => {
      served += 1
      model.running = false
      model.refs -= 1
      run(model)
      if (model.refs > 0) return
      if (model.expired) unload(model)
      else expireLater(model)
    })
  }
  const expireLater = (model) => {
    const timer = ++model.timer
    if (keepAliveMs === Infinity) return
    world.at(world.now + keepAliveMs, () => {
      if (model.timer === timer && model.refs === 0 && model.state === 'ready') unload(model)
    })
  }
  for (const request of requests) {
    world.at(request.at, () => {
      queue.push(request)
      pump()
    })
  }
  return () => {
    if (served !== requests.length) throw new Error(`${requests.length - served} requests were not served`)
  }
}

/** Evicts the model whose next use is furthest away for its bytes. It knows all requests beforehand. */
export function clairvoyant(requests) {
  const nextUse = (name, now) => requests.find((request) => request.name === name && request.at > now)?.at ?? Infinity
  const costOf = (model, now) => model.bytes / Math.max(1, nextUse(model.name, now) - now)
  return { ordered: false, costOf }
}

/** Evicts by bytes and true popularity: no policy that does not know the requests predicts independent ones better. */
export function knowsPopularity(requests) {
  const costOf = (model, now) => {
    const { order } = requests.findLast(({ at }) => at <= now)
    return model.bytes / (1 + order.indexOf(model.name))
  }
  return { ordered: false, costOf }
}

/**
 * The fewest bytes with which requests can be served in order of arrival, if each took no time: the best of all
 * sequences of resident sets.
 */
export function fewestBytes({ requests, models, board }) {
  const sets = 1 << models.length
  const sizes = Array.from({ length: sets }, (_, set) =>
    models.reduce((sum, { bytes }, i) => sum + ((set >> i) & 1 ? bytes : 0), 0),
  )
  let costs = new Array(sets).fill(Infinity)
  costs[0] = 0
  for (const { name } of requests) {
    const i = models.findIndex((model) => model.name === name)
    const bit = 1 << i
    const next = new Array(sets).fill(Infinity)
    for (let set = 0; set < sets; set++) {
      if (costs[set] === Infinity) continue
      if (set & bit) {
        next[set] = Math.min(next[set], costs[set])
        continue
      }
      // Every part of the set may stay beside the model, if it fits.
      for (let kept = set; ; kept = (kept - 1) & set) {
        const then = kept | bit
        if (sizes[then] <= board.bytes) next[then] = Math.min(next[then], costs[set] + models[i].bytes)
        if (kept === 0) break
      }
    }
    costs = next
  }
  return Math.min(...costs)
}
