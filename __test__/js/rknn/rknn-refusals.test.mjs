/** RKNN memory: what is refused and when, failures of the runtime and what they leave, and the end. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { RKNN_HEADERS, buildRknnUnderstudy } from '../../runtime/build.mjs'
import {
  KiB, assertNothingLeft, fdsAtMost, needsCommand, open, openFds, refuses, rejects, runChild, runtime,
} from '../../support/helpers.mjs'
import { loadRknn, writeRknnModel } from '../../support/rknn.mjs'

const noFfi = runtime === 'node' && !(await import('koffi').then(() => true, () => false)) && 'needs koffi'
const skip = needsCommand('cc') || noFfi

const folder = mkdtempSync(join(tmpdir(), 'rknn-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const file = join(folder, 'model')
const TENSORS = ['input = pixels uint8 nhwc 16 1 4 10 3', 'output = features float16 nchw 0 1 5 4 4']
writeRknnModel(file, { weights: 64 * KiB, internal: 32 * KiB, tensors: TENSORS })
const MODEL = { name: 'm', file }

/** RKNN memory of `models` in a library of `header`. */
async function begin(t, models, { header = '2.1', ...others } = {}) {
  const manager = open(t)
  const library = await loadRknn(buildRknnUnderstudy(others.library ?? header))
  library.reset()
  const { library: _, ...spec } = { header, ...others }
  return { manager, library, rknn: manager.createRknnMemory({ models, ...spec }) }
}

test('a spec that cannot be is refused before anything is allocated', (t) => {
  const manager = open(t)
  const refused = [
    ['ERR_INVALID_ARG_TYPE', undefined, /needs a spec/],
    ['ERR_INVALID_ARG_TYPE', {}, /needs "models"/],
    ['ERR_INVALID_ARG_TYPE', { model: [] }, /did you mean "models"|no option "model"/],
    ['ERR_OUT_OF_RANGE', { models: [] }, /has 0 models/],
    ['ERR_OUT_OF_RANGE', { models: [MODEL], header: '2.3' }, /"2.3"/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ file }] }, /needs "name"/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ name: 'm' }] }, /"file" or "buffer"/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ ...MODEL, buffer: new ArrayBuffer(8) }] }, /not both/],
    ['ERR_OUT_OF_RANGE', { models: [{ ...MODEL, file: 'a\0b' }] }, /NUL/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ ...MODEL, wieghts: 'file' }] }, /no option "wieghts"/],
    ['ERR_OUT_OF_RANGE', { models: [MODEL, MODEL] }, /appears twice/],
    ['ERR_OUT_OF_RANGE', { models: [{ ...MODEL, weightsOf: 'other' }] }, /not before it/],
    ['ERR_OUT_OF_RANGE', { models: [{ ...MODEL, contexts: [] }] }, /0 entries/],
    ['ERR_OUT_OF_RANGE', { models: [{ ...MODEL, contexts: ['3'] }] }, /contexts\[0\]/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, weights: 'file' }], header: '2.0' }, /MODEL_BUFFER_ZERO_COPY/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, weights: 'runtime', scratch: 'manager' }], header: '1.4' }, /INTERNAL/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, weights: 'manager', scratch: 'runtime' }] }, /scratch memory is/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, sram: true, scratch: 'manager' }] }, /SRAM/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, sram: true, weights: 'runtime' }], header: '1.5.2' }, /ENABLE_SRAM/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ ...MODEL, shareSram: true }] }, /needs sram/],
    ['ERR_OUT_OF_RANGE', { models: [{ ...MODEL, scratchMemory: [] }] }, /0 buffers of scratchMemory for 1 contexts/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ ...MODEL, scratchMemory: [8] }] }, /scratchMemory\[0\]/],
    [
      'ERR_UNSUPPORTED',
      { models: [{ ...MODEL, scratch: 'runtime', scratchMemory: [new ArrayBuffer(8)] }] },
      /leave one/,
    ],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, flushInputs: false }], header: '1.6' }, /FLUSH_INPUT/],
    ['ERR_UNSUPPORTED', { models: [{ ...MODEL, contexts: ['all'] }], header: '1.6' }, /CORE_ALL/],
    ['ERR_INVALID_ARG_TYPE', { models: [{ ...MODEL, inputs: { pixels: { memory: {} } } }] }, /one of "buffer"/],
    [
      'ERR_INVALID_ARG_TYPE',
      { models: [{ ...MODEL, inputs: { pixels: { memory: { physical: 4096n } } } }] },
      /needs "address"/,
    ],
    [
      'ERR_INVALID_ARG_TYPE',
      { models: [{ ...MODEL, inputs: { pixels: { memory: { mbBlk: 8n, size: 8, address: 8n } } } }] },
      /"mbBlk" and "address"/,
    ],
    [
      'ERR_UNSUPPORTED',
      { models: [{ ...MODEL, contexts: ['0', '1'], outputs: { y: { memory: { buffer: new ArrayBuffer(8) } } } }] },
      /2 contexts would write/,
    ],
  ]
  for (const [code, spec, message] of refused) {
    const error = refuses(() => manager.createRknnMemory(spec), code)
    assert.match(`${error.message} ${error.hint}`, message)
  }
  assertNothingLeft(manager)
})

