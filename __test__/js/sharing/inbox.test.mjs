/** Transfers of dma-bufs between processes. */

import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'

import { closeDmaBuf, DmaBufInbox, sendDmaBuf } from '../../../index.js'
import {
  fdsAtMost, KiB, needsCommand, needsOwnKernel, needsSimulated, open, openFds, refuses, runChild, turnsUntil,
} from '../../support/helpers.mjs'

function folder(t) {
  const made = mkdtempSync(join(tmpdir(), 'rkllm-inbox-'))
  t.after(() => rmSync(made, { recursive: true, force: true }))
  return made
}

function inbox(t) {
  const made = new DmaBufInbox(join(folder(t), 'inbox'))
  t.after(() => made.close())
  return made
}

function exported(t, manager = open(t), fill = 7) {
  const buffer = manager.allocateNPUMemory(64 * KiB)
  new Uint8Array(buffer).fill(fill)
  manager.syncToDevice(buffer)
  return manager.exportDmaBuf(buffer).fd
}

test('a dma-buf arrives with its message, before and after a call of receive()', async (t) => {
  const here = inbox(t)
  const manager = open(t)
  const fds = openFds()
  for (const early of [true, false]) {
    const waiting = early ? here.receive() : undefined
    const fd = exported(t, manager, early ? 1 : 2)
    await sendDmaBuf(here.path, fd, `früh: ${early}`)
    closeDmaBuf(fd)
    const letter = await (waiting ?? here.receive())
    assert.equal(letter.message, `früh: ${early}`)
    const twin = manager.importDmaBuf(letter.fd)
    closeDmaBuf(letter.fd)
    assert.deepEqual([...new Set(new Uint8Array(twin))], [early ? 1 : 2])
    manager.deallocate(twin)
  }
  manager.dispose()
  await turnsUntil(() => openFds() <= fds)
  assert.ok(fdsAtMost(fds) <= fds)
})

test('messages arrive in order, each at one waiting receiver', async (t) => {
  const here = inbox(t)
  const fd = exported(t)
  const all = Promise.all(Array.from({ length: 8 }, () => here.receive()))
  for (let i = 0; i < 8; i++) await sendDmaBuf(here.path, fd, String(i))
  const letters = await all
  letters.forEach((letter) => closeDmaBuf(letter.fd))
  assert.deepEqual(letters.map((letter) => letter.message).sort(), ['0', '1', '2', '3', '4', '5', '6', '7'])
  for (let i = 0; i < 5; i++) await sendDmaBuf(here.path, fd, String(i))
  for (let i = 0; i < 5; i++) {
    const letter = await here.receive()
    assert.equal(letter.message, String(i))
    closeDmaBuf(letter.fd)
  }
  closeDmaBuf(fd)
})

test('an abort, and a close, end the wait', async (t) => {
  const here = inbox(t)
  const reason = new Error('enough')
  const controller = new AbortController()
  const waiting = here.receive({ signal: controller.signal })
  setTimeout(() => controller.abort(reason), 20)
  await assert.rejects(waiting, reason)
  await assert.rejects(here.receive({ signal: AbortSignal.abort(reason) }), reason)
  // An aborted receive() does not lose a later message.
  const fd = exported(t)
  await sendDmaBuf(here.path, fd, 'later')
  closeDmaBuf(fd)
  const letter = await here.receive()
  assert.equal(letter.message, 'later')
  closeDmaBuf(letter.fd)
  const last = here.receive()
  setTimeout(() => here.close(), 20)
  await assert.rejects(last, { code: 'ERR_BUFFER_FREED' })
  await assert.rejects(here.receive(), { code: 'ERR_BUFFER_FREED' })
  assert.deepEqual([here.closed, existsSync(here.path)], [true, false])
  here.close()
})

test('bad input is refused', async (t) => {
  const path = join(folder(t), 'file')
  writeFileSync(path, 'mine')
  refuses(() => new DmaBufInbox(path), 'ERR_DEVICE_IO')
  refuses(() => new DmaBufInbox(join(path, 'below')), 'ERR_DEVICE_IO')
  refuses(() => new DmaBufInbox('x'.repeat(500)), 'ERR_DEVICE_IO')
  for (const bad of [undefined, 5, '']) refuses(() => new DmaBufInbox(bad), 'ERR_INVALID_ARG_TYPE')
  const here = inbox(t)
  refuses(() => new DmaBufInbox(here.path), 'ERR_DEVICE_IO')
  const fd = exported(t)
  const refused = await sendDmaBuf(join(folder(t), 'missing'), fd).catch((error) => error)
  assert.deepEqual([refused.code, refused.syscall, refused.errno], ['ERR_DEVICE_IO', 'sendmsg', 2])
  assert.match(refused.hint, /DmaBufInbox/)
  const codes = [
    [[here.path, 2 ** 31], 'ERR_OUT_OF_RANGE'],
    [[here.path, '3'], 'ERR_INVALID_ARG_TYPE'],
    [[here.path, 0], 'ERR_INVALID_ARG_TYPE'],
    [[here.path, fd, 5], 'ERR_INVALID_ARG_TYPE'],
    [[here.path, fd, 'x'.repeat(65 * KiB)], 'ERR_OUT_OF_RANGE'],
    [['', fd], 'ERR_INVALID_ARG_TYPE'],
  ]
  for (const [args, code] of codes) await assert.rejects(sendDmaBuf(...args), { code }, String(args).slice(0, 80))
  await assert.rejects(here.receive({ signl: 1 }), { code: 'ERR_INVALID_ARG_TYPE', hint: /signal/ })
  closeDmaBuf(fd)
  refuses(() => closeDmaBuf(fd), 'ERR_INVALID_ARG_TYPE')
  refuses(() => closeDmaBuf(0), 'ERR_INVALID_ARG_TYPE')
  refuses(() => closeDmaBuf(-1), 'ERR_OUT_OF_RANGE')
})

