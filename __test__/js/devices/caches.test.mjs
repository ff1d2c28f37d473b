/** Incoherent caches of the simulated device, and the search for missing syncs. */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'

import { MemoryManager, SimulatedNPU } from '../../../index.js'
import { backend, KiB, MiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

const skip = needsSimulated
const bytes = (length, value) => new Uint8Array(length).fill(value)

/** Opens a manager with incoherent caches, and its NPU. */
function incoherent(t, { simulated, ...options } = {}) {
  const memory = open(t, { simulated: { caches: 'incoherent', ...simulated }, ...options })
  return { memory, npu: new SimulatedNPU(memory) }
}

/** Collects the missing syncs that `call` causes. */
async function missing(memory, call) {
  const found = []
  const listen = (one) => found.push(one)
  memory.on('missingSync', listen)
  await call()
  await new Promise((resolve) => setImmediate(resolve))
  memory.off('missingSync', listen)
  return found
}

test('writes of either side reach the other one at a sync', { skip }, (t) => {
  const { memory, npu } = incoherent(t)
  const buffer = memory.allocateNPUMemory(MiB)
  const cpu = new Uint8Array(buffer)
  cpu.fill(1)
  assert.deepEqual(npu.read(buffer, 0, 200), bytes(200, 0))
  memory.syncToDevice(buffer, 0, 100)
  // Syncs of a range reach to the ends of its cache lines.
  assert.deepEqual(npu.read(buffer, 0, 200), Uint8Array.of(...bytes(128, 1), ...bytes(72, 0)))
  memory.syncToDevice(buffer)
  npu.write(buffer, new Float32Array([1.5]), MiB - 64)
  assert.notEqual(new Float32Array(buffer, MiB - 64, 1)[0], 1.5)
  memory.syncFromDevice(buffer, MiB - 64)
  assert.equal(new Float32Array(buffer, MiB - 64, 1)[0], 1.5)
  cpu.fill(2)
  memory.syncFromDevice(buffer)
  assert.equal(cpu[0], 1, 'an invalidate drops what was not synced')
})

test('asynchronous syncs do the same', { skip }, async (t) => {
  for (const cacheMaintenance of ['ranges', 'objects']) {
    const { memory, npu } = incoherent(t, { simulated: { cacheMaintenance }, slabs: {} })
    const [buffer, neighbour] = [memory.allocateNPUMemory(KiB), memory.allocateNPUMemory(KiB)]
    new Uint8Array(buffer).fill(3)
    await memory.syncToDeviceAsync(buffer)
    assert.deepEqual(npu.read(buffer), bytes(KiB, 3))
    npu.write(buffer, bytes(KiB, 4))
    const done = memory.syncFromDeviceAsync(buffer)
    new Uint8Array(neighbour).fill(5)
    await done
    assert.deepEqual(new Uint8Array(buffer), bytes(KiB, 4))
    assert.deepEqual(new Uint8Array(neighbour), bytes(KiB, 5), cacheMaintenance)
  }
})

test('coherent and uncached memory needs no syncs', { skip }, (t) => {
  for (const [caches, cacheable] of [['coherent', true], ['incoherent', false]]) {
    const memory = open(t, { simulated: { caches } })
    const npu = new SimulatedNPU(memory)
    const buffer = memory.allocateNPUMemory(4 * KiB, { cacheable })
    new Uint8Array(buffer).fill(6)
    assert.deepEqual(npu.read(buffer, 0, 4), bytes(4, 6))
    npu.write(buffer, bytes(4, 7))
    assert.deepEqual(new Uint8Array(buffer, 0, 4), bytes(4, 7))
  }
})

test('pools, slabs and compaction keep the bytes of both sides', { skip }, (t) => {
  for (const cacheMaintenance of ['ranges', 'objects']) {
    const { memory, npu } = incoherent(t, { simulated: { soc: 'rk3566', cacheMaintenance }, slabs: {} })
    assert.deepEqual(npu.read(memory.allocateNPUMemory(KiB)), bytes(KiB, 0), 'zeros reach the NPU')
    const pool = memory.createMemoryPool({ name: 'p', initialSize: 256 * KiB, maxSize: 256 * KiB, kind: 'npu' })
    const blocks = Array.from({ length: 64 }, () => pool.allocate(3000, { movable: true }))
    blocks.forEach((block, at) => {
      if (at % 2 === 0) return block.free()
      new Uint8Array(block.buffer).fill(at)
      if (at % 4 === 3) return undefined // written by the CPU and not synced yet
      memory.syncToDevice(block.buffer)
      npu.write(block.buffer, bytes(3000, at + 100)) // written by the NPU and not synced yet
      return undefined
    })
    assert.ok(pool.defragment().moves.length > 0)
    blocks.forEach((block, at) => {
      if (at % 2 === 0) return
      const value = at % 4 === 3 ? at : at + 100
      if (at % 4 === 3) memory.syncToDevice(block.buffer)
      else memory.syncFromDevice(block.buffer)
      assert.deepEqual(new Uint8Array(block.buffer), bytes(3000, value), `${cacheMaintenance}: CPU, ${at}`)
      assert.deepEqual(npu.read(block.buffer), bytes(3000, value), `${cacheMaintenance}: NPU, ${at}`)
    })
    memory.dispose()
  }
})

test('a zeroed slice is zero for the NPU too, after writes of either side', { skip }, (t) => {
  for (const simulated of [{ soc: 'rk3566' }, { cacheMaintenance: 'objects' }]) {
    const { memory, npu } = incoherent(t, { simulated })
    const pool = memory.createMemoryPool({ name: 'p', initialSize: 64 * KiB, kind: 'npu' })
    for (const movable of [false, false, true, true]) {
      const block = pool.allocate(4000, { zeroed: true, movable })
      assert.deepEqual(npu.read(block.buffer), bytes(4000, 0))
      assert.deepEqual(new Uint8Array(block.buffer), bytes(4000, 0))
      memory.syncToDevice(block.buffer)
      npu.write(block.buffer, bytes(4000, 9))
      block.free()
    }
    memory.dispose()
  }
})

test('another manager sees the same caches', { skip }, (t) => {
  const [one, other] = [incoherent(t), incoherent(t)]
  const buffer = one.memory.allocateNPUMemory(8 * KiB)
  const exported = one.memory.exportDmaBuf(buffer)
  const imported = other.memory.importDmaBuf(exported.fd)
  assert.equal(imported.byteLength, 8 * KiB)
  new Uint8Array(buffer).fill(8)
  assert.equal(new Uint8Array(imported)[0], 8, 'the CPU has one cache')
  one.memory.syncToDevice(buffer)
  assert.deepEqual(other.npu.read(imported), bytes(8 * KiB, 8))
  other.npu.write(imported, bytes(64, 9))
  one.memory.syncFromDevice(buffer)
  assert.deepEqual(new Uint8Array(imported, 0, 64), bytes(64, 9))
})

test('checkSync names the buffer and the place of each missing sync', { skip }, async (t) => {
  const { memory, npu } = incoherent(t, { debug: { checkSync: true } })
  const pool = memory.createMemoryPool({ name: 'kv', initialSize: 64 * KiB, kind: 'npu' })
  const input = memory.allocateNPUMemory(4 * KiB, { tag: 'tokens' })
  const block = pool.allocate(4 * KiB)
  const faults = async (call) => {
    const found = await missing(memory, call)
    for (const one of found) assert.match(one.place.split('\n')[0], /caches\.test\.mjs/, one.place)
    return found.map(({ fault, certain, offset, length, buffer: { tag, pool } }) => [
      ...[fault, certain, offset, length],
      tag ?? pool,
    ])
  }
  assert.deepEqual(await faults(() => npu.read(input)), [], 'nothing was written yet')
  new Uint8Array(input)[100] = 1
  assert.deepEqual(await faults(() => npu.read(input)), [['device-read-dirty', true, 64, 64, 'tokens']])
  const dropped = await missing(memory, () => memory.syncFromDevice(input))
  const { id } = memory.describe(input)
  assert.match(dropped[0].message, new RegExp(`^buffer ${id}, tag "tokens": syncFromDevice dropped`))
  assert.equal(dropped[0].fault, 'invalidated-dirty')
  new Uint8Array(block.buffer).fill(1)
  assert.deepEqual(await faults(() => npu.write(block.buffer, bytes(10, 2))), [
    ['device-wrote-dirty', true, 0, 64, 'kv'],
  ])
  memory.syncToDevice(block.buffer)
  npu.write(block.buffer, bytes(4 * KiB, 3))
  new Uint8Array(block.buffer)[5] = 4
  assert.deepEqual(await faults(() => memory.syncToDevice(block.buffer)), [['cleaned-stale', false, 0, 64, 'kv']])
  assert.deepEqual(
    await faults(async () => {
      new Uint8Array(input)[0] = 1
      await memory.syncFromDeviceAsync(input)
    }),
    [['invalidated-dirty', true, 0, 64, 'tokens']],
  )
  npu.write(input, bytes(128, 5))
  assert.deepEqual(await faults(() => memory.deallocate(input)), [['never-invalidated', false, 0, 128, 'tokens']])
})

test('a result that was never synced is reported at every way to free it, with the place', { skip }, async (t) => {
  const { memory, npu } = incoherent(t, { debug: { checkSync: true } })
  let made = 0
  const newPool = () => memory.createMemoryPool({ name: `p${++made}`, initialSize: 64 * KiB, kind: 'npu' })
  /** Writes one line of a result. */
  const written = (value) => {
    memory.syncToDevice(value)
    npu.write(value, bytes(64, 7))
    return value
  }
  const ways = {
    deallocate: () => memory.deallocate(written(memory.allocateNPUMemory(KiB))),
    deallocateNPUMemory: () => memory.deallocateNPUMemory(written(memory.allocateNPUMemory(KiB))),
    'block.free': () => written(newPool().allocate(KiB)).free(),
    'movable block.free': () => written(newPool().allocate(KiB, { movable: true })).free(),
    'deallocate(block)': () => memory.deallocate(written(newPool().allocate(KiB))),
    'pool.deallocate': () => {
      const pool = newPool()
      pool.deallocate(written(pool.allocateBuffer(KiB)))
    },
    'pool.reset': () => {
      const pool = newPool()
      written(pool.allocate(KiB))
      pool.reset()
    },
    'destroyMemoryPool, forced': () => {
      const pool = newPool()
      written(pool.allocate(KiB, { movable: true }))
      memory.destroyMemoryPool(pool, { force: true })
    },
    'session.dispose': () => {
      const buffers = memory.createInferenceBuffers({ contextLength: 4, hiddenSize: 8, vocabSize: 100, kind: 'npu' })
      written(buffers.logits)
      buffers.dispose()
    },
    'transfer, then deallocate': () => {
      const buffer = written(memory.allocateNPUMemory(KiB))
      memory.deallocate(typeof buffer.transfer === 'function' ? buffer.transfer() : buffer)
    },
    'deallocateWhen(buffer)': () => memory.deallocateWhen(written(memory.allocateNPUMemory(KiB)), Promise.resolve()),
    'deallocateWhen(block)': () => memory.deallocateWhen(written(newPool().allocate(KiB)), Promise.resolve()),
    'manager.dispose': () => {
      written(memory.allocateNPUMemory(KiB))
      memory.dispose()
    },
  }
  for (const [way, free] of Object.entries(ways)) {
    const found = await missing(memory, free)
    const faults = found.map(({ fault, certain, length }) => [fault, certain, length])
    assert.deepEqual(faults, [['never-invalidated', false, 64]], way)
    assert.match(found[0].place.split('\n')[0], /caches\.test\.mjs/, way)
  }
})

test('a refused free and a free beside other holders report nothing', { skip }, async (t) => {
  const { memory, npu } = incoherent(t, { debug: { checkSync: true } })
  const pool = memory.createMemoryPool({ name: 'p', initialSize: 64 * KiB, kind: 'npu' })
  const block = pool.allocate(KiB)
  npu.write(block.buffer, bytes(64, 7))
  block.pin()
  assert.deepEqual(await missing(memory, () => refuses(() => block.free(), 'ERR_BUFFER_BUSY')), [])
  block.unpin()
  assert.equal((await missing(memory, () => block.free())).length, 1)

  const other = incoherent(t).memory
  const buffer = memory.allocateNPUMemory(KiB)
  npu.write(buffer, bytes(64, 7))
  const held = other.adopt(memory.share(buffer))
  assert.deepEqual(await missing(memory, () => memory.deallocate(buffer)), [], 'the other holder may still sync')
  other.deallocate(held)
})

test('a program with all syncs causes no report', { skip }, async (t) => {
  for (const cacheMaintenance of ['ranges', 'objects']) {
    const { memory, npu } = incoherent(t, { simulated: { cacheMaintenance }, slabs: {}, debug: { checkSync: true } })
    const found = await missing(memory, () => {
      for (let round = 1; round < 20; round++) {
        const [input, output] = [memory.allocateNPUMemory(1000), memory.allocateNPUMemory(3000)]
        new Uint8Array(input).fill(round)
        memory.syncToDevice(input)
        npu.write(output, npu.read(input))
        memory.syncFromDevice(output)
        assert.deepEqual(new Uint8Array(output, 0, 1000), bytes(1000, round))
        memory.deallocate(input)
        memory.deallocate(output)
      }
    })
    assert.deepEqual(found, [], cacheMaintenance)
  }
})

test('without a listener a missing sync is a process warning, once a place', { skip }, async (t) => {
  const { memory, npu } = incoherent(t, { debug: { checkSync: true } })
  const buffer = memory.allocateNPUMemory(4 * KiB, { tag: 'prompt' })
  const warned = once(process, 'warning')
  for (let round = 1; round < 4; round++) {
    new Uint8Array(buffer).fill(round)
    npu.read(buffer)
  }
  const [warning] = await warned
  assert.equal(warning.code, 'RKLLM_MISSING_SYNC')
  assert.match(warning.message, /tag "prompt": the NPU read lines .*\(bytes 0 to 4095\); call syncToDevice/)
  assert.match(warning.message, /caches\.test\.mjs/)
  let more = 0
  const count = ({ code }) => (more += code === 'RKLLM_MISSING_SYNC' ? 1 : 0)
  process.on('warning', count)
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', count)
  assert.equal(more, 0)
})

test('wrong options and wrong uses are named', { skip }, (t) => {
  const error = refuses(() => open(t, { simulated: { caches: 'none' } }), 'ERR_OUT_OF_RANGE')
  assert.match(error.message, /simulated: caches is "none"; it must be one of "coherent", "incoherent"/)
  refuses(() => open(t, { simulated: { cacheMaintenance: 'lines' } }), 'ERR_OUT_OF_RANGE')
  refuses(() => open(t, { simulated: { cache: 'incoherent' } }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => open(t, { debug: { checkSync: 1 } }), 'ERR_INVALID_ARG_TYPE')
  const coherent = { simulated: { caches: 'coherent' }, debug: { checkSync: true } }
  assert.match(refuses(() => new MemoryManager({ backend, ...coherent }), 'ERR_OUT_OF_RANGE').message, /checkSync/)
  for (const value of [undefined, null, 5, {}]) refuses(() => new SimulatedNPU(value), 'ERR_INVALID_ARG_TYPE')
  const { memory, npu } = incoherent(t)
  const buffer = memory.allocateNPUMemory(4 * KiB)
  refuses(() => npu.read(buffer, 4 * KiB, 1), 'ERR_OUT_OF_RANGE')
  refuses(() => npu.write(buffer, bytes(2, 0), 4 * KiB - 1), 'ERR_OUT_OF_RANGE')
  refuses(() => npu.write(buffer, [1, 2]), 'ERR_INVALID_ARG_TYPE')
  refuses(() => npu.read(memory.allocateSystemMemory(10)), 'ERR_BUFFER_KIND')
  refuses(() => npu.read(new ArrayBuffer(8)), 'ERR_UNKNOWN_BUFFER')
  memory.deallocate(buffer)
  refuses(() => npu.read(buffer), 'ERR_BUFFER_FREED')
  memory.dispose()
  refuses(() => npu.read(buffer), 'ERR_MANAGER_DISPOSED')
  refuses(() => new SimulatedNPU(memory), 'ERR_MANAGER_DISPOSED')
})
