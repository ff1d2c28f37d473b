/**
 * Runs a random program over the whole API. Arguments: seed, steps, options of the manager. Every live buffer keeps its
 * bytes, the counters agree with a model, and no memory is left at the end. Needs --expose-gc.
 */

import assert from 'node:assert/strict'
import { randomFill } from 'node:crypto'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { closeDmaBuf } from '../../../index.js'
import { open as openDevice, openFiles } from './open.mjs'

const [seed, steps] = process.argv.slice(2, 4).map(Number)
const options = JSON.parse(process.argv[4] ?? '{}')
const open = () => openDevice(options)
const canTransfer = typeof ArrayBuffer.prototype.transfer === 'function'

let state = seed >>> 0
const below = (limit) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * limit)
}
const pick = (list) => list[below(list.length)]

/** The model: buffer → { manager, kind, mark, group }. Imports and their origins are one group and share bytes. */
let live = new Map()
// Counts before the first manager: managers of one device share its descriptor.
await nextTurn()
const filesBefore = openFiles()
let managers = [open(), open()]
let nextMark = 1
/** { pool, manager, kind, name } */
let pools = []
/** Blocks without a buffer: block → its pool. `live` has the others, by their buffer. */
let blocks = new Map()
/** The promises of aborted allocations. */
let aborted = []
/** Number of buffers that only the collector can free. Some may already be freed. */
let adrift = 0

const write = (buffer, mark) => new Uint8Array(buffer).fill(mark)
const holds = (buffer, mark, offset = 0) => {
  const bytes = new Uint8Array(buffer, offset)
  return bytes[0] === mark && bytes[bytes.length >> 1] === mark && bytes[bytes.length - 1] === mark
}
/** ArrayBuffers made by transfer(): the library does not recognise them after a second transfer. */
const movedOnes = new WeakSet()
const rememberMoved = (buffer) => (movedOnes.add(buffer), buffer)
const add = (buffer, info) => live.set(buffer, info)
const take = () => (live.size ? pick([...live.keys()]) : undefined)

