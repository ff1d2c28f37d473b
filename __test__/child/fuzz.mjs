/**
 * A random program over the whole API, seeded by argv: whatever it does, every live buffer keeps its bytes, the counters agree with
 * a model, and nothing is left at the end. Needs --expose-gc.
 */

import assert from 'node:assert/strict'
import { randomFill } from 'node:crypto'
import { closeSync, readdirSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { open } from './open.mjs'

const [seed, steps] = process.argv.slice(2).map(Number)
const fds = () => readdirSync('/proc/self/fd').length
const canTransfer = typeof ArrayBuffer.prototype.transfer === 'function'

let state = seed >>> 0
const below = (limit) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * limit)
}
const pick = (list) => list[below(list.length)]

/** What must be: buffer → { manager, kind, mark, group }. Imports and their origins are one group and share their bytes. */
let live = new Map()
// Before the first manager: those of one device share its descriptor.
await nextTurn()
const fdsBefore = fds()
let managers = [open(), open()]
let nextMark = 1
/** Buffers that only the collector can free: the model no longer knows how many of them live. */
let adrift = 0

const write = (buffer, mark) => new Uint8Array(buffer).fill(mark)
const holds = (buffer, mark) => {
  const bytes = new Uint8Array(buffer)
  return bytes[0] === mark && bytes[bytes.length >> 1] === mark && bytes[bytes.length - 1] === mark
}
/** ArrayBuffers that the library never handed out: when they are moved on, it cannot know that they were its own. */
const movedOnes = new WeakSet()
const rememberMoved = (buffer) => (movedOnes.add(buffer), buffer)
const add = (buffer, info) => live.set(buffer, info)
const take = () => (live.size ? pick([...live.keys()]) : undefined)

const actions = {
  allocate() {
    const manager = pick(managers)
    const kind = pick(['npu', 'system'])
    const size = pick([1, 100, 4096, 5000, 65536, 300_000, 2_000_000])
    const options = { tag: pick([undefined, 'a', 'b']), alignment: pick([undefined, 64, 4096]) }
    const buffer = kind === 'npu' ? manager.allocateNPUMemory(size, options) : manager.allocateSystemMemory(size, options)
    assert.equal(buffer.byteLength, size)
    assert.ok(holds(buffer, 0), 'fresh memory is zero')
    const mark = 1 + (nextMark++ % 255)
    write(buffer, mark)
    add(buffer, { manager, kind, group: { mark } })
  },
  deallocate() {
    const buffer = take()
    if (!buffer) return
    const { manager, kind } = live.get(buffer)
    live.delete(buffer)
    pick([
      () => manager.deallocate(buffer),
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
    const { fd, size } = manager.exportDmaBuf(buffer)
    const twin = importer.importDmaBuf(fd, { size })
    closeSync(fd)
    assert.ok(holds(twin, group.mark))
    group.mark = 1 + (nextMark++ % 255)
    write(twin, group.mark)
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
    const { manager, group } = live.get(buffer)
    // The operation writes into memory that others may still see through an import: they must not mind.
    if ([...live.values()].some((other) => other.group === group && other !== live.get(buffer))) return
    live.delete(buffer)
    randomFill(new Uint8Array(buffer), () => {})
    try {
      manager.deallocate(buffer)
    } catch (error) {
      assert.equal(error.code, 'ERR_BUFFER_BUSY')
      adrift++
    }
  },
  async turn() {
    await nextTurn()
  },
  async collect() {
    gc()
    await nextTurn()
  },
  dispose() {
    if (below(20) > 0) return
    const manager = managers[0]
    const mine = [...live].filter(([, info]) => info.manager === manager).map(([buffer]) => buffer)
    const moved = mine.map((buffer) => buffer.byteLength)
    manager.dispose()
    for (const [i, buffer] of mine.entries()) {
      live.delete(buffer)
      // One that came out of transfer() is not known to dispose: it stays, and reads zeros.
      assert.ok(buffer.byteLength === 0 || (buffer.byteLength === moved[i] && holds(buffer, 0)))
    }
    managers = [managers[1], open()]
  },
}
const weighted = Object.entries(actions).flatMap(([name, act]) => Array(name === 'allocate' ? 5 : 1).fill(act))

for (let i = 0; i < steps; i++) {
  await pick(weighted)()
  if (i % 50 === 0) check()
}
check()
live = new Map()
for (const manager of managers) manager.dispose()
for (let i = 0; i < 20; i++) {
  gc()
  await nextTurn()
}
const fdsLeft = fds() - fdsBefore
managers = [open()]
const fresh = managers[0].getMemoryStats()
managers[0].dispose()
console.log(JSON.stringify({ steps, fdsLeft, fresh: [fresh.liveAllocations, fresh.npuUsed, fresh.systemUsed] }))

function check() {
  for (const [buffer, { manager, group }] of live) {
    assert.ok(holds(buffer, group.mark), 'a live buffer lost its bytes')
    assert.ok(manager.owns(buffer))
  }
  const counted = managers.reduce((sum, manager) => sum + manager.getMemoryStats().liveAllocations, 0)
  assert.ok(counted >= live.size && counted <= live.size + adrift, `${counted} live, ${live.size} known, ${adrift} adrift`)
}

