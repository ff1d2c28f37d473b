/**
 * Bad input: each verb against each kind of wrong argument, as a table. A refused call leaves nothing allocated and
 * does not change foreign buffers.
 */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { describe as group, test } from 'node:test'
import { runInNewContext } from 'node:vm'

import { MemoryError, MemoryManager, probeDevices } from '../../../index.js'
import {
  assertLedger, assertNothingLeft, backend, device, GiB, inPieces, KiB, ledger, MiB, needsCommand, needsSimulated,
  needsTransfer, open, refuses, runChild, settle, simulated,
} from '../../support/helpers.mjs'

const describe = inPieces(group)

const TYPE = 'ERR_INVALID_ARG_TYPE'
const RANGE = 'ERR_OUT_OF_RANGE'

const NOT_NUMBERS = [
  ['undefined', undefined],
  ['null', null],
  ['a string', '4096'],
  ['an empty string', ''],
  ['true', true],
  ['a bigint', 4096n],
  ['a symbol', Symbol('size')],
  ['a function', () => 4096],
  ['an object', {}],
  ['an array', [4096]],
  ['an object that turns into a number', { valueOf: () => 4096 }],
  ['a Number object', Object(4096)],
  ['a Date', new Date(4096)],
]
const NOT_SIZES = [
  ['NaN', NaN], ['zero', 0], ['minus zero', -0], ['negative', -1], ['fractional', 4096.5], ['tiny', Number.MIN_VALUE],
  ['Infinity', Infinity], ['-Infinity', -Infinity], ['2^53', 2 ** 53], ['beyond 2^53', 1e300], ['2^64', 2 ** 64],
]

describe('sizes', () => {
  for (const verb of ['allocateNPUMemory', 'allocateSystemMemory']) {
    for (const [name, value] of NOT_NUMBERS) {
      test(`${verb}(${name})`, (t) => unchanged(t, (manager) => refuses(() => manager[verb](value), TYPE)))
    }
    for (const [name, value] of NOT_SIZES) {
      test(`${verb}(${name})`, (t) => unchanged(t, (manager) => refuses(() => manager[verb](value), RANGE)))
    }
    test(`${verb}()`, (t) => unchanged(t, (manager) => refuses(() => manager[verb](), TYPE)))
  }

  for (const size of [2 ** 53 - 1, 2 ** 52 + 1, 2 ** 48, 2 ** 47 - 1]) {
    test(`more than any machine has: ${size}`, (t) =>
      unchanged(t, (manager) => {
        refuses(() => manager.allocateNPUMemory(size), RANGE, 'NPU')
        // System memory has no device limit: only a size that cannot be rounded up to pages is out of range.
        const code = codeOf(() => manager.allocateSystemMemory(size))
        assert.ok(code === 'ERR_OUT_OF_MEMORY' || (size === 2 ** 53 - 1 && code === RANGE), `system: ${code}`)
      }))
  }

  // A 32-bit size wraps at 2^32.
  for (const size of [4 * GiB + 1, 4 * GiB + 4096, 8 * GiB, 2 ** 40]) {
    test(`more than the device reaches: ${size}`, { skip: needsSimulated }, (t) =>
      unchanged(t, (manager) => {
        const error = refuses(() => manager.allocateNPUMemory(size), RANGE)
        assert.equal(error.requested, size)
        assert.ok(error.limit <= 4 * GiB, `limit is ${error.limit}`)
      }))
  }

  test('more than the CMA', { skip: needsSimulated }, (t) =>
    unchanged(t, (manager) => refuses(() => manager.allocateNPUMemory(256 * MiB + 1), RANGE), {
      simulated: { soc: 'rk3566' },
    }),
  )

  test('more system memory than the machine has', (t) =>
    unchanged(t, (manager) => {
      const error = refuses(() => manager.allocateSystemMemory(totalmem() * 2), 'ERR_OUT_OF_MEMORY')
      assert.equal(error.requested, totalmem() * 2)
      assert.ok(error.available < error.requested)
    }))
})

/** Verbs that take a buffer of this manager. */
const BUFFER_VERBS = [
  'deallocate',
  'deallocateNPUMemory',
  'deallocateSystemMemory',
  'describe',
  'syncToDevice',
  'syncFromDevice',
  'exportDmaBuf',
]