const actions = {
  async allocate() {
    const manager = pick(managers)
    const kind = pick(['npu', 'system'])
    const size = pick([1, 100, 4096, 5000, 65536, 300_000, 2_000_000])
    const options = { tag: pick([undefined, 'a', 'b']), alignment: pick([undefined, 64, 4096]) }
    const verb = kind === 'npu' ? pick(['allocateNPUMemory', 'allocateNPUMemoryAsync']) : 'allocateSystemMemory'
    const buffer = await manager[verb](size, options)
    assert.equal(buffer.byteLength, size)
    assert.ok(holds(buffer, 0), 'fresh memory is zero')
    const mark = 1 + (nextMark++ % 255)
    write(buffer, mark)
    add(buffer, { manager, kind, group: { mark } })
  },
  deallocate() {
    const buffer = take()
    if (!buffer) return
    const { manager, kind, pool, block } = live.get(buffer)
    live.delete(buffer)
    pick([
      () => manager.deallocate(buffer),
      ...(pool ? [() => pool.deallocate(buffer)] : []),
      ...(block && !block.freed && block.buffer === buffer ? [() => block.free(), () => pool.deallocate(block)] : []),
      () => manager.deallocate(new DataView(buffer)),
      () => (kind === 'npu' ? manager.deallocateNPUMemory(buffer) : manager.deallocateSystemMemory(buffer)),
    ])()
    assert.equal(buffer.byteLength, 0)
    assert.throws(() => manager.deallocate(buffer), { code: 'ERR_BUFFER_FREED' })
  },
  wrongManager() {
    const buffer = take()
    if (!buffer) return
    const other = managers.find((manager) => manager !== live.get(buffer).manager)
    assert.throws(() => other.deallocate(buffer), { code: 'ERR_UNKNOWN_BUFFER' })
  },
  wrongKind() {
    const buffer = take()
    if (!buffer) return
    const { manager, kind } = live.get(buffer)
    const verb = kind === 'npu' ? 'deallocateSystemMemory' : 'deallocateNPUMemory'
    assert.throws(() => manager[verb](buffer), { code: 'ERR_BUFFER_KIND' })
  },
  transfer() {
    const buffer = canTransfer && take()
    if (!buffer) return
    const info = live.get(buffer)
    live.delete(buffer)
    add(rememberMoved(buffer.transfer()), info)
    const code = movedOnes.has(buffer) ? 'ERR_UNKNOWN_BUFFER' : 'ERR_BUFFER_TRANSFERRED'
    assert.throws(() => info.manager.deallocate(buffer), { code })
  },
  transferAway() {
    const buffer = canTransfer && take()
    if (!buffer) return
    live.delete(buffer)
    adrift++
    buffer.transfer(pick([0, 10, buffer.byteLength + 1]))
  },
  async byob() {
    const buffer = take()
    if (!buffer) return
    const info = live.get(buffer)
    live.delete(buffer)
    const stream = new ReadableStream({ type: 'bytes', pull: ({ byobRequest }) => byobRequest.respond(1) })
    const { value } = await stream.getReader({ mode: 'byob' }).read(new Uint8Array(buffer))
    add(rememberMoved(value.buffer), info)
  },
  shareByFd() {
    const buffer = take()
    if (!buffer || live.get(buffer).kind !== 'npu') return
    const { manager, group } = live.get(buffer)
    const importer = pick(managers)
    const { fd, offset, size } = manager.exportDmaBuf(buffer)
    const twin = importer.importDmaBuf(fd, { offset, size })
    closeDmaBuf(fd)
    assert.equal(twin.byteLength, buffer.byteLength)
    assert.ok(holds(twin, group.mark))
    group.mark = 1 + (nextMark++ % 255)
    write(twin, group.mark)
    // An import of a slice outlives it, and then shows the writes of its next owner.
    if (!manager.describe(buffer).dedicated) return importer.deallocate(twin)
    add(twin, { manager: importer, kind: 'npu', group })
  },
  sync() {
    const buffer = take()
    if (!buffer || live.get(buffer).kind !== 'npu') return
    const offset = below(buffer.byteLength)
    live.get(buffer).manager.syncToDevice(buffer, offset)
    live.get(buffer).manager.syncFromDevice(buffer, offset, below(buffer.byteLength - offset + 1))
  },
  drop() {
    const buffer = take()
    if (!buffer) return
    live.delete(buffer)
    adrift++
  },
  freeUnderOperation() {
    const buffer = take()
    if (!buffer) return
    const { manager, group, kind } = live.get(buffer)
    // A slice may not be freed under an operation: its bytes are reused at once.
    const { pool, dedicated } = manager.describe(buffer)
    if (pool !== null || (kind === 'npu' && !dedicated)) return
    // The operation's writes would show in imports of the same memory.
    if ([...live.values()].some((other) => other.group === group && other !== live.get(buffer))) return
    live.delete(buffer)
    // Deno throws an uncatchable error when the buffer is freed before the fill ends.
    if (process.versions.deno === undefined) randomFill(new Uint8Array(buffer), () => {})
    try {
      manager.deallocate(buffer)
    } catch (error) {
      assert.equal(error.code, 'ERR_BUFFER_BUSY')
      adrift++
    }
  },
  async createPool() {
    if (pools.length > 5) return
    const manager = pick(managers)
    const [name, kind] = [`pool ${nextMark++}`, pick(['npu', 'system'])]
    const initialSize = pick([0, 4096, 10_000, 65536, 1_000_000])
    const options = {
      maxSize: Math.max(initialSize, pick([initialSize, 300_000, 8_000_000])) || 65536,
      chunkSize: pick([undefined, 64, 4096, 100_000]),
      blockSize: pick([undefined, undefined, 1000, 4096]),
      alignment: pick([undefined, 64, 256, 4096]),
      tag: pick([undefined, 'c']),
    }
    const request = { name, kind, initialSize, ...options }
    if (below(3) === 0) abort((signal) => manager.createMemoryPoolAsync({ ...request, signal }))
    const pool = await manager[pick(['createMemoryPool', 'createMemoryPoolAsync'])](request)
    pools.push({ manager, kind, name, pool })
    assert.throws(() => manager.createMemoryPool({ name, initialSize }), { code: 'ERR_POOL_EXISTS' })
  },
  async poolAllocate() {
    const one = pools.length && pick(pools)
    if (!one) return
    const { manager, kind, pool } = one
    const size = pick([1, 64, 100, 1000, 1024, 4096, 5000, 65536])
    const options = pick([
      undefined, undefined, { zeroed: true }, { tag: 'd' }, { alignment: 4096 }, { zeroed: true, alignment: 128 },
    ])
    const made = await within(
      pick([
        () => pool.allocate(size, options),
        () => pool.allocateBuffer(size, options),
        () => pool.allocate(size),
        () => pool.allocateAsync(size, options),
        () => manager.allocateFromPoolAsync(pool, size, options),
      ]),
    )
    if (made === undefined) return
    if (made instanceof ArrayBuffer) return mark(made, one, undefined, options?.zeroed)
    assert.deepEqual([made.size, made.freed], [size, false])
    blocks.set(made, one)
    if (below(3) === 0) mark(made.buffer, one, made, false)
    else if (kind === 'system') assert.equal(made.deviceAddress, null)
    else if (manager.device.iommu) assert.notEqual(made.deviceAddress, null)
  },
  readBlock() {
    const block = blocks.size && pick([...blocks.keys()])
    if (block) mark(block.buffer, blocks.get(block), block, false)
  },
  freeBlock() {
    const block = blocks.size && pick([...blocks.keys()])
    if (!block) return
    const { pool } = blocks.get(block)
    blocks.delete(block)
    block.pin()
    assert.throws(() => block.free(), { code: 'ERR_BUFFER_BUSY' })
    block.unpin()
    pick([() => block.free(), () => pool.deallocate(block)])()
    for (const use of [() => block.free(), () => block.pin(), () => pool.deallocate(block)])
      assert.throws(use, { code: 'ERR_BUFFER_FREED' })
  },
  dropBlock() {
    // From here on only the pool can free the block.
    const block = blocks.size && below(5) === 0 && pick([...blocks.keys()])
    if (!block) return
    blocks.delete(block)
    adrift++
  },
  wrongPool() {
    const buffer = take()
    const other = pools.find(({ pool }) => pool !== live.get(buffer)?.pool)
    if (buffer && other) assert.throws(() => other.pool.deallocate(buffer), { code: 'ERR_UNKNOWN_BUFFER' })
  },
  trim() {
    const one = pools.length && pick(pools)
    if (!one) return
    const before = one.pool.stats()
    const given = one.pool.trim()
    // A delay would end the delayed frees first.
    if (options.debug) return
    assert.equal(one.pool.stats().reserved, before.reserved - given)
    assert.equal(one.pool.stats().allocated, before.allocated)
  },
  resetPool() {
    const one = pools.length && below(4) === 0 && pick(pools)
    if (!one) return
    one.pool.reset()
    endSlices(one)
    assert.equal(one.pool.stats().liveAllocations, 0)
  },
  destroyPool() {
    const one = pools.length && below(4) === 0 && pick(pools)
    if (!one) return
    const { manager, pool, name } = one
    if (pool.stats().liveAllocations > 0)
      assert.throws(() => manager.destroyMemoryPool(name), { code: 'ERR_POOL_BUSY' })
    manager.destroyMemoryPool(pick([name, pool]), { force: true })
    endSlices(one)
    pools = pools.filter((other) => other !== one)
    assert.throws(() => pool.allocate(1), { code: 'ERR_POOL_DESTROYED' })
  },
  async turn() {
    await nextTurn()
  },
  async collect() {
    gc()
    await nextTurn()
  },
  async dispose() {
    if (below(20) > 0) return
    const manager = managers[0]
    const mine = [...live].filter(([, info]) => info.manager === manager).map(([buffer]) => buffer)
    const moved = mine.map((buffer) => buffer.byteLength)
    await pick([() => manager.dispose(), () => manager.disposeAsync()])()
    endBlocks(pools.filter((one) => one.manager === manager))
    pools = pools.filter((one) => one.manager !== manager)
    for (const [i, buffer] of mine.entries()) {
      live.delete(buffer)
      // dispose() does not know ArrayBuffers made by transfer(): they stay attached and read zeros.
      assert.ok(buffer.byteLength === 0 || (buffer.byteLength === moved[i] && holds(buffer, 0)))
    }
    managers = [managers[1], open()]
  },
}
const weighted = Object.entries(actions).flatMap(([name, act]) =>
  Array({ allocate: 5, poolAllocate: 8 }[name] ?? 1).fill(act),
)