test('the inbox of a thread that ends while it waits is closed', async (t) => {
  const path = join(folder(t), 'inbox')
  const index = new URL('../../../index.js', import.meta.url).href
  const source = `
    const { parentPort } = require('node:worker_threads')
    import(${JSON.stringify(index)}).then(({ DmaBufInbox }) => {
      globalThis.inbox = new DmaBufInbox(${JSON.stringify(path)})
      globalThis.inbox.receive().catch(() => {})
      parentPort.postMessage('waits')
    })`
  const worker = new Worker(source, { eval: true })
  await once(worker, 'message')
  await worker.terminate()
  assert.ok(await turnsUntil(() => !existsSync(path), 2000))
  new DmaBufInbox(path).close()
})

/** Counts the threads of the process with that name. */
const threads = (name) =>
  readdirSync('/proc/self/task').filter((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim() === name
    } catch {
      return false
    }
  }).length

test('hundreds of inboxes wait on one thread, and each is told', { skip: needsOwnKernel }, async (t) => {
  const directory = folder(t)
  const fd = exported(t)
  // The manager's watch of memory pressure opens its files in the next turn.
  await new Promise((resolve) => setImmediate(resolve))
  const fds = openFds()
  const inboxes = Array.from({ length: 200 }, (_, i) => new DmaBufInbox(join(directory, `${i}`)))
  const waiting = inboxes.map((one) => one.receive())
  assert.equal(threads('rkllm-inbox'), 1)
  // The last is told while all others wait.
  for (const i of [199, 65, 64, 0]) {
    await sendDmaBuf(inboxes[i].path, fd, `to ${i}`)
    const { fd: received, message } = await waiting[i]
    closeDmaBuf(received)
    assert.equal(message, `to ${i}`)
  }
  const ends = waiting.map((end) => end.catch((error) => error.code))
  for (const one of inboxes) one.close()
  assert.equal((await Promise.all(ends)).filter((end) => end === 'ERR_BUFFER_FREED').length, 196)
  closeDmaBuf(fd)
  assert.ok(await turnsUntil(() => openFds() < fds, 2000), 'the descriptors of the waits are closed')
})

test('an aborted wait lets the process end, and a running one does not', () => {
  for (const [abort, end] of [[true, 'ended'], [false, 'waits']]) {
    assert.deepEqual(runChild('inbox-end.mjs', { args: [String(abort)] }).result, { end })
  }
})

test('without a free descriptor a message stays queued, and nothing leaks', { skip: needsSimulated }, () => {
  const { result } = runChild('inbox-descriptors.mjs')
  assert.deepEqual(result, {
    refused: ['ERR_TOO_MANY_FDS', 'ERR_TOO_MANY_FDS', 'ERR_TOO_MANY_FDS'],
    messages: ['first', 'second'],
    waits: 'ERR_TOO_MANY_FDS',
    last: true,
  })
})

test(
  'what strangers send is closed and reported, and the inbox goes on',
  { skip: needsCommand('python3') || needsOwnKernel },
  async (t) => {
    const here = inbox(t)
    const strangers = fileURLToPath(new URL('../../support/child/stranger.py', import.meta.url))
    const send = (...messages) => promisify(execFile)('python3', [strangers, here.path, ...messages])
    const open = () =>
      readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return /pipe:|null|memfd:/.test(readlinkSync(`/proc/self/fd/${fd}`))
        } catch {
          return false
        }
      }).length
    const kinds = ['file', 'pipe', 'socket', 'memfd', 'posing', 'file+pipe+memfd', '200pipe', '253file']
    const fd = exported(t)
    const before = open()
    for (const kind of kinds) {
      const received = here.receive()
      const [error] = await Promise.all([received.catch((reason) => reason), send(kind)])
      assert.equal(error.code, 'ERR_INVALID_ARG_TYPE', `${kind}: ${error.stack}`)
      assert.match(error.message, /no dma-buf.*closed/, kind)
      // Memory of earlier tests may go meanwhile.
      assert.ok(await turnsUntil(() => open() <= before, 2000), `${kind}: ${before} → ${open()}`)
    }
    const [error] = await Promise.all([here.receive().catch((reason) => reason), send('long+memfd')])
    assert.equal(error.code, 'ERR_OUT_OF_RANGE')
    // A datagram without a descriptor is no message.
    await send('none', 'none')
    await sendDmaBuf(here.path, fd, 'after')
    const { fd: received, message } = await here.receive()
    closeDmaBuf(received)
    closeDmaBuf(fd)
    assert.equal(message, 'after')
    assert.ok(await turnsUntil(() => open() < before, 2000))
  },
)

const EXAMPLE = fileURLToPath(new URL('../../../examples/processes/main.mjs', import.meta.url))

test('the example: two processes, one memory', { skip: needsSimulated }, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, EXAMPLE])
  assert.match(stdout, /200 frames .* 0 answers wrong/)
  assert.match(stdout, /8 imports at a time, 3702784 bytes/)
})

test('a killed receiver does not block the next one', async (t) => {
  const path = join(folder(t), 'frames')
  const child = spawn(process.execPath, [...process.execArgv, EXAMPLE, 'model', path], { stdio: 'ignore' })
  assert.ok(await turnsUntil(() => existsSync(path), 1e6))
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.ok(existsSync(path))
  new DmaBufInbox(path).close()
})
