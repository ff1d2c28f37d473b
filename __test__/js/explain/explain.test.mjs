/** explainError: the corpus of logs by kind, this package's own messages, and logs that are read as a whole. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { explainAll, explainError, MemoryManager } from '../../../index.js'
import { faultOf, GROUPS, WRAPPINGS } from '../../support/explain-corpus/index.mjs'
import { score } from '../../support/explain-score.mjs'
import { MiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

const { RULES } = createRequire(import.meta.url)('../../../src/js/explain/explain.js')

for (const group of GROUPS) {
  for (const log of group.logs) {
    test(`${group.kind ?? `unknown (${group.share})`}: ${JSON.stringify(log.slice(0, 90))}`, () => {
      assert.equal(faultOf(group, explainError(log)), null)
    })
  }
}

for (const [name, wrap] of Object.entries(WRAPPINGS)) {
  test(`the corpus has the same answers in ${name}`, () => {
    assert.deepEqual(score(wrap).wrong, [])
  })
}

test('every pattern matches a line of the corpus, or belongs to this package', () => {
  const lines = GROUPS.flatMap(({ kind, logs }) => (kind === null ? [] : logs.flatMap((log) => log.split('\n'))))
  const unmet = RULES.filter(({ source }) => source !== 'this package').flatMap(({ patterns }) =>
    patterns.filter((pattern) => !lines.some((line) => pattern.test(line.trim()))),
  )
  assert.deepEqual(unmet.map(String), [])
  assert.ok(RULES.length >= 130)
})

test('the rules are well formed: every name in a text is a group of each pattern, or a fact', () => {
  for (const { kind, patterns, weight, cause, remedy, source, variants = [] } of RULES) {
    assert.match(kind, /^[a-z0-9]+(?:-[a-z0-9]+)*$/)
    assert.ok([1, 2, 3, 4].includes(weight) && patterns.length > 0 && source.length > 0, kind)
    for (const text of [cause, remedy, ...variants.flatMap((variant) => [variant.cause, variant.remedy])]) {
      assert.doesNotMatch((text ?? '').replace(/\{\w+(?:\|\w+)?\}/g, '').replace('{ force: true }', ''), /[{}]/, kind)
    }
  }
  const texts = GROUPS.flatMap(({ logs }) => logs.map((log) => explainError(log))).filter(Boolean)
  for (const { cause, remedy } of texts) assert.doesNotMatch(`${cause} ${remedy}`, /undefined|NaN|\[|\]| \(\)| {2}/)
})

test('the documentation lists every kind', () => {
  const text = readFileSync(new URL('../../../docs/planning.md', import.meta.url), 'utf8')
  const kinds = RULES.flatMap(({ kind, variants = [] }) => [kind, ...variants.map((variant) => variant.kind ?? kind)])
  assert.deepEqual(
    [...new Set(kinds)].filter((kind) => !text.includes(`\`${kind}\``)),
    [],
  )
})

test('every pattern of this package matches a message in its sources', () => {
  const folder = new URL('../../../src/', import.meta.url)
  const texts = readdirSync(folder, { recursive: true })
    .filter((name) => /\.(rs|js)$/.test(name) && !name.startsWith('js/explain/'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8').replace(/\\\n\s*/g, ''))
  const literal = /"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g
  const messages = texts.flatMap((text) =>
    [...text.matchAll(literal)].map(([, a, b, c]) => (a ?? b ?? c).replace(/\$?\{[^{}]*\}/g, '7')),
  )
  const own = RULES.filter(({ kind }) => kind === 'own')
  const stale = own.filter(({ patterns }) => !patterns.some((one) => messages.some((text) => one.test(text))))
  assert.ok(own.length >= 15)
  assert.deepEqual(
    stale.map(({ patterns }) => String(patterns)),
    [],
  )
})

test('own errors explain themselves', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { domains: 1, domainBytes: 4 * MiB } })
  const buffer = manager.allocateNPUMemory(3 * MiB)
  const full = refuses(() => manager.allocateNPUMemory(2 * MiB), 'ERR_IOVA_EXHAUSTED')
  const answer = explainError(`${full.name}: ${full.message}`)
  assert.equal(answer.code, full.code)
  assert.match(answer.cause, /domain 0.*2 MiB/)
  manager.deallocate(buffer)

  manager.setMemoryLimits({ npu: { max: 1 << 20 } })
  const limit = refuses(() => manager.allocateNPUMemory(1 << 21), 'ERR_MEMORY_LIMIT')
  assert.equal(explainError(limit.message).code, 'ERR_MEMORY_LIMIT')
  assert.match(explainError(limit.message).cause, /1 MiB.*2 MiB/)
  const other = new MemoryManager({ backend: 'simulated' })
  other.dispose()
  assert.equal(
    explainError(refuses(() => other.getMemoryStats(), 'ERR_MANAGER_DISPOSED').message).code,
    'ERR_MANAGER_DISPOSED',
  )
})

