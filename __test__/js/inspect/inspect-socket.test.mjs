/** The socket of `new MemoryManager({ inspect: true })`: permissions, answers, and removal. */

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
} from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, beforeEach, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { MemoryManager } from '../../../index.js'
import attach from '../../../src/js/cli/attach.js'
import garbage from '../../../src/js/core/gc.js'
import { MiB, needsCommand, notOn, refuses } from '../../support/helpers.mjs'

const { ask, askProcess, sockets } = attach
/** Returns the sockets of this process. /tmp may have those of others, such as another run of this suite. */
const own = () => sockets(process.pid)
const NOBODY = 65534
const runtime = mkdtempSync(join(tmpdir(), 'rkllm-run-'))
const folder = join(runtime, 'rkllm-memory')
process.env.XDG_RUNTIME_DIR = runtime
after(() => rmSync(runtime, { recursive: true }))
beforeEach(() => rmSync(folder, { recursive: true, force: true }))

const CHILD = fileURLToPath(new URL('../../support/child/inspected.mjs', import.meta.url))
const here = () => (existsSync(folder) ? readdirSync(folder).sort() : [])
const mode = (path) => lstatSync(path).mode & 0o777

async function until(done) {
  for (let tries = 0; tries < 3000 && !done(); tries++) await sleep(10)
  assert.ok(done(), String(done))
}

/** Creates a manager and waits until its socket listens. */
async function inspected(t, options = {}) {
  // Counts this process's own sockets: the manager also removes dead ones of other processes.
  const count = () => here().filter((name) => name.startsWith(`${process.pid}-`)).length
  const before = count()
  const manager = new MemoryManager({ backend: 'simulated', inspect: true, ...options })
  t.after(() => manager.dispose())
  await until(() => count() > before)
  return manager
}

/** Starts a process and waits until its sockets listen. */
async function child(t, ...words) {
  const started = spawn(process.execPath, [CHILD, ...words], { stdio: ['pipe', 'pipe', 'inherit'] })
  const closed = once(started, 'close')
  t.after(() => (started.kill('SIGKILL'), closed))
  const [line] = await once(started.stdout.setEncoding('utf8'), 'data')
  assert.equal(line.trim(), 'ready')
  return Object.assign(started, { closed })
}

/** Opens a connection with `write` and line-by-line reads. */
function talk(t, path) {
  const socket = net.connect(path)
  t.after(() => socket.destroy())
  let heard = ''
  socket.setEncoding('utf8').on('data', (text) => (heard += text))
  socket.on('error', () => {})
  const lines = () =>
    heard
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line))
  return { socket, lines, answers: async (count) => (await until(() => lines().length >= count), lines()) }
}

test('a manager listens only with inspect: true', async (t) => {
  const manager = new MemoryManager({ backend: 'simulated' })
  t.after(() => manager.dispose())
  await sleep(50)
  assert.deepEqual(here(), [])
  refuses(() => new MemoryManager({ backend: 'simulated', inspect: 'yes' }), 'ERR_INVALID_ARG_TYPE')
})

test("the directory and the socket are the user's alone, and go with the manager", async (t) => {
  const manager = await inspected(t)
  assert.deepEqual(here(), [`${process.pid}-0.sock`])
  await until(() => mode(join(folder, here()[0])) === 0o600)
  assert.equal(mode(folder), 0o700)
  manager.dispose()
  assert.deepEqual(here(), [])
  manager.dispose()
})

test('a manager that is disposed before it listens leaves nothing', async () => {
  new MemoryManager({ backend: 'simulated', inspect: true }).dispose()
  await sleep(100)
  assert.deepEqual(here(), [])
})

test('it answers requests, and identifies its process', async (t) => {
  const manager = await inspected(t)
  manager.allocateNPUMemory(2 * MiB, { tag: 'weights' })
  const [{ path, pid }] = own()
  assert.equal(pid, process.pid)
  const { about, stats, usage } = await ask(path, ['stats', 'usage'])
  assert.deepEqual([about.pid, about.thread, about.manager, about.device], [process.pid, 0, 0, { ...manager.device }])
  assert.deepEqual(stats, manager.getMemoryStats())
  assert.deepEqual(usage.tags, manager.getMemoryUsage().tags)
  assert.equal(usage.npu.used, 2 * MiB)
})

