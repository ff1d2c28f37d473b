// JavaScript and Rust format bytes alike: the rows are those of the test of `format_bytes` in src/units.rs.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const { formatBytes } = createRequire(import.meta.url)('../../../src/js/core/format-bytes.js')

const [KiB, MiB, GiB] = [2 ** 10, 2 ** 20, 2 ** 30]

for (const [bytes, text] of [
  [0, '0 bytes'],
  [1, '1 byte'],
  [1023, '1023 bytes'],
  [KiB, '1 KiB'],
  [MiB + MiB / 2, '1.5 MiB'],
  [4 * GiB, '4 GiB'],
  [4 * GiB - 1, '3.9 GiB'],
  [2 ** 53, '8192 TiB'],
]) {
  test(`${bytes} bytes are "${text}"`, () => assert.equal(formatBytes(bytes), text))
}
