/** Models of this process, and residencies of them. */

import { MiB, open } from './helpers.mjs'

/** A promise with its functions. */
export function deferred() {
  const parts = {}
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }))
  return parts
}

/** A model that counts its loads and unloads. */
export function counted(ramBytes = MiB, more = {}) {
  const counts = { loads: 0, unloads: 0 }
  return {
    counts,
    ramBytes,
    load: ({ name, domain }) => ({ name, domain, load: ++counts.loads }),
    unload: () => void counts.unloads++,
    ...more,
  }
}

/** A residency without the fields that only the test has. */
export function residency(t, models, options = {}) {
  const manager = open(t)
  const definitions = Object.entries(models).map(([name, { counts: _counts, ...definition }]) => [name, definition])
  const made = manager.createModelResidency({ models: Object.fromEntries(definitions), ...options })
  return Object.assign(made, { manager })
}

export const statsOf = (models, name) => models.stats().models.find((model) => model.name === name)
export const reservedFor = ({ manager }) =>
  manager.getMemoryUsage().reservations.reduce((sum, { size }) => sum + size, 0)