const NOT_BUFFERS = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 4096],
  ['an address', 0x7f0000000000n],
  ['a string', 'buffer'],
  ['true', true],
  ['a symbol', Symbol('buffer')],
  ['a function', () => {}],
  ['an object', {}],
  ['an array', [1, 2]],
  ['an object without prototype', Object.create(null)],
  ['something that looks like one', { byteLength: 4096, buffer: new ArrayBuffer(8) }],
  ['an heir of ArrayBuffer.prototype', Object.create(ArrayBuffer.prototype)],
  ['an heir of Uint8Array.prototype', Object.create(Uint8Array.prototype)],
  ['a proxy of an ArrayBuffer', new Proxy(new ArrayBuffer(8), {})],
  ['a revoked proxy', revokedProxy()],
  ['an object with an unkind constructor', { constructor: { name: Symbol('name') } }],
  [
    'an object with a throwing constructor',
    Object.defineProperty({}, 'constructor', { get: () => assert.fail('must not be read') }),
  ],
  ['a SharedArrayBuffer', new SharedArrayBuffer(4096)],
  ['a view of a SharedArrayBuffer', new Uint8Array(new SharedArrayBuffer(4096))],
  ['a shared WebAssembly.Memory', new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer],
]

describe('values that are no ArrayBuffer', () => {
  for (const verb of BUFFER_VERBS) {
    test(`${verb}()`, (t) => unchanged(t, (manager) => refuses(() => manager[verb](), TYPE)))
    for (const [name, value] of NOT_BUFFERS) {
      test(`${verb}(${name})`, (t) => unchanged(t, (manager) => refuses(() => manager[verb](value), TYPE)))
    }
  }
})

test('owns is false of values that are no buffer', (t) =>
  unchanged(t, (manager) => {
    assert.equal(manager.owns(), false)
    for (const [name, value] of NOT_BUFFERS) assert.equal(manager.owns(value), false, name)
  }))

const FOREIGN = [
  ['an ArrayBuffer', () => new ArrayBuffer(4096)],
  ['an empty ArrayBuffer', () => new ArrayBuffer(0)],
  ['a resizable ArrayBuffer', () => new ArrayBuffer(4096, { maxByteLength: 8192 })],
  ['a typed array', () => new Float64Array(512).fill(1.5)],
  ['a DataView', () => new DataView(new ArrayBuffer(64), 8, 8)],
  ['a Buffer out of the pool', () => Buffer.from('not yours')],
  ['WebAssembly memory', () => new WebAssembly.Memory({ initial: 1 }).buffer],
  ['an ArrayBuffer of another realm', () => runInNewContext('new Uint8Array([1, 2, 3])')],
]

describe('foreign ArrayBuffers stay untouched', () => {
  for (const verb of BUFFER_VERBS) {
    for (const [name, make] of FOREIGN) {
      test(`${verb}(${name})`, (t) =>
        unchanged(t, (manager) => {
          const foreign = make()
          const bytesBefore = contents(foreign)
          refuses(() => manager[verb](foreign), 'ERR_UNKNOWN_BUFFER')
          assert.equal(manager.owns(foreign), false)
          assert.deepEqual(contents(foreign), bytesBefore)
        }))
    }
    test(`${verb}(a buffer of another manager)`, (t) => {
      const [mine, other] = [open(t), open(t)]
      const before = ledger(mine)
      for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
        const theirs = other[allocate](4096)
        new Uint8Array(theirs).fill(9)
        const size = other.getMemoryStats()
        refuses(() => mine[verb](theirs), 'ERR_UNKNOWN_BUFFER')
        assert.ok(new Uint8Array(theirs).every((byte) => byte === 9))
        assert.deepEqual(other.getMemoryStats(), size)
        other.deallocate(theirs)
        settle(other)
      }
      assertLedger(mine, before)
    })
  }
})

