'use strict'

// Memory with holders in several threads.

const { invalid, shown } = require('../core/options.js')

/** Managers that have adopted something and are not disposed, weakly. */
const adopters = new Set()
const collected = new FinalizationRegistry((reference) => adopters.delete(reference))
const references = new WeakMap()
let listening = false

/**
 * Disposes `manager` when this thread ends in order. A thread that is torn down cannot say where its ArrayBuffers are: the places of
 * adopted slices would be out of use for as long as their pool lives.
 */
function disposeAtExit(manager) {
  // Deno's finalizers come for the last ArrayBuffer there is: they can say.
  if (process.versions.deno !== undefined || references.has(manager)) return
  const reference = new WeakRef(manager)
  references.set(manager, reference)
  adopters.add(reference)
  collected.register(manager, reference)
  if (listening) return
  listening = true
  process.once('exit', () => {
    for (const adopter of adopters) adopter.deref()?.dispose()
  })
}

/** The native token in what share() returned, here or in another thread. */
function tokenOf(token) {
  if (typeof token !== 'object' || token === null) throw invalid(`the token must be what share() returned, not ${shown(token)}`)
  const { token: name } = token
  if (typeof name !== 'string') throw invalid(`the token must be what share() returned; its token is ${shown(name)}`)
  return name
}

module.exports = { disposeAtExit, tokenOf }
