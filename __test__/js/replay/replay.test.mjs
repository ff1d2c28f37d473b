/** Replays of logs against other pools, and against the real pool that recorded the log. */

import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { describe, test } from 'node:test'

import { replayEventLog } from '../../../index.js'
import { KiB, MiB, open, refuses } from '../../support/helpers.mjs'

const HEADER = 'Thread,Time,Action,Pointer,Size,Stream'

/** Writes `[action, pointer, size]` rows in RMM's format. */
const rmm = (...rows) =>
  [HEADER, ...rows.map(([action, pointer, size]) => `140,10:00:00:000001,${action},${pointer},${size},0x0`), ''].join(
    '\n',
  )

/** mulberry32: the same workload on every machine. */
function randomOf(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/**
 * Runs a real pool under load and records its log from the diagnostics channels. Returns the pool's final figures, and
 * the peak of its chunks.
 */
function recorded(t, options, operations = 4000) {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', ...options })
  const events = []
  const listeners = ['allocate', 'free', 'fail'].map((type) => {
    const told = ({ manager: from, kind, size, tag, pool: name, id = 0 }) => {
      if (from === manager) events.push({ type, kind, size, tag, pool: name, id })
    }
    subscribe(`rkllm-memory:${type}`, told)
    return () => unsubscribe(`rkllm-memory:${type}`, told)
  })
  const random = randomOf(7)
  const live = []
  let peakReserved = 0
  for (let i = 0; i < operations; i++) {
    if (live.length > 0 && random() < 0.45) {
      const [block] = live.splice(Math.floor(random() * live.length), 1)
      block.free()
    } else {
      try {
        live.push(pool.allocate(1 + Math.floor(2 ** (6 + random() * 10))))
      } catch (error) {
        assert.equal(error.code, 'ERR_POOL_EXHAUSTED')
        live.splice(0, live.length >> 1).forEach((block) => block.free())
      }
    }
    peakReserved = Math.max(peakReserved, pool.stats().reserved)
  }
  listeners.forEach((stop) => stop())
  return { events, stats: pool.stats(), peakReserved }
}

/** Writes events in this package's own .csv format. */
function ours(events) {
  const quoted = (text) => (text === null ? '' : /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
  const rows = events.map(({ type, kind, size, tag, pool, id }, i) => {
    const action = type === 'fail' ? 'allocate failure' : type
    const ours = `${type},${i},${kind},${quoted(tag)},${quoted(pool)},${id}`
    return `1,10:00:00:000001,${action},0x${id.toString(16)},${size},0x0,${ours}`
  })
  return [`${HEADER},Type,TimeUs,Kind,Tag,Pool,Id`, ...rows, ''].join('\n')
}

describe('a recorded workload', () => {
  for (const [name, options] of Object.entries({
    'a pool that has everything at once': { initialSize: 4 * MiB },
    'a pool that grows': { initialSize: 256 * KiB, chunkSize: 128 * KiB, maxSize: 8 * MiB },
    'blocks of one size': { initialSize: 64 * KiB, blockSize: 66_000, chunkSize: 660_000, maxSize: 40 * MiB },
  })) {
    test(`${name}: the replay ends where the pool did`, (t) => {
      const { events, stats, peakReserved } = recorded(t, options)
      const { initialSize, maxSize = initialSize, chunkSize, blockSize } = options
      const growing = maxSize === initialSize ? {} : { initialSize, chunkSize }
      for (const log of [events, ours(events)]) {
        const result = replayEventLog(log, { capacity: maxSize, blockSize, ...growing })
        assert.deepEqual(
          [
            result.allocations, result.liveAtEnd, result.peakAllocated, result.peakReserved, result.reservedAtEnd,
            result.largestFreeAtEnd,
          ],
          [
            stats.totalAllocations, stats.liveAllocations, stats.peakAllocated, peakReserved, stats.reserved,
            stats.largestFree,
          ],
        )
        assert.deepEqual([result.fits, result.failures, result.skipped.refused], [true, 0, stats.failedAllocations])
        assert.equal(result.operations, result.allocations + result.frees)
      }
    })
  }

  test('a replay finds the smallest sufficient capacity', (t) => {
    const { events } = recorded(t, { initialSize: 4 * MiB })
    const { smallestCapacity, peakLive, capacity } = replayEventLog(events, {
      capacity: 64 * MiB,
      smallestCapacity: true,
    })
    assert.equal(capacity, 64 * MiB)
    assert.ok(smallestCapacity > peakLive && smallestCapacity <= 4 * MiB, `${smallestCapacity} for ${peakLive}`)
    assert.equal(replayEventLog(events, { capacity: smallestCapacity }).fits, true)
    const less = replayEventLog(events, { capacity: smallestCapacity - 4 * KiB })
    assert.equal(less.fits, false)
    assert.ok(less.failures > 0 && less.firstFailure.size > less.firstFailure.largestFree)
    assert.equal(events[less.firstFailure.line - 1].size, less.firstFailure.size)
    // The default is that capacity.
    assert.equal(replayEventLog(events).capacity, smallestCapacity)
  })

  test('chunk sizes can be compared', (t) => {
    const { events } = recorded(t, { initialSize: 4 * MiB })
    const sizes = [64 * KiB, 256 * KiB, 1 * MiB]
    const results = sizes.map((chunkSize) => replayEventLog(events, { chunkSize }))
    for (const [i, { capacity, fits, peakReserved, highestAddress }] of results.entries()) {
      assert.deepEqual([capacity, fits, highestAddress], [null, true, null])
      assert.ok(peakReserved >= results[i].peakAllocated)
    }
    assert.ok(results[0].chunksMade > results[2].chunksMade)
  })
})

describe('reading', () => {
  test('a log of RMM', () => {
    const text = rmm(
      ['allocate', '0x7f00', 1000],
      ['allocate', '0x7f80', 2000],
      ['allocate failure', '0x0', 99999],
      ['free', '0x7f00', 1000],
      ['allocate', '0x7f00', 500],
    )
    for (const log of [text, text.replaceAll('\n', '\r\n'), `\ufeff${text}\n\n`, text.trimEnd()]) {
      const result = replayEventLog(log, { capacity: 8 * KiB })
      assert.deepEqual([result.allocations, result.frees, result.liveAtEnd, result.peakLive], [3, 1, 2, 3000])
      assert.deepEqual(result.skipped, { filtered: 0, refused: 1, unmatchedFrees: 0, lostFrees: 0, unknown: {} })
    }
  })

  test('the line of the first failure is right after any header', () => {
    const header = `${HEADER},Type,TimeUs,Kind,Tag,Pool,Id`
    const row = (type, size, tag, id) => `1,0,${type},0x0,${size},0x0,${type},0,npu,${tag},kv,${id}`
    const rows = [
      row('allocate', 64, '"two\nlines, and ""quotes"""', 1), row('grow', 0, '', 0), row('free', 64, '', 1),
      row('allocate', 9999, '"a"', 2),
    ]
    const result = replayEventLog([header, ...rows].join('\r\n'), {
      capacity: 4 * KiB,
      tags: ['two\nlines, and "quotes"', 'a'],
    })
    assert.deepEqual(result.firstFailure, {
      line: 6, size: 9999, live: 0, reserved: 4096, free: 4096, largestFree: 4096,
    })
    assert.deepEqual([result.operations, result.failures, result.failedBytes, result.frees], [3, 1, 9999, 1])
  })

  test('missing frees, and frees without an allocation', () => {
    const log = rmm(
      ['free', '0x1', 10],
      ['allocate', '0x2', 10],
      ['allocate', '0x2', 20],
      ['free', '0x2', 20],
      ['free', '0x2', 20],
      ['allocate', '0x3', 0],
      ['free', '0x3', 0],
    )
    const { allocations, frees, liveAtEnd, skipped } = replayEventLog(log, { capacity: 4 * KiB })
    assert.deepEqual([allocations, frees, liveAtEnd], [2, 2, 0])
    assert.deepEqual(skipped, { filtered: 0, refused: 0, unmatchedFrees: 2, lostFrees: 1, unknown: {} })
  })

  test('filters by kind, pool and tag; ids are unique within their kind and pool', () => {
    const events = [
      { type: 'allocate', id: 1, size: 100, kind: 'npu', pool: 'kv', tag: 'a' },
      { type: 'allocate', id: 1, size: 200, kind: 'npu', pool: null, tag: null },
      { type: 'allocate', id: 1, size: 400, kind: 'system', pool: 'kv', tag: 'b' },
      // A free may have fewer fields than its allocation.
      { type: 'collect', id: 1, size: 100, kind: 'npu', pool: 'kv' },
      { type: 'move', id: 1, size: 100, kind: 'npu', pool: 'kv' },
    ]
    const of = (options) => {
      const { peakLive, frees, skipped } = replayEventLog(events, options)
      return [peakLive, frees, skipped.filtered]
    }
    assert.deepEqual(of({}), [700, 1, 0])
    assert.deepEqual(of({ kinds: ['npu'] }), [300, 1, 1])
    assert.deepEqual(of({ pools: [null] }), [200, 0, 2])
    assert.deepEqual(of({ pools: ['kv'], tags: ['b'] }), [400, 0, 2])
    const { hint } = refuses(() => of({ pools: ['vk'] }), 'ERR_OUT_OF_RANGE')
    assert.match(hint, /null/)
  })

  test('an empty log fits anywhere', () => {
    for (const log of [HEADER, [], new Set()]) {
      const { fits, operations, peakLive } = replayEventLog(log, { capacity: 4096 })
      assert.deepEqual([fits, operations, peakLive], [true, 0, 0])
    }
  })

  test('files that are no log are refused', () => {
    for (const log of [undefined, null, 5, {}, Symbol.iterator, [1], [null]])
      refuses(() => replayEventLog(log), 'ERR_INVALID_ARG_TYPE')
    const texts = [
      '', 'a,b,c', `${HEADER}\n1,0,allocate`, `${HEADER}\n1,0,allocate,0x1,many,0`, `${HEADER}\n1,0,allocate,0x1,,0`,
      `${HEADER}\n"1,0`, `${HEADER}\n"1"x,0,free,0x1,1,0`,
    ]
    for (const text of texts) refuses(() => replayEventLog(text), 'ERR_OUT_OF_RANGE', text)
    for (const size of [-1, 1.5, NaN, '7', undefined]) {
      refuses(() => replayEventLog([{ type: 'allocate', id: 1, size }]), 'ERR_OUT_OF_RANGE')
    }
  })
})

describe('options', () => {
  const log = rmm(['allocate', '0x1', 5000])

  test('that contradict each other or describe no valid pool', () => {
    const bad = {
      ERR_INVALID_ARG_TYPE: [
        { capacity: 4096, maxSize: 8192 },
        { suballocator: 'fixed' },
        { suballocator: 'tlsf', blockSize: 4096 },
        { pools: 'kv' },
        { tags: [undefined] },
        { capcity: 4096 },
      ],
      ERR_OUT_OF_RANGE: [
        { capacity: 0 },
        { capacity: 4096, alignment: 48 },
        { capacity: 4096, initialSize: 8192 },
        { suballocator: 'buddy' },
        { blockSize: 4096 },
        { capacity: 2 ** 53 },
        { capacity: 2 ** 40, blockSize: 64 },
      ],
    }
    for (const [code, list] of Object.entries(bad)) {
      for (const options of list) refuses(() => replayEventLog(log, options), code, JSON.stringify(options))
    }
  })

  test('a log that no capacity can serve', () => {
    const { message, requested } = refuses(() => replayEventLog(rmm(['allocate', '0x1', 2 ** 51])), 'ERR_OUT_OF_RANGE')
    assert.match(message, /no capacity is enough/)
    assert.equal(requested, 2 ** 51)
  })

  test('blocks of one size need only the peak of live blocks', () => {
    const rows = Array.from({ length: 10 }, (_, i) => ['allocate', `0x${i + 1}`, 3000])
    const result = replayEventLog(rmm(...rows), { suballocator: 'fixed', blockSize: 4000 })
    // 4000 rounds up to 63 × 64 bytes; capacities are multiples of 4 KiB.
    assert.deepEqual([result.fits, result.peakAllocated], [true, 10 * 4032])
    assert.ok(result.capacity >= 10 * 4032 && result.capacity < 12 * 4032, String(result.capacity))
    assert.equal(
      replayEventLog(log, { blockSize: 4096, capacity: 8192, smallestCapacity: true }).smallestCapacity,
      null,
    )
  })

  test('alignment adds its padding to the capacity', () => {
    const { peakAllocated, peakLive } = replayEventLog(rmm(['allocate', '0x1', 1], ['allocate', '0x2', 1]), {
      capacity: MiB,
      alignment: 4096,
    })
    assert.deepEqual([peakAllocated, peakLive], [8192, 2])
  })
})

describe('logs of other allocators', () => {
  const row = (action) => `1,1,${action},0x1,4096,0`
  const log = (...rows) => [HEADER, ...rows].join('\n')
  const outcome = (text) => {
    const { allocations, frees, liveAtEnd, fits, skipped } = replayEventLog(text, { capacity: MiB })
    return [allocations, frees, liveAtEnd, fits, skipped.unknown]
  }

  test("RMM's and PyTorch's names, capitals and blanks are understood", () => {
    for (const [allocate, free] of [
      ['allocate', 'deallocate'], ['Allocate', 'FREE'], [' allocate', ' free '], ['alloc', 'free_completed'],
      ['"allocate"', ' "free"'],
    ]) {
      assert.deepEqual(outcome(log(row(allocate), row(free))), [1, 1, 0, true, {}], allocate)
    }
    assert.deepEqual(outcome(log('1, 1, allocate, 0x1, 4096, 0', '1, 1, free, 0x1, 4096, 0')), [1, 1, 0, true, {}])
    const entries = ['segment_alloc', 'alloc', 'free_requested', 'free_completed', 'snapshot']
    assert.deepEqual(outcome(entries.map((action) => ({ action, addr: 1, size: 4096 }))), [1, 1, 0, true, {}])
  })

  test('entries that are not understood are counted by action', () => {
    const text = log(row('allocate'), row('shrink'), row('shrink'), row('__proto__'))
    assert.deepEqual(outcome(text).slice(0, 3), [1, 0, 1])
    assert.deepEqual(Object.entries(outcome(text)[4]), [
      ['shrink', 2],
      ['__proto__', 1],
    ])
    const { unknown } = replayEventLog(
      [...Array(200).keys()].map((at) => ({ type: at === 0 ? 'allocate' : `u${at}`, id: 1, size: 1 })),
    ).skipped
    assert.deepEqual([Object.keys(unknown).length, unknown['(others)']], [101, 99])
  })

  test('a log of which nothing was understood is an error, not one that fits', () => {
    for (const text of [log(row('acquire'), row('release')), [{ type: 'x', id: 1, size: 1 }, { id: 2 }]]) {
      const error = refuses(() => replayEventLog(text, { capacity: 4096 }), 'ERR_OUT_OF_RANGE')
      assert.match(error.message, /none of the log's 2 entries was understood/)
    }
  })

  test('names are read as writeReport wrote them', () => {
    const columns = 'Type,TimeUs,Kind,Tag,Pool,Id'
    const of = (tag) => `0,00:00:00.000000,allocate,0x1,64,0,allocate,0,npu,${tag},,1`
    for (const [written, tag] of [['C:\\\\a', 'C:\\a'], ['""', ''], ['"a\\nb"', 'a\nb'], ['', null]]) {
      const text = [`${HEADER},${columns}`, of(written)].join('\n')
      assert.equal(replayEventLog(text, { tags: [tag] }).allocations, 1, written)
    }
  })
})
