/** The version that a library carries: the forms of the text, other numbers beside it, and files that are none. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import fs, { chmodSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { runtimeVersion, runtimeVersionAsync } from '../../../index.js'
import { assertNothingLeft, needsCommand, open, refuses } from '../../support/helpers.mjs'

const MACHINE = { x64: 62, arm64: 183 }[process.arch]
const OTHER = process.arch === 'x64' ? 183 : 62

/** An ELF library with the data in a read-only segment, and `writable` in one that is not. */
function library(data, { writable = '', machine = MACHINE, elfClass = 2, phentsize = 56, phoff = 64 } = {}) {
  const parts = [Buffer.from(data, 'latin1'), Buffer.from(writable, 'latin1')]
  const head = Buffer.alloc(64 + 2 * 56)
  head.writeUInt32BE(0x7f454c46, 0)
  head.set([elfClass, 1, 1], 4)
  head.writeUInt16LE(3, 16)
  head.writeUInt16LE(machine, 18)
  head.writeBigUInt64LE(BigInt(phoff), 32)
  head.writeUInt16LE(phentsize, 54)
  head.writeUInt16LE(2, 56)
  let at = head.length
  for (const [index, part] of parts.entries()) {
    const entry = 64 + 56 * index
    head.writeUInt32LE(1, entry)
    head.writeUInt32LE(index === 0 ? 4 : 6, entry + 4)
    head.writeBigUInt64LE(BigInt(at), entry + 8)
    head.writeBigUInt64LE(BigInt(part.length), entry + 32)
    at += part.length
  }
  return Buffer.concat([head, ...parts])
}

/** A file in a folder that goes with the test. */
function inFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-version-'))
  t.after(() => rmSync(folder, { recursive: true }))
  let count = 0
  return (bytes) => {
    const path = join(folder, `${++count}.so`)
    writeFileSync(path, bytes)
    return path
  }
}

const NOISE = '\0GCC: (GNU) 10.2.1 20210110\0libstdc++ 3.4.28\x002.0.1\x001.2.11\0http://1.2.3.4/\0'

test('the version beside the name of the runtime, in its forms', (t) => {
  const file = inFolder(t)
  const says = (text, wanted) => assert.equal(runtimeVersion(file(library(`${NOISE}${text}${NOISE}`))), wanted, text)
  says('\0rkllm-runtime version: 1.2.3\0', '1.2.3')
  says('\0I rkllm: rkllm-runtime version: 1.1.4, rknpu driver version: 0.9.8, platform: RK3588\n\0', '1.1.4')
  says('\0librkllmrt version: 1.3.0 (c6b7b351a@2026-01-01T00:00:00)\0', '1.3.0')
  says('\0RKLLM SDK (version: 1.2.0)\0', '1.2.0')
  says('\0RKLLM_VERSION=1.2.1b1\0', '1.2.1')
  says('\0rkllm-runtime v1.2.2.\0', '1.2.2')
  says('\0rkllm-runtime version: 1.2.3\0rkllm-runtime version: 1.2.3\n\0', '1.2.3')
  says('', null)
  says('\0rkllm-runtime version: 1.2\0', null)
  says('\0rkllm-runtime version: 1.2.3.4\0', null)
  says('\0rkllm-toolkit version: 1.2.3\0', null)
  says('\0rkllm-runtime version: 1.2.3\0rkllm-runtime version: 1.2.2\0', null)
})

test('a version that stands alone counts where it is the only one beside a format', (t) => {
  const file = inFolder(t)
  const format = '\0rkllm-runtime version: %s, rknpu driver version: %s\0'
  assert.equal(runtimeVersion(file(library(`${format}\0v1.2.3\0GCC 10.2.1\0`))), '1.2.3')
  assert.equal(runtimeVersion(file(library(`${format}\x001.2.3\x001.2.11\0`))), null)
  assert.equal(runtimeVersion(file(library('\x001.2.3\0'))), null)
})

test('only read-only data is believed', (t) => {
  const file = inFolder(t)
  assert.equal(runtimeVersion(file(library('\0', { writable: '\0rkllm-runtime version: 1.2.3\0' }))), null)
})

