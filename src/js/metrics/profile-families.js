'use strict'

// The families of the profile: histograms with fixed buckets.

const { counter, family, NO_LABELS } = require('./family.js')

/**
 * @typedef {import('../types/profiling.js').Histogram} Histogram
 * @typedef {import('./family.js').Distribution} Distribution
 * @typedef {import('./family.js').Samples} Samples
 * @typedef {import('./family.js').Family} Family
 * @typedef {import('./family.js').Unit} Unit
 */

/** Bounds of buckets. They are fixed, because a histogram over time needs the same buckets in every scrape. */
/** @type {(base: number, from: number, to: number) => number[]} */
const powers = (base, from, to) => Array.from({ length: to - from + 1 }, (_, i) => base ** (from + i))
/** @type {(from: number, to: number) => number[]} Parsed, because `10 ** -7` is not 1e-7. */
const decades = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => Number(`1e${from + i}`))

/**
 * Makes a histogram family; `scale` converts the profile's unit to the metric's.
 *
 * @param {string} name
 * @param {Unit} unit
 * @param {string} help
 * @param {'sizes' | 'lifetimesMs' | 'latencyNs'} field
 * @param {number} scale
 * @param {number[]} bounds
 * @returns {Family}
 */
function histogram(name, unit, help, field, scale, bounds) {
  /** @type {Samples} */
  const samples = ({ profile }) => (profile?.[field]?.buckets ? [[distribution(profile[field], scale, bounds)]] : [])
  return { ...family('histogram', unit, name, help, NO_LABELS, samples), bounds }
}

/**
 * Returns `{ count, sum, buckets: [[bound, cumulative count]] }`, with an infinite last bound. A profile's bucket that
 * crosses a bound is counted above it.
 *
 * @param {Histogram} histogram
 * @param {number} scale
 * @param {number[]} bounds
 * @returns {Distribution}
 */
function distribution({ count, mean, buckets }, scale, bounds) {
  let [at, upTo] = [0, 0]
  const sorted = buckets.map(([edge, number]) => [edge * scale, number]).sort(([a], [b]) => a - b)
  /** @type {Distribution['buckets']} */
  const cumulative = bounds.map((bound) => {
    // The tolerance is for edges that scaling put slightly above the bound.
    for (; at < sorted.length && sorted[at][0] <= bound * (1 + Number.EPSILON * 4); at++) upTo += sorted[at][1]
    return [bound, upTo]
  })
  return { count, sum: count === 0 ? 0 : mean * count * scale, buckets: [...cumulative, [Infinity, count]] }
}

const profiling = [
  histogram('allocation_size_bytes', 'bytes', 'Requested sizes, while profiling.', 'sizes', 1, powers(4, 3, 17)),
  histogram(
    'allocation_lifetime_seconds',
    'seconds',
    'From allocation to free, while profiling.',
    'lifetimesMs',
    1e-3,
    decades(-6, 5),
  ),
  histogram(
    'allocation_latency_seconds',
    'seconds',
    'Duration of allocations, while profiling.',
    'latencyNs',
    1e-9,
    decades(-7, 1),
  ),
  counter(
    'profile_dropped_events_total',
    'Events overwritten in the ring of the profile.',
    NO_LABELS,
    ({ profile }) => [[profile?.droppedEvents]],
  ),
]

module.exports = { profiling }
