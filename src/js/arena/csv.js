'use strict'

// Reads lifetimes from CSV: `id,lower,upper,size` and perhaps `alignment`, in any order of the columns.

const { outOfRange } = require('../core/options.js')

const NUMBERS = ['lower', 'upper', 'size']

/**
 * @param {string} text
 * @returns {import('../types/arena.js').ArenaBuffer[]}
 */
function readLifetimes(text) {
  const lines = text.split(/\r?\n/)
  const columns = lines[0].replace(/^\ufeff/, '').split(',').map((word) => word.trim().toLowerCase())
  const missing = ['id', ...NUMBERS].filter((name) => !columns.includes(name))
  if (missing.length > 0) {
    throw outOfRange(`this is no list of lifetimes: its first line has no column ${missing.join(', ')}`, {
      hint: 'its columns are id,lower,upper,size and perhaps alignment',
    })
  }
  const buffers = []
  for (let at = 1; at < lines.length; at++) {
    if (lines[at].trim() === '') continue
    const words = lines[at].split(',').map((word) => word.trim())
    const field = (/** @type {string} */ name) => words[columns.indexOf(name)] ?? ''
    const number = (/** @type {string} */ name) => {
      const word = field(name)
      if (!/^-?\d+$/.test(word)) throw outOfRange(`line ${at + 1}: ${name} is "${word}"; it must be a whole number`)
      return Number(word)
    }
    const [lower, upper, size] = NUMBERS.map(number)
    const alignment = field('alignment') === '' ? 1 : number('alignment')
    buffers.push({ id: field('id'), lower, upper, size, alignment })
  }
  return buffers
}

module.exports = { readLifetimes }
