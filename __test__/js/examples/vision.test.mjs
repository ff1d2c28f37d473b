/** The vision example on the understudies: what the encoder wrote is what the language model answers about. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { makeUnderstudies } from '../../../examples/vision/understudies.mjs'
import { noFfi } from '../../support/ffi.mjs'
import { needsCommand, runtime } from '../../support/helpers.mjs'

const skip = needsCommand('cc') || noFfi
const MAIN = fileURLToPath(new URL('../../../examples/vision/main.mjs', import.meta.url))
const DENO = runtime === 'deno' ? ['run', '-A'] : []
const vision = (...args) => spawnSync(process.execPath, [...DENO, MAIN, ...args], { encoding: 'utf8' })

const folder = mkdtempSync(join(tmpdir(), 'vision-'))
after(() => rmSync(folder, { recursive: true }))
/** Writes an image of one colour, but for its last byte. */
const image = (name, last, size = '28 28') => {
  const path = join(folder, `${name}.ppm`)
  const pixels = Buffer.alloc(28 * 28 * 3, 77)
  pixels[pixels.length - 1] = last
  writeFileSync(path, Buffer.concat([Buffer.from(`P6 ${size} 255\n`), pixels]))
  return path
}
const answersOf = (stdout) => [...stdout.matchAll(/^\w+\.ppm: (".*")$/gm)].map(([, text]) => JSON.parse(text))

test('each image has its answer, and the last byte of an image counts', { skip }, () => {
  const images = [image('a', 1), image('b', 2), image('a', 1)]
  const { status, stdout, stderr } = vision('--understudy', ...images)
  assert.equal(status, 0, stderr + stdout)
  const answers = answersOf(stdout)
  assert.equal(answers.length, 3)
  assert.equal(answers[0], answers[2])
  assert.notEqual(answers[0], answers[1])
  assert.match(stdout, /4096 bytes at \d+ of one dma-buf: written and read at 0x[0-9a-f]+$/m)
  assert.match(stdout, /weights 1,028 KiB, scratch 256 KiB/)
})

test('every generation of the encoder gives the same answers', { skip }, () => {
  const path = image('a', 1)
  const answers = ['1.3', '1.6', '2.1'].map((header) => {
    const { status, stdout, stderr } = vision('--understudy', '--rknn-header', header, path)
    assert.equal(status, 0, stderr + stdout)
    return answersOf(stdout)[0]
  })
  assert.deepEqual(new Set(answers).size, 1)
})

/** The example as on a board: with paths of models and libraries, here those of the understudies. */
function onBoard(...args) {
  const understudies = makeUnderstudies({ header: '2.1', tokens: 16, hidden: 64, output: 'y', images: [] })
  try {
    const { encoder, model, rknn, rkllm } = understudies
    const paths = ['--encoder', encoder, '--model', model, '--rknn', rknn, '--rkllm', rkllm]
    const env = { ...process.env, RKLLM_BACKEND: 'simulated' }
    return spawnSync(process.execPath, [...DENO, MAIN, ...paths, '--hidden', '64', ...args], { encoding: 'utf8', env })
  } finally {
    understudies.remove()
  }
}

test('the same program takes models and libraries by their paths', { skip }, () => {
  const { status, stdout, stderr } = onBoard('--tokens', '16', '--output', 'y', '--cores', '0+1', image('a', 1))
  assert.equal(status, 0, stderr + stdout)
  assert.equal(answersOf(stdout).length, 1)
})

test('an encoder that does not fit the session is refused, and nothing is left', { skip }, () => {
  for (const [args, message] of [
    [['--tokens', '15', '--output', 'y'], /output "y" needs 4096 bytes, .* has 3840;/],
    [['--tokens', '16'], /no output "features"; it has "y"/],
  ]) {
    const { status, stderr } = onBoard(...args, image('a', 1))
    assert.equal(status, 1)
    assert.match(stderr, message)
    assert.doesNotMatch(stderr, /rknn_destroy before/)
  }
  const short = vision('--understudy', image('c', 1, '28 29'))
  assert.equal(short.status, 1)
  assert.match(short.stderr, /ends before its 28 × 29 pixels/)
  const other = vision('--understudy', image('c', 1, '28 27'))
  assert.match(other.stderr, /has 2352 elements .* not 2268/)
})

const SELFTEST = fileURLToPath(new URL('../../../examples/vision/selftest.mjs', import.meta.url))
const selftest = (settings) => {
  const env = { ...process.env, ...settings }
  return spawnSync(process.execPath, [...DENO, SELFTEST, '--understudy'], { encoding: 'utf8', env })
}

test('the selftest finds the ways that a runtime does not take', { skip }, () => {
  const whole = selftest({})
  assert.equal(whole.status, 0, whole.stderr)
  assert.match(whole.stdout, /^8 of 8 ways work/m)
  const refusing = selftest({ UNDERSTUDY_RKNN_OWN_BUFFERS: '1', UNDERSTUDY_RKNN_DUPLICATES_DIFFER: '1' })
  assert.equal(refusing.status, 1)
  assert.match(refusing.stdout, /^NO {3}weights in the file, read into our dma-buf: rknn_init .*PARAM_INVALID/m)
  assert.match(refusing.stdout, /^NO {3}three duplicates, weights of the manager: its outputs differ$/m)
  assert.match(refusing.stdout, /^4 of 8 ways work/m)
  const none = selftest({ UNDERSTUDY_RKNN_BYTES: '1' })
  assert.equal(none.status, 2)
  assert.match(none.stderr, /does not run at all/)
})

test('wrong options end with status 2', () => {
  for (const [args, message] of [
    [[], /give either/],
    [['--understudy', '--tokens', '0'], /from 1 to/],
    [['--encoder', 'x'], /go together/],
    [['--encoder', 'x', '--model', 'y'], /--tokens is needed/],
    [['--understudy', '--toknes', '4'], /toknes/],
    [['--understudy', '--rknn-header', '9'], /--rknn-header must be one of/],
    [['--understudy', '--cores', '3'], /--cores must be one of/],
  ]) {
    const { status, stderr } = vision(...args)
    assert.equal(status, 2, stderr)
    assert.match(stderr, message)
  }
  const { status, stdout } = vision('--help')
  assert.equal(status, 0)
  assert.match(stdout, /npm run vision -- --understudy/)
})
