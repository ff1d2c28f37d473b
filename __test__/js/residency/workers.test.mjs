/** Models in processes of their own: calls, streams, failures, kills, orphans. RKLLM_TEST_KILLS=1000 for a long run. */

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'

import { MemoryError, MemoryManager } from '../../../index.js'
import { MiB, open, rejects, refuses } from '../../support/helpers.mjs'
import { randomOf } from '../../support/residency-world.mjs'
import { until } from '../../support/until.mjs'
import { killAtRandom, leftFiles, noProcess, processes, runtimeDirectory } from '../../support/worker-processes.mjs'

const { decode, encode } = createRequire(import.meta.url)('../../../src/js/residency/workers/codec.js')

const KILLS = Number(process.env.RKLLM_TEST_KILLS ?? 30)
const PARENT_KILLS = Math.ceil(KILLS / 10) + 2
const module = new URL('../../support/workers/model.mjs', import.meta.url)

/** Arguments of this runtime before a program. */
const run = process.versions.deno === undefined ? [] : ['run', '--allow-all']

function residency(t, models = { chat: {} }, options = {}) {
  const manager = open(t)
  const made = manager.createModelResidency({
    models: Object.fromEntries(
      Object.entries(models).map(([name, { args = [], ...more }]) => [
        name,
        { ramBytes: 4 * MiB, worker: { module, args }, ...more },
      ]),
    ),
    ...options,
  })
  return Object.assign(made, { manager })
}

test('a worker that is wrong is refused at creation, with the model and the field', (t) => {
  const manager = open(t)
  const make = (definition) => () => manager.createModelResidency({ models: { chat: { ramBytes: 1, ...definition } } })
  for (const [definition, code, pattern] of [
    [{ worker: './missing.mjs' }, 'ERR_DEVICE_IO', /models\.chat: worker.*\/missing\.mjs is no file/],
    [{ worker: tmpdir() }, 'ERR_DEVICE_IO', /is no file/],
    [{ worker: 'file://host/x.mjs' }, 'ERR_INVALID_ARG_TYPE', /models\.chat: worker.*is no file/],
    [{ worker: {} }, 'ERR_INVALID_ARG_TYPE', /models\.chat: worker has no module/],
    [{ worker: 5 }, 'ERR_INVALID_ARG_TYPE', /models\.chat: worker/],
    [{ worker: { module, arguments: [] } }, 'ERR_INVALID_ARG_TYPE', /no option "arguments"/],
    [{ worker: { module, onOutput: 1 } }, 'ERR_INVALID_ARG_TYPE', /onOutput must be a function/],
    [{ worker: { module, args: [1] } }, 'ERR_INVALID_ARG_TYPE', /args must be an array of strings/],
    [{ worker: { module, env: { A: 1 } } }, 'ERR_INVALID_ARG_TYPE', /env\.A must be a string/],
    [{ worker: module, load: () => 1 }, 'ERR_INVALID_ARG_TYPE', /models\.chat has both load and worker/],
    [{ worker: module, unload: () => 1 }, 'ERR_INVALID_ARG_TYPE', /models\.chat has unload beside worker/],
    [{}, 'ERR_INVALID_ARG_TYPE', /models\.chat has neither load nor worker/],
  ])
    assert.match(refuses(make(definition), code, String(pattern)).message, pattern)
})

test('values keep their types on the way to a worker and back', () => {
  const through = (value) => {
    const parts = []
    return decode(JSON.parse(JSON.stringify(encode(value, parts))), parts)
  }
  for (const value of [
    null, undefined, true, 'text', 5, -0, NaN, Infinity, 2n ** 70n, [1, [undefined]], { a: { b: 1 } }, { $x: 1 },
    { $$bigint: '1' }, new Map([[1, new Set([{ $a: 2 }])]]), new Date(5), new Float32Array([1.5, 2]),
    new Uint8Array([1, 2]).subarray(1), Buffer.from('bytes'), new Uint8Array([3]).buffer, new BigInt64Array([-1n]),
    new DataView(new ArrayBuffer(3)),
  ])
    assert.deepStrictEqual(through(value), value)
  const error = through(Object.assign(new TypeError('mine'), { code: 'MINE', errno: 5 }))
  assert.deepEqual([error.name, error.message, error.code, error.errno], ['TypeError', 'mine', 'MINE', 5])
  const circle = {}
  circle.circle = circle
  for (const value of [() => 1, Symbol('x'), circle]) refuses(() => encode(value, []), 'ERR_INVALID_ARG_TYPE')
})

