// Leaves a loaded model behind, whose keep-alive has not ended: the process ends by itself.

import { MemoryManager } from '../../../index.js'

const memory = new MemoryManager({ backend: 'simulated' })
const models = memory.createModelResidency({ models: { chat: { ramBytes: 4096, load: () => ({}) } } })
await models.use('chat', () => 1)
console.log(JSON.stringify({ state: models.stats().models[0].state }))
