// Runs a model for its hidden states again and again on one session, with an understudy that keeps each output until
// the callback gives it back. The last line has what was held at the end and how far the process grew:
//   node --expose-gc flat-embeddings.mjs RUNS LIBRARY

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MemoryManager } from '../../../index.js'
import { loadRkllm } from '../rkllm.mjs'

const [HEADER, WIDTH, TOKENS] = ['1.3', 1024, 16]
const runs = Number(process.argv[2] ?? 500)
const folder = mkdtempSync(join(tmpdir(), 'flat-embeddings-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const file = join(folder, 'model')
writeFileSync(file, `RKLLM understudy model\nweights = 4096\nkv_per_token = 64\nscratch = 4096\nhidden = ${WIDTH}\n`)

const manager = new MemoryManager({ backend: 'simulated' })
const library = await loadRkllm(process.argv[3], HEADER)
const session = manager.createInferenceBuffers({
  header: HEADER, contextLength: 64, maxTokens: TOKENS, hiddenSize: WIDTH, hiddenStates: { tokens: TOKENS },
})
const model = library.model(manager, session)
if (model.init(session.param({ model: file })) !== 0) throw new Error('init failed')
const before = library.bytesOf(0)

/** Bytes of resident memory, once garbage is collected. */
const resident = () => {
  globalThis.gc?.()
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
}

let warm = 0
let wrong = 0
for (let run = 0; run < runs; run++) {
  // A fifth of the runs fills the caches of the engine and of the allocator.
  if (run === Math.ceil(runs / 5)) warm = resident()
  session.tokens.fill(run % 256)
  const results = session.results()
  if (model.runAsync(session.tokenInput(TOKENS), session.inferParam({ mode: 'hiddenStates' })) !== 0) wrong++
  for await (const { rows } of results) {
    if (rows === 0) continue
    const last = session.hiddenStates[(TOKENS - 1) * WIDTH]
    if (rows !== TOKENS || last !== (run % 256) + 1000 * (TOKENS - 1)) wrong++
  }
  while (model.isRunning()) await new Promise((resolve) => setImmediate(resolve))
}
const grown = resident() - warm
const kept = library.bytesOf(0) - before
model.destroy()
session.dispose()
const runtime = process.versions.bun ?? process.versions.deno ?? process.version
console.log(JSON.stringify({ runs, wrong, kept, grown, left: manager.getMemoryStats().liveAllocations, runtime }))
