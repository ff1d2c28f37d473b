'use strict'

// Patterns that tell buffers, places and rounds apart, and the random numbers of the checks.

const { Buffer } = require('../../core/runtime.js')

/** A check that found a difference between what the library promises and what it saw. */
class CheckError extends Error {}

/**
 * Throws a CheckError with the figures of `message`, unless `holds`.
 *
 * @param {boolean} holds
 * @param {string} message
 * @returns {asserts holds}
 */
function expect(holds, message) {
  if (!holds) throw new CheckError(message)
}

/**
 * Returns the byte of a pattern at a place. No byte is zero, so that cleared memory is told apart.
 *
 * @param {number} seed
 * @param {number} at
 */
const byteOf = (seed, at) => ((Math.imul(at ^ Math.imul(seed, 0x9e3779b1), 0x85ebca6b) >>> 24) % 255) + 1

/**
 * Fills bytes with a pattern.
 *
 * @param {Uint8Array} bytes
 * @param {number} seed
 * @param {number} [from]
 * @param {number} [to]
 */
function fill(bytes, seed, from = 0, to = bytes.length) {
  for (let at = from; at < to; at++) bytes[at] = byteOf(seed, at)
}

/**
 * Checks that bytes hold a pattern.
 *
 * @param {Uint8Array} bytes
 * @param {number} seed
 * @param {string} what names the bytes in the message
 */
function verify(bytes, seed, what, from = 0, to = bytes.length) {
  for (let at = from; at < to; at++) {
    const wanted = byteOf(seed, at)
    if (bytes[at] !== wanted) throw new CheckError(`${what}: byte ${at} is ${bytes[at]} in place of ${wanted}`)
  }
}

/**
 * Checks that bytes are equal to others.
 *
 * @param {Uint8Array} bytes
 * @param {Uint8Array} wanted
 * @param {string} what names the bytes in the message
 */
function verifyEqual(bytes, wanted, what) {
  if (Buffer.compare(bytes, wanted) === 0) return
  const at = bytes.findIndex((byte, place) => byte !== wanted[place])
  throw new CheckError(`${what}: byte ${at} is ${bytes[at]} in place of ${wanted[at]}`)
}

/**
 * Calls `act`, and checks that it throws an error with one of these codes.
 *
 * @param {() => unknown} act
 * @param {string[]} codes
 * @param {string} what
 * @returns {any} the error
 */
function refuses(act, codes, what) {
  try {
    act()
  } catch (error) {
    const { code, message } = /** @type {{ code?: string, message: string }} */ (error)
    const wanted = codes.join(' or ')
    expect(codes.includes(String(code)), `${what} was refused with ${code} (${message}), not with ${wanted}`)
    return error
  }
  throw new CheckError(`${what} was not refused`)
}

/**
 * Returns a generator of whole numbers below a bound. The same seed gives the same numbers (mulberry32).
 *
 * @param {number} seed
 * @returns {(bound: number) => number}
 */
function randomNumbers(seed) {
  let state = seed
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % bound
  }
}

module.exports = { CheckError, byteOf, expect, fill, randomNumbers, refuses, verify, verifyEqual }
