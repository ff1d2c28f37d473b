'use strict'

// Profiling of one manager. The native part records allocations (`src/profile/`); this file adds JavaScript stacks and
// the timeline.

const { threadId } = require('node:worker_threads')
const native = require('../core/binding.js')
const { all, allInTurns, blockRows, bufferRows, eventRows, histogramOf, poolOf } = require('./columns.js')
const { clearInterval, dateNow, now, setInterval } = require('../core/runtime.js')
const { jsonable } = require('../core/json.js')
const { stackHere } = require('./stack.js')

/** @type {Readonly<{ sampleInterval: number, eventCapacity: number, stackDepth: number }>} */
const DEFAULTS = Object.freeze({ sampleInterval: 524_288, eventCapacity: 65_536, stackDepth: 16 })
/** The timeline's first interval. */
const POINT_MS = 250
/** At this many points every second one is dropped, and the interval doubles. */
const MAX_POINTS = 1200
/** Bounds of the interval between leak checks, which is a quarter of `leakAfterMs`. */
const LEAK_CHECK_MS = { min: 50, max: 10_000 }
/** The most leaks that a profile describes; it counts all of them. */
const MAX_LEAKS = 10_000

/** @type {import('../types/profiling.js').Histogram} */
const EMPTY_HISTOGRAM = Object.freeze({
  count: 0,
  min: 0,
  p50: 0,
  p90: 0,
  p99: 0,
  p999: 0,
  max: 0,
  mean: 0,
  buckets: /** @type {[]} */ (/** @type {unknown} */ (Object.freeze([]))),
})

/**
 * @typedef {import('../types/allocations.js').BufferInfo} BufferInfo
 * @typedef {import('../native.js').Recorded} Recorded
 * @typedef {import('../types/report.js').MemorySnapshot} MemorySnapshot
 * @typedef {import('../types/profiling.js').MemoryProfile} MemoryProfile
 * @typedef {import('../types/profiling.js').ProfilingOptions} ProfilingOptions
 * @typedef {ProfilingOptions & { sampleInterval: number, eventCapacity: number, stackDepth: number }} Options
 */

class Profiling {
  #handle
  #events
  /**
   * The options of the running profile; undefined while profiling is off.
   *
   * @type {Options | undefined}
   */
  #options
  /** @type {NodeJS.Timeout[]} */
  #timers = []
  #began = 0
  #pointMs = POINT_MS
  /** @type {MemoryProfile['timeline']} */
  #timeline = []
  /**
   * The leaks that were reported, by id; null for those that are only counted.
   *
   * @type {Map<number, BufferInfo | null>}
   */
  #leaks = new Map()

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