for (let i = 0; i < steps; i++) {
  await pick(weighted)()
  if (i % 50 > 0) continue
  await Promise.all(aborted)
  aborted = []
  check()
}
check()
live = new Map()
blocks = new Map()
for (const manager of managers) manager.dispose()
pools = []
for (let i = 0; i < 20; i++) {
  gc()
  await nextTurn()
}
// A separate thread frees collected memory.
for (let i = 0; i < 1000 && filesLeft().length > 0; i++) await sleep(10)
const left = filesLeft()
managers = [open()]
const fresh = managers[0].getMemoryStats()
managers[0].dispose()
console.log(JSON.stringify({ steps, left, fresh: [fresh.liveAllocations, fresh.npuUsed, fresh.systemUsed] }))

function filesLeft() {
  return openFiles().filter((file) => !filesBefore.includes(file))
}

function check() {
  for (const [buffer, { manager, group }] of live) {
    assert.ok(holds(buffer, group.mark), 'a live buffer lost its bytes')
    assert.ok(manager.owns(buffer))
  }
  const counted = managers.reduce((sum, manager) => sum + manager.getMemoryStats().liveAllocations, 0)
  const known = live.size + blocks.size
  assert.ok(counted >= known && counted <= known + adrift, `${counted} live, ${known} known, ${adrift} adrift`)
  for (const one of pools) {
    const { reserved, allocated, requested, free, largestFree, liveAllocations } = one.pool.stats()
    assert.ok(reserved >= allocated && allocated >= requested && free === reserved - allocated && largestFree <= free)
    const mine =
      [...live.values()].filter(({ pool }) => pool === one.pool).length +
      [...blocks.values()].filter((of) => of === one).length
    assert.ok(liveAllocations >= mine && liveAllocations <= mine + adrift)
  }
  for (const manager of managers) {
    const { poolReserved, npuUsed, systemUsed } = manager.getMemoryStats()
    assert.ok(poolReserved <= npuUsed + systemUsed)
  }
}

