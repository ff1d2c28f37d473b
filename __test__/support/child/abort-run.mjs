// Aborts a run whose first token is a quarter of an hour away, after a second run was asked for:
//   node abort-run.mjs LIBRARY MODEL
// The last line has the answers, and the states of the results.

import { MemoryManager } from '../../../index.js'
import { loadRkllm } from '../rkllm.mjs'

const [path, file] = process.argv.slice(2)
const manager = new MemoryManager({ backend: 'simulated' })
const session = manager.createInferenceBuffers({ header: '1.3', contextLength: 64, maxTokens: 16 })
const model = (await loadRkllm(path, '1.3')).model(manager, session)
model.init(session.param({ model: file, maxNewTokens: 40 }))
model.runAsync(session.promptInput('abc'), session.inferParam())
const second = model.runAsync(session.promptInput('abc'), session.inferParam())
const aborted = model.abort()
const found = []
for await (const { state } of session.results()) found.push(state)
console.log(JSON.stringify({ second, aborted, found, destroyed: model.destroy() }))