test('a bad request is answered with an error, and the next one is served', async (t) => {
  await inspected(t)
  const { socket, answers } = talk(t, own()[0].path)
  const bad = [
    'no json', '[]', 'null', '{"want":"stats"}', '{"want":["__proto__"]}', '{"want":["dispose"]}', '{"want":[1]}', '',
  ]
  for (const request of bad) socket.write(`${request}\n`)
  socket.write('{"want":["stats"]}\n')
  const all = await answers(bad.length + 1)
  for (const [at, request] of bad.entries()) assert.equal(all[at].error?.code, 'ERR_INVALID_ARG_TYPE', request)
  assert.equal(all.at(-1).stats.simulated, true)
})

for (const [what, text] of [
  ['a line', `${'x'.repeat(5000)}\n`],
  ['what never becomes one', 'x'.repeat(5000)],
]) {
  test(`a request has an end: ${what} of 5000 bytes closes the connection`, async (t) => {
    await inspected(t)
    const { socket, answers } = talk(t, own()[0].path)
    const closed = once(socket, 'close')
    socket.write(text)
    const [{ error }] = await answers(1)
    assert.equal(error.code, 'ERR_OUT_OF_RANGE')
    await closed
  })
}

test('a client that does not read delays no other client', async (t) => {
  const manager = await inspected(t)
  for (let i = 0; i < 300; i++) manager.createMemoryPool({ name: `pool ${i}`, kind: 'system', initialSize: 4096 })
  const [{ path }] = own()
  const slow = net.connect(path)
  t.after(() => slow.destroy())
  slow.on('error', () => {})
  slow.pause()
  await once(slow, 'connect')
  for (let i = 0; i < 100; i++) slow.write('{"want":["usage"]}\n')
  for (let i = 0; i < 5; i++) assert.equal((await ask(path, ['usage'])).usage.pools.length, 300)
})

test('the client joins the pieces of an answer', async (t) => {
  await inspected(t)
  const { socket, answers } = talk(t, own()[0].path)
  for (const piece of ['{"wa', 'nt":["st', 'ats"]}\n{"want"', ':[]}\n']) {
    socket.write(piece)
    await sleep(10)
  }
  const [first, second] = await answers(2)
  assert.ok(first.stats !== undefined && second.about !== undefined)
})

test('several managers and threads of a process have a socket each', async (t) => {
  const { pid } = await child(t, '2', 'worker')
  const answers = await askProcess(pid, ['usage'])
  assert.deepEqual(answers.map(({ about }) => about.manager).sort(), [0, 1, 2])
  assert.equal(answers.filter(({ about }) => about.thread > 0).length, 1)
  assert.ok(answers.every(({ usage }) => usage.npu.used >= 2 * MiB))
})

test('addresses come as bigints', async (t) => {
  const { pid } = await child(t)
  const [{ snapshot, profile, metrics }] = await askProcess(pid, ['snapshot', 'profile', 'metrics'])
  assert.equal(snapshot.version, 1)
  assert.ok(snapshot.buffers.length > 0 && snapshot.buffers.every(({ address }) => typeof address === 'bigint'))
  assert.equal(profile.enabled, false)
  assert.match(metrics, /# EOF\n$/)
})

test('it keeps no process alive, and is removed when one ends', async () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CHILD, '1', 'alone'], {
    encoding: 'utf8',
    timeout: 20_000,
  })
  assert.deepEqual([stdout.trim(), status], ['ready', 0], stderr)
  assert.deepEqual(here(), [])
})

test('a connection keeps no process alive', async (t) => {
  const { pid, stdin, closed } = await child(t)
  const { socket, answers } = talk(t, sockets(pid)[0].path)
  socket.write('{"want":["stats"]}\n')
  await answers(1)
  stdin.end()
  assert.deepEqual(await closed, [0, null])
})

test(
  'a manager that is collected takes its socket along',
  { skip: notOn({ bun: 'it collects conservatively' }) },
  async () => {
    const make = () => void new MemoryManager({ backend: 'simulated', inspect: true })
    make()
    await until(() => here().length === 1)
    await until(() => (garbage.collectGarbage(), here().length === 0))
  },
)

