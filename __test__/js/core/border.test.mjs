/** The border of the API: every export and every method, with wrong receivers and arguments, throws a MemoryError. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { inspect } from 'node:util'

import memory from '../../../index.js'
import { open, refuses, simulated } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const { MemoryError, MemoryManager } = memory
const { prototype: base } = require('node:events')

function revoked() {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}
const HOSTILE = new Error('hostile')
const hostile = () => {
  throw HOSTILE
}
/** Throws at every look at it. */
const trap = () => new Proxy({}, { get: hostile, ownKeys: hostile, has: hostile, getPrototypeOf: hostile })

const ARGUMENTS = [
  [], [undefined], [null], [0], [-1], [NaN], [2 ** 60], [1n], ['x'], [Symbol('x')], [true], [{}], [[]], [() => {}],
  [Object.create(null)], [revoked()], [trap()], [new Proxy({}, {})], [new Proxy([], { get: hostile })],
  [{ toString: hostile, valueOf: hostile, [Symbol.toPrimitive]: hostile }], [new Proxy(new ArrayBuffer(8), {})],
  [1, revoked()], [1, trap()], [1, { tag: Symbol('tag') }], [1, new Date(NaN)], [1, null], [4096, { signal: {} }],
  ['x', revoked()], ['x', trap()], [{ get name() { return hostile() } }], [[revoked()]], [[trap()]],
  [{ [Symbol.iterator]: hostile }], [{ then: hostile }], [{ length: 2 ** 32 }], [new Error('x'), new Error('x')],
]
const RECEIVERS = [undefined, null, 5, 'x', Symbol('this'), {}, Object.create(null), revoked(), trap()]

/** One instance of each class whose methods are public. */
function instances(t) {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'walked', initialSize: 1 << 16 })
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-border-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const inbox = new memory.DmaBufInbox(join(folder, 'inbox'))
  t.after(() => inbox.close())
  return {
    inbox,
    manager,
    pool,
    block: pool.allocate(64),
    movable: pool.allocate(64, { movable: true }),
    reservation: manager.reserve(4096),
    ...(simulated && { npu: new memory.SimulatedNPU(manager) }),
    inference: manager.createInferenceBuffers({ contextLength: 16, hiddenSize: 8, vocabSize: 8, kind: 'system' }),
    rknn: manager.createRknnMemory({ models: [{ name: 'm', file: 'm.rknn' }] }),
  }
}

test('a class that is called as a function throws a MemoryError, and stays a class', (t) => {
  const classes = Object.entries(memory).filter(([name]) => /^[A-Z]/.test(name))
  assert.equal(classes.length, 7)
  const { manager, pool, block, inbox } = instances(t)
  for (const [name, made] of classes) {
    for (const call of [() => made(), () => made({}), () => made.call({}), () => Reflect.apply(made, undefined, [])]) {
      const { message, hint } = refuses(call, 'ERR_INVALID_ARG_TYPE')
      const makers = {
        MemoryPool: 'createMemoryPool', MemoryBlock: 'pool.allocate', ModelResidency: 'createModelResidency',
      }
      const how = makers[name] ?? `new ${name}`
      assert.ok(message.includes(name) && hint.includes(how), `${message}; ${hint}`)
    }
    assert.equal(made.name, name)
    assert.equal(made.prototype.constructor, made)
    assert.deepEqual(Object.keys(made), [])
    assert.match(String(made), new RegExp(`^class ${name} `))
  }
  for (const [instance, made] of [
    [manager, MemoryManager], [pool, memory.MemoryPool], [block, memory.MemoryBlock], [inbox, memory.DmaBufInbox],
  ]) {
    assert.ok(instance instanceof made)
    assert.equal(instance.constructor, made)
  }
  class Own extends MemoryManager {
    own = 7
  }
  const own = new Own({ backend: 'simulated' })
  t.after(() => own.dispose())
  assert.ok(own instanceof Own && own instanceof MemoryManager && !(manager instanceof Own))
  assert.deepEqual([own.own, own.constructor, own.disposed], [7, Own, false])
  assert.equal(MemoryManager.once, base.constructor.once, 'static members are inherited')
  class OwnError extends MemoryError {}
  const error = new OwnError('mine', { code: 'ERR_UNSUPPORTED' })
  assert.ok(error instanceof OwnError && error instanceof MemoryError && error instanceof Error)
  assert.equal(refuses(() => new MemoryManager(5), 'ERR_INVALID_ARG_TYPE') instanceof OwnError, false)
})

/** Every method and accessor of an object's own classes, by name. */
function* membersOf(object) {
  const seen = new Set(['constructor'])
  for (let at = Object.getPrototypeOf(object); ![null, base, Object.prototype].includes(at); ) {
    for (const key of Reflect.ownKeys(at)) {
      if (seen.has(key)) continue
      seen.add(key)
      const { value, get } = Object.getOwnPropertyDescriptor(at, key)
      if (typeof value === 'function') yield [key, value]
      if (get !== undefined) yield [key, get]
    }
    at = Object.getPrototypeOf(at)
  }
}

/** Calls, and returns what is thrown or rejected; undefined where it succeeds. */
async function thrown(call) {
  try {
    await call()
    return undefined
  } catch (error) {
    return error
  }
}

/** Shows a value that may be a revoked proxy, which Deno cannot inspect. */
function show(value) {
  try {
    return inspect(value, { showProxy: true, depth: 1 })
  } catch {
    return 'a revoked proxy'
  }
}

