/**
 * Patterns that distinguish buffers: word `i` of the pattern with seed `s` is `s + i × STEP` modulo 2^32. Two requests,
 * or two buffers of one request, never expect the same words. So a page that is shared, lost or zeroed by mistake shows
 * up as wrong bytes.
 */

const STEP = 0x9e3779b1 | 0

/** Returns the seed of the `part`th run of words of request `id`. */
export function seedOf(id, part) {
  return Math.imul(id + 1, 0x85ebca6b) ^ Math.imul(part + 1, 0xc2b2ae35)
}

export function fillWords(words, from, to, seed) {
  let value = (seed + Math.imul(from, STEP)) | 0
  for (let i = from; i < to; i++) {
    words[i] = value
    value = (value + STEP) | 0
  }
}

/** Counts the bytes of words[from..to) that differ from fillWords' pattern. */
export function wrongInWords(words, from, to, seed) {
  let value = (seed + Math.imul(from, STEP)) | 0
  let wrong = 0
  for (let i = from; i < to; i++) {
    if (words[i] !== value) wrong += differingBytes(words[i], value)
    value = (value + STEP) | 0
  }
  return wrong
}

/** Writes floats of at most 24 significant bits, which float32 holds exactly. `stride` spreads them over the buffer. */
export function fillFloats(floats, start, count, seed, stride = 1) {
  let value = seed | 0
  for (let i = 0, at = start; i < count; i++, at += stride) {
    floats[at] = value >>> 8
    value = (value + STEP) | 0
  }
}

/** Counts the bytes that differ from fillFloats' pattern. */
export function wrongInFloats(floats, start, count, seed, stride = 1) {
  let value = seed | 0
  let wrong = 0
  for (let i = 0, at = start; i < count; i++, at += stride) {
    if (floats[at] !== value >>> 8) wrong += differingBytes(bitsOf(floats[at]), bitsOf(value >>> 8))
    value = (value + STEP) | 0
  }
  return wrong
}

const float = new Float32Array(1)
const bits = new Int32Array(float.buffer)
function bitsOf(value) {
  float[0] = value
  return bits[0]
}

function differingBytes(a, b) {
  let difference = a ^ b
  let count = 0
  for (; difference !== 0; difference >>>= 8) if (difference & 0xff) count++
  return count
}