  /**
   * Starts a new profile; an earlier one is discarded.
   *
   * @param {ProfilingOptions} given
   */
  start(given) {
    this.#stop()
    /** @type {Options} */
    const options = { ...DEFAULTS, ...given }
    this.#options = options
    const { sampleInterval, eventCapacity, leakAfterMs } = options
    native.startProfiling(this.#handle.value, sampleInterval, eventCapacity)
    this.#began = now()
    this.#pointMs = POINT_MS
    this.#timeline = []
    this.#leaks = new Map()
    this.#startTimeline()
    if (leakAfterMs === undefined) return
    const interval = Math.min(Math.max(leakAfterMs / 4, LEAK_CHECK_MS.min), LEAK_CHECK_MS.max)
    this.#timers.push(whileAlive(this, interval, (profiling) => profiling.#checkLeaks(leakAfterMs)))
  }

  /** Stops recording. The profile stays readable. */
  stop() {
    if (!this.enabled) return
    this.#point()
    this.#stop()
    native.stopProfiling(this.#handle.value)
  }

  /** Stops the timers: the manager is disposed. */
  end() {
    this.#stop()
  }

  /** Captures the stack for samples that the native part took in the current call. */
  sampled() {
    const options = this.#options
    if (options === undefined || native.pendingSamples(this.#handle.value) === 0) return
    native.attributeSamples(this.#handle.value, stackHere(options.stackDepth))
  }

  /**
   * Returns the profile, with or without its events.
   *
   * @param {boolean} withEvents
   * @returns {MemoryProfile}
   */
  profile(withEvents) {
    const recorded = native.profile(this.#handle.value, withEvents)
    const events = recorded?.events == null ? [] : all(eventRows(recorded.events, threadId))
    return this.#profileOf(recorded, events, withEvents)
  }

  /**
   * Returns the profile that the native part recorded, made in turns of the event loop.
   *
   * @param {Recorded | null | undefined} recorded
   */
  async profileInTurns(recorded) {
    const events = recorded?.events == null ? [] : await allInTurns(eventRows(recorded.events, threadId))
    return this.#profileOf(recorded, events, !this.#handle.closed)
  }

  /**
   * @param {Recorded | null | undefined} recorded
   * @param {MemoryProfile['events']} events
   * @param {boolean} withPoint whether to add a point to the timeline; a scrape of metrics does not
   * @returns {MemoryProfile}
   */
  #profileOf(recorded, events, withPoint) {
    const { sampleInterval } = this.#options ?? DEFAULTS
    if (recorded == null)
      return { ...EMPTY_PROFILE, sampleInterval, callSites: [], events: [], timeline: [], leaks: [], leakCount: 0 }
    const { sizes, lifetimesUs, latencyNs, callSites, droppedEvents, events: _rows, ...figures } = recorded
    if (this.enabled && withPoint) this.#point()
    return {
      enabled: this.enabled,
      ...figures,
      sampleInterval,
      allocationRate: figures.durationMs === 0 ? 0 : (figures.allocations / figures.durationMs) * 1000,
      sizes: histogramOf(sizes),
      lifetimesMs: histogramOf(lifetimesUs, 1000),
      latencyNs: histogramOf(latencyNs),
      callSites: callSites.sort((a, b) => b.liveBytes - a.liveBytes || b.totalBytes - a.totalBytes),
      events,
      droppedEvents,
      timeline: this.#timeline.map((point) => ({ ...point })),
      ...this.#liveLeaks(),
    }
  }

  #stop() {
    this.#timers.forEach(clearInterval)
    this.#timers = []
    this.#options = undefined
  }

  /** Adds a point now and starts the timer for the next ones. */
  #startTimeline() {
    this.#point()
    clearInterval(this.#timers[0])
    this.#timers[0] = whileAlive(this, this.#pointMs, (profiling) => profiling.#point())
  }

  #point() {
    const { npuUsed, systemUsed, poolReserved } = native.summary(this.#handle.value)
    this.#timeline.push({ timeMs: now() - this.#began, npuUsed, systemUsed, poolReserved })
    if (this.#timeline.length < MAX_POINTS) return
    this.#timeline = this.#timeline.filter((_, at) => at % 2 === 0)
    this.#pointMs *= 2
    this.#startTimeline()
  }

  /** The leaks that are still live. Forgets the others. */
  #liveLeaks() {
    if (this.#leaks.size > 0 && !this.#handle.closed) {
      const live = new Set(native.liveAmong(this.#handle.value, Float64Array.from(this.#leaks.keys())))
      for (const id of this.#leaks.keys()) if (!live.has(id)) this.#leaks.delete(id)
    }
    return { leaks: [...this.#leaks.values()].filter((leak) => leak !== null), leakCount: this.#leaks.size }
  }

  /** @param {number} age in ms */
  #checkLeaks(age) {
    this.#liveLeaks()
    for (const leak of /** @type {BufferInfo[]} */ (native.leaks(this.#handle.value, age))) {
      this.#leaks.set(leak.id, this.#leaks.size < MAX_LEAKS ? jsonable(leak) : null)
      this.#events.emitLater('leak', leak)
    }
  }
}

/**
 * Calls `act(object)` every `ms` until `object` is collected. The timer keeps neither it nor the event loop alive.
 *
 * @template {object} T
 * @param {T} object
 * @param {number} ms
 * @param {(object: T) => void} act
 */
function whileAlive(object, ms, act) {
  const held = new WeakRef(object)
  const timer = setInterval(() => {
    const alive = held.deref()
    if (alive === undefined) clearInterval(timer)
    else act(alive)
  }, ms)
  return timer.unref()
}

/** The profile of a manager that was never profiled. */
const EMPTY_PROFILE = Object.freeze({
  enabled: false,
  startedAt: 0,
  durationMs: 0,
  allocations: 0,
  frees: 0,
  bytesAllocated: 0,
  bytesFreed: 0,
  allocationRate: 0,
  sizes: EMPTY_HISTOGRAM,
  lifetimesMs: EMPTY_HISTOGRAM,
  latencyNs: EMPTY_HISTOGRAM,
  droppedEvents: 0,
})

/**
 * Implements `manager.takeSnapshot`.
 *
 * @param {number} handle
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {import('../types/stats.js').MemoryStats} stats
 * @returns {MemorySnapshot}
 */
function snapshotOf(handle, device, stats) {
  const { buffers, pools } = native.snapshot(handle)
  return {
    version: 1,
    takenAt: dateNow(),
    device,
    stats,
    buffers: all(bufferRows(buffers, device.backend)),
    pools: pools.map((pool) => poolOf(pool, all(blockRows(pool.blocks)))),
  }
}

/**
 * Makes a snapshot of what the native part listed, in turns of the event loop.
 *
 * @param {import('../native.js').Snapshot} listed
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {{ takenAt: number, stats: import('../types/stats.js').MemoryStats }} figures
 * @returns {Promise<MemorySnapshot>}
 */
async function snapshotInTurns(listed, device, { takenAt, stats }) {
  const buffers = await allInTurns(bufferRows(listed.buffers, device.backend))
  const pools = []
  for (const pool of listed.pools) pools.push(poolOf(pool, await allInTurns(blockRows(pool.blocks))))
  return { version: 1, takenAt, device, stats, buffers, pools }
}

module.exports = { Profiling, snapshotInTurns, snapshotOf }
