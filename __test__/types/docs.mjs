// Compiles the JavaScript and TypeScript blocks of README.md and docs/, in strict mode, each with the names that
// earlier blocks of its page declare. Names that a page does not define are the reader's own: the prelude declares
// them. Part of `npm run test:types`.

import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

import ts from 'typescript'

import { codeBlocks, pages, root } from '../support/docs.mjs'

/** Its blocks configure bundlers, and use nothing of the package. */
const FOREIGN = new Set(['docs/bundlers.md'])

/** The functions and classes of the package. */
const chapters = join(root, 'src/js/types')
const types = readdirSync(chapters).map((name) => readFileSync(join(chapters, name), 'utf8'))
const declared = types.flatMap((text) => [...text.matchAll(/^export (?:function|class) (\w+)/gm)])
const exported = [...new Set(declared.map(([, name]) => name))]

const PRELUDE = `
import * as api from '@rkllmjs/memory'
declare global {
  const ${exported.map((name) => `${name}: typeof api.${name}`).join(', ')}
  const memory: api.MemoryManager, manager: api.MemoryManager, kv: api.MemoryPool, pool: api.MemoryPool
  const buffer: ArrayBuffer, token: api.SharedBufferToken, before: api.MemorySnapshot, device: api.DeviceInfo
  const tokens: number[], ids: number[], keys: number[], csv: string, handle: bigint
  const worker: import('node:worker_threads').Worker, http: typeof import('node:http')
  const client: typeof import('prom-client'), registry: import('prom-client').Registry
  const log: any, response: import('node:http').ServerResponse
  const library: string, session: api.InferenceBuffers, param: bigint, infer: bigint, callback: bigint
  const librknnrt: any, image: Uint8Array
  const kvCache: { shrink(share: number): void }
  function rkllm_run(handle: bigint, input: bigint, param: bigint, userdata: null): number
  function rkllm_run_async(handle: bigint, input: bigint, param: bigint, userdata: bigint): number
  function rkllm_init(handle: bigint, param: bigint, callback: bigint): number
  const models: api.ModelResidency<{ code: { worker: string } }>
  interface Engine { generate(prompt: string): Promise<string>; close(): Promise<void> }
  function openChat(options: { domain: number | null; signal: AbortSignal }): Promise<Engine>
  function openSpeech(): Promise<Engine>
  function runOnNpu(address: bigint): void
  function handleRequests(): Promise<void>
}
`

/** Virtual files, by path: one for each page and language. Each block stands inside the block before it. */
const files = new Map([[join(root, 'docs-prelude.mts'), PRELUDE]])
for (const page of pages.filter((name) => !FOREIGN.has(name))) {
  for (const language of ['js', 'ts']) {
    const blocks = codeBlocks.filter((block) => block.page === page && block.language === language)
    if (blocks.length === 0) continue
    const name = `${page.replaceAll('/', '-')}.${language === 'js' ? 'cjs' : 'cts'}`
    // Statements stay on the lines of the page, so that an error names them.
    let text = ''
    for (const { line, code } of blocks) {
      text += '\n'.repeat(line - 1 - text.split('\n').length) + `;(async () => {\n${code}`
    }
    files.set(join(root, name), `${text}${'})'.repeat(blocks.length)}\n${language === 'ts' ? 'export {}\n' : ''}`)
  }
}

const options = {
  allowJs: true, checkJs: true, strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'], module: ts.ModuleKind.NodeNext, noImplicitAny: false,
  resolveJsonModule: true, useUnknownInCatchVariables: false,
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
console.log(`${codeBlocks.length} blocks of ${pages.length} pages, ${errors.length} errors`)
if (errors.length > 0 || codeBlocks.length < 20) process.exitCode = 1
