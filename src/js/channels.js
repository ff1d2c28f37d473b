'use strict'

// What this package tells whoever subscribes to `node:diagnostics_channel`: APM tools, loggers, tests.
//
// While nobody subscribes, a channel costs the test of `hasSubscribers`; messages are made only behind it. They are published when
// everything is done and consistent, so that a subscriber may call anything. One that throws breaks nothing here: the runtime
// reports it as an uncaught exception.

const { channel } = require('node:diagnostics_channel')

const channels = {
  allocate: channel('rkllm-memory:allocate'),
  free: channel('rkllm-memory:free'),
  fail: channel('rkllm-memory:fail'),
  warning: channel('rkllm-memory:warning'),
}

/** What a buffer is the buffer of: a block whose id is its address. Of a movable one it is `{ id, movable: true }`. */
const PLACED = Object.freeze({ movable: false })

/** Of a buffer, as `describe` has it; `block`: the MemoryBlock that it is the buffer of, if it is. */
function ofBuffer(manager, { kind, size, tag, pool, id, address }, block) {
  return { manager, kind, size, tag, pool, id: block ? (block.id ?? Number(address)) : id, movable: block?.movable ?? false }
}

/** Of a block that has no buffer. */
function ofBlock(manager, pool, { size, id, movable }, tag = null) {
  return { manager, kind: pool.kind, size, tag, pool: pool.name, id, movable }
}

/** Of a request that was refused. What is wrong with the call itself is the caller's affair, and no message. */
function ofRefusal(manager, { kind, size = null, tag = null, pool = null }, error) {
  return error?.code === undefined || error.code === 'ERR_INVALID_ARG_TYPE' ? null : { manager, kind, size, tag, pool, error }
}

module.exports = { PLACED, channels, ofBlock, ofBuffer, ofRefusal }
