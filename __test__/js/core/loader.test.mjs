/** The loader: each way in which the native part can be missing or refused has its own message, and one remedy. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { needsCommand, notOn } from '../../support/helpers.mjs'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const FILE = `rkllm-memory.linux-${process.arch}-gnu.node`
const PACKAGE = `@rkllmjs/memory-linux-${process.arch}-gnu`
const OTHER = { x64: 'arm64', arm64: 'x64' }[process.arch]
const binary = join(root, 'src/js', FILE)
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const onNode = { skip: notOn({ bun: 'the flags are of Node', deno: 'the flags are of Node' }) }

/** Makes a program's folder with the package installed, and `content` as its binary; undefined for none. */
function installed(t, content, edit = (text) => text) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-loader-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const own = join(folder, 'node_modules/@rkllmjs/memory')
  mkdirSync(join(own, 'src'), { recursive: true })
  cpSync(join(root, 'index.js'), join(own, 'index.js'))
  cpSync(join(root, 'src/js'), join(own, 'src/js'), { recursive: true, filter: (path) => !path.endsWith('.node') })
  writeFileSync(join(own, 'package.json'), edit(readFileSync(join(root, 'package.json'), 'utf8')))
  if (content !== undefined) {
    const platform = join(folder, 'node_modules', PACKAGE)
    mkdirSync(platform)
    cpSync(join(root, `npm/linux-${process.arch}-gnu/package.json`), join(platform, 'package.json'))
    if (content === binary) symlinkSync(binary, join(platform, FILE))
    else writeFileSync(join(platform, FILE), content)
  }
  writeFileSync(
    join(folder, 'program.cjs'),
    `try {
      const { MemoryManager } = require('@rkllmjs/memory')
      const manager = new MemoryManager({ backend: 'simulated' })
      manager.deallocate(manager.allocateNPUMemory(4096))
      console.log(JSON.stringify({ code: 'loaded' }))
    } catch (error) {
      const { name, code, message, hint, stack } = error
      console.log(JSON.stringify({ name, code, message, hint, stack }))
    }`,
  )
  return folder
}

function outcome(folder, { flags = [], env = {}, shell = '' } = {}) {
  const program = [process.execPath, '--no-warnings', ...flags, join(folder, 'program.cjs')]
  const words = shell === '' ? program : ['bash', '-c', `${shell}; exec "$@"`, 'bash', ...program]
  const options = { encoding: 'utf8', cwd: folder, env: { ...process.env, NODE_OPTIONS: '', ...env } }
  const { status, signal, stdout, stderr } = spawnSync(words[0], words.slice(1), options)
  assert.deepEqual({ status, signal }, { status: 0, signal: null }, stderr)
  return JSON.parse(stdout)
}

/** Asserts the message and the hint of a load that fails. */
function fails({ name, code, message, hint, stack }, about, remedy, expected = 'ERR_UNSUPPORTED') {
  assert.equal(code, expected, stack ?? message)
  assert.equal(name, 'MemoryError')
  assert.match(message, about)
  assert.match(hint, remedy)
}

test('an installed binary is loaded', (t) => {
  assert.equal(outcome(installed(t, binary)).code, 'loaded')
})

test('a package of the binary that is not installed', (t) => {
  const failed = outcome(installed(t, undefined))
  fails(failed, new RegExp(`${PACKAGE}, which has the native part, is not installed`), /^run: npm install \S+@[\d.]+$/)
})

const whole = readFileSync(binary)
test('a corrupt binary', (t) => {
  fails(outcome(installed(t, '')), /is corrupt: it is no shared library/, /npm install --force/)
  fails(outcome(installed(t, 'version https://git-lfs')), /is corrupt: it is no shared library/, /npm install --force/)
  const half = whole.subarray(0, whole.length / 10)
  fails(outcome(installed(t, half)), /is corrupt: it has \d+ of \d+ bytes/, /npm install --force/)
})

test('a binary of another architecture', (t) => {
  const other = Buffer.from(whole)
  other.writeUInt16LE(process.arch === 'x64' ? 183 : 62, 18)
  fails(outcome(installed(t, other)), new RegExp(`is for ${OTHER}, and this Node is for`), /--cpu=/)
})

test('a binary of another version', (t) => {
  const folder = installed(t, binary, (text) => text.replace(`"version": "${version}"`, '"version": "99.1.2"'))
  fails(outcome(folder), /native part is of version \S+, and the package of version 99\.1\.2/, /@99\.1\.2$/)
})

test('a forbidden addon', onNode, (t) => {
  const folder = installed(t, binary)
  fails(outcome(folder, { flags: ['--no-addons'] }), /--no-addons/, /without/)
  const [major] = process.versions.node.split('.').map(Number)
  const model = major >= 24 ? '--permission' : '--experimental-permission'
  fails(outcome(folder, { flags: [model, '--allow-fs-read=*'] }), /permission model/, /--allow-addons/)
  const allowed = [model, '--allow-fs-read=*', '--allow-addons']
  const supported = process.allowedNodeEnvironmentFlags.has('--allow-addons') || major >= 22
  if (supported) assert.equal(outcome(folder, { flags: allowed }).code, 'loaded')
})

test('a process without descriptors', { skip: onNode.skip || needsCommand('bash') }, (t) => {
  const folder = installed(t, binary)
  const program = readFileSync(join(folder, 'program.cjs'), 'utf8')
  // The package's files are read while there are descriptors; the binary is loaded without any.
  writeFileSync(
    join(folder, 'program.cjs'),
    `const { readFileSync, openSync } = require('node:fs'); const { Module } = require('node:module')
    const load = Module._extensions['.node']
    Module._extensions['.node'] = (...args) => {
      Module._extensions['.node'] = load
      try { for (;;) openSync('/dev/null') } catch {}
      return load(...args)
    }
    ${program}`,
  )
  fails(outcome(folder, { shell: 'ulimit -n 60' }), /descriptor/, /ulimit -n/, 'ERR_TOO_MANY_FDS')
})

test('musl, an old C library, noexec and Yarn are told apart', async () => {
  const { explain } = (await import('../../../src/js/core/load-binary.js')).default
  const missing = Object.assign(new Error('none'), { code: 'MODULE_NOT_FOUND' })
  const of = (message, code = 'ERR_DLOPEN_FAILED', pnp = undefined) =>
    explain([missing, Object.assign(new Error(message), { code })], version, pnp)
  fails(of('Error loading shared library ld-linux-aarch64.so.1: libc.musl'), /musl/, /FROM node/)
  fails(of("/lib/libc.so.6: version `GLIBC_2.28' not found (required by /x/y.node)"), /GLIBC_2\.28/, /Debian 10/)
  fails(of('/x/y.node: failed to map segment from shared object'), /noexec/, /remount,exec/)
  fails(of('/x/y.node: undefined symbol: napi_more'), /undefined symbol/, /npm ls/)
  fails(of('/x/cache/a.zip/node_modules/y.node: cannot open', 'ERR_DLOPEN_FAILED', '3'), /archive/, /yarn unplug/)
  fails(of('tried to access it', 'MODULE_NOT_FOUND', '3'), /Plug'n'Play/, /yarn add/)
})

test('the package has no other file that loads a binary', () => {
  const sources = readdirSync(join(root, 'src/js'), { recursive: true }).filter((name) => name.endsWith('.js'))
  const loads = sources.filter((name) => /\.node'/.test(readFileSync(join(root, 'src/js', name), 'utf8')))
  assert.deepEqual(loads, ['core/load-binary.js'])
})
