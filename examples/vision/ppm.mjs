/** Binary PPM: the image format that needs no library. */

import { readFileSync } from 'node:fs'

/**
 * Reads an image of 8-bit RGB.
 *
 * @param {string} path
 */
export function readPpm(path) {
  const file = readFileSync(path)
  const head = /^P6(?:\s+(?:#[^\n]*\n\s*)*)(\d+)(?:\s+(?:#[^\n]*\n\s*)*)(\d+)(?:\s+(?:#[^\n]*\n\s*)*)255\s/.exec(
    file.toString('latin1', 0, 1024),
  )
  if (head === null) throw new Error(`${path} is no binary PPM of 8 bits: make one with ffmpeg -i IMAGE ${path}.ppm`)
  const [width, height] = [Number(head[1]), Number(head[2])]
  const pixels = new Uint8Array(file.buffer, file.byteOffset + head[0].length, file.length - head[0].length)
  if (pixels.length < width * height * 3) throw new Error(`${path} ends before its ${width} × ${height} pixels`)
  return { width, height, pixels: pixels.subarray(0, width * height * 3) }
}
