'use strict'

// Disposes managers that adopted shared memory when their thread ends.

/** @typedef {{ dispose(): void }} Disposable */
/** @typedef {WeakRef<Disposable>} Reference */

/** @type {Set<Reference>} Weak references to managers that adopted shared memory and are not disposed. */
const adopters = new Set()
const collected = new FinalizationRegistry((/** @type {Reference} */ reference) => adopters.delete(reference))
/** @type {WeakMap<Disposable, { keepPinned(): void }>} */
const hosts = new WeakMap()
let listening = false

/**
 * Disposes `manager` when this thread ends in order. After a teardown nothing is known of the thread's ArrayBuffers, so
 * that the adopted slices could not be reused while their pool lives.
 *
 * @param {Disposable} manager
 * @param {{ keepPinned(): void }} host the parts of the manager
 */
function disposeAtExit(manager, host) {
  // Deno runs a finalizer after the last ArrayBuffer over the memory, also across threads: it needs no exit hook.
  if (process.versions.deno !== undefined || hosts.has(manager)) return
  const reference = new WeakRef(manager)
  hosts.set(manager, host)
  adopters.add(reference)
  collected.register(manager, reference)
  if (listening) return
  listening = true
  process.once('exit', () => {
    for (const adopter of adopters) {
      const manager = adopter.deref()
      if (manager === undefined) continue
      hosts.get(manager)?.keepPinned()
      manager.dispose()
    }
  })
}

module.exports = { disposeAtExit }
