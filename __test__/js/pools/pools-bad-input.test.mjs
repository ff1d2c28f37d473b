/** Bad input to the verbs of pools and blocks, as a table. A refused call may not allocate or free. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { inspect } from 'node:util'

import { MemoryBlock, MemoryManager, MemoryPool } from '../../../index.js'
import { KiB, ledger, MiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

const TYPE = 'ERR_INVALID_ARG_TYPE'
const RANGE = 'ERR_OUT_OF_RANGE'

const NOT_NUMBERS = [
  undefined, null, '4096', '', true, 4096n, Symbol('n'), () => 1, {}, [4096], { valueOf: () => 1 }, Object(4096),
]
const NOT_SIZES = [NaN, 0, -0, -1, 4096.5, Number.MIN_VALUE, Infinity, -Infinity, 2 ** 53, 1e300, 2 ** 64]
const NOT_BOOLEANS = [0, 1, 'true', null, {}]
const NOT_STRINGS = [1, {}, true, Symbol('name'), ['name'], Object('name')]
const NOT_OBJECTS = [null, 5, 'options', true, ['tag'], () => {}]

/** Runs `call(manager, pool)` on a pool with live blocks, and asserts that only the count of refusals changed. */
function unchanged(t, call) {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: 64 * KiB, maxSize: MiB })
  const [block, buffer] = [pool.allocate(100), pool.allocateBuffer(100)]
  const state = () => ({
    ...ledger(manager),
    pools: manager.getMemoryUsage().pools.map(({ failedAllocations, ...stats }) => stats),
  })
  const before = state()
  call(manager, pool)
  assert.deepEqual(state(), before)
  assert.deepEqual([block.freed, buffer.byteLength, pool.destroyed], [false, 100, false])
}

