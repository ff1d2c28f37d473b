/**
 * Loses pinned blocks in every way that JavaScript has. Prints, by way and class of block, what is wrong. Needs
 * --expose-gc.
 */

import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { MessageChannel, Worker } from 'node:worker_threads'

import { open } from './open.mjs'

const SIZE = 5000
const COUNT = 8
const classes = { plain: undefined, tag: { tag: 't' }, zeroed: { zeroed: true }, movable: { movable: true } }
const hasTransfer = typeof ArrayBuffer.prototype.transfer === 'function'
const manager = open()

async function collect(done = () => false, turns = 6) {
  for (let i = 0; i < turns && !done(); i++) {
    gc()
    await nextTurn()
  }
}

const quietly = (call) => {
  try {
    return call()
  } catch {
    return undefined
  }
}

/** Ends the ArrayBuffer of a block, or lets it go. */
const ways = {
  unread() {},
  read: (block) => void block.buffer,
  ...(hasTransfer && {
    transferred: (block) => void block.buffer.transfer(),
    shortened: (block) => void quietly(() => block.buffer.transfer(8)),
    emptied: (block) => void quietly(() => block.buffer.transfer(0)),
    fixed: (block) => void quietly(() => block.buffer.transferToFixedLength()),
  }),
  cloned: (block) => void quietly(() => structuredClone(block.buffer, { transfer: [block.buffer] })),
  posted(block) {
    const { port1, port2 } = new MessageChannel()
    quietly(() => port1.postMessage(block.buffer, [block.buffer]))
    port1.close()
    port2.close()
  },
  async byob(block) {
    const stream = new ReadableStream({ type: 'bytes', pull: (controller) => controller.byobRequest.respond(1) })
    await quietly(() => stream.getReader({ mode: 'byob' }).read(new Uint8Array(block.buffer)).catch(() => {}))
  },
  shared(block) {
    const token = quietly(() => manager.share(block.buffer))
    if (token !== undefined) manager.adopt(token)
  },
}

const wrong = []
for (const kind of ['system', 'npu']) {
  for (const [name, options] of Object.entries(classes)) {
    if (kind === 'npu' && name !== 'plain') continue // one class shows that the kind does not matter
    for (const [way, lose] of Object.entries(ways)) {
      const pool = manager.createMemoryPool({ name: 'p', kind, initialSize: 1 << 20 })
      const held = pool.allocate(SIZE, options)
      held.pin()
      const addresses = [held.address]
      await lose(held)
      await (async () => {
        for (let i = 1; i < COUNT; i++) {
          const block = pool.allocate(SIZE, options)
          block.pin()
          addresses.push(block.address)
          await lose(block)
        }
      })()
      await collect()
      const check = (call) => {
        try {
          call()
        } catch (error) {
          wrong.push(`${kind} ${name} ${way}: ${error.message}`)
        }
      }
      check(() => assert.equal(pool.stats().liveAllocations, COUNT, 'live'))
      check(() => {
        const others = Array.from({ length: 20 }, () => pool.allocate(SIZE).address)
        assert.deepEqual(addresses.filter((address) => others.includes(address)), [], 'reused')
      })
      // The block that the program kept works as before.
      check(() => {
        assert.deepEqual([held.freed, held.address], [false, addresses[0]], 'kept')
        assert.throws(() => held.free(), { code: /^ERR_BUFFER_(BUSY|TRANSFERRED)$/ })
        held.unpin()
        assert.throws(() => held.unpin(), { code: 'ERR_OUT_OF_RANGE' })
        assert.equal(held.freed, false, 'after unpin')
        if (way === 'shared') return
        held.free()
        assert.equal(held.freed, true)
        assert.equal(pool.stats().liveAllocations, COUNT - 1 + 20)
      })
      pool.reset()
      check(() => assert.equal(pool.stats().liveAllocations, 0, 'reset'))
      pool.allocate(SIZE, options).pin()
      manager.destroyMemoryPool(pool, { force: true })
    }
  }
}

// The collector frees a block once it is unpinned, also where its buffer went first.
for (const [name, options] of Object.entries(classes)) {
  const pool = manager.createMemoryPool({ name: 'q', initialSize: 1 << 20 })
  await (async () => {
    const block = pool.allocate(SIZE, options)
    block.pin()
    await (ways.transferred ?? ways.cloned)(block)
    await collect()
    block.unpin()
  })()
  await collect(() => pool.stats().liveAllocations === 0, 200)
  if (pool.stats().liveAllocations !== 0) wrong.push(`${name}: an unpinned block stays`)
  manager.destroyMemoryPool(pool, { force: true })
}

// A thread that ends while it has the bytes.
if (hasTransfer) {
  const pool = manager.createMemoryPool({ name: 'w', initialSize: 1 << 20 })
  const block = pool.allocate(SIZE)
  block.pin()
  const worker = new Worker(`require('node:worker_threads').parentPort.once('message', () => process.exit(0))`, {
    eval: true,
  })
  const moved = block.buffer.transfer()
  const ended = new Promise((resolve) => worker.once('exit', resolve))
  if (quietly(() => (worker.postMessage(moved, [moved]), true)) === undefined) worker.postMessage(null)
  await ended
  await collect()
  if (block.freed || pool.stats().liveAllocations !== 1) wrong.push('the end of a thread freed a pinned block')
  manager.destroyMemoryPool(pool, { force: true })
}

manager.dispose()
console.log(JSON.stringify({ wrong }))