test('a model of a worker: calls, streams, signals, errors', async (t) => {
  const models = residency(t, { chat: { args: ['one', 'two'] } })
  await models.use('chat', async (model) => {
    const { pid, ...about } = await model.about()
    const { domain, pid: shown } = models.stats().models[0]
    assert.equal(pid, shown)
    assert.deepEqual(about, { name: 'chat', domain, args: ['one', 'two'], total: 4 * MiB })
    assert.deepEqual(await model.echo(new Float32Array([1]), 5n), [new Float32Array([1]), 5n])
    assert.equal('load' in model || 'unload' in model, false)

    const seen = []
    for await (const item of model.count(200)) seen.push(item)
    assert.deepEqual(seen, Array.from({ length: 200 }, (_, i) => i))
    const generator = model.count(1)
    assert.deepEqual(await generator.next(), { done: false, value: 0 })
    assert.deepEqual(await generator.next(), { done: true, value: 'end' })
    assert.deepEqual(await generator.next(), { done: true, value: undefined })
    const inner = []
    for await (const item of await model.later(3)) inner.push(item)
    assert.deepEqual(inner, [0, 1, 2])

    const slow = model.count(1e9)
    for (let i = 0; i < 10; i++) await slow.next()
    await model.echo()
    const ahead = await model.items()
    assert.ok(ahead <= 64 + 10, `${ahead} items were made for 10 that were taken`)
    await slow.return()
    await assert.rejects(async () => {
      for await (const item of model.failing()) assert.equal(item, 1)
    }, { message: 'after one' })

    const controller = new AbortController()
    const waiting = model.wait(controller.signal)
    const stream = model.count(1e9, { signal: controller.signal })
    await stream.next()
    controller.abort(new Error('enough'))
    await assert.rejects(waiting, { message: 'enough' })
    for (let item; !(item = await stream.next()).done || assert.equal(item.value, 'aborted'); );
    await assert.rejects(model.wait(controller.signal), { message: 'enough' })

    const error = await model.fail().catch((thrown) => thrown)
    assert.ok(error instanceof Error)
    assert.deepEqual([error.name, error.message, error.code], ['RangeError', 'mine', 'MINE'])
    await assert.rejects(model.notData(), { code: 'ERR_INVALID_ARG_TYPE' })
    await rejects(Promise.resolve().then(() => model.echo(() => 1)), 'ERR_INVALID_ARG_TYPE')
  })
  await models.close()
  assert.deepEqual([processes(), leftFiles()], [[], []])
})

test("a worker's memory is counted by its process", async (t) => {
  const models = residency(t)
  await models.preload('chat')
  const { pid, bytes } = models.stats().models[0]
  assert.deepEqual(processes(), [pid])
  const resident = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024
  assert.ok(bytes.measured > resident / 2 && bytes.measured < 2 * resident, `${bytes.measured}, ${resident} resident`)
  await models.evict('chat')
  assert.equal(models.stats().models[0].pid, null)
})

test('a load that fails in a worker is explained by its error and by its output', async (t) => {
  const models = residency(t, { throws: { args: ['throw'] }, exits: { args: ['exit'] } })
  const thrown = await models.preload('throws').catch((error) => error)
  assert.ok(thrown instanceof MemoryError, String(thrown))
  assert.match(thrown.cause.message, /failed to malloc npu memory/)
  const exited = await models.preload('exits').catch((error) => error)
  assert.match(exited.cause.message, /ended with status 7; its last line is .*Out of memory/)
  assert.doesNotMatch(exited.message, /status 7/, 'the cause is explained')
  await models.close()
  assert.deepEqual([processes(), leftFiles()], [[], []])
})

test('onOutput gets what the process writes', async (t) => {
  const texts = []
  const worker = { module, args: ['exit'], onOutput: (text) => texts.push(text) }
  const models = residency(t, { exits: { worker } })
  await rejects(models.preload('exits'), 'ERR_DEVICE_LOST')
  // A load that fails is tried once more.
  assert.equal(texts.join('').match(/Out of memory: Killed process 4711/g)?.length, 2)
  await models.close()
})

