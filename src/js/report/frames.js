'use strict'

// Parses lines of JavaScript stacks.

const PLACE = /^(.*?)(?::(\d+))?(?::(\d+))?$/

/**
 * Parses "at load (/app/model.js:12:7)" to { name: 'load', file: '/app/model.js', line: 12 }. Any other line becomes a
 * name.
 *
 * @param {string} text
 * @returns {{name: string, file: string, line: number}}
 */
function frame(text) {
  const line = text.trim().replace(/^at /, '')
  const called = /^(.+?) \((.*)\)$/.exec(line)
  const isPlace = /:\d+$/.test(line)
  if (called === null && !isPlace) return { name: line, file: '', line: 0 }
  const place = (called?.[2] ?? line).replace(/^async /, '').replace(/^file:\/\//, '')
  // The pattern matches any line.
  const [, file, row = '0'] = /** @type {RegExpExecArray} */ (PLACE.exec(place))
  return { name: called?.[1] ?? '(anonymous)', file, line: Number(row) }
}

/**
 * Parses a stack, innermost frame first. An unknown stack gives one frame "(unknown)".
 *
 * @param {string | null} stack
 */
function framesOf(stack) {
  const lines = (stack ?? '').split('\n').filter((line) => line.trim() !== '')
  return lines.length === 0 ? [{ name: '(unknown)', file: '', line: 0 }] : lines.map(frame)
}

module.exports = { framesOf }