describe('freed buffers', () => {
  for (const verb of BUFFER_VERBS) {
    for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
      test(`${verb}(freed, of ${allocate})`, (t) =>
        unchanged(t, (manager) => {
          const buffer = manager[allocate](4096)
          const view = new Uint8Array(buffer, 64, 64)
          manager.deallocate(buffer)
          refuses(() => manager[verb](buffer), 'ERR_BUFFER_FREED')
          refuses(() => manager[verb](view), 'ERR_BUFFER_FREED', 'through a view')
        }))

      test(`${verb}(moved by transfer(), of ${allocate})`, { skip: needsTransfer }, (t) =>
        unchanged(t, (manager) => {
          const buffer = manager[allocate](4096)
          const moved = buffer.transfer()
          refuses(() => manager[verb](buffer), 'ERR_BUFFER_TRANSFERRED')
          assert.equal(manager.getMemoryStats().liveAllocations, 1)
          manager.deallocate(moved)
          refuses(() => manager[verb](buffer), 'ERR_BUFFER_FREED', 'the old one after the new one was freed')
        }))
    }
  }

  test('the second deallocate of a buffer made by transfer()', { skip: needsTransfer }, (t) =>
    unchanged(t, (manager) => {
      const moved = manager.allocateNPUMemory(4096).transfer()
      manager.deallocate(moved)
      refuses(() => manager.deallocate(moved), 'ERR_BUFFER_FREED')
    }))

  test('a reused address belongs to the new buffer only', (t) => {
    const manager = open(t)
    const gone = []
    for (let i = 0; i < 50; i++) {
      const buffer = manager.allocateNPUMemory(4096)
      manager.deallocate(buffer)
      gone.push(buffer)
    }
    const live = manager.allocateNPUMemory(4096)
    for (const buffer of gone) refuses(() => manager.deallocate(buffer), 'ERR_BUFFER_FREED')
    assert.equal(manager.owns(live), true)
    assert.equal(live.byteLength, 4096)
  })
})

describe('the wrong kind of memory', () => {
  const cases = [
    ['deallocateNPUMemory', 'allocateSystemMemory'],
    ['deallocateSystemMemory', 'allocateNPUMemory'],
    ['syncToDevice', 'allocateSystemMemory'],
    ['syncFromDevice', 'allocateSystemMemory'],
    ['exportDmaBuf', 'allocateSystemMemory'],
  ]
  for (const [verb, allocate] of cases) {
    test(`${verb}(memory of ${allocate})`, (t) => {
      const manager = open(t)
      const buffer = manager[allocate](4096)
      const before = ledger(manager)
      refuses(() => manager[verb](buffer), 'ERR_BUFFER_KIND')
      assert.equal(buffer.byteLength, 4096)
      assertLedger(manager, before)
    })
  }
})

describe('ranges of sync', () => {
  const ranges = [
    [TYPE, '0'], [TYPE, null], [TYPE, 0n], [TYPE, {}], [TYPE, 0, '1'], [TYPE, 0, null], [TYPE, 0, 1n],
    [RANGE, -1], [RANGE, NaN], [RANGE, 0.5], [RANGE, 4097], [RANGE, 2 ** 53], [RANGE, Infinity],
    [RANGE, 0, 4097], [RANGE, 1, 4096], [RANGE, 4096, 1], [RANGE, 0, -1], [RANGE, 0, NaN], [RANGE, 0, 1.5],
    [RANGE, 1, 2 ** 53 - 1], [RANGE, 2 ** 53 - 1, 2 ** 53 - 1], [RANGE, 4095, 2 ** 32 - 4095],
  ]
  for (const verb of ['syncToDevice', 'syncFromDevice']) {
    for (const [code, ...range] of ranges) {
      test(`${verb}(buffer, ${range.map(shown).join(', ')})`, (t) => {
        const manager = open(t)
        const buffer = manager.allocateNPUMemory(4096)
        refuses(() => manager[verb](buffer, ...range), code)
      })
    }
  }
})