const FAILED = [
  'I rkllm: rkllm-runtime version: 1.2.1, rknpu driver version: 0.9.6, platform: RK3588',
  'W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7',
  'E RKNN: [09:40:45.140] failed to allocate handle, ret: -1, errno: 14, errstr: Bad address',
  'E RKNN: [09:40:45.140] failed to malloc npu memory, size: 3085697024, flags: 0x2',
  'E RKNN: [09:40:45.148] load model file error!',
  'E rkllm: rkllm_init failed',
]

test('facts of the log decide, and the answer tells which', () => {
  const { cause, remedy, facts, line, text } = explainError(FAILED.join('\n'))
  assert.match(cause, /2\.8 GiB.*rknpu 0\.9\.6 \(from the log\).*changes nothing/)
  assert.match(remedy, /0\.9\.8/)
  assert.deepEqual([line, text], [3, FAILED[2]])
  assert.deepEqual(
    facts.map(({ name, value, line: at }) => [name, value, at]),
    [
      ['size', '3085697024', 4],
      ['driver', '0.9.6', 1],
    ],
  )
  const alone = explainError(FAILED[2])
  assert.notEqual(alone.cause, cause)
  assert.deepEqual(alone.facts, [])
  // The order of lines does not decide.
  assert.equal(explainError([...FAILED].reverse().join('\r\n')).cause, cause)
  // Of two versions the later counts: the driver was updated.
  const updated = explainError([...FAILED, 'RKNPU driver: v0.9.8'].join('\n'))
  assert.match(updated.cause, /rknpu 0\.9\.8/)
  assert.match(updated.remedy, /base_domain_id/)
})

test('all returns every finding, the root first, each with its lines', () => {
  const twice = [...FAILED, FAILED[2]].join('\n')
  const found = explainError([...FAILED, FAILED[2], 'rtl8192ee 0000:05:00.0: swiotlb buffer is full'].join('\n'), {
    all: true,
  })
  assert.deepEqual(
    found.map(({ kind, line, count }) => [kind, line, count]),
    [
      ['runtime-addresses', 3, 2],
      ['runtime-addresses', 4, 1],
      ['driver-version', 2, 1],
      ['bare-failure', 5, 1],
      ['bare-failure', 6, 1],
    ],
  )
  assert.deepEqual(found[0], explainError(twice))
  assert.deepEqual(explainAll(twice), explainError(twice, { all: true }))
  assert.deepEqual(explainError('hello', { all: true }), [])
  assert.deepEqual(explainAll('hello'), [])
  assert.throws(() => explainAll(['hello']), { name: 'MemoryError', code: 'ERR_INVALID_ARG_TYPE' })
  assert.deepEqual(explainError('hello', { all: false }), null)
})

test('a line of another device is never blamed on the NPU, whatever stands beside it', () => {
  const boot = '[drm] Initialized rknpu 0.9.8 20240828 for fdab0000.npu on minor 1'
  const [others] = GROUPS.filter(({ share }) => share === 'other devices')
  for (const log of others.logs) assert.equal(explainError(`${boot}\n${log}\n${boot}`), null, log)
})

test('a link that a terminal shows does not hide its line', () => {
  const log = 'E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address'
  for (const end of ['\x07', '\x1b\\']) {
    const linked = `\x1b]8;;file:///a.c${end}${log}\x1b]8;;${end}`
    assert.deepEqual(explainError(linked), explainError(log), JSON.stringify(end))
  }
})

test('long and hostile text neither crashes nor hangs it', () => {
  for (const line of [
    'failed to allocate handle, ret: -1 '.repeat(1e5),
    'a'.repeat(1e6),
    `${'/dev/dri/'.repeat(1e5)} x`,
    '\n'.repeat(1e6),
    'EACCES'.repeat(1e5),
    `\x1b[${'1;'.repeat(1e5)}`,
    '> '.repeat(1e5),
    `${'\x1b]'.repeat(500)}\n`.repeat(1e4),
    // Lines on which patterns with several open parts have much to try.
    `${'ggml_rknpu'.repeat(50)}${'rknn_a'.repeat(80)}\n`.repeat(500),
    `${'IOMMU domain 0 holds a of its '.repeat(17)}${'a: '.repeat(170)}\n`.repeat(500),
    `${'rga_'.repeat(128)}${'a'.repeat(500)}\n`.repeat(500),
  ])
    explainError(line)
})

test('bad input', () => {
  for (const value of [undefined, null, 1, {}, [], Symbol('x'), 1n, () => {}])
    refuses(() => explainError(value), 'ERR_INVALID_ARG_TYPE')
  assert.match(refuses(() => explainError(new Error('x')), 'ERR_INVALID_ARG_TYPE').hint, /message/)
  refuses(() => explainError('x', { al: true }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => explainError('x', { all: 1 }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => explainError('x', null), 'ERR_INVALID_ARG_TYPE')
})