describe('createMemoryPool', () => {
  const create = (options) => (manager) => manager.createMemoryPool({ name: 'q', initialSize: 4096, ...options })
  const cases = [
    ...[undefined, ...NOT_OBJECTS].map((options) => [
      TYPE, (manager) => manager.createMemoryPool(options), inspect(options),
    ]),
    [TYPE, (manager) => manager.createMemoryPool({}), '{}'],
    [TYPE, (manager) => manager.createMemoryPool({ initialSize: 4096 }), 'no name', /name/],
    [TYPE, (manager) => manager.createMemoryPool({ name: 'q' }), 'no initialSize', /initialSize/],
    [
      TYPE, (manager) => manager.createMemoryPool({ name: 'q', maxSize: 4096 }), 'no initialSize, but a maxSize',
      /initialSize/,
    ],
    [TYPE, create({ name: null }), 'name: null', /name/],
    [RANGE, create({ name: '' }), 'an empty name', /empty/],
    ...NOT_STRINGS.flatMap((value) =>
      ['name', 'tag'].map((option) => [TYPE, create({ [option]: value }), `${option}: ${inspect(value)}`, option]),
    ),
    ...['initialSize', 'maxSize', 'chunkSize', 'blockSize', 'alignment'].flatMap((option) => [
      ...NOT_NUMBERS.slice(1).map((value) => [
        TYPE, create({ [option]: value }), `${option}: ${inspect(value)}`, option,
      ]),
      ...NOT_SIZES.filter((value) => option !== 'initialSize' || value !== 0).map((value) => [
        RANGE,
        create({ [option]: value }),
        `${option}: ${inspect(value)}`,
        option,
      ]),
    ]),
    ...['\ud800', 'p\udfff', '\udc00\ud800'].map((name) => [
      RANGE, create({ name }), `name: ${JSON.stringify(name)}`, 'name',
    ]),
    [RANGE, create({ initialSize: 0 }), 'neither an initialSize nor a maxSize'],
    [RANGE, create({ initialSize: 8192, maxSize: 4096 }), 'maxSize below initialSize', 'maxSize'],
    ...[1, 32, 63, 65, 96, 100, 2 ** 40, 2 ** 52].map((alignment) => [
      RANGE, create({ alignment }), `alignment: ${alignment}`, 'alignment',
    ]),
    ...[2 ** 53 - 1, 2 ** 52 + 1].flatMap((size) => [
      [RANGE, create({ initialSize: size }), `initialSize: ${size}`],
      [RANGE, create({ blockSize: size, initialSize: size }), `blockSize: ${size}`],
    ]),
    ...[null, 1, true, {}].map((kind) => [TYPE, create({ kind }), `kind: ${inspect(kind)}`, 'kind']),
    ...['', 'NPU', 'gpu', 'constructor', '__proto__'].map((kind) => [RANGE, create({ kind }), `kind: ${kind}`, 'kind']),
    ...NOT_OBJECTS.map((allocation) => [
      TYPE, create({ allocation }), `allocation: ${inspect(allocation)}`, 'allocation',
    ]),
    [TYPE, create({ allocation: { tag: 1 } }), 'allocation.tag', 'tag'],
    [RANGE, create({ allocation: { alignment: 65 } }), 'allocation.alignment', 'alignment'],
    [RANGE, create({ allocation: { iommuDomain: 99 } }), 'allocation.iommuDomain'],
    [TYPE, create({ colour: 'red' }), 'an unknown option', 'colour'],
    [TYPE, create({ colour: undefined }), 'an unknown option that is undefined', 'colour'],
    [TYPE, create(JSON.parse('{"__proto__": 1}')), '__proto__'],
  ]
  for (const [code, call, name, named] of cases) {
    test(name, (t) =>
      unchanged(t, (manager) => {
        if (name.startsWith('__proto__'))
          return refuses(() => manager.createMemoryPool(JSON.parse('{"name":"q","initialSize":1,"__proto__":1}')), TYPE)
        const error = refuses(() => call(manager), code, name)
        if (named) assert.match(error.message, named instanceof RegExp ? named : new RegExp(named))
        assert.equal(manager.getMemoryPool('q'), undefined)
      }))
  }

  test('misspelt options: the error names the nearest one', (t) =>
    unchanged(t, (manager) => {
      const meant = {
        intialSize: 'initialSize', max_size: 'maxSize', chunksize: 'chunkSize', blocksize: 'blockSize', Tag: 'tag',
        alocation: 'allocation',
      }
      for (const [wrong, right] of Object.entries(meant)) {
        const error = refuses(() => create({ [wrong]: 1 })(manager), TYPE)
        assert.match(error.hint, new RegExp(`did you mean "${right}"`))
      }
    }))

  test('more than the device has', { skip: needsSimulated }, (t) =>
    unchanged(t, (manager) => {
      for (const initialSize of [8 * 1024 * MiB, 2 ** 40, 2 ** 47])
        refuses(() => create({ initialSize })(manager), RANGE, `${initialSize}`)
      refuses(() => create({ kind: 'system', initialSize: 2 ** 46 })(manager), 'ERR_OUT_OF_MEMORY')
    }))
})

describe('sizes and options of an allocation', () => {
  const verbs = {
    'pool.allocate': (manager, pool, ...args) => pool.allocate(...args),
    'pool.allocateBuffer': (manager, pool, ...args) => pool.allocateBuffer(...args),
    'allocateFromPool(pool)': (manager, pool, ...args) => manager.allocateFromPool(pool, ...args),
    'allocateFromPool(name)': (manager, pool, ...args) => manager.allocateFromPool('p', ...args),
  }
  for (const [name, verb] of Object.entries(verbs)) {
    test(name, (t) =>
      unchanged(t, (manager, pool) => {
        const wrong = (code, ...args) => refuses(() => verb(manager, pool, ...args), code, inspect(args))
        wrong(TYPE)
        for (const options of [[], [{}], [{ zeroed: true }]]) {
          for (const size of NOT_NUMBERS) wrong(TYPE, size, ...options)
          for (const size of [...NOT_SIZES, MiB + 1, 4 * 1024 * MiB, 2 ** 32 + 1, 2 ** 53 - 1, 2 ** 53 - 64])
            wrong(RANGE, size, ...options)
        }
        for (const options of NOT_OBJECTS) wrong(TYPE, 100, options)
        for (const zeroed of NOT_BOOLEANS) wrong(TYPE, 100, { zeroed })
        for (const tag of NOT_STRINGS) wrong(TYPE, 100, { tag })
        for (const alignment of NOT_NUMBERS.slice(1)) wrong(TYPE, 100, { alignment })
        for (const alignment of [...NOT_SIZES, 1, 2, 63, 65, 96, 8192, 2 ** 32, 2 ** 32 + 64, 2 ** 40, 2 ** 52])
          wrong(RANGE, 100, { alignment })
        assert.match(wrong(TYPE, 100, { tga: 'x' }).hint, /did you mean "tag"/)
        assert.match(wrong(TYPE, 100, { colour: undefined }).message, /"colour"/)
        wrong(TYPE, 100, { cacheable: true })
        wrong(TYPE, 100, { constructor: 1 })
      }))
  }
})

