// The pure core of residency in virtual time, with its invariants.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

export const { ResidencyCore } = createRequire(import.meta.url)('../../src/js/residency/core/residency.js')

/** Mulberry32: random numbers that a seed repeats. */
export function randomOf(seed) {
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
export class World {
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

/** Two models that do not fit together. */
export const two = (more = {}) =>
  new World({ ram: 10, models: ['a', 'b'].map((name) => ({ name, ram: 8, npu: 0, ...more })) })
