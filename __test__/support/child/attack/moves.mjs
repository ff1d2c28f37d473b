/** Attacks that move the bytes of a buffer, or refuse to. */

import assert from 'node:assert/strict'
import { MessageChannel, markAsUntransferable } from 'node:worker_threads'

import { can, fill, free, fresh, holds, leave, manager, node, quietly, SIZES, worker } from './tools.mjs'

export const moves = {
  transfer() {
    if (!can.transfer) return
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 1)
      const moved = buffer.transfer()
      assert.throws(() => manager.deallocate(buffer), { code: 'ERR_BUFFER_TRANSFERRED' })
      assert.ok(holds(moved, 1) && manager.owns(moved))
      const again = moved.transferToFixedLength()
      manager.deallocate(again)
      for (const gone of [buffer, again]) assert.throws(() => manager.deallocate(gone), { code: 'ERR_BUFFER_FREED' })
      // The manager has never seen this ArrayBuffer.
      assert.throws(() => manager.deallocate(moved), { code: 'ERR_UNKNOWN_BUFFER' })
    }
  },
  resizingTransfer() {
    if (!can.transfer) return
    const copies = []
    for (const size of SIZES) {
      for (const length of [0, 1, size - 1, size + 1, size * 2]) {
        const buffer = fresh(size)
        fill(buffer, 2)
        copies.push(quietly(() => buffer.transfer(length)))
        free(buffer)
        if (copies.at(-1)) free(copies.at(-1), 'ERR_UNKNOWN_BUFFER')
      }
    }
  },
  structuredClone() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 3)
      const clone = quietly(() => structuredClone(buffer, { transfer: [buffer] }))
      const copy = buffer.byteLength > 0 ? structuredClone(buffer) : undefined
      free(buffer)
      if (clone) assert.ok(clone.byteLength === 0 || holds(clone, 3))
      if (clone) free(clone, 'ERR_UNKNOWN_BUFFER')
      if (copy) assert.throws(() => manager.deallocate(copy), { code: 'ERR_UNKNOWN_BUFFER' })
      const { port1, port2 } = new MessageChannel()
      const second = fresh(size)
      quietly(() => port1.postMessage(second, [second]))
      free(second)
      port1.close()
      port2.close()
    }
  },
  async postMessage() {
    const echo = worker(`
      const { parentPort } = require('node:worker_threads')
      parentPort.on('message', (buffer) => {
        if (buffer === 'end') return process.exit(0)
        const bytes = new Uint8Array(buffer)
        bytes.fill(bytes[0] + 1)
        parentPort.postMessage(buffer, [buffer])
      })`)
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 4)
      const moved = can.transfer ? buffer.transfer() : buffer
      if (quietly(() => (echo.postMessage(moved, [moved]), true))) {
        const back = await echo.next()
        assert.ok(holds(back, 5))
        free(back, 'ERR_UNKNOWN_BUFFER')
      }
      free(moved, 'ERR_UNKNOWN_BUFFER')
      free(buffer)
    }
    echo.postMessage('end')
    await echo.ended
  },
  async byob() {
    for (const size of SIZES) {
      const stream = new ReadableStream({
        type: 'bytes',
        pull(controller) {
          const { view } = controller.byobRequest
          new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(6)
          controller.byobRequest.respond(view.byteLength)
        },
      })
      const reader = stream.getReader({ mode: 'byob' })
      const buffer = fresh(size)
      const { value } = await reader.read(new Uint8Array(buffer))
      assert.equal(value[0], 6)
      free(buffer)
      free(value.buffer, 'ERR_UNKNOWN_BUFFER')
      // Freed while the stream has it.
      const second = fresh(size)
      const pending = reader.read(new Uint8Array(second)).catch(() => {})
      free(second)
      await pending
      await reader.cancel()
    }
  },
  marked() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 7)
      markAsUntransferable(buffer)
      free(buffer)
      assert.ok(buffer.byteLength === 0 || holds(buffer, 7))
      if (can.transfer) quietly(() => buffer.transfer())
    }
    if (node >= 24) leave()
  },
}