test('a version at each place around the border of two pieces is found, whole', (t) => {
  const file = inFolder(t)
  const text = '\0rkllm-runtime version: 1.2.13\0'
  const PIECE = 1 << 18
  for (const near of [PIECE, PIECE - 528, PIECE - 512, 2 * PIECE - 528]) {
    for (let shift = -40; shift <= 8; shift++) {
      const data = Buffer.alloc(3 * PIECE, 'x')
      data.write(text, near + shift, 'latin1')
      assert.equal(runtimeVersion(file(library(data))), '1.2.13', `${near} ${shift}`)
      if (shift % 8 !== 0) continue
      assert.equal(runtimeVersion(file(library(data.subarray(0, near + shift + text.length)))), '1.2.13', 'at the end')
    }
  }
})

test('a library of the compiler', { skip: needsCommand('cc') }, (t) => {
  const path = inFolder(t)('')
  const source = 'const char *log_line(void) { return "rkllm-runtime version: 1.2.3"; }'
  const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', '-s', '-x', 'c', '-', '-o', path], {
    input: source,
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  assert.equal(runtimeVersion(path), '1.2.3')
  const buffers = open(t).createInferenceBuffers({ maxTokens: 4, library: path })
  assert.equal(buffers.header, '1.2')
})

test('files that are no library for this machine are refused, with what they are', (t) => {
  const file = inFolder(t)
  const refused = (path, code, message) => {
    const error = refuses(() => runtimeVersion(path), code, message.source)
    assert.match(`${error.message} ${error.hint}`, message)
  }
  const whole = library(`${NOISE}rkllm-runtime version: 1.2.3\0`)
  refused(file(''), 'ERR_UNSUPPORTED', /no ELF file/)
  refused(file('#!/bin/sh\n'), 'ERR_UNSUPPORTED', /no ELF file/)
  refused(file(whole.subarray(0, 40)), 'ERR_UNSUPPORTED', /truncated: it has 40 bytes/)
  refused(file(whole.subarray(0, 100)), 'ERR_UNSUPPORTED', /truncated/)
  refused(file(whole.subarray(0, whole.length - 9)), 'ERR_UNSUPPORTED', /truncated.*announces/)
  refused(file(library('', { phoff: 2 ** 60 })), 'ERR_UNSUPPORTED', /truncated/)
  refused(file(library('', { phentsize: 8 })), 'ERR_UNSUPPORTED', /no segments/)
  refused(file(library('', { machine: OTHER })), 'ERR_UNSUPPORTED', /for (arm64|x64); this process runs on (x64|arm64)/)
  refused(file(library('', { machine: 40, elfClass: 1 })), 'ERR_UNSUPPORTED', /32-bit ARM, 32 bits/)
  refused(tmpdir(), 'ERR_UNSUPPORTED', /is not a file/)
  refused(join(tmpdir(), 'no', 'such', 'librkllmrt.so'), 'ERR_DEVICE_IO', /does not exist/)
  refused('/dev/null', 'ERR_UNSUPPORTED', /is not a file/)
  refused('', 'ERR_OUT_OF_RANGE', /empty/)
  refused('/usr/lib\0/librkllmrt.so', 'ERR_OUT_OF_RANGE', /NUL/)
  refused(5, 'ERR_INVALID_ARG_TYPE', /must be a string/)
  refused(undefined, 'ERR_INVALID_ARG_TYPE', /must be a string/)
  if (process.getuid() === 0) return
  const hidden = file(whole)
  chmodSync(hidden, 0)
  refused(hidden, 'ERR_DEVICE_PERMISSION', /may not be read/)
})

test('the header follows the library; a header of another is refused with both', (t) => {
  const file = inFolder(t)
  const manager = open(t)
  const of = (version) => file(library(`\0rkllm-runtime version: ${version}\0`))
  const headerOf = (spec) => {
    const buffers = manager.createInferenceBuffers({ maxTokens: 4, ...spec })
    const { header } = buffers
    buffers.dispose()
    return header
  }
  const pairs = {
    '1.1.0': '1.1', '1.1.4': '1.1', '1.2.0': '1.2.0', '1.2.1': '1.2', '1.2.3': '1.2', '1.3.0': '1.3', '1.3.7': '1.3',
  }
  for (const [version, header] of Object.entries(pairs)) {
    assert.equal(headerOf({ library: of(version) }), header, version)
    assert.equal(headerOf({ library: of(version), header }), header, version)
    const other = header === '1.3' ? '1.2' : '1.3'
    const error = refuses(() => headerOf({ library: of(version), header: other }), 'ERR_UNSUPPORTED')
    assert.ok(error.message.includes(`header is ${other}`) && error.message.includes(`version ${version}: ${header}`))
  }
  for (const version of ['1.0.1', '1.2.4', '1.4.0', '2.0.0']) {
    for (const header of [undefined, '1.3']) {
      const { message } = refuses(() => headerOf({ library: of(version), header }), 'ERR_UNSUPPORTED')
      assert.match(message, new RegExp(`version ${version}; the structs of 1\\.1\\.x, .*1\\.3\\.x are known`))
    }
  }
  const silent = file(library('\0'))
  assert.match(refuses(() => headerOf({ library: silent }), 'ERR_UNSUPPORTED').hint, /give header/)
  assert.equal(headerOf({ library: silent, header: '1.1' }), '1.1')
  refuses(() => headerOf({ library: 'a\0b' }), 'ERR_OUT_OF_RANGE')
  refuses(() => headerOf({ library: 5 }), 'ERR_INVALID_ARG_TYPE')
  assertNothingLeft(manager)
})