test('flags of rknn_init are those of the options', { skip }, async (t) => {
  const flags = async (options, header = '2.1') => {
    const { rknn } = await begin(t, [{ ...MODEL, ...options }], { header })
    const { value } = rknn.load().next()
    return value.args[3]
  }
  assert.equal(await flags({}), 0x10200)
  assert.equal(await flags({}, '2.0'), 0x10)
  assert.equal(await flags({ weights: 'runtime' }, '1.4'), 0)
  assert.equal(await flags({ weights: 'runtime', priority: 'low', sram: true, shareSram: true }), 0x1802)
  assert.equal(await flags({ flushInputs: false, flushOutputs: false, priority: 'medium' }), 0x1c201)
})

test('a name that the model does not have is found by the answer of the runtime', { skip }, async (t) => {
  const { rknn, library } = await begin(t, [{ ...MODEL, inputs: { pixel: { dtype: 'int8' } } }])
  const error = refuses(() => library.makeAll(rknn.load()), 'ERR_OUT_OF_RANGE')
  assert.match(`${error.message}: ${error.hint}`, /no input "pixel": it has "pixels"/)
  library.makeAll(rknn.unload())
  rknn.dispose()
  assert.equal(library.counts().contexts, 0)
})

test('memory that is a byte short is refused, with the figures; a byte more is taken', { skip }, async (t) => {
  const { manager, library } = await begin(t, [MODEL])
  const buffer = manager.allocateNPUMemory(4096)
  const load = (bytes) => {
    const inputs = { pixels: { memory: { buffer: new Uint8Array(buffer, 64, bytes) } } }
    const rknn = manager.createRknnMemory({ models: [{ ...MODEL, inputs }] })
    try {
      library.makeAll(rknn.load())
    } finally {
      library.makeAll(rknn.unload())
      rknn.dispose()
    }
  }
  const error = refuses(() => load(191), 'ERR_OUT_OF_RANGE')
  assert.deepEqual([error.requested, error.limit], [192, 191])
  load(192)
  const scratch = manager.createRknnMemory({ models: [{ ...MODEL, scratchMemory: [buffer] }] })
  const tooSmall = refuses(() => library.makeAll(scratch.load()), 'ERR_OUT_OF_RANGE')
  assert.deepEqual([tooSmall.requested, tooSmall.limit], [32 * KiB, 4096])
  library.makeAll(scratch.unload())
  scratch.dispose()
  const system = manager.allocateSystemMemory(4096)
  const other = { pixels: { memory: { buffer: system } } }
  const rknn = manager.createRknnMemory({ models: [{ ...MODEL, inputs: other }] })
  refuses(() => library.makeAll(rknn.load()), 'ERR_BUFFER_KIND')
  library.makeAll(rknn.unload())
  rknn.dispose()
  manager.deallocate(system)
  manager.deallocate(buffer)
  assert.equal(library.counts().faults, 0)
  assertNothingLeft(manager)
})

test('an input of another type than the output that it reads is refused', { skip }, async (t) => {
  const from = ['m', 'features']
  const second = join(folder, 'second')
  writeRknnModel(second, { tensors: ['input = x float32 nchw 0 1 5 4 4', 'output = y int8 undefined 0 1 4'] })
  const { rknn, library } = await begin(t, [MODEL, { name: 'n', file: second, inputs: { x: { memory: { from } } } }])
  const error = refuses(() => library.makeAll(rknn.load()), 'ERR_OUT_OF_RANGE')
  assert.match(error.message, /80 float32 as nchw.*80 float16 as nchw/)
  library.makeAll(rknn.unload())
  const answered = await begin(t, [
    { ...MODEL, outputs: { features: { dtype: 'float32' } } },
    { name: 'n', file: second, inputs: { x: { memory: { from } } } },
  ])
  answered.library.makeAll(answered.rknn.load())
  answered.library.makeAll(answered.rknn.unload())
})