async function throwsOnlyMemoryErrors(what, call) {
  const error = await thrown(call)
  if (error === undefined) return
  if (error === HOSTILE) return // the caller's own
  assert.ok(error instanceof MemoryError, `${what}: ${show(error)}`)
  assert.match(error.code, /^ERR_[A-Z_]+$/, what)
  assert.ok(error.message.length > 10, `${what}: ${error.message}`)
}

/** Methods that end the object or wait for other processes: they are called last, or not with these arguments. */
const ENDS = new Set(['dispose', 'disposeAsync', 'close', 'free', 'release', 'receive', 'writeReport'])

test('every method throws a MemoryError for a wrong receiver', async (t) => {
  for (const object of Object.values(instances(t))) {
    let checked = 0
    for (const [name, member] of membersOf(object)) {
      const what = `${object.constructor.name}.${String(name)}`
      for (const receiver of [...RECEIVERS, new Proxy(object, {}), Object.create(object)]) {
        for (const args of [[], [4096], ['x', {}]]) {
          if (name === inspect.custom) continue // util.inspect calls it
          const error = await thrown(() => Reflect.apply(member, receiver, args))
          if (error === undefined) continue // it reads no state
          assert.ok(error instanceof MemoryError, `${what} on ${show(receiver)}: ${show(error)}`)
          checked++
        }
      }
    }
    assert.ok(checked > 50, `${object.constructor.name}: ${checked}`)
  }
})

test('the error of a wrong receiver says how to call', (t) => {
  const manager = open(t)
  const { allocateNPUMemory } = manager
  const detached = refuses(() => allocateNPUMemory(1), 'ERR_INVALID_ARG_TYPE')
  assert.match(detached.message, /allocateNPUMemory was called on undefined, which is no MemoryManager/)
  assert.match(detached.hint, /allocateNPUMemory\.bind/)
  const proxied = refuses(() => new Proxy(manager, {}).allocateNPUMemory(1), 'ERR_INVALID_ARG_TYPE')
  assert.match(proxied.hint, /proxy/)
  refuses(() => new Proxy(manager, {}).device, 'ERR_INVALID_ARG_TYPE')
  assert.equal(typeof manager.allocateNPUMemory.bind(manager)(1), 'object')
})

test('every method throws a MemoryError for wrong arguments', async (t) => {
  for (const object of Object.values(instances(t))) {
    for (const [name, member] of membersOf(object)) {
      if (ENDS.has(name) || typeof name === 'symbol') continue
      for (const args of ARGUMENTS) {
        const what = `${object.constructor.name}.${name}(${args.map(show)})`
        await throwsOnlyMemoryErrors(what, () => Reflect.apply(member, object, args))
      }
    }
  }
})

test('disposeAsync rejects with a MemoryError for wrong options, and disposes of nothing', async (t) => {
  const { manager } = instances(t)
  for (const options of [null, 1, 'x', [], { sgnal: 1 }, { signal: {} }, revoked()]) {
    await throwsOnlyMemoryErrors('disposeAsync', () => manager.disposeAsync(options))
    assert.equal(manager.disposed, false, show(options))
  }
})

test('writeReport and receive reject with a MemoryError for wrong arguments', async (t) => {
  const { manager, inbox } = instances(t)
  for (const args of ARGUMENTS)
    await throwsOnlyMemoryErrors(`writeReport(${args.map(show)})`, () => manager.writeReport(...args))
  const waiting = ARGUMENTS.map((args) =>
    throwsOnlyMemoryErrors(`receive(${args.map(show)})`, () => inbox.receive(...args)),
  )
  inbox.close()
  await Promise.all(waiting)
})

test('every exported function and constructor throws a MemoryError for wrong arguments', async () => {
  const { registerMetrics: prometheus } = require('../../../src/js/metrics/prom-client.js')
  const { registerMetrics: opentelemetry } = require('../../../src/js/metrics/opentelemetry.js')
  const exported = { ...memory, prometheus, opentelemetry }
  for (const [name, value] of Object.entries(exported)) {
    for (const args of ARGUMENTS) {
      const isClass = /^class /.test(Function.prototype.toString.call(value))
      const call = async () => {
        const made = isClass ? Reflect.construct(value, args) : await Reflect.apply(value, undefined, args)
        if (made instanceof MemoryManager) made.dispose()
        if (made instanceof memory.DmaBufInbox) made.close()
      }
      await throwsOnlyMemoryErrors(`${name}(${args.map(show)})`, call)
    }
  }
})

test('an error of the engine is converted, and one of an accessor is not', (t) => {
  const manager = open(t)
  refuses(() => manager.allocateNPUMemory(1, revoked()), 'ERR_INVALID_ARG_TYPE')
  refuses(() => new MemoryManager(revoked()), 'ERR_INVALID_ARG_TYPE')
  assert.throws(() => manager.allocateNPUMemory(1, trap()), (error) => error === HOSTILE)
  const noCall = { get tag() { return undefined.call() } }
  assert.ok(refuses(() => manager.allocateNPUMemory(1, noCall), 'ERR_INVALID_ARG_TYPE').cause instanceof TypeError)
})

test('the reason of an abort is thrown as it is', async (t) => {
  const manager = open(t)
  const reason = new Error('mine')
  const signal = AbortSignal.abort(reason)
  assert.equal(await thrown(() => manager.allocateNPUMemoryAsync(1, { signal })), reason)
})
