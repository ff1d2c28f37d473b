'use strict'

// Writes figures as JSON, as snapshot.schema.json describes, in pieces of a few entries each.

const { hexAddresses } = require('../core/json.js')
const { slices } = require('../core/turns.js')

/** @type {(value: unknown) => value is object} */
const isObject = (value) => typeof value === 'object' && value !== null

/**
 * Whether `value` has no objects in it.
 *
 * @param {unknown} value
 */
const isFlat = (value) => !isObject(value) || !Object.values(value).some(isObject)

/**
 * Yields the JSON of `value` in pieces. Long lists are cut, with turns of the event loop between their parts.
 *
 * @param {any} value
 * @returns {AsyncGenerator<string>}
 */
async function* jsonPieces(value) {
  if (Array.isArray(value)) {
    let before = '['
    for await (const slice of slices(value)) {
      if (slice.every(isFlat)) yield before + JSON.stringify(slice, hexAddresses).slice(1, -1)
      else yield* separated(before, slice)
      before = ','
    }
    yield before === '[' ? '[]' : ']'
  } else if (isFlat(value)) {
    yield JSON.stringify(value, hexAddresses)
  } else {
    let before = '{'
    for (const [name, member] of Object.entries(value)) {
      if (member === undefined) continue
      yield `${before}${JSON.stringify(name)}:`
      yield* jsonPieces(member)
      before = ','
    }
    yield '}'
  }
}

/** @type {(before: string, list: unknown[]) => AsyncGenerator<string>} */
async function* separated(before, list) {
  for (const entry of list) {
    yield before
    yield* jsonPieces(entry)
    before = ','
  }
}

/** @param {Pick<import('./index.js').Figures, 'snapshot' | 'profile' | 'usage'>} figures */
async function* json({ snapshot, profile, usage }) {
  yield* jsonPieces({ version: 1, snapshot, profile, usage })
  yield '\n'
}

module.exports = { json, jsonPieces }
