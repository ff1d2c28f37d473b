// Keeps worker models busy until it is killed: worker-parent.mjs MODULE ARGS

import { MemoryManager } from '../../../index.js'

const [, , module, ...args] = process.argv
const memory = new MemoryManager({ backend: 'simulated' })
const worker = { module, args }
const models = memory.createModelResidency({
  models: { a: { ramBytes: 4096, worker }, b: { ramBytes: 4096, worker } },
})
console.log(JSON.stringify({ started: true }))
for (const name of ['a', 'b']) {
  models.use(name, async (model) => {
    console.log(JSON.stringify({ ready: name }))
    await model.hang()
  })
}