test('process.exit removes it too', async (t) => {
  const { stdin, closed } = await child(t, '1', 'exit')
  assert.equal(here().length, 1)
  stdin.end()
  assert.deepEqual(await closed, [0, null])
  assert.deepEqual(here(), [])
})

test('the next manager removes the socket of a killed process', async (t) => {
  const killed = await child(t)
  killed.kill('SIGKILL')
  await killed.closed
  const [stale] = here()
  const live = await child(t)
  assert.ok(here().includes(stale), 'one that has just refused may be about to listen')
  utimesSync(join(folder, stale), 1, 1)
  utimesSync(join(folder, `${live.pid}-0.sock`), 1, 1)
  await inspected(t)
  await until(() => !here().includes(stale))
  assert.deepEqual(here(), [`${live.pid}-0.sock`, `${process.pid}-0.sock`].sort())
  await assert.rejects(askProcess(killed.pid, ['stats']), /there is no process/)
})

test('a busy event loop is told from an ended process', async (t) => {
  const { pid } = await child(t, '1', 'busy')
  await assert.rejects(ask(sockets(pid)[0].path, ['stats'], 200), { busy: true })
})

test('the error for a process without a socket names the option', async () => {
  await assert.rejects(askProcess(process.pid, ['stats']), /inspect: true/)
})

// ── other users

const needsRoot = process.geteuid() === 0 ? false : 'only root can become another user'
const needsPython = needsCommand('python3')

test('another user cannot connect', { skip: needsRoot || needsPython }, async (t) => {
  await inspected(t)
  const [{ path }] = own()
  // The directory refuses, even with access to its parent.
  chmodSync(runtime, 0o711)
  t.after(() => chmodSync(runtime, 0o700))
  const connect = (uid) => {
    const become = `import os, socket; os.setgroups([]); os.setgid(${uid}); os.setuid(${uid})`
    const script = `${become}; socket.socket(socket.AF_UNIX).connect(${JSON.stringify(path)})`
    return spawnSync('python3', ['-c', script], { encoding: 'utf8' })
  }
  assert.match(connect(NOBODY).stderr, /PermissionError/)
  // The socket's own mode refuses, even with access to the directory.
  chmodSync(folder, 0o711)
  await until(() => mode(path) === 0o600)
  assert.match(connect(NOBODY).stderr, /PermissionError/)
  assert.equal(connect(0).stderr, '')
})

for (const [what, make, skip] of [
  ['a symbolic link', () => symlinkSync(runtime, folder), false],
  ['open to the group', () => (mkdirSync(folder), chmodSync(folder, 0o750)), false],
  ['a file', () => symlinkSync('/dev/null', folder), false],
  ["another user's", () => (mkdirSync(folder, { mode: 0o700 }), chownSync(folder, NOBODY, NOBODY)), needsRoot],
]) {
  test(`a directory that is ${what} is not used: a warning, and the manager works`, { skip }, async (t) => {
    make()
    const warned = new Promise((resolve) => process.once('warning', resolve))
    const manager = new MemoryManager({ backend: 'simulated', inspect: true })
    t.after(() => manager.dispose())
    const warning = await warned
    assert.equal(warning.code, 'RKLLM_INSPECT')
    assert.ok(warning.message.includes(folder), warning.message)
    assert.ok(!readdirSync(runtime).some((name) => name.endsWith('.sock')))
    assert.equal(manager.allocateNPUMemory(4096).byteLength, 4096)
    // The client does not trust the directory either.
    assert.deepEqual(own(), [])
  })
}

test('without a runtime directory of its own it is in /tmp', async (t) => {
  chmodSync(runtime, 0o755)
  t.after(() => chmodSync(runtime, 0o700))
  const manager = new MemoryManager({ backend: 'simulated', inspect: true })
  t.after(() => manager.dispose())
  await until(() => sockets(process.pid).length > 0)
  const [{ path }] = sockets(process.pid)
  assert.ok(path.startsWith(`/tmp/rkllm-memory-${process.geteuid()}/`) || path.startsWith('/run/user/'), path)
  assert.ok('stats' in (await ask(path, ['stats'])))
})
