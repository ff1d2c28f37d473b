'use strict'

// Who holds the memory, since when, and how it came to that. The native part records (`src/profile/`); what only JavaScript can
// tell, stacks, it tells here, and it keeps the time line.

const { threadId } = require('node:worker_threads')
const native = require('../core/binding.js')
const { buffersOf, eventsOf, histogramOf, poolOf } = require('./columns.js')
const { stackHere } = require('./stack.js')

const DEFAULTS = Object.freeze({ sampleInterval: 524_288, eventCapacity: 65_536, stackDepth: 16 })
/** The time line has a point this often, at first. */
const TICK_MS = 250
/** With so many points every second one goes, and there is one half as often from then on. */
const MOST_POINTS = 1200
/** Leaks are looked for several times within the age that makes one, within these bounds. */
const LOOK_MS = { least: 50, most: 10_000 }
/** Leaks that a profile remembers. */
const MOST_LEAKS = 1000

const NOTHING = Object.freeze({
  count: 0,
  min: 0,
  p50: 0,
  p90: 0,
  p99: 0,
  p999: 0,
  max: 0,
  mean: 0,
  buckets: Object.freeze([]),
})

class Profiling {
  #handle
  #events
  /** The options of the running profile; undefined while profiling is off. */
  #options
  #timers = []
  #began = 0
  #tickMs = TICK_MS
  #timeline = []
  #leaks = []

  /**
   * @param {import('../core/manager-handle.js').ManagerHandle} handle
   * @param {import('../core/manager-events.js').ManagerEvents} events
   */
  constructor(handle, events) {
    this.#handle = handle
    this.#events = events
  }

  get enabled() {
    return this.#options !== undefined
  }

  /** Begins, from nothing. */
  start(options) {
    this.#stop()
    const { sampleInterval, eventCapacity } = (this.#options = { ...DEFAULTS, ...options })
    native.startProfiling(this.#handle.value, sampleInterval, eventCapacity)
    this.#began = performance.now()
    this.#tickMs = TICK_MS
    this.#timeline = []
    this.#leaks = []
    this.#tick()
    const { leakAfterMs } = this.#options
    if (leakAfterMs === undefined) return
    const every = Math.min(Math.max(leakAfterMs / 4, LOOK_MS.least), LOOK_MS.most)
    this.#timers.push(whileAlive(this, every, (profiling) => profiling.#look(leakAfterMs)))
  }

  /** Ends; what was recorded stays. */
  stop() {
    if (!this.enabled) return
    this.#point()
    this.#stop()
    native.stopProfiling(this.#handle.value)
  }

  /** The manager is gone. */
  end() {
    this.#stop()
  }

  /** Memory was allocated, and it may be that its stack is wanted. */
  sampled() {
    if (!this.enabled || native.pendingSamples(this.#handle.value) === 0) return
    native.attributeSamples(this.#handle.value, stackHere(this.#options.stackDepth))
  }

  /** What was recorded, without its events unless they are wanted. */
  profile(withEvents) {
    const recorded = native.profile(this.#handle.value, withEvents)
    const { sampleInterval } = this.#options ?? DEFAULTS
    if (recorded == null) return { ...NEVER, sampleInterval, callSites: [], events: [], timeline: [], leaks: [] }
    const { sizes, lifetimesUs, latencyNs, callSites, events, droppedEvents, ...figures } = recorded
    // Whoever only scrapes figures does not make the time line denser.
    if (this.enabled && withEvents) this.#point()
    return {
      enabled: this.enabled,
      ...figures,
      sampleInterval,
      allocationRate: figures.durationMs === 0 ? 0 : (figures.allocations / figures.durationMs) * 1000,
      sizes: histogramOf(sizes),
      lifetimesMs: histogramOf(lifetimesUs, 1000),
      latencyNs: histogramOf(latencyNs),
      callSites: callSites.sort((a, b) => b.liveBytes - a.liveBytes || b.totalBytes - a.totalBytes),
      events: events == null ? [] : eventsOf(events, threadId),
      droppedEvents,
      timeline: this.#timeline.map((point) => ({ ...point })),
      leaks: [...this.#leaks],
    }
  }

  #stop() {
    this.#timers.forEach(clearInterval)
    this.#timers = []
    this.#options = undefined
  }

  /** A point now, and the next ones by themselves. */
  #tick() {
    this.#point()
    const [clock] = this.#timers
    clearInterval(clock)
    this.#timers[0] = whileAlive(this, this.#tickMs, (profiling) => profiling.#point())
  }

  #point() {
    const { npuUsed, systemUsed, poolReserved } = native.summary(this.#handle.value)
    this.#timeline.push({ timeMs: performance.now() - this.#began, npuUsed, systemUsed, poolReserved })
    if (this.#timeline.length < MOST_POINTS) return
    this.#timeline = this.#timeline.filter((_, at) => at % 2 === 0)
    this.#tickMs *= 2
    this.#tick()
  }

  #look(age) {
    for (const leak of native.leaks(this.#handle.value, age)) {
      if (this.#leaks.length < MOST_LEAKS) this.#leaks.push(leak)
      this.#events.emitLater('leak', leak)
    }
  }
}

/** Does something every `ms` as long as there is an `object`: the timer holds neither that nor an event loop. */
function whileAlive(object, ms, act) {
  const held = new WeakRef(object)
  const timer = setInterval(() => {
    const alive = held.deref()
    if (alive === undefined) clearInterval(timer)
    else act(alive)
  }, ms)
  return timer.unref()
}

/** What there is before the first time. */
const NEVER = Object.freeze({
  enabled: false,
  startedAt: 0,
  durationMs: 0,
  allocations: 0,
  frees: 0,
  bytesAllocated: 0,
  bytesFreed: 0,
  allocationRate: 0,
  sizes: NOTHING,
  lifetimesMs: NOTHING,
  latencyNs: NOTHING,
  droppedEvents: 0,
})

/** Everything that lives. */
function snapshotOf(handle, device, stats) {
  const { buffers, pools } = native.snapshot(handle)
  return {
    version: 1,
    takenAt: Date.now(),
    device,
    stats,
    buffers: buffersOf(buffers, device.backend),
    pools: pools.map(poolOf),
  }
}

module.exports = { Profiling, snapshotOf }
