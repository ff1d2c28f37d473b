/** RKNN memory on the understudy of librknnrt: its counters say what the runtime holds, and what it was given. */

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'

import { MemoryManager, SimulatedNPU } from '../../../index.js'
import { RKNN_HEADERS, buildRknnUnderstudy } from '../../runtime/build.mjs'
import {
  KiB, MiB, assertNothingLeft, needsCommand, open, runtime,
} from '../../support/helpers.mjs'
import { loadRknn, writeRknnModel } from '../../support/rknn.mjs'

const noFfi = runtime === 'node' && !(await import('koffi').then(() => true, () => false)) && 'needs koffi'
const skip = needsCommand('cc') || noFfi
/** For tests that run contexts on threads of koffi. */
const needsThreads = runtime === 'node' ? skip : 'needs the threads of koffi'
const NEWEST = '2.1'

const folder = mkdtempSync(join(tmpdir(), 'rknn-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const model = (name, of) => {
  const path = join(folder, name)
  writeRknnModel(path, of)
  return path
}
/** Rows of 10 pixels in 16. */
const PIXELS = 'input = pixels uint8 nhwc 16 1 4 10 3'
const encoder = model('encoder', {
  weights: 256 * KiB, internal: 96 * KiB, tensors: [PIXELS, 'output = features float16 undefined 0 1 8 16'],
})
const detector = model('detector', {
  weights: 128 * KiB, internal: 224 * KiB,
  tensors: ['input = image uint8 nhwc 0 1 8 8 3', 'output = boxes int8 nchw 0 1 5 4 4'],
})
const large = model('large', {
  weights: 8 * MiB, internal: 32 * KiB, tensors: [PIXELS, 'output = y float32 undefined 0 1 4'],
})
const head = model('head', {
  weights: 4 * KiB, internal: 4 * KiB,
  tensors: ['input = features float16 undefined 0 1 8 16', 'output = logits float32 undefined 0 1 10'],
})

/** RKNN memory of `spec`, a library of its header, and `end`, which unloads and checks that nothing is left. */
async function begin(t, spec, options) {
  const manager = open(t, options)
  const header = spec.header ?? NEWEST
  const library = await loadRknn(buildRknnUnderstudy(header))
  library.reset()
  const rknn = manager.createRknnMemory(spec)
  const load = () => library.makeAll(rknn.load())
  const end = () => {
    library.makeAll(rknn.unload())
    const { contexts, memories, faults } = library.counts()
    assert.deepEqual({ contexts, memories, faults, state: rknn.state }, {
      contexts: 0, memories: 0, faults: 0, state: 'unloaded',
    })
    rknn.dispose()
    assert.equal(rknn.usage.total, 0)
    assertNothingLeft(manager)
  }
  return { manager, library, rknn, load, end }
}

/** The weights options that a header has. */
const weightsOf = (header) => [...(header === NEWEST ? ['file'] : []), 'manager', 'runtime']

for (const header of RKNN_HEADERS) {
  for (const weights of weightsOf(header)) {
    test(`${header}, weights: '${weights}': a model runs with every byte of its tensors`, { skip }, async (t) => {
      const models = [{ name: 'encoder', file: encoder, weights }]
      const { library, rknn, load, end } = await begin(t, { header, models })
      load()
      assert.equal(rknn.state, 'loaded')
      assert.match(rknn.runtime.api, /understudy/)
      const { weightBytes, scratchBytes, contexts } = rknn.models.encoder
      assert.deepEqual({ weightBytes, scratchBytes }, { weightBytes: 256 * KiB, scratchBytes: 96 * KiB })
      const [context] = contexts
      const { pixels } = context.inputs
      const { features } = context.outputs
      assert.deepEqual([pixels.dtype, pixels.dims, pixels.widthStride, pixels.bytes], ['uint8', [1, 4, 10, 3], 16, 192])
      assert.deepEqual(pixels.quantization, { scale: 0.5, zeroPoint: 4 })
      const { dtype, elements, bytes, quantization } = features
      assert.deepEqual([dtype, elements, bytes, quantization], ['float16', 128, 256, null])
      features.array.fill(0xffff)
      assert.equal(library.run(context), 0)
      assert.ok(features.array.every((value) => value <= 0xff), 'every element was written, the last too')
      end()
    })
  }
}

test('the input of a run is what was written, without the bytes between its rows', { skip }, async (t) => {
  const { library, rknn, load, end } = await begin(t, { models: [{ name: 'encoder', file: encoder }] })
  load()
  const [context] = rknn.models.encoder.contexts
  const { pixels } = context.inputs
  const image = Uint8Array.from({ length: 120 }, (_, at) => at + 1)
  const answers = []
  for (const between of [0, 99]) {
    pixels.array.fill(between)
    assert.equal(pixels.write(image), 120)
    assert.equal(pixels.array[48], 31, 'the second row begins at its stride')
    assert.equal(pixels.array[30], between, 'behind the first row nothing was written')
    assert.equal(library.run(context), 0)
    answers.push([...context.outputs.features.array])
  }
  assert.deepEqual(answers[0], answers[1])
  image[119]++
  pixels.write(image)
  assert.equal(library.run(context), 0)
  assert.notDeepEqual([...context.outputs.features.array], answers[0], 'the last byte of the input counts')
  end()
})

test('models that run one after another share one scratch of the largest', { skip }, async (t) => {
  const { library, rknn, load, end } = await begin(t, {
    models: [
      { name: 'encoder', file: encoder },
      { name: 'detector', file: detector },
    ],
  })
  load()
  assert.equal(library.counts().internalBytes, 224 * KiB, 'not the sum of 96 and 224 KiB')
  assert.equal(rknn.usage.scratch, 224 * KiB)
  for (const { contexts } of Object.values(rknn.models)) assert.equal(library.run(contexts[0]), 0)
  assert.equal(library.counts().inside, 0, 'the runtime allocated nothing')
  end()
})

test('the NPU sees what the CPU wrote before the load: models, and memory of the program', { skip }, async (t) => {
  const manager = new MemoryManager({ backend: 'simulated', simulated: { caches: 'incoherent' } })
  t.after(() => manager.dispose())
  const npu = new SimulatedNPU(manager)
  const library = await loadRknn(buildRknnUnderstudy(NEWEST))
  const file = readFileSync(encoder)
  const [buffer, scratch, features] = [file.length, 96 * KiB, 256].map((size) => manager.allocateNPUMemory(size))
  for (const [at, each] of [buffer, scratch, features].entries()) new Uint8Array(each).fill(at + 1)
  new Uint8Array(buffer).set(file)
  assert.notDeepEqual(Buffer.from(npu.read(buffer)), file)
  const outputs = { features: { memory: { buffer: features } } }
  const rknn = manager.createRknnMemory({ models: [{ name: 'm', buffer, scratchMemory: [scratch], outputs }] })
  library.makeAll(rknn.load())
  assert.deepEqual(Buffer.from(npu.read(buffer)), file)
  assert.ok(npu.read(scratch).every((byte) => byte === 2))
  assert.ok(npu.read(features).every((byte) => byte === 3))
  library.makeAll(rknn.unload())
  rknn.dispose()
})

test('groups of scratch are apart', { skip }, async (t) => {
  const { library, load, end } = await begin(t, {
    models: [
      { name: 'encoder', file: encoder, scratchGroup: 'a' },
      { name: 'detector', file: detector, scratchGroup: 'b' },
    ],
  })
  load()
  assert.equal(library.counts().internalBytes, (96 + 224) * KiB)
  end()
})

test('models that load apart share scratch memory of the program', { skip }, async (t) => {
  const manager = open(t)
  const library = await loadRknn(buildRknnUnderstudy(NEWEST))
  library.reset()
  const shared = manager.allocateNPUMemory(224 * KiB, { tag: 'scratch' })
  const loaded = [encoder, detector].map((file) => {
    const rknn = manager.createRknnMemory({ models: [{ name: 'm', file, scratchMemory: [shared] }] })
    library.makeAll(rknn.load())
    return rknn
  })
  assert.deepEqual(loaded.map(({ usage }) => usage.scratch), [0, 0])
  assert.equal(library.counts().internalBytes, 224 * KiB)
  for (const rknn of loaded) {
    assert.equal(library.run(rknn.models.m.contexts[0]), 0)
    library.makeAll(rknn.unload())
    rknn.dispose()
  }
  assert.equal(library.counts().faults, 0)
  assert.equal(shared.byteLength, 224 * KiB, 'it stays')
  manager.deallocate(shared)
  assertNothingLeft(manager)
})

test('in a residency, shared scratch and weights count once, and idle models go for others', { skip }, async (t) => {
  const manager = open(t)
  const library = await loadRknn(buildRknnUnderstudy(NEWEST))
  library.reset()
  const scratch = [1, 2, 3].map(() => manager.allocateNPUMemory(224 * KiB, { tag: 'scratch' }))
  const unload = (rknn) => {
    library.makeAll(rknn.unload())
    rknn.dispose()
  }
  const definition = (spec) => ({
    ramBytes: KiB,
    load: () => {
      const rknn = manager.createRknnMemory({ models: [{ name: 'm', scratchMemory: scratch, ...spec }] })
      try {
        library.makeAll(rknn.load())
      } catch (error) {
        unload(rknn)
        throw error
      }
      return rknn
    },
    unload,
  })
  const models = manager.createModelResidency({
    models: {
      detector: definition({ file: detector, contexts: ['0', '1', '2'] }),
      encoder: definition({ file: encoder, scratchMemory: scratch.slice(0, 1) }),
      large: definition({ file: large, scratchMemory: scratch.slice(0, 1) }),
    },
  })
  const run = (rknn) => rknn.models.m.contexts.map((context) => library.run(context))
  const { tags } = manager.getMemoryUsage()
  assert.equal(tags.scratch.used, 3 * 224 * KiB)
  assert.deepEqual(await models.use('detector', run), [0, 0, 0])
  assert.deepEqual(await models.use('encoder', run), [0])
  const both = manager.getMemoryUsage()
  const weights = statSync(detector).size + statSync(encoder).size
  const rest = both.tags.rknn.used - weights
  assert.ok(rest >= 0 && rest < 128 * KiB, `${rest} bytes of tensors, structs and whole pages beside the weights`)
  assert.equal(both.tags.scratch.used, 3 * 224 * KiB, 'models and contexts add nothing to it')

  manager.setMemoryLimits({ total: { max: both.total.taken + 8 * MiB } })
  assert.deepEqual(await models.use('large', run), [0], 'those that are idle make room')
  const left = models.stats().models.filter(({ state }) => state === 'ready').map(({ name }) => name)
  assert.ok(left.includes('large') && left.length < 3, left.join())
  await models.close()
  const { contexts, memories, faults } = library.counts()
  assert.deepEqual({ contexts, memories, faults }, { contexts: 0, memories: 0, faults: 0 })
  scratch.forEach((buffer) => manager.deallocate(buffer))
  assertNothingLeft(manager)
})

for (const contextsBy of ['duplicate', 'init']) {
  for (const weights of weightsOf(NEWEST).filter((one) => one !== 'runtime')) {
    const title = `three contexts by ${contextsBy} have one copy of weights '${weights}', and scratch of their own`
    test(title, { skip }, async (t) => {
      const { manager, library, rknn, load, end } = await begin(t, {
        models: [{ name: 'detector', file: detector, weights, contexts: ['0', '1', '2'], contextsBy }],
      })
      const names = load()
      assert.equal(names.filter((name) => name === 'rknn_init').length, contextsBy === 'init' ? 3 : 1)
      assert.equal(names.filter((name) => name === 'rknn_set_core_mask').length, 3)
      const { weightBytes, internalBytes, inside } = library.counts()
      assert.equal(weightBytes, weights === 'manager' ? 128 * KiB : 0)
      assert.equal(rknn.usage.weights, weights === 'manager' ? 128 * KiB : statSync(detector).size)
      assert.equal(internalBytes, 3 * 224 * KiB)
      assert.equal(inside, 0)
      const { contexts } = rknn.models.detector
      const outputs = contexts.map((context) => {
        context.inputs.image.array.fill(7)
        assert.equal(library.run(context), 0)
        return [...context.outputs.boxes.array]
      })
      assert.deepEqual(outputs[0], outputs[1])
      assert.deepEqual(outputs[1], outputs[2])
      assert.equal(new Set(contexts.map(({ outputs: { boxes } }) => boxes.address)).size, 3)
      assert.ok(manager.getMemoryUsage().tags.rknn.used >= rknn.usage.total)
      end()
    })
  }
}

/** Runs contexts on threads, all at the same time. Returns their results. */
async function runTogether(t, contexts) {
  const { default: koffi } = await import('koffi')
  const library = koffi.load(buildRknnUnderstudy(NEWEST))
  library.func('rknn_understudy_forget_runs', 'void', [])()
  process.env.UNDERSTUDY_RKNN_RUNS_MEET = String(contexts.length)
  t.after(() => delete process.env.UNDERSTUDY_RKNN_RUNS_MEET)
  const run = promisify(library.func('rknn_run', 'int', ['uint64_t', 'void *']).async)
  const results = await Promise.all(contexts.map(({ handle }) => run(handle, 0n)))
  delete process.env.UNDERSTUDY_RKNN_RUNS_MEET
  return results
}

test('contexts of one model run at the same time', { skip: needsThreads }, async (t) => {
  const models = [{ name: 'detector', file: detector, contexts: ['0', '1', '2'] }]
  const { rknn, load, end } = await begin(t, { models })
  load()
  const { contexts } = rknn.models.detector
  for (const [at, context] of contexts.entries()) context.inputs.image.array.fill(at)
  assert.deepEqual(await runTogether(t, contexts), [0, 0, 0])
  const outputs = contexts.map((context) => String(context.outputs.boxes.array))
  assert.equal(new Set(outputs).size, 3, 'each has the answer to its own input')
  end()
})

test('models of two groups run at the same time; those of one group would not', { skip: needsThreads }, async (t) => {
  for (const [groups, results, faults] of [[['a', 'b'], [0, 0], 0], [['a', 'a'], [-1, 0], 1]]) {
    const models = [encoder, detector].map((file, at) => ({ name: String(at), file, scratchGroup: groups[at] }))
    const { library, rknn, load } = await begin(t, { models })
    load()
    const contexts = models.map(({ name }) => rknn.models[name].contexts[0])
    assert.deepEqual((await runTogether(t, contexts)).sort(), results)
    assert.equal(library.counts().faults, faults)
    library.makeAll(rknn.unload())
    rknn.dispose()
  }
})

test('the peak of a load is at most 1.05 of the file', { skip }, async (t) => {
  const { manager, library, load, end } = await begin(t, { models: [{ name: 'large', file: large }] })
  load()
  const ours = manager.getNPUMemoryStats().peak + manager.getSystemMemoryStats().peak
  const peak = ours + library.counts().insidePeak
  assert.ok(peak <= 1.05 * statSync(large).size, `${peak} bytes of ${statSync(large).size}`)
  end()
})

test('weights of the manager: the runtime holds no second copy at any time', { skip }, async (t) => {
  const { library, load, end } = await begin(t, { models: [{ name: 'large', file: large, weights: 'manager' }] })
  load()
  const { insidePeak, weightBytes } = library.counts()
  assert.deepEqual({ insidePeak, weightBytes }, { insidePeak: 0, weightBytes: 8 * MiB })
  end()
})

test("a model's output is another model's input, over one dma-buf", { skip }, async (t) => {
  const { library, rknn, load, end } = await begin(t, {
    models: [
      { name: 'encoder', file: encoder },
      { name: 'head', file: head, inputs: { features: { memory: { from: ['encoder', 'features'] } } } },
    ],
  })
  load()
  const [first] = rknn.models.encoder.contexts
  const [second] = rknn.models.head.contexts
  assert.equal(first.outputs.features.address, second.inputs.features.address)
  const answers = [1, 2].map((pixel) => {
    first.inputs.pixels.array.fill(pixel)
    assert.equal(library.run(first), 0)
    assert.equal(library.run(second), 0)
    return second.outputs.logits.array[9]
  })
  assert.notEqual(answers[0], answers[1], 'the head reads what the encoder wrote')
  end()
})

test('tensors use memory that the program gives: a slice, and a part of one', { skip }, async (t) => {
  const manager = open(t)
  const library = await loadRknn(buildRknnUnderstudy(NEWEST))
  const pool = manager.createMemoryPool({ name: 'io', initialSize: 64 * KiB })
  const before = pool.allocate(4096)
  const block = pool.allocate(4096)
  const rknn = manager.createRknnMemory({
    models: [
      {
        name: 'encoder',
        file: encoder,
        inputs: { pixels: { memory: { buffer: block.buffer } } },
        outputs: { features: { dtype: 'float32', memory: { buffer: new Float32Array(block.buffer, 1024, 128) } } },
      },
    ],
  })
  library.makeAll(rknn.load())
  const [context] = rknn.models.encoder.contexts
  assert.equal(context.inputs.pixels.address, block.address)
  assert.equal(context.outputs.features.address, block.address + 1024n)
  const bytes = new Uint8Array(block.buffer).fill(0xee)
  assert.equal(library.run(context), 0)
  assert.ok(context.outputs.features.array instanceof Float32Array)
  assert.ok(context.outputs.features.array.every((value) => value >= 0 && value <= 255))
  assert.deepEqual([bytes[1023], bytes[1024 + 512]], [0xee, 0xee], 'and writes nothing beside it')
  library.makeAll(rknn.unload())
  rknn.dispose()
  assert.equal(block.freed, false, 'the memory of the program stays')
  before.free()
  block.free()
})