test('a runtime that cannot be started fails the load', async (t) => {
  const manager = open(t)
  const worker = { module, execPath: '/missing/node' }
  const models = manager.createModelResidency({ models: { chat: { ramBytes: 1, worker } } })
  const { message } = await rejects(models.preload('chat'), 'ERR_DEVICE_IO')
  assert.match(message, /\/missing\/node cannot be started: ENOENT/)
  assert.deepEqual(leftFiles(), [])
})

test('a load that no request waits for, and one over its deadline, end with their process', async (t) => {
  const models = residency(t, { chat: { args: ['never'] }, late: { args: ['never'], loadTimeoutMs: 300 } })
  const controller = new AbortController()
  const waiting = models.preload('chat', { signal: controller.signal })
  await until(() => processes().length > 0, () => 'no process')
  controller.abort()
  await assert.rejects(waiting, { name: 'AbortError' })
  await models.evict('chat')
  assert.match((await rejects(models.preload('late'), 'ERR_DEVICE_IO')).message, /not settled after 300 ms/)
  const states = models.stats().models.map(({ state, bytes }) => [state, bytes.reserved])
  assert.deepEqual(states, [['cold', 0], ['failed', 0]])
  assert.deepEqual(processes(), [])
})

test('processes that a worker started end with it, also those in a session of their own', async (t) => {
  for (const args of [['group'], ['session']]) {
    const models = residency(t, { chat: { args } })
    await models.preload('chat')
    assert.equal(processes().length, 2)
    await models.evict('chat')
    assert.deepEqual(processes(), [], `after an eviction, ${args}`)
    const ended = models.use('chat', (model) => model.end())
    await rejects(ended, 'ERR_DEVICE_LOST')
    await models.close()
    assert.deepEqual(processes(), [], `after its own end, ${args}`)
  }
})

test(`${KILLS} kills of workers at random moments: every request settles, nothing is left`, async (t) => {
  const names = ['a', 'b', 'c']
  const models = residency(t, Object.fromEntries(names.map((name) => [name, { concurrency: 2 }])))
  const random = randomOf(Number(process.env.RKLLM_TEST_SEED ?? 1))
  const outcomes = { served: 0, ERR_DEVICE_LOST: 0, ERR_DEVICE_IO: 0 }
  let kills = 0
  const request = async () => {
    while (kills < KILLS) {
      const name = names[random(names.length)]
      try {
        await models.use(name, (model) => (random(2) ? model.echo(1) : model.count(500).next()))
        outcomes.served++
      } catch (error) {
        assert.ok(error instanceof MemoryError, String(error))
        outcomes[error.code]++
      }
      await sleep(random(20))
    }
  }
  const requests = Array.from({ length: 6 }, request)
  await killAtRandom(models, { kills: KILLS, everyMs: 150, random, killed: () => kills++ })
  await Promise.all(requests)
  const { waiting, models: each } = models.stats()
  assert.deepEqual([waiting, each.map(({ leases }) => leases)], [0, [0, 0, 0]])
  await models.close()
  t.diagnostic(JSON.stringify(outcomes))
  assert.ok(Object.values(outcomes).every(Number.isInteger), JSON.stringify(outcomes))
  assert.deepEqual([processes(), leftFiles(), models.manager.getMemoryUsage().reservations], [[], [], []])
})