test('the asynchronous twin finds and refuses the same, and reads nothing on the event loop', async (t) => {
  const file = inFolder(t)
  const format = '\0rkllm-runtime version: %s\0'
  const paths = [
    file(library(`${NOISE}\0rkllm-runtime version: 1.2.3\0${NOISE}`)),
    file(library(`${'x'.repeat(2 ** 19)}\0librkllmrt version: 1.3.0\0`)),
    file(library(`${format}\x001.1.4\0`)),
    file(library('\0rkllm-runtime version: 1.2.3\0rkllm-runtime version: 1.2.1\0')),
    file(library('', { machine: OTHER })),
    file(Buffer.from('no library')),
    file(library('text').subarray(0, 100)),
    tmpdir(),
    join(tmpdir(), 'rkllm-version-that-is-absent.so'),
    '',
    'a\0b',
  ]
  const wanted = paths.map((path) => outcome(() => runtimeVersion(path)))
  assert.deepEqual(wanted.slice(0, 4), ['1.2.3', '1.3.0', '1.1.4', null])
  assert.ok(wanted.slice(4).every(([code]) => /^ERR_/.test(code)))
  const { readSync } = fs
  fs.readSync = () => assert.fail('read on the event loop')
  try {
    for (const [at, path] of paths.entries()) {
      const found = await runtimeVersionAsync(path).catch(refusalOf)
      assert.deepEqual(found, wanted[at], path)
    }
    const session = await open(t).createInferenceBuffersAsync({ library: paths[0], maxTokens: 8 })
    assert.equal(session.header, '1.2')
    session.dispose()
  } finally {
    fs.readSync = readSync
  }
})

/** The code and the text of a refusal; the names of the two functions are equal. */
const refusalOf = ({ code, message }) => [code, message.replace('runtimeVersionAsync', 'runtimeVersion')]

function outcome(call) {
  try {
    return call()
  } catch (error) {
    return refusalOf(error)
  }
}

test('a sparse file of many GiB is refused by its head, and not read', (t) => {
  const file = inFolder(t)
  const size = 2 ** 36
  const empty = file('')
  truncateSync(empty, size)
  assert.match(refuses(() => runtimeVersion(empty), 'ERR_UNSUPPORTED').message, /no ELF file/)
  const head = library('')
  head.writeBigUInt64LE(BigInt(size - head.length), 64 + 32)
  const sparse = file(head)
  truncateSync(sparse, size)
  assert.match(refuses(() => runtimeVersion(sparse), 'ERR_UNSUPPORTED').message, /63\.9 GiB of read-only data/)
})

test('a FIFO is refused, and does not stop the process', { skip: needsCommand('mkfifo') }, (t) => {
  const path = `${inFolder(t)('')}.fifo`
  assert.equal(spawnSync('mkfifo', [path]).status, 0)
  assert.match(refuses(() => runtimeVersion(path), 'ERR_UNSUPPORTED').message, /is not a file/)
})

test('a process without descriptors gets an error that says so', (t) => {
  const path = inFolder(t)(library('\0rkllm-runtime version: 1.2.3\0'))
  const { openSync } = fs
  t.after(() => (fs.openSync = openSync))
  fs.openSync = () => {
    throw Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE', errno: -24, syscall: 'open' })
  }
  const error = refuses(() => runtimeVersion(path), 'ERR_TOO_MANY_FDS')
  assert.equal(error.path, path)
  fs.openSync = openSync
  assert.equal(runtimeVersion(path), '1.2.3')
})