/** [verb, arguments before the options, option, wrong values by code] */
const OPTIONS = [
  ...['allocateNPUMemory', 'allocateSystemMemory'].flatMap((verb) => [
    [verb, [4096], 'tag', { [TYPE]: [1, {}, true, Symbol('tag'), ['kv']] }],
    [
      verb,
      [4096],
      'alignment',
      {
        [TYPE]: ['64', null, 64n, {}, [64]],
        [RANGE]: [0, 1, 32, 63, 65, 96, 100.5, -64, NaN, Infinity, 2 ** 53, 2 ** 52, 2 ** 48],
      },
    ],
    [verb, [4096], 'zeroed', { [TYPE]: [0, 1, 'yes', null, {}] }],
  ]),
  ...['cacheable', 'contiguous', 'dedicated'].map((option) => [
    'allocateNPUMemory',
    [4096],
    option,
    { [TYPE]: [0, 1, 'true', null, {}] },
  ]),
  [
    'allocateNPUMemory', [4096], 'placement',
    { [TYPE]: [1, null, true, {}], [RANGE]: ['', 'sram', 'DRAM', 'toString'] },
  ],
  [
    'allocateNPUMemory',
    [4096],
    'iommuDomain',
    {
      [TYPE]: ['0', null, 0n, {}],
      [RANGE]: [-1, 0.5, NaN, 16, 255, 2 ** 31, 2 ** 32, 2 ** 53],
    },
  ],
  ['allocateNPUMemory', [4096], 'coreMask', { [TYPE]: ['1', null, 1n, {}], [RANGE]: [-1, 0.5, NaN, 2 ** 32, 2 ** 53] }],
  ['allocateSystemMemory', [4096], 'hugePages', { [TYPE]: [1, null, {}], [RANGE]: ['', 'yes', 'TRY'] }],
  ...['lock', 'prefault'].map((option) => [
    'allocateSystemMemory', [4096], option, { [TYPE]: [0, 1, 'true', null, {}] },
  ]),
]

describe('options', () => {
  for (const [verb, args, option, wrong] of OPTIONS) {
    for (const [code, values] of Object.entries(wrong)) {
      for (const value of values) {
        test(`${verb}(..., { ${option}: ${shown(value)} })`, (t) =>
          unchanged(t, (manager) => {
            const expected = hugePagesType(option, value) ?? code
            const error = refuses(() => manager[verb](...args, { [option]: value }), expected)
            const name = option === 'iommuDomain' ? /iommu ?domain/i : new RegExp(option)
            assert.match(error.message, name, 'the message names the option')
          }))
      }
    }
  }

  for (const verb of ['allocateNPUMemory', 'allocateSystemMemory', 'importDmaBuf']) {
    for (const [name, value] of [
      ['null', null], ['a number', 5], ['a string', 'kv-cache'], ['true', true], ['an array', ['tag']],
      ['a function', () => {}],
    ]) {
      test(`${verb}(..., ${name})`, (t) =>
        unchanged(t, (manager, fd) => refuses(() => manager[verb](firstArgument(verb, fd), value), TYPE)))
    }
    test(`${verb}: the error for an unknown option names it and the nearest one`, (t) =>
      unchanged(t, (manager, fd) => {
        const first = firstArgument(verb, fd)
        const misspelt = refuses(() => manager[verb](first, { tga: 'x' }), TYPE)
        assert.match(misspelt.message, /"tga"/)
        assert.match(misspelt.hint, /did you mean "tag"/)
        const otherCase = refuses(() => manager[verb](first, { Tag: 'x' }), TYPE)
        assert.match(otherCase.hint, /did you mean "tag"/)
        const unknown = refuses(() => manager[verb](first, { colour: 'red' }), TYPE)
        assert.match(unknown.message, /"colour"/)
        assert.ok(unknown.hint)
        refuses(() => manager[verb](first, { colour: undefined }), TYPE, 'an unknown option that is undefined')
        refuses(() => manager[verb](first, JSON.parse('{"__proto__": 1}')), TYPE, 'a key called __proto__')
        refuses(() => manager[verb](first, { constructor: 1 }), TYPE, 'a key called constructor')
      }))
    test(`${verb}: an option whose getter throws`, (t) =>
      unchanged(t, (manager, fd) => {
        const thrown = new Error('from the getter')
        const options = { get tag() { throw thrown } }
        assert.throws(() => manager[verb](firstArgument(verb, fd), options), (error) => error === thrown)
      }))
    test(`${verb}: an option whose getter disposes the manager`, (t) => {
      const manager = open(t)
      const fd = borrowFd(t)
      const options = { get tag() { manager.dispose(); return 'late' } }
      refuses(() => manager[verb](firstArgument(verb, fd), options), 'ERR_MANAGER_DISPOSED')
    })
  }

  test('options of the other kind of memory are unknown', (t) =>
    unchanged(t, (manager) => {
      refuses(() => manager.allocateSystemMemory(4096, { iommuDomain: 0 }), TYPE)
      refuses(() => manager.allocateNPUMemory(4096, { prefault: true }), TYPE)
    }))
})

