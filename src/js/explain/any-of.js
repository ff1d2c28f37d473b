'use strict'

/**
 * Joins patterns to one that matches any of them; groups are numbered across all.
 *
 * @param {RegExp[]} patterns
 */
const anyOf = (...patterns) => new RegExp(patterns.map(({ source }) => source).join('|'))

module.exports = { anyOf }
