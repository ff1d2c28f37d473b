// A worker's module: a model on the understudy of librkllmrt. Arguments: the library, its header, the model's file.

import { MemoryManager } from '../../../index.js'
import { loadRkllm } from '../rkllm.mjs'

let library
let manager
let model
let session

export async function load({ domain, args: [path, header, file] }) {
  manager = new MemoryManager({ backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated' })
  library = await loadRkllm(path, header)
  session = manager.createInferenceBuffers({ header, contextLength: 64, maxTokens: 16, hiddenSize: 8, vocabSize: 10 })
  model = library.model(manager, session)
  const status = model.init(session.param({ model: file, maxNewTokens: 40, domain: domain ?? 0 }))
  if (status !== 0) throw new Error(`rkllm_init returned ${status}`)
}

export async function* generate(prompt) {
  const results = session.results()
  if (model.runAsync(session.promptInput(prompt), session.inferParam()) !== 0) throw new Error('rkllm_run_async failed')
  for await (const { text } of results) yield text
}

export const bytes = (domain) => library.bytesOf(domain ?? 0)

export function unload() {
  model.destroy()
  session.dispose()
  manager.dispose()
}
