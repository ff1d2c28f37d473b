/** Exits in the middle of runs whose threads go on calling back: with process.exit, or by its end (`--natural`). */

import { MemoryManager } from '../../../index.js'
import { loadResultThread } from '../result-thread.mjs'

const thread = await loadResultThread(process.argv[2])
const manager = new MemoryManager({ backend: 'simulated' })
for (let at = 0; at < 4; at++) {
  const session = manager.createInferenceBuffers({ contextLength: 16, hiddenSize: 64, hiddenStates: { tokens: 2 } })
  const callbacks = session.callbacks({ ringBytes: at % 2 === 0 ? 1024 : 65536 })
  const results = session.results()
  thread.start(callbacks, { tokens: 1_000_000, hidden: [at % 2, 64] })
  await results.next()
}
console.log('{"running":true}')
if (process.argv[3] !== '--natural') process.exit(0)