test(`${PARENT_KILLS} kills of parents at random moments: no worker outlives its parent`, async (t) => {
  const random = randomOf(Number(process.env.RKLLM_TEST_SEED ?? 1))
  const parent = fileURLToPath(new URL('../../support/child/worker-parent.mjs', import.meta.url))
  let longest = 0
  for (let kill = 0; kill < PARENT_KILLS; kill++) {
    const args = kill % 2 ? ['group'] : []
    const child = spawn(process.execPath, [...run, parent, fileURLToPath(module), ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout.on('data', (data) => (output += data))
    const exited = new Promise((resolve) => child.on('exit', resolve))
    // The first kill comes when both workers hang in JavaScript, the others at any moment.
    if (kill === 0) await until(() => output.split('ready').length === 3, () => `no workers: ${output}`)
    else {
      await until(() => output.includes('started'), () => `no start: ${output}`)
      await sleep(random(1500))
    }
    child.kill('SIGKILL')
    await exited
    longest = Math.max(longest, await noProcess())
  }
  t.diagnostic(`the last process was gone ${longest.toFixed(0)} ms after its parent`)
  // The files are left to the next residency, which removes them.
  const models = residency(t)
  assert.deepEqual(leftFiles().filter((name) => name.endsWith('.worker')), [])
  await models.close()
})

test('a worker outlives no thread that made it, and stays when another thread ends (rkllama#145)', async () => {
  const script = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { MemoryManager } = require(workerData.index)
    const memory = new MemoryManager({ backend: 'simulated' })
    const models = memory.createModelResidency({ models: { chat: { ramBytes: 1, worker: workerData.module } } })
    models.preload('chat').then(() => parentPort.postMessage(models.stats().models[0].pid))
    setInterval(() => {}, 1000)`
  const index = fileURLToPath(new URL('../../../index.js', import.meta.url))
  const workerData = { index, module: fileURLToPath(module) }
  const start = async () => {
    const thread = new Worker(script, { eval: true, workerData })
    const pid = await new Promise((resolve, reject) => thread.on('message', resolve).on('error', reject))
    return { thread, pid }
  }
  const [first, second] = [await start(), await start()]
  await first.thread.terminate()
  await until(() => !processes().includes(first.pid), () => `process ${first.pid} outlives its thread`)
  assert.deepEqual(processes(), [second.pid])
  await second.thread.terminate()
  await noProcess()
})

test('what a crashed parent left is ended by the next residency, and no other process', async (t) => {
  const folder = join(runtimeDirectory, 'rkllm-memory')
  const warnings = []
  const warned = ({ code }) => warnings.push(code)
  process.on('warning', warned)
  const token = randomBytes(16).toString('hex')
  const left = spawn('sleep', ['1000'], { env: { ...process.env, RKLLM_MEMORY_WORKER: token } })
  const innocent = spawn('sleep', ['1000'])
  t.after(() => innocent.kill())
  const startOf = (pid) => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')[19]
  const dead = { pid: 2 ** 22 - 1, start: 1 }
  const record = (name, about) => writeFileSync(join(folder, `${name}.worker`), JSON.stringify(about))
  const exited = new Promise((resolve) => left.on('exit', (_code, signal) => resolve(signal)))
  record(`${left.pid}-${startOf(left.pid)}`, { version: 1, token, model: 'chat', parent: dead })
  // Its id was used again: by a process without the token.
  record(`${innocent.pid}-1`, { version: 1, token: 'another', model: 'chat', parent: dead })
  record('5-5', 'not what it should be')
  writeFileSync(join(folder, '6-6.worker'), '{')
  writeFileSync(join(folder, `${dead.pid}-w1.sock`), '')
  const mine = { pid: process.pid, start: Number(startOf(process.pid)) }
  const kept = `${innocent.pid}-${startOf(innocent.pid)}`
  record(kept, { version: 1, token: 'of a parent that lives', model: 'chat', parent: mine })
  residency(t)
  assert.equal(await exited, 'SIGKILL')
  assert.deepEqual(leftFiles(), [`${kept}.worker`])
  assert.equal(innocent.exitCode ?? innocent.signalCode, null)
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', warned)
  assert.deepEqual(warnings, ['RKLLM_LEFT_WORKERS'])
  rmSync(join(folder, `${kept}.worker`))
})

test('an idle worker keeps no process alive, and ends with it', async () => {
  const index = fileURLToPath(new URL('../../../index.js', import.meta.url))
  const script = `
    import { createRequire } from 'node:module'
    const { MemoryManager } = createRequire(import.meta.url)(${JSON.stringify(index)})
    const memory = new MemoryManager({ backend: 'simulated' })
    const worker = ${JSON.stringify(fileURLToPath(module))}
    const models = memory.createModelResidency({ models: { chat: { ramBytes: 1, worker } } })
    console.log((await models.use('chat', (model) => model.echo(5)))[0])`
  const program = join(runtimeDirectory, 'idle.mjs')
  writeFileSync(program, script)
  const child = spawn(process.execPath, [...run, program], { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (data) => (output += data))
  assert.equal(await new Promise((resolve) => child.on('close', resolve)), 0)
  assert.equal(output.trim(), '5')
  await noProcess()
})

test('dispose of the manager ends workers at once', async () => {
  const manager = new MemoryManager({ backend: 'simulated' })
  const models = manager.createModelResidency({ models: { chat: { ramBytes: 1, worker: module } } })
  const used = models.use('chat', (model) => model.never())
  await models.preload('chat')
  manager.dispose()
  await rejects(used, 'ERR_MANAGER_DISPOSED')
  await noProcess()
})
