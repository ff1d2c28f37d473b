// Compiles the JavaScript and TypeScript blocks of README.md and docs/, in strict mode. Names that a page does not
// define are the reader's own: the prelude declares them. Part of `npm run test:types`.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import ts from 'typescript'

const root = fileURLToPath(new URL('../..', import.meta.url))
const documents = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'))
const pages = ['README.md', ...documents.map((name) => `docs/${name}`)]
/** Its blocks configure bundlers, and use nothing of the package. */
const FOREIGN = new Set(['docs/bundlers.md'])

const PRELUDE = `
import * as api from '@rkllmjs/memory'
declare global {
  const MemoryManager: typeof api.MemoryManager, DmaBufInbox: typeof api.DmaBufInbox
  const SimulatedNPU: typeof api.SimulatedNPU
  const closeDmaBuf: typeof api.closeDmaBuf, sendDmaBuf: typeof api.sendDmaBuf
  const diffSnapshots: typeof api.diffSnapshots, replayEventLog: typeof api.replayEventLog
  const estimateModelMemory: typeof api.estimateModelMemory, planModels: typeof api.planModels
  const measureModel: typeof api.measureModel
  const explainAll: typeof api.explainAll, explainError: typeof api.explainError
  const probeDevices: typeof api.probeDevices
  const memory: api.MemoryManager, manager: api.MemoryManager, kv: api.MemoryPool, pool: api.MemoryPool
  const buffer: ArrayBuffer, token: api.SharedBufferToken, before: api.MemorySnapshot, device: api.DeviceInfo
  const tokens: number[], ids: number[], keys: number[], csv: string, handle: bigint
  const worker: import('node:worker_threads').Worker, http: typeof import('node:http')
  const client: typeof import('prom-client'), registry: import('prom-client').Registry
  const log: any
  const library: string, session: api.InferenceBuffers, param: bigint, infer: bigint, callback: bigint
  const kvCache: { shrink(share: number): void }
  function rkllm_run(handle: bigint, input: bigint, param: bigint, userdata: null): number
  function rkllm_run_async(handle: bigint, input: bigint, param: bigint, userdata: bigint): number
  function rkllm_init(handle: bigint, param: bigint, callback: bigint): number
  interface Engine { generate(prompt: string): Promise<string>; close(): Promise<void> }
  function openChat(options: { domain: number | null; signal: AbortSignal }): Promise<Engine>
  function openSpeech(): Promise<Engine>
  function runOnNpu(address: bigint): void
  function handleRequests(): Promise<void>
}
`

/** Virtual files, by path: one for each block. */
const files = new Map([[join(root, 'docs-prelude.mts'), PRELUDE]])
for (const page of pages.filter((name) => !FOREIGN.has(name))) {
  const text = readFileSync(join(root, page), 'utf8')
  for (const { 1: language, 2: code, index } of text.matchAll(/^```(js|ts)\n([^]*?)^```/gm)) {
    const line = text.slice(0, index).split('\n').length
    const name = `${page.replaceAll('/', '-')}-${line}.${language === 'js' ? 'cjs' : 'cts'}`
    // Statements stay on the lines of the page, so that an error names them.
    const blank = '\n'.repeat(line - 1)
    files.set(join(root, name), `${blank}async () => {\n${code}}\n${language === 'ts' ? 'export {}\n' : ''}`)
  }
}

const options = {
  allowJs: true, checkJs: true, strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'], module: ts.ModuleKind.NodeNext, noImplicitAny: false,
  resolveJsonModule: true,
  // Not "node": the package's types bring it.
  types: [],
}
const host = ts.createCompilerHost(options)
const { fileExists, readFile, getSourceFile } = host
host.fileExists = (path) => files.has(path) || fileExists(path)
host.readFile = (path) => files.get(path) ?? readFile(path)
host.getSourceFile = (path, ...rest) => {
  const text = files.get(path)
  return text === undefined ? getSourceFile(path, ...rest) : ts.createSourceFile(path, text, ...rest)
}
host.getCurrentDirectory = () => root

const program = ts.createProgram([...files.keys()], options, host)
const errors = ts.getPreEmitDiagnostics(program)
process.stderr.write(ts.formatDiagnostics(errors, host))
console.log(`${files.size - 1} blocks of ${pages.length} pages, ${errors.length} errors`)
if (errors.length > 0 || files.size < 20) process.exitCode = 1