test('the native layout has the bytes of its groups of channels', { skip }, async (t) => {
  const { rknn, library } = await begin(t, [{ ...MODEL, outputs: { features: { layout: 'native' } } }])
  library.makeAll(rknn.load())
  const { inputs, outputs } = rknn.models.m.contexts[0]
  assert.equal(outputs.features.format, 'nc1hwc2')
  assert.equal(outputs.features.bytes, 16 * 8 * 2, 'five channels take eight')
  assert.equal(library.run(rknn.models.m.contexts[0]), 0)
  assert.equal(outputs.features.array.at(-1), 0xa5a5, 'the last byte was written')
  refuses(() => outputs.features.write(outputs.features.array), 'ERR_OUT_OF_RANGE')
  refuses(() => outputs.features.write(new Uint16Array(80)), 'ERR_UNSUPPORTED')
  refuses(() => inputs.pixels.write(new Uint8Array(192)), 'ERR_OUT_OF_RANGE')
  refuses(() => inputs.pixels.write([1]), 'ERR_INVALID_ARG_TYPE')
  library.makeAll(rknn.unload())
  rknn.dispose()
  assert.equal(inputs.pixels.array.length, 0)
  refuses(() => inputs.pixels.write(new Uint8Array(120)), 'ERR_BUFFER_FREED')
})

test('models that share weights: one has them, the other says whose', { skip }, async (t) => {
  const bare = join(folder, 'bare')
  writeRknnModel(bare, { weights: 64 * KiB, internal: 8 * KiB, withWeights: false, tensors: TENSORS })
  const { rknn, library } = await begin(t, [MODEL, { name: 'small', file: bare, weightsOf: 'm' }])
  library.makeAll(rknn.load())
  assert.equal(library.run(rknn.models.small.contexts[0]), 0)
  assert.equal(library.counts().inside, 0)
  library.makeAll(rknn.unload())
  const alone = await begin(t, [{ name: 'small', file: bare, weights: 'manager' }])
  refuses(() => alone.library.makeAll(alone.rknn.load()), 'ERR_UNSUPPORTED')
  alone.library.makeAll(alone.rknn.unload())
})

test('a runtime of another header is refused after its first answer', { skip }, async (t) => {
  for (const [library, header] of [['1.6', '2.1'], ['1.4', '1.3']]) {
    const { rknn, library: calls } = await begin(t, [{ ...MODEL, weights: 'runtime' }], { library, header })
    const error = refuses(() => calls.makeAll(rknn.load()), 'ERR_UNSUPPORTED')
    assert.match(error.hint, /header of the runtime|is the runtime of the header/)
    calls.makeAll(rknn.unload())
    rknn.dispose()
  }
  const newer = await begin(t, [MODEL], { library: '2.1', header: '1.6' })
  newer.library.makeAll(newer.rknn.load())
  newer.library.makeAll(newer.rknn.unload())
})

test('the header is that of the library, and another is refused', { skip }, (t) => {
  const manager = open(t)
  const headerOf = (spec) => manager.createRknnMemory({ models: [{ ...MODEL, weights: 'runtime' }], ...spec }).header
  for (const header of RKNN_HEADERS) assert.equal(headerOf({ library: buildRknnUnderstudy(header) }), header)
  const library = (name, text) => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return path
  }
  // The text lies across two pieces.
  const far = library('far', `${'x'.repeat((1 << 18) - 40)}librknnrt version: 2.9.1 (429f97ae6b@2027)\0`)
  assert.equal(headerOf({ library: far }), '2.1')
  const two = library('two', 'librknnrt version: 2.3.2 \0librknnrt version: 1.6.0 \0')
  assert.equal(headerOf({ library: two, header: '1.6' }), '1.6')
  for (const [spec, code, message] of [
    [{ library: buildRknnUnderstudy('1.6'), header: '2.1' }, 'ERR_UNSUPPORTED', /header is 2.1, and .* 1.6.0: 1.6/],
    [{ library: two }, 'ERR_UNSUPPORTED', /does not say its version/],
    [{ library: library('old', 'librknnrt version: 1.2.0 ') }, 'ERR_UNSUPPORTED', /is version 1.2.0; 1.3 and later/],
    [{ library: library('format', 'librknnrt version: %s') }, 'ERR_UNSUPPORTED', /does not say/],
    [{ library: folder }, 'ERR_UNSUPPORTED', /is no runtime/],
    [{ library: join(folder, 'missing') }, 'ERR_DEVICE_IO', /does not exist/],
    [{ library: '' }, 'ERR_OUT_OF_RANGE', /must not be empty/],
  ]) {
    const error = refuses(() => headerOf(spec), code)
    assert.match(error.message, message)
  }
})