describe('which pool', () => {
  test('values that are no pool', (t) =>
    unchanged(t, (manager, pool) => {
      const forged = [
        undefined,
        null,
        1,
        true,
        {},
        [],
        () => {},
        Symbol('p'),
        { name: 'p' },
        Object('p'),
        new ArrayBuffer(8),
        manager,
        Object.create(MemoryPool.prototype),
        MemoryPool.prototype,
        Object.create(pool),
        new Proxy(pool, {}),
        MemoryPool,
      ]
      for (const value of forged) {
        refuses(() => manager.allocateFromPool(value, 100), TYPE, 'allocateFromPool')
        refuses(() => manager.destroyMemoryPool(value, { force: true }), TYPE, 'destroyMemoryPool')
        if (typeof value !== 'string') refuses(() => manager.getMemoryPool(value), TYPE, 'getMemoryPool')
      }
      refuses(() => manager.getMemoryPool(pool), TYPE, 'a pool is no name')
      for (const name of ['', 'P', 'p ', 'toString', '__proto__']) {
        refuses(() => manager.allocateFromPool(name, 100), 'ERR_POOL_UNKNOWN')
        refuses(() => manager.destroyMemoryPool(name), 'ERR_POOL_UNKNOWN')
        assert.equal(manager.getMemoryPool(name), undefined)
      }
    }))

  test('a pool of another manager, of the same name too', (t) => {
    const other = open(t)
    const pools = ['p', 'theirs'].map((name) => other.createMemoryPool({ name, initialSize: 4096 }))
    unchanged(t, (manager) => {
      for (const theirs of pools) {
        refuses(() => manager.allocateFromPool(theirs, 100), 'ERR_POOL_UNKNOWN')
        refuses(() => manager.destroyMemoryPool(theirs, { force: true }), 'ERR_POOL_UNKNOWN')
        assert.deepEqual([theirs.destroyed, theirs.stats().totalAllocations], [false, 0])
      }
    })
  })

  test('options of destroyMemoryPool', (t) =>
    unchanged(t, (manager, pool) => {
      for (const options of NOT_OBJECTS) refuses(() => manager.destroyMemoryPool(pool, options), TYPE)
      for (const force of NOT_BOOLEANS) refuses(() => manager.destroyMemoryPool(pool, { force }), TYPE)
      assert.match(refuses(() => manager.destroyMemoryPool(pool, { Force: true }), TYPE).hint, /"force"/)
    }))

  test('a changed name property does not redirect a pool', (t) =>
    unchanged(t, (manager, pool) => {
      manager.createMemoryPool({ name: 'victim', initialSize: 4096 })
      Object.defineProperty(pool, 'name', { value: 'victim', configurable: true })
      refuses(() => manager.destroyMemoryPool(pool, { force: true }), 'ERR_POOL_UNKNOWN')
      delete pool.name
      assert.equal(manager.getMemoryPool('victim').destroyed, false)
      manager.destroyMemoryPool('victim')
    }))
})

