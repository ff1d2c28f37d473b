'use strict'

/** @type {(text: string) => number[] | undefined} Parses "6.1.75-vendor" to [6, 1, 75]. */
const versionOf = (text) => /\d+(?:\.\d+)*/.exec(text)?.[0].split('.').map(Number)

/**
 * Compares versions, as for sort.
 *
 * @param {number[]} a
 * @param {number[]} b
 */
function compareVersions(a, b) {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

module.exports = { compareVersions, versionOf }