test('each failure of the runtime is a MemoryError, and unload undoes what was made', { skip }, async (t) => {
  const { manager, library } = await begin(t, [MODEL])
  const models = [MODEL, { name: 'n', file, contexts: ['0', '1'], weights: 'manager' }]
  const whole = manager.createRknnMemory({ models })
  const names = library.makeAll(whole.load())
  library.makeAll(whole.unload())
  whole.dispose()
  for (const failing of names.keys()) {
    const rknn = manager.createRknnMemory({ models })
    let at = 0
    const load = () => {
      for (const call of rknn.load()) {
        if (at++ === failing) call.done(call.returns === 'pointer' ? null : -4)
        else library.make(call)
      }
    }
    const error = refuses(load, names[failing].startsWith('rknn_create') ? 'ERR_DEVICE_IO' : 'ERR_OUT_OF_MEMORY')
    assert.match(error.message, new RegExp(`^${names[failing]} of the model "[mn]", context [01],`))
    assert.equal(rknn.state, 'loading')
    if (library.counts().contexts > 0) refuses(() => rknn.dispose(), 'ERR_BUFFER_BUSY')
    library.makeAll(rknn.unload())
    rknn.dispose()
    const { contexts, memories, faults } = library.counts()
    assert.deepEqual({ contexts, memories, faults }, { contexts: 0, memories: 0, faults: 0 }, names[failing])
    assertNothingLeft(manager)
  }
})

test('the runtime runs out of memory of its own', { skip, timeout: 60_000 }, async (t) => {
  process.env.UNDERSTUDY_RKNN_BYTES = '65536'
  t.after(() => delete process.env.UNDERSTUDY_RKNN_BYTES)
  const { rknn, library } = await begin(t, [{ ...MODEL, weights: 'runtime', scratch: 'runtime' }])
  if (runtime !== 'node') return // only Node's environment is that of C
  const error = refuses(() => library.makeAll(rknn.load()), 'ERR_OUT_OF_MEMORY')
  assert.match(error.message, /MALLOC_FAIL/)
})

test('a file that cannot be read', { skip }, async (t) => {
  const empty = join(folder, 'empty')
  writeFileSync(empty, '')
  for (const [path, code] of [
    [join(folder, 'none'), 'ERR_DEVICE_IO'],
    [folder, 'ERR_UNSUPPORTED'],
    [empty, 'ERR_OUT_OF_RANGE'],
  ]) {
    const { manager, library, rknn } = await begin(t, [{ name: 'm', file: path }])
    refuses(() => library.makeAll(rknn.load()), code)
    rknn.dispose()
    const other = manager.createRknnMemory({ models: [{ name: 'm', file: path }] })
    await rejects(library.makeAllAsync(other.loadAsync()), code)
    await other.disposeAsync()
    assertNothingLeft(manager)
  }
})

test('calls are data, each answered once and before the next', { skip }, async (t) => {
  const { rknn, library } = await begin(t, [MODEL])
  const calls = rknn.load()
  const { value: first } = calls.next()
  const { name, takes, returns, model, context } = first
  assert.deepEqual({ name, returns, model, context }, { name: 'rknn_init', returns: 'i32', model: 'm', context: 0 })
  assert.deepEqual(takes, ['pointer', 'pointer', 'u32', 'u32', 'pointer'])
  refuses(() => calls.next(), 'ERR_OUT_OF_RANGE')
  for (const wrong of [undefined, null, '0']) refuses(() => first.done(wrong), 'ERR_INVALID_ARG_TYPE')
  refuses(() => rknn.load().next(), 'ERR_BUFFER_BUSY')
  refuses(() => rknn.unload(), 'ERR_BUFFER_BUSY')
  refuses(() => rknn.dispose(), 'ERR_BUFFER_BUSY')
  library.make(first)
  refuses(() => first.done(0), 'ERR_OUT_OF_RANGE')
  library.makeAll(calls)
  assert.deepEqual(calls.next(), { done: true, value: undefined })
  refuses(() => rknn.load(), 'ERR_BUFFER_BUSY')
  library.makeAll(rknn.unload())
  assert.equal(rknn.models.m.contexts[0].handle, 0n)
  rknn.dispose()
  rknn.dispose()
  refuses(() => rknn.load(), 'ERR_BUFFER_FREED')
  refuses(() => rknn.unload(), 'ERR_BUFFER_FREED')
})

