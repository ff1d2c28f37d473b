'use strict'

// Quantised types of rkllm-toolkit, and the versions of its runtime.
//
// `w8a8` and `w4a16` have one scale for an output channel; `_gN` has one for each N numbers of a channel. `w4a8_g32` is
// a type of the rk3562.

const { compareVersions } = require('../core/versions.js')

/** @type {number[]} */
const GROUPS = [32, 64, 128, 256, 512]

/** @type {import('../types/models.js').QuantizedType[]} */
const DTYPES = /** @type {any[]} */ (
  ['w8a8', 'w4a16'].flatMap((base) => [base, ...GROUPS.map((group) => `${base}_g${group}`)]).concat('w4a8_g32')
)

/**
 * Splits "w4a16_g128" into its parts.
 *
 * @param {string} dtype
 */
function partsOf(dtype) {
  const [base, group] = dtype.split('_g')
  return { eightBits: base === 'w8a8', bytes: base === 'w8a8' ? 1 : 0.5, group: group === undefined ? null : +group }
}

/**
 * Returns the type that a file's name has, as rkllm-toolkit's scripts write it; null if it has none.
 *
 * @param {string} name
 */
function dtypeInName(name) {
  const [, base, group] = /(w8a8|w4a16|w4a8)(?:[_-]?g(\d+))?/i.exec(name) ?? []
  if (base === undefined) return null
  const dtype = /** @type {any} */ (base.toLowerCase() + (group === undefined ? '' : `_g${group}`))
  return DTYPES.includes(dtype) ? /** @type {import('../types/models.js').QuantizedType} */ (dtype) : null
}

/** Runtimes with measurements, oldest first. 1.2.3 measures as 1.2.2 does, and 1.1.0 to 1.1.4 have one table. */
const RUNTIMES = /** @type {const} */ (['1.1', '1.2.1', '1.2.2', '1.3.0'])
/** @typedef {(typeof RUNTIMES)[number]} Runtime */

/** @type {(version: string) => number[] | null} Parses "1.2.3", "v1.2.3" or "1.2". */
function numbersOf(version) {
  const [, major, minor, patch = '0'] = /^v?(\d+)\.(\d+)(?:\.(\d+))?(?:[a-z-].*)?$/i.exec(version) ?? []
  return major === undefined ? null : [+major, +minor, +patch]
}

/**
 * Returns the runtime whose measurements stand for `version`, and whether the version was measured itself.
 *
 * @param {string} version as checked by `isRuntime`
 * @returns {{ runtime: Runtime, measured: boolean }}
 */
function runtimeOf(version) {
  const numbers = numbersOf(version) ?? [1, 3, 0]
  const older = RUNTIMES.filter((known) => compareVersions(/** @type {number[]} */ (numbersOf(known)), numbers) <= 0)
  const runtime = older.at(-1) ?? '1.1'
  // "1.2" without a patch is the last of its line.
  if (/^v?1\.2$/.test(version)) return { runtime: '1.2.2', measured: true }
  // 1.2.0 brought embed_flash; its memory is not published.
  if (compareVersions(numbers, [1, 2, 0]) === 0) return { runtime: '1.2.1', measured: false }
  return { runtime, measured: numbers[0] === 1 && numbers[1] >= 1 && compareVersions(numbers, [1, 3, 0]) <= 0 }
}

module.exports = { DTYPES, RUNTIMES, dtypeInName, numbersOf, partsOf, runtimeOf }