describe('arguments of pool.deallocate', () => {
  test('values that are neither blocks nor buffers', (t) => {
    const pool = open(t).createMemoryPool({ name: 'p', initialSize: 64 * KiB })
    const forged = [
      undefined,
      null,
      1,
      'p',
      true,
      {},
      [],
      () => {},
      Symbol('b'),
      new SharedArrayBuffer(8),
      pool,
      { buffer: pool.allocate(64).buffer },
      Object.create(MemoryBlock.prototype),
      MemoryBlock.prototype,
      new Proxy(pool.allocate(64), {}),
      Object.create(pool.allocate(64)),
    ]
    for (const value of forged) refuses(() => pool.deallocate(value), TYPE)
    assert.equal(pool.stats().liveAllocations, 3)
  })

  test('memory of other pools and managers', (t) => {
    const [manager, other] = [open(t), open(t)]
    const pool = manager.createMemoryPool({ name: 'p', initialSize: 4096 })
    const sibling = manager.createMemoryPool({ name: 'q', initialSize: 4096 })
    const foreign = [
      new ArrayBuffer(8),
      new ArrayBuffer(0),
      new Uint8Array(8),
      Buffer.from('not yours'),
      other.allocateNPUMemory(64),
      other.createMemoryPool({ name: 'p', initialSize: 4096 }).allocateBuffer(64),
      other.getMemoryPool('p').allocate(64),
      sibling.allocate(64),
      sibling.allocateBuffer(64),
      sibling.allocate(64).buffer,
      sibling.allocate(64, { tag: 'x' }),
    ]
    const own = manager.allocateNPUMemory(64)
    for (const value of [...foreign, own]) refuses(() => pool.deallocate(value), 'ERR_UNKNOWN_BUFFER', inspect(value))
    assert.deepEqual(
      [sibling.stats().liveAllocations, other.getMemoryPool('p').stats().liveAllocations, own.byteLength],
      [4, 2, 64],
    )
    assert.deepEqual([pool.stats().totalAllocations, foreign[0].byteLength], [0, 8])
  })
})

describe('classes', () => {
  test('only managers construct pools and blocks', (t) => {
    const pool = open(t).createMemoryPool({ name: 'p', initialSize: 64 * KiB })
    const block = pool.allocate(64)
    for (const Class of [MemoryPool, MemoryBlock]) {
      for (const args of [[], [Symbol('made by a MemoryManager')], [{}, 'p', 'npu', 1, {}], [undefined, {}, 1, 64]]) {
        refuses(() => new Class(...args), TYPE)
        refuses(() => Reflect.construct(Class, args, Object), TYPE)
        refuses(() => new (class extends Class {})(...args), TYPE)
      }
      assert.throws(() => Class(), TypeError)
    }
    refuses(() => new pool.constructor('q'), TYPE)
    refuses(() => new block.constructor(64), TYPE)
    block.free()
    assert.equal(pool.stats().totalAllocations, 1)
  })

  test('methods refuse other receivers', async (t) => {
    const manager = open(t)
    const pool = manager.createMemoryPool({ name: 'p', initialSize: 4096 })
    const block = pool.allocate(64)
    for (const [instance, Class] of [[pool, MemoryPool], [block, MemoryBlock]]) {
      for (const [name, { value, get }] of Object.entries(Object.getOwnPropertyDescriptors(Class.prototype))) {
        if (name === 'constructor' || name === 'movable') continue
        for (const target of [
          undefined, null, {}, Class.prototype, Object.create(instance), new Proxy(instance, {}), manager,
        ]) {
          // An asynchronous method rejects.
          const call = async () => Reflect.apply(value ?? get, target, [64])
          await assert.rejects(call, TypeError, `${Class.name}.${name}`)
        }
      }
    }
    for (const name of ['freed', 'size', 'buffer', 'id', 'address', 'deviceAddress']) {
      assert.throws(() => { block[name] = 1 }, TypeError, name)
    }
    assert.throws(() => { pool.name = 'q' }, TypeError)
    assert.equal(pool.stats().liveAllocations, 1)
  })
})