test('an iteration that is broken off goes on in unload, and unload in another unload', { skip }, async (t) => {
  const { rknn, library } = await begin(t, [MODEL])
  for (const call of rknn.load()) {
    library.make(call)
    if (call.name === 'rknn_set_internal_mem') break
  }
  const half = rknn.unload()
  library.make(half.next().value)
  half.return()
  assert.equal(rknn.state, 'unloading')
  library.makeAll(rknn.unload())
  const { contexts, memories, faults } = library.counts()
  assert.deepEqual({ contexts, memories, faults }, { contexts: 0, memories: 0, faults: 0 })
  rknn.dispose()
})

test('an asynchronous load makes the same calls, and an abort leaves what unload undoes', { skip }, async (t) => {
  const { manager, library, rknn } = await begin(t, [MODEL])
  const names = await library.makeAllAsync(rknn.loadAsync())
  const twin = manager.createRknnMemory({ models: [MODEL] })
  assert.deepEqual(names, library.makeAll(twin.load()))
  for (const one of [rknn, twin]) {
    library.makeAll(one.unload())
    await one.disposeAsync()
  }
  const controller = new AbortController()
  const aborted = manager.createRknnMemory({ models: [MODEL] })
  const load = async () => {
    for await (const call of aborted.loadAsync({ signal: controller.signal })) {
      library.make(call)
      if (call.name === 'rknn_query') controller.abort(new Error('enough'))
    }
  }
  await assert.rejects(load(), { message: 'enough' })
  library.makeAll(aborted.unload())
  await aborted.disposeAsync()
  const late = manager.createRknnMemory({ models: [MODEL] }).loadAsync({ signal: controller.signal })
  await assert.rejects(late.next(), { message: 'enough' })
  assertNothingLeft(manager)
})

test('the collector frees nothing while contexts exist, and closes what was dropped after them', { skip }, () => {
  const { result } = runChild('rknn-dropped.mjs', { flags: ['--expose-gc'], args: [file, buildRknnUnderstudy('2.1')] })
  assert.deepEqual(result, { run: 0, faults: 0, hasMemory: true, isFreed: true, descriptors: 0 })
})

test('descriptors are closed with the memory', { skip }, async (t) => {
  const { rknn, library } = await begin(t, [MODEL])
  const before = openFds()
  library.makeAll(rknn.load())
  assert.ok(openFds() > before)
  library.makeAll(rknn.unload())
  rknn.dispose()
  assert.equal(fdsAtMost(before), before)
})

test('the memory of a disposed manager ends quietly', { skip }, async (t) => {
  const { manager, rknn, library } = await begin(t, [MODEL])
  library.makeAll(rknn.load())
  library.makeAll(rknn.unload())
  manager.dispose()
  rknn.dispose()
  assert.equal(rknn.state, 'disposed')
  refuses(() => manager.createRknnMemory({ models: [MODEL] }), 'ERR_MANAGER_DISPOSED')
})

test('memory by its physical address, and blocks of the MPI', { skip }, async (t) => {
  const manager = open(t, { simulated: { soc: 'rk3568' } })
  const library = await loadRknn(buildRknnUnderstudy('2.1'))
  library.reset()
  const bytes = manager.allocateNPUMemory(4096)
  const { address, deviceAddress } = manager.describe(bytes)
  const blocks = manager.allocateSystemMemory(64)
  new BigUint64Array(blocks).set([address, 4096n])
  const mbBlk = manager.describe(blocks).address
  const rknn = manager.createRknnMemory({
    via: 'phys',
    models: [
      {
        ...MODEL,
        weights: 'manager',
        inputs: { pixels: { memory: { physical: deviceAddress, address, size: 192 } } },
        outputs: { features: { memory: { mbBlk, offset: 1024, size: 160 } } },
      },
    ],
  })
  const names = library.makeAll(rknn.load())
  assert.deepEqual(names.filter((name) => name.startsWith('rknn_create')).sort(), [
    'rknn_create_mem_from_mb_blk',
    ...Array(3).fill('rknn_create_mem_from_phys'),
  ])
  assert.equal(rknn.models.m.contexts[0].inputs.pixels.array, null)
  refuses(() => rknn.models.m.contexts[0].inputs.pixels.write(new Uint8Array(120)), 'ERR_UNSUPPORTED')
  assert.equal(library.run(rknn.models.m.contexts[0]), 0)
  library.makeAll(rknn.unload())
  rknn.dispose()
})
