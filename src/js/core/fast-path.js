'use strict'

// The functions of the native part that take no arguments: a request and its answer lie in one shared buffer
// (`src/node/fast_path.rs`). A call without arguments costs a fraction of one with three numbers.

const native = require('./binding.js')

const calls = native.fastCalls()

const numbers = new Float64Array(calls.buffer)
const words = new Int32Array(calls.buffer)

/** Counts the warnings and due samples of this process: it changes when `Notifications.poll` has something to do. */
const notifications = new Uint32Array(calls.notifications)

/** Counts the turns of the event loop in which freed slices wait (`allocation/waits.js`). */
const turns = new Uint32Array(calls.turns)

// Places in `numbers`: a request, and the answer to `allocate`.
const [POOL, SIZE, ALIGNMENT, ADDRESS, DEVICE_ADDRESS, ID] = [0, 1, 2, 3, 4, 7]
// Places in `words`: the name of a slice.
const [CHUNK, CHUNK_GENERATION, SLOT, SLOT_GENERATION] = [10, 11, 12, 13]
// Places in `words`: the options of `allocateWith`, and the answer of `isLive`.
const [TAG, FLAGS] = [16, 17]

module.exports = {
  ADDRESS,
  ALIGNMENT,
  CHUNK,
  CHUNK_GENERATION,
  DEVICE_ADDRESS,
  FLAGS,
  ID,
  POOL,
  SIZE,
  SLOT,
  SLOT_GENERATION,
  TAG,
  allocate: calls.allocate,
  allocateWith: calls.allocateWith,
  free: calls.free,
  isLive: calls.isLive,
  notifications,
  numbers,
  turns,
  words,
}
