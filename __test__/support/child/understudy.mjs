// One or more lives of a model on the understudy, with the faults of the environment:
//   node understudy.mjs LIBRARY HEADER MODEL LIVES MODE
// The last line says what each step returned.

import { MemoryManager } from '../../../index.js'
import { loadRkllm } from '../rkllm.mjs'

const [path, header, file, lives, mode] = process.argv.slice(2)
const manager = new MemoryManager({ backend: 'simulated' })
const library = await loadRkllm(path, header)
const found = []
for (let life = 0; life < Number(lives); life++) {
  const session = manager.createInferenceBuffers({
    header, contextLength: 64, maxTokens: 16, hiddenSize: 8, vocabSize: 10, hiddenStates: { tokens: 16 },
  })
  const model = library.model(manager, session)
  const began = performance.now()
  const step = { init: model.init(session.param({ model: file })) }
  step.loadMs = performance.now() - began
  step.bytes = library.bytesOf(0)
  found.push(step)
  if (step.init === 0) {
    const started = performance.now()
    const reading = last(session.results())
    step.run = model.runAsync(session.promptInput('abc'), session.inferParam({ mode }))
    if (process.env.UNDERSTUDY_HANG_AT === undefined) {
      const { ended, tokens } = await reading
      Object.assign(step, { ended, tokens, runMs: performance.now() - started })
      step.afterRun = library.bytesOf(0)
      step.destroy = model.destroy()
      session.dispose()
    } else {
      step.abort = model.abort()
      step.running = model.isRunning()
      report()
      process.kill(process.pid, 'SIGKILL')
    }
  }
  step.after = library.bytesOf(0)
}
report()

function report() {
  console.log(JSON.stringify(found))
}

async function last(results) {
  let state
  let tokens = 0
  try {
    for await (const result of results) {
      state = result.state
      if (result.tokenId >= 0) tokens++
    }
  } catch (error) {
    return { ended: error.code, tokens }
  }
  return { ended: state, tokens }
}
