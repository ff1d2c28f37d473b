'use strict'

// A family of metrics and its constructors.
//
// A family is `{ name, type, unit, help, labels, samples }`; `samples({ usage, device, profile })` returns `[value,
// ...label values]`. A value that is null, undefined or NaN is unknown and makes no sample.

/**
 * @typedef {import('../types/stats.js').MemoryUsage} MemoryUsage
 * @typedef {import('../types/profiling.js').MemoryProfile} MemoryProfile
 */

/**
 * The figures of one reading; the profile is null while profiling is off.
 *
 * @typedef {object} Figures
 * @property {MemoryUsage} usage
 * @property {import('../types/devices.js').DeviceInfo} device
 * @property {MemoryProfile | null} profile
 */

/**
 * @typedef {object} Distribution
 * @property {number} count
 * @property {number} sum
 * @property {[bound: number, cumulative: number][]} buckets
 */

/** @typedef {number | null | undefined} Value */
/** @typedef {[value: Value | Distribution, ...labels: string[]]} Sample */
/** @typedef {(from: Figures) => Sample[]} Samples */

/**
 * @typedef {object} Family
 * @property {string} name
 * @property {'gauge' | 'counter' | 'histogram'} type
 * @property {Unit} unit
 * @property {string} help
 * @property {string[]} labels
 * @property {Samples} samples
 * @property {number[]} [bounds] of a histogram's buckets
 */

/** @typedef {'bytes' | 'ratio' | 'seconds' | ''} Unit */

/** Names follow the text format: the base unit at the end, then `_total` for counters. */
const PREFIX = 'rkllm_memory_'

/** @type {string[]} */
const NO_LABELS = []

/**
 * @param {Family['type']} type
 * @param {Unit} unit
 * @param {string} name
 * @param {string} help
 * @param {string[]} labels
 * @param {Samples} samples
 * @returns {Family}
 */
function family(type, unit, name, help, labels, samples) {
  return { name: PREFIX + name, type, unit, help, labels, samples }
}

/** @type {(name: string, unit: Unit, help: string, labels: string[], samples: Samples) => Family} */
const gauge = (name, unit, help, labels, samples) => family('gauge', unit, name, help, labels, samples)
/** @type {(name: string, help: string, labels: string[], samples: Samples) => Family} */
const counter = (name, help, labels, samples) => family('counter', '', name, help, labels, samples)
/**
 * Makes a gauge without labels.
 *
 * @type {(name: string, unit: Unit, help: string, figure: (from: Figures) => Value) => Family}
 */
const single = (name, unit, help, figure) => gauge(name, unit, help, NO_LABELS, (from) => [[figure(from)]])

module.exports = { PREFIX, NO_LABELS, family, gauge, counter, single }
