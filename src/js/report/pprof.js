'use strict'

// Writes call sites as a pprof profile, which `go tool pprof`, Pyroscope, Parca and speedscope read. The message is
// perftools.profiles.Profile of profile.proto. It needs two of protobuf's encodings: varints, and fields with a length.

const { promisify } = require('node:util')
const gzip = promisify(require('node:zlib').gzip)
const { framesOf } = require('./frames.js')
const { Buffer } = require('../core/runtime.js')
const { slices } = require('../core/turns.js')

/** A call site has as many frames as this, each with a number and two names. */
const SITE_WEIGHT = 20

/** @type {[type: string, unit: string, figure: 'liveBytes' | 'liveCount' | 'totalBytes' | 'totalCount'][]} */
const SAMPLE_TYPES = [
  ['inuse_space', 'bytes', 'liveBytes'],
  ['inuse_objects', 'count', 'liveCount'],
  ['alloc_space', 'bytes', 'totalBytes'],
  ['alloc_objects', 'count', 'totalCount'],
]

/**
 * Encodes seven bits per byte, the lowest first.
 *
 * @param {number | bigint} value
 */
function varint(value) {
  /** @type {number[]} */
  const bytes = []
  let rest = BigInt(value)
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return [...bytes, Number(rest)]
}

/** @type {(field: number, value: number | bigint) => number[]} */
const number = (field, value) => (value === 0 ? [] : [...varint(field << 3), ...varint(value)])
/** @type {(field: number, content: number[] | Uint8Array) => number[]} */
const bytes = (field, content) => [...varint((field << 3) | 2), ...varint(content.length), ...content]
/** @type {(field: number, values: number[]) => number[]} */
const packed = (field, values) => bytes(field, values.flatMap(varint))

/** Numbers objects by key, from 1 in the order of their first use. */
function numbered() {
  /** @type {Map<string, number>} */
  const numbers = new Map()
  /** @type {number[][]} */
  const list = []
  return {
    list,
    /**
     * @param {string} key
     * @param {(number: number) => number[]} make
     */
    of(key, make) {
      let found = numbers.get(key)
      if (found === undefined) {
        found = numbers.size + 1
        numbers.set(key, found)
        list.push(make(found))
      }
      return found
    },
  }
}

/**
 * @param {import('../types/profiling.js').MemoryProfile} profile
 * @returns {AsyncGenerator<Buffer>} gzipped, as the format demands
 */
async function* pprof({ callSites, startedAt, durationMs, sampleInterval = 0 }) {
  const strings = new Map([['', 0]])
  const text = (/** @type {string} */ value) => {
    const known = strings.get(value)
    if (known !== undefined) return known
    const index = strings.size
    strings.set(value, index)
    return index
  }
  const valueType = (/** @type {string} */ type, /** @type {string} */ unit) => [
    ...number(1, text(type)),
    ...number(2, text(unit)),
  ]
  const functions = numbered()
  const locations = numbered()

  const location = (/** @type {ReturnType<typeof framesOf>[number]} */ { name, file, line }) =>
    locations.of(`${name}\n${file}\n${line}`, (id) => {
      const functionId = functions.of(`${name}\n${file}`, (id) =>
        bytes(5, [...number(1, id), ...number(2, text(name)), ...number(3, text(name)), ...number(4, text(file))]),
      )
      return bytes(4, [...number(1, id), ...bytes(4, [...number(1, functionId), ...number(2, line)])])
    })

  const types = SAMPLE_TYPES.map(([type, unit]) => bytes(1, valueType(type, unit)))
  /** @type {number[][]} */
  const samples = []
  for await (const sites of slices(callSites, SITE_WEIGHT)) {
    for (const site of sites) {
      const values = SAMPLE_TYPES.map(([, , figure]) => Math.round(site[figure]))
      const label = site.tag === null ? [] : bytes(3, [...number(1, text('tag')), ...number(2, text(site.tag))])
      samples.push(bytes(2, [...packed(1, framesOf(site.stack).map(location)), ...packed(2, values), ...label]))
    }
  }
  const facts = [
    number(9, BigInt(Math.round(startedAt * 1000)) * 1000n),
    number(10, Math.round(durationMs * 1e6)),
    bytes(11, valueType('space', 'bytes')),
    number(12, sampleInterval),
    number(14, text('inuse_space')),
  ]
  /** @type {Buffer[]} */
  const parts = []
  for (const list of [types, samples, locations.list, functions.list])
    for await (const slice of slices(list)) parts.push(...slice.map((part) => Buffer.from(part)))
  for await (const slice of slices([...strings.keys()]))
    parts.push(...slice.map((string) => Buffer.from(bytes(6, Buffer.from(string)))))
  yield gzip(Buffer.concat([...parts, ...facts.map((part) => Buffer.from(part))]))
}

module.exports = { pprof }