describe('options of the constructor', () => {
  const wrong = [
    ['null', null, TYPE], ['a string', 'simulated', TYPE], ['a number', 1, TYPE], ['an array', [], TYPE],
    ['a misspelt option', { bakend: 'simulated' }, TYPE, /did you mean "backend"/],
    ['an option of a later version', { backend: 'simulated', slabbs: {} }, TYPE],
    ['backend: number', { backend: 5 }, TYPE], ['backend: null', { backend: null }, TYPE],
    ['backend: unknown', { backend: 'cuda' }, RANGE], ['backend: in capitals', { backend: 'SIMULATED' }, RANGE],
    ['backend: a name of Object.prototype', { backend: 'constructor' }, RANGE],
    ['device: number', { device: 5 }, TYPE],
    ['simulated: null', { backend: 'simulated', simulated: null }, TYPE],
    ['simulated: string', { backend: 'simulated', simulated: 'rk3588' }, TYPE],
    ['simulated: misspelt', { backend: 'simulated', simulated: { domain: 2 } }, TYPE, /did you mean "domains"/],
    ['soc: number', { backend: 'simulated', simulated: { soc: 3588 } }, TYPE],
    ['soc: unknown', { backend: 'simulated', simulated: { soc: 'rk9999' } }, RANGE],
    ...['domainBytes', 'domains', 'sramBytes', 'maxObjects'].flatMap((option) => [
      [`${option}: string`, { backend: 'simulated', simulated: { [option]: '1' } }, TYPE],
      [`${option}: negative`, { backend: 'simulated', simulated: { [option]: -1 } }, RANGE],
      [`${option}: NaN`, { backend: 'simulated', simulated: { [option]: NaN } }, RANGE],
      [`${option}: fractional`, { backend: 'simulated', simulated: { [option]: 1.5 } }, RANGE],
      [`${option}: 2^53`, { backend: 'simulated', simulated: { [option]: 2 ** 53 } }, RANGE],
    ]),
    ['domainBytes: zero', { backend: 'simulated', simulated: { domainBytes: 0 } }, RANGE],
    ['domains: zero', { backend: 'simulated', simulated: { domains: 0 } }, RANGE],
    ['domains: very many', { backend: 'simulated', simulated: { domains: 2 ** 31 - 1 } }, RANGE],
    ['maxObjects: zero', { backend: 'simulated', simulated: { maxObjects: 0 } }, RANGE],
    ['latencyMs: string', { backend: 'simulated', simulated: { latencyMs: '1' } }, TYPE],
    ['latencyMs: negative', { backend: 'simulated', simulated: { latencyMs: -1 } }, RANGE],
    ['latencyMs: NaN', { backend: 'simulated', simulated: { latencyMs: NaN } }, RANGE],
    ['latencyMs: Infinity', { backend: 'simulated', simulated: { latencyMs: Infinity } }, RANGE],
  ]
  for (const [name, options, code, hint] of wrong) {
    test(name, (t) =>
      unchanged(t, () => {
        const error = refuses(() => new MemoryManager(options), code)
        if (hint) assert.match(error.hint, hint)
      }))
  }

  test('MemoryManager is a class', () => assert.throws(() => MemoryManager(), TypeError))
})

const withoutPermission =
  process.getuid() !== 0 ? 'only root can become a user without permission' : needsCommand('mknod')

