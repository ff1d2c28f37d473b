// Destroys a model while another thread is inside rkllm_run, whose next token is a quarter of an hour away:
//   node destroy-during-run.mjs LIBRARY MODEL RESULT_THREAD
// The last line has the answers.

import { setImmediate as turn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'
import { loadResultThread } from '../result-thread.mjs'
import { loadRkllm } from '../rkllm.mjs'

const [path, file, threadPath] = process.argv.slice(2)
const manager = new MemoryManager({ backend: 'simulated' })
const thread = await loadResultThread(threadPath)
const library = await loadRkllm(path, '1.3')
const session = manager.createInferenceBuffers({ header: '1.3', contextLength: 64, maxTokens: 16 })
const model = library.model(manager, session)
const init = model.init(session.param({ model: file }))
const results = session.results()
const started = model.runElsewhere(thread, session.promptInput('abc'), session.inferParam())
while (!model.isRunning()) await turn()
const destroyed = model.destroy()
while (thread.running() > 0) await turn()
await results.return()
session.dispose()
console.log(JSON.stringify({ init, started, destroyed, left: library.bytesOf(0) }))
