/**
 * Measures a replay for each entry of a log, beside splitting the same text into fields.
 *
 *   node benchmark/replay.mjs [--events N]
 */

import { replayEventLog } from '../index.js'
import { countsOf, machine } from './options.mjs'

const { events: EVENTS } = countsOf('replay.mjs', { events: { fallback: 2_000_000, text: 'entries of the log' } })
const LIVE = 50_000
const GiB = 2 ** 30

console.log(machine())
const rows = [...workload(EVENTS)]
const text = [
  'Thread,Time,Action,Pointer,Size,Stream',
  ...rows.map((row) => `1,10:00:00:000001,${row.type},0x${row.id.toString(16)},${row.size},0x0`), '',
].join('\n')
console.log(`${EVENTS} entries, up to ${LIVE} live, ${(text.length / 2 ** 20).toFixed()} MiB of text\n`)

print('the text split into fields only', () => fields(text))
print('capacity: 16 GiB', () => replayEventLog(text, { capacity: 16 * GiB }))
print('the same, from a list of events', () => replayEventLog(rows, { capacity: 16 * GiB }))
print('chunkSize: 64 MiB', () => replayEventLog(rows, { chunkSize: 64 << 20 }))
print('smallestCapacity: true', () => replayEventLog(rows, { capacity: 16 * GiB, smallestCapacity: true }))

function print(title, call) {
  const start = performance.now()
  const result = call()
  const nanoseconds = ((performance.now() - start) * 1e6) / EVENTS
  const figures =
    result?.fits === undefined
      ? ''
      : `  fits: ${result.fits}, ${(result.peakReserved / 2 ** 20).toFixed()} MiB, ${result.chunksMade} chunks`
  console.log(`${title.padEnd(42)} ${nanoseconds.toFixed(0).padStart(6)} ns an entry${figures}`)
}

/** Yields sizes from 64 bytes to 256 KiB, small ones more often; the freed entry is random. */
function* workload(count) {
  let state = 1
  const random = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff) / 0x7fff_ffff
  const live = []
  let id = 0x7f00_0000_0000
  for (let i = 0; i < count; i++) {
    if (live.length < LIVE / 10 || (live.length < LIVE && random() < 0.5)) {
      const row = { type: 'allocate', id: (id += 4096), size: Math.floor(2 ** (6 + random() * 12)) }
      live.push(row)
      yield row
    } else {
      const at = Math.floor(random() * live.length)
      const { id: freed, size } = live[at]
      live[at] = live.at(-1)
      live.pop()
      yield { type: 'free', id: freed, size }
    }
  }
}

function fields(log) {
  let count = 0
  for (const line of log.split('\n')) count += line.split(',').length
  return count
}