describe('missing and inaccessible devices', () => {
  const path = '/dev/dri/renderD-no-such-node'
  for (const name of ['rknpu', 'rknpu-heap', 'dma-heap']) {
    test(`${name}: no such node`, (t) =>
      unchanged(t, () => {
        const error = refuses(() => new MemoryManager({ backend: name, device: path }), 'ERR_DEVICE_NOT_FOUND')
        assert.match(error.message + error.path, /no-such-node/)
      }))

    test(`${name}: a file that is no such device`, (t) =>
      unchanged(t, () => {
        const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
        t.after(() => rmSync(directory, { recursive: true }))
        const file = join(directory, 'file')
        writeFileSync(file, 'no device')
        // An open of a FIFO waits for its other end.
        const heaps = join(directory, 'dma_heap')
        mkdirSync(join(heaps, 'folder'), { recursive: true })
        const fifo = join(heaps, 'fifo')
        if (needsCommand('mkfifo') === false) execFileSync('mkfifo', [fifo])
        const files = [file, directory, fifo, join(heaps, 'folder'), '/dev/null', '/dev/zero', '/dev/full', '']
        for (const wrong of files) {
          const code = codeOf(() => new MemoryManager({ backend: name, device: wrong }))
          assert.match(
            code,
            /^ERR_(DEVICE_NOT_FOUND|UNSUPPORTED|OUT_OF_RANGE|DEVICE_IO)$/,
            `${JSON.stringify(wrong)}: ${code}`,
          )
        }
      }))

    test(`${name}: a path with a zero byte in it`, (t) =>
      unchanged(t, () =>
        assert.match(
          codeOf(() => new MemoryManager({ backend: name, device: '/dev/null\0x' })),
          /^ERR_/,
        ),
      ))
  }

  test('the error on a machine without an NPU says so', { skip: hasNpu() && 'this machine has an NPU' }, (t) =>
    unchanged(t, () => {
      for (const name of ['rknpu', 'rknpu-heap']) {
        const error = refuses(() => new MemoryManager({ backend: name }), 'ERR_DEVICE_NOT_FOUND')
        assert.ok(error.hint, 'it says what to try')
      }
    }))

  test('the error for a node without permission has a remedy', { skip: withoutPermission }, () => {
    const { result } = runChild('no-permission.mjs')
    assert.equal(result.code, 'ERR_DEVICE_PERMISSION')
    assert.ok(result.hint)
    assert.ok(result.path)
  })
})

describe('importDmaBuf', () => {
  for (const [name, value] of NOT_NUMBERS) {
    test(`fd: ${name}`, (t) => unchanged(t, (manager) => refuses(() => manager.importDmaBuf(value), TYPE)))
  }
  for (const value of [-1, NaN, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, Infinity]) {
    test(`fd: ${value}`, (t) => unchanged(t, (manager) => refuses(() => manager.importDmaBuf(value), RANGE)))
  }
  for (const [name, value] of NOT_NUMBERS.filter(([, value]) => value !== undefined)) {
    test(`size: ${name}`, (t) =>
      unchanged(t, (manager, fd) => refuses(() => manager.importDmaBuf(fd, { size: value }), TYPE)))
  }
  for (const [name, value] of [
    ...NOT_SIZES, ['more than there is', 4 * MiB], ['2^53 - 1', 2 ** 53 - 1], ['4 GiB + 4096', 4 * GiB + 4096],
  ]) {
    test(`size: ${name}`, (t) =>
      unchanged(t, (manager, fd) => refuses(() => manager.importDmaBuf(fd, { size: value }), RANGE)))
  }

  test('descriptors that are no dma-buf', (t) =>
    unchanged(t, (manager) => {
      const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
      t.after(() => rmSync(directory, { recursive: true }))
      const file = join(directory, 'file')
      writeFileSync(file, Buffer.alloc(8192))
      for (const [path, flags] of [
        [file, 'r+'], [file, 'r'], ['/dev/null', 'r+'], ['/dev/zero', 'r+'], [directory, 'r'], ['/proc/self/mem', 'r'],
      ]) {
        const fd = openSync(path, flags)
        try {
          const code = codeOf(() => manager.importDmaBuf(fd, { size: 4096 }))
          assert.match(code, /^ERR_/, `${path} opened "${flags}" was taken for a dma-buf`)
        } finally {
          closeSync(fd)
        }
      }
    }))

  test('a descriptor that is closed', (t) =>
    unchanged(t, (manager) => assert.match(codeOf(() => manager.importDmaBuf(987_654, { size: 4096 })), /^ERR_/)))
})