describe('getters with side effects', () => {
  const again = (manager) => manager.createMemoryPool({ name: 'again', initialSize: 4096 })
  const doing = (act, value) => ({ get tag() { act(); return value } })

  test('that throw', (t) =>
    unchanged(t, (manager, pool) => {
      const thrown = new Error('from the getter')
      const options = doing(() => { throw thrown })
      const verbs = [
        () => pool.allocate(64, options),
        () => pool.allocateBuffer(64, options),
        () => manager.allocateFromPool('p', 64, options),
        () => manager.createMemoryPool({ name: 'q', initialSize: 4096, allocation: options }),
        () =>
          manager.createMemoryPool({
            name: 'q',
            initialSize: 4096,
            get tag() {
              throw thrown
            },
          }),
        () =>
          manager.destroyMemoryPool(pool, {
            get force() {
              throw thrown
            },
          }),
      ]
      for (const verb of verbs) assert.throws(verb, (error) => error === thrown)
    }))

  test('that dispose the manager', (t) => {
    const verbs = [
      (manager, pool, options) => pool.allocate(64, options),
      (manager, pool, options) => pool.allocateBuffer(64, options),
      (manager, pool, options) => manager.allocateFromPool(pool, 64, options),
      (manager, pool, options) => manager.createMemoryPool({ name: 'q', initialSize: 4096, allocation: options }),
      (manager, pool, options) => manager.destroyMemoryPool(pool, { get force() { return options.tag === 'x' } }),
    ]
    for (const verb of verbs) {
      for (const value of [undefined, 'x']) {
        const manager = open(t)
        const pool = manager.createMemoryPool({ name: 'p', initialSize: 4096 })
        const options = doing(() => manager.dispose(), value)
        assert.throws(
          () => verb(manager, pool, options),
          ({ code }) => /^ERR_(POOL_DESTROYED|MANAGER_DISPOSED)$/.test(code),
          String(verb),
        )
        assert.equal(pool.destroyed, true)
      }
    }
  })

  test('that destroy or reset the pool', (t) => {
    const manager = open(t)
    for (const value of [undefined, 'x']) {
      for (const verb of ['allocate', 'allocateBuffer']) {
        const pool = manager.createMemoryPool({ name: 'p', initialSize: 4096 })
        refuses(() => pool[verb](64, doing(() => manager.destroyMemoryPool(pool), value)), 'ERR_POOL_DESTROYED')
        const next = manager.createMemoryPool({ name: 'p', initialSize: 4096 })
        next.allocate(64)
        next[verb](64, doing(() => next.reset(), value))
        assert.equal(next.stats().liveAllocations, 1)
        manager.destroyMemoryPool(next, { force: true })
      }
    }
  })

  test('that allocate from the same pool: both are their own', (t) => {
    const manager = open(t)
    const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
    for (const alignment of [64, 4096]) {
      let inner
      const outer = pool.allocate(500, { get alignment() { inner = pool.allocate(700); return alignment } })
      assert.deepEqual([outer.size, inner.size], [500, 700])
      new Uint8Array(outer.buffer).fill(1)
      new Uint8Array(inner.buffer).fill(2)
      assert.ok(new Uint8Array(outer.buffer).every((byte) => byte === 1))
      outer.free()
      inner.free()
    }
    assert.equal(pool.stats().liveAllocations, 0)
  })

  test('that make a pool of that name first', (t) => {
    const manager = open(t)
    let first
    const options = { name: 'again', initialSize: 4096, get tag() { first ??= again(manager); return undefined } }
    refuses(() => manager.createMemoryPool(options), 'ERR_POOL_EXISTS')
    assert.equal(manager.getMemoryPool('again'), first)
    assert.equal(manager.getNPUMemoryStats().objects, 1)
  })

  test('that destroy it twice', (t) => {
    const manager = open(t)
    for (const by of [(pool) => pool, (pool) => pool.name]) {
      const pool = again(manager)
      const options = { get force() { manager.destroyMemoryPool(pool); return true } }
      assert.throws(
        () => manager.destroyMemoryPool(by(pool), options),
        ({ code }) => /^ERR_POOL_(DESTROYED|UNKNOWN)$/.test(code),
      )
      assert.equal(pool.destroyed, true)
    }
    assert.ok(manager instanceof MemoryManager)
  })
})