/** Adds a slice with an exposed buffer to the model. */
function mark(buffer, { manager, kind, pool, name }, block, zeroed) {
  if (zeroed) assert.ok(holds(buffer, 0), 'zeroed memory is zero')
  assert.equal(manager.describe(buffer).pool, name)
  const group = { mark: 1 + (nextMark++ % 255) }
  write(buffer, group.mark)
  blocks.delete(block)
  add(buffer, { manager, kind, group, pool, block })
}

/** Starts an allocation and aborts it. */
function abort(start) {
  const controller = new AbortController()
  const reason = new Error('aborted')
  aborted.push(assert.rejects(start(controller.signal), (error) => error === reason))
  controller.abort(reason)
}

/** Returns the allocation, or undefined if the pool is full or too small. */
async function within(allocate) {
  try {
    return await allocate()
  } catch (error) {
    assert.match(error.code, /^ERR_(POOL_EXHAUSTED|OUT_OF_RANGE)$/, error.stack)
  }
}

/** Ends the slices of a pool that was reset or destroyed. */
function endSlices(one) {
  endBlocks([one])
  for (const [buffer, { pool, block }] of live) {
    if (pool !== one.pool) continue
    live.delete(buffer)
    assert.ok(buffer.byteLength === 0 || (movedOnes.has(buffer) && holds(buffer, 0)))
    if (block) assert.equal(block.freed, true)
  }
}

function endBlocks(ended) {
  for (const [block, one] of blocks) {
    if (!ended.includes(one)) continue
    blocks.delete(block)
    assert.equal(block.freed, true)
    assert.throws(() => block.free(), { code: 'ERR_BUFFER_FREED' })
  }
}