describe('a disposed manager', () => {
  const CALLS = {
    allocateNPUMemory: [[4096], ['nonsense'], []],
    allocateSystemMemory: [[4096], [NaN], [4096, null]],
    deallocateNPUMemory: [[new ArrayBuffer(8)], []],
    deallocateSystemMemory: [[new ArrayBuffer(8)], []],
    deallocate: [[new ArrayBuffer(8)], [new SharedArrayBuffer(8)]],
    describe: [[new ArrayBuffer(8)], []],
    owns: [[new ArrayBuffer(8)], []],
    syncToDevice: [[new ArrayBuffer(8)], []],
    syncFromDevice: [[new ArrayBuffer(8)], []],
    exportDmaBuf: [[new ArrayBuffer(8)], []],
    importDmaBuf: [[0], [-1], [0, { colour: 1 }]],
    getNPUMemoryStats: [[]],
    getSystemMemoryStats: [[]],
    getMemoryStats: [[]],
    getMemoryUsage: [[]],
  }
  for (const [verb, argumentLists] of Object.entries(CALLS)) {
    test(`${verb} fails before it reads its arguments`, () => {
      const manager = new MemoryManager({ backend, device })
      manager.dispose()
      for (const args of argumentLists) refuses(() => manager[verb](...args), 'ERR_MANAGER_DISPOSED')
    })
  }

  test('its buffers are freed, also for another manager', (t) => {
    const manager = new MemoryManager({ backend, device })
    const buffer = manager.allocateNPUMemory(4096)
    manager.dispose()
    assert.equal(buffer.byteLength, 0)
    refuses(() => manager.deallocate(buffer), 'ERR_MANAGER_DISPOSED')
    refuses(() => open(t).deallocate(buffer), 'ERR_BUFFER_FREED')
  })
})

test('methods refuse a receiver that is no manager', (t) => {
  const { allocateNPUMemory, dispose, getMemoryStats } = MemoryManager.prototype
  for (const target of [undefined, null, {}, Object.create(open(t))]) {
    for (const method of [allocateNPUMemory, dispose, getMemoryStats]) {
      assert.throws(() => Reflect.apply(method, target, [4096]), TypeError)
    }
  }
})

test('tampered buffers do not deceive the library', () => {
  const { result } = runChild('tampered.mjs')
  assert.deepEqual(result, { wrong: [], live: 0 })
})

/** Runs `call(manager, fd)` and asserts that it changes no figure and leaves no memory. */
function unchanged(t, call, options) {
  const manager = open(t, options)
  const fd = call.length > 1 ? borrowFd(t) : -1
  const before = ledger(manager)
  call(manager, fd)
  assertNothingLeft(manager)
  assertLedger(manager, before)
}

/** Exports a dma-buf of 64 KiB from another manager. */
function borrowFd(t) {
  const owner = open(t)
  const { fd } = owner.exportDmaBuf(owner.allocateNPUMemory(64 * KiB))
  t.after(() => closeSync(fd))
  return fd
}

function firstArgument(verb, fd) {
  return verb === 'importDmaBuf' ? fd : 4096
}

/** `true` and `'try'` are both allowed, so any other string or boolean is a value out of range and not a wrong type. */
function hugePagesType(option, value) {
  return option === 'hugePages' && typeof value === 'boolean' ? RANGE : undefined
}

function codeOf(call) {
  try {
    call()
  } catch (error) {
    assert.ok(error instanceof MemoryError, `not a MemoryError: ${error.stack}`)
    return error.code
  }
  return 'accepted'
}

function contents(buffer) {
  const view = ArrayBuffer.isView(buffer) ? buffer : new Uint8Array(buffer)
  return [view.byteLength, Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString('hex')]
}

function revokedProxy() {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

function hasNpu() {
  return !simulated || probeDevices().some(({ backend }) => backend.startsWith('rknpu'))
}

function shown(value) {
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'object' && value !== null) return JSON.stringify(value)
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}
