/** Growth between two snapshots. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { diffSnapshots } from '../../../index.js'
import reportJson from '../../../src/js/report/json.js'
import { sample, STACKS, textOf } from '../../browser/sample.mjs'
import { refuses } from '../../support/helpers.mjs'

const { snapshot, profile } = sample()

test('diffSnapshots names the growth by tag, place, pool and kind', () => {
  const buffer = (id, size, tag, stack = null, pool = null, kind = 'npu') => ({
    ...snapshot.buffers[0],
    id,
    size,
    tag,
    stack,
    pool,
    kind,
  })
  const base = { ...snapshot, pools: [] }
  const a = {
    ...base,
    takenAt: 1000,
    buffers: [buffer(1, 100, 'kv', STACKS[0]), buffer(2, 50, null), buffer(3, 70, 'logits', null, null, 'system')],
  }
  const block = { offset: 0, size: 30, id: 9, tag: 'kv', stack: STACKS[0] }
  const pool = {
    ...snapshot.pools[0],
    name: 'p',
    chunkMaps: [{ size: 64, blocks: [block, { offset: 30, size: 34, id: null, tag: null }] }],
  }
  const b = {
    ...base,
    takenAt: 4000,
    stats: { ...base.stats, npuUsed: base.stats.npuUsed + 4096 },
    pools: [pool],
    buffers: [a.buffers[0], a.buffers[1], buffer(4, 500, 'kv', STACKS[0]), buffer(5, 5, 'new', STACKS[1])],
  }
  const diff = diffSnapshots(a, b)
  assert.equal(diff.elapsedMs, 3000)
  assert.equal(diff.npuUsed, 4096)
  assert.deepEqual(diff.byTag, [
    { tag: 'kv', before: 100, after: 630, growth: 530, countBefore: 1, countAfter: 3 },
    { tag: 'new', before: 0, after: 5, growth: 5, countBefore: 0, countAfter: 1 },
    { tag: null, before: 50, after: 50, growth: 0, countBefore: 1, countAfter: 1 },
    { tag: 'logits', before: 70, after: 0, growth: -70, countBefore: 1, countAfter: 0 },
  ])
  assert.deepEqual(
    diff.bySite.map(({ stack, growth }) => [stack, growth]),
    [
      [STACKS[0], 530],
      [STACKS[1], 5],
      [null, -70],
    ],
  )
  assert.deepEqual(
    diff.byPool.map(({ pool, growth }) => [pool, growth]),
    [
      [null, 435],
      ['p', 30],
    ],
  )
  assert.deepEqual(
    diff.byKind.map(({ kind, growth }) => [kind, growth]),
    [
      ['npu', 535],
      ['system', -70],
    ],
  )
  assert.deepEqual(
    diff.added.map(({ id }) => id),
    [4, 9, 5],
  )
  assert.deepEqual(
    diff.gone.map(({ id }) => id),
    [3],
  )
  assert.deepEqual(Object.keys(diff.added[0]).sort(), ['allocatedAt', 'id', 'kind', 'pool', 'size', 'stack', 'tag'])
})

test('diffSnapshots: a snapshot against itself, reports from files, and invalid snapshots', async () => {
  const same = diffSnapshots(snapshot, JSON.parse(await textOf(reportJson.json({ snapshot, profile }))).snapshot)
  assert.deepEqual([same.added, same.gone, same.elapsedMs], [[], [], 0])
  for (const list of [same.byTag, same.bySite, same.byPool, same.byKind])
    assert.ok(list.length > 0 && list.every(({ growth }) => growth === 0))
  const buffer = { id: 1, kind: 'npu', size: 1, tag: null, pool: null }
  const wrong = [{ size: NaN }, { size: '1' }, { tag: {} }, { stack: 5 }, { pool: [] }]
  const broken = [
    ...wrong.map((part) => ({ ...snapshot, buffers: [{ ...buffer, ...part }] })),
    ...[{ name: 'p', blocks: [{ id: 1e9 }] }, { blocks: [] }].map(({ name, blocks }) => ({
      ...snapshot, pools: [{ name, chunkMaps: [{ blocks }] }],
    })),
    { ...snapshot, stats: {} },
    { ...snapshot, takenAt: NaN },
    ...[{}, [null]].map((buffers) => ({ ...snapshot, buffers })),
    ...[{ name: 'p' }, { chunkMaps: [{ blocks: [7] }] }].map((pool) => ({ ...snapshot, pools: [pool] })),
  ]
  for (const bad of [undefined, null, 7, 'x', {}, [], { version: 1 }, ...broken]) {
    refuses(() => diffSnapshots(bad, snapshot), 'ERR_INVALID_ARG_TYPE')
    refuses(() => diffSnapshots(snapshot, bad), 'ERR_INVALID_ARG_TYPE')
  }
  const { message } = refuses(() => diffSnapshots(snapshot, { ...snapshot, version: 2 }), 'ERR_OUT_OF_RANGE')
  assert.match(message, /second argument/)
})
