/** Installed on other systems, where the package serves for its types, and says at load which systems it supports. */

import assert from 'node:assert/strict'
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import ts from 'typescript'

import { install, root as emulatedRoot } from '../kernel/packages.mjs'
import { arch, emptyFolder, MAIN, OWN_BINARY, root, startRegistry, version } from './support.mjs'

const { url } = await startRegistry()

const LOAD = `
  try {
    require('${MAIN}')
    console.log(JSON.stringify({ loaded: true }))
  } catch ({ name, code, message, hint }) {
    console.log(JSON.stringify({ name, code, message, hint }))
  }`

/** A module that makes this machine look like another one. */
const pretend = (platform, machine) => `
  for (const [name, value] of Object.entries({ platform: '${platform}', arch: '${machine}' }))
    Object.defineProperty(process, name, { value })`

const TYPED = `
  import { MemoryError, MemoryManager, type MemoryStats } from '${MAIN}'
  import memory = require('${MAIN}')
  const manager: MemoryManager = new memory.MemoryManager({ backend: 'simulated' })
  const buffer: ArrayBuffer = manager.allocateNPUMemory(4096, { tag: 'weights' })
  export const stats: MemoryStats = manager.getMemoryStats()
  export const revision: string | null = MemoryManager.buildInfo.revision
  export const isFull = (error: unknown): boolean => error instanceof MemoryError && error.code === 'ERR_OUT_OF_MEMORY'
  // @ts-expect-error the size is a number
  manager.allocateNPUMemory('4096')
  export { buffer }`

const { Node16, NodeNext, ESNext } = ts.ModuleKind
const { Node16: byNode16, NodeNext: byNodeNext, Bundler: byBundlers } = ts.ModuleResolutionKind
const TYPE_OPTIONS = {
  node16: [['usage.cts', 'usage.mts'], Node16, byNode16],
  nodenext: [['usage.cts', 'usage.mts'], NodeNext, byNodeNext],
  bundler: [['usage.ts'], ESNext, byBundlers],
}

/** The parsed types of TypeScript and Node are the same for all programs. */
const parsed = new Map()

/** Compiles programs in strict mode, by each of the named ways to resolve a module. */
function checkTypes(place, ways = Object.keys(TYPE_OPTIONS)) {
  for (const name of ['@types/node', 'undici-types'])
    cpSync(join(root, 'node_modules', name), join(place.folder, 'node_modules', name), { recursive: true })
  for (const name of ['usage.cts', 'usage.mts']) place.write(name, TYPED)
  place.write('usage.ts', TYPED.replace(/import memory = require\((.*)\)/, 'import memory from $1'))
  for (const way of ways) {
    const [files, module, moduleResolution] = TYPE_OPTIONS[way]
    const options = {
      module, moduleResolution, strict: true, noEmit: true, esModuleInterop: true, types: ['node'],
      target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
      // Checks the package's own types, and leaves out those of TypeScript.
      skipDefaultLibCheck: true,
    }
    const host = ts.createCompilerHost(options)
    const { getSourceFile } = host
    host.getSourceFile = (path, ...rest) => {
      if (!path.includes('/typescript/lib/')) return getSourceFile(path, ...rest)
      if (!parsed.has(path)) parsed.set(path, getSourceFile(path, ...rest))
      return parsed.get(path)
    }
    host.getCurrentDirectory = () => place.folder
    const program = ts.createProgram(files.map((name) => join(place.folder, name)), options, host)
    const errors = ts.getPreEmitDiagnostics(program)
    assert.equal(ts.formatDiagnostics(errors, host), '', way)
    const own = program.getSourceFiles().filter(({ fileName }) => fileName.includes('/@rkllmjs/memory/'))
    assert.ok(own.length > 10, `${way} reads the types of the installed package`)
  }
}

test('the types serve CommonJS, ECMAScript modules and bundlers', async () => {
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN])
  checkTypes(place)
})

for (const [platform, machine] of [['darwin', 'arm64'], ['win32', 'x64'], ['linux', 'arm'], ['linux', 'riscv64']]) {
  test(`${platform} on ${machine}: it installs without a binary, and says what it supports`, async () => {
    const place = emptyFolder(url)
    await place.script('npm', ['install', MAIN, `--os=${platform}`, `--cpu=${machine}`])
    assert.deepEqual(readdirSync(join(place.folder, 'node_modules/@rkllmjs')), ['memory'])
    // The lock file serves on the machines with a binary too.
    const { packages } = JSON.parse(readFileSync(join(place.folder, 'package-lock.json'), 'utf8'))
    for (const cpu of ['arm64', 'x64']) assert.ok(packages[`node_modules/${MAIN}-linux-${cpu}-gnu`])

    place.write('pretend.cjs', pretend(platform, machine))
    place.write('load.cjs', LOAD)
    const { stdout } = await place.node(['--require', './pretend.cjs', 'load.cjs'])
    const { code, message, hint } = JSON.parse(stdout)
    assert.equal(code, 'ERR_UNSUPPORTED')
    const reason = `no native part for ${platform}-${machine}: it exists for linux-arm64 and linux-x64`
    assert.ok(message.includes(reason), message)
    assert.match(hint, machine === 'arm' ? /64-bit system/ : /use Linux on arm64 or x64/)

    const command = join(place.folder, 'node_modules/@rkllmjs/memory/src/js/cli/main.js')
    await place.node(['--require', './pretend.cjs', command, '--help'])
    const bench = await place.node(['--require', './pretend.cjs', command, 'bench'], { status: 4 })
    assert.match(bench.stderr, /^rkllm-memory: .*no native part/)
    assert.doesNotMatch(bench.stderr, /^ +at /m)
  })
}

test('macOS: the types are there', async () => {
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN, '--os=darwin', '--cpu=arm64'])
  checkTypes(place, ['node16'])
})

test('Alpine: npm installs no binary, and the error names musl', async () => {
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN, '--libc=musl'])
  assert.ok(!existsSync(join(place.folder, 'node_modules', OWN_BINARY)))
  // Alpine has the loader of musl, and none of glibc.
  place.write('pretend.cjs', `
    const fs = require('node:fs')
    const { existsSync } = fs
    fs.existsSync = (path) => {
      if (/ld-musl-/.test(path)) return true
      return !/ld-linux-/.test(path) && existsSync(path)
    }`)
  place.write('load.cjs', LOAD)
  const { stdout } = await place.node(['--require', './pretend.cjs', 'load.cjs'])
  const { code, message, hint } = JSON.parse(stdout)
  assert.equal(code, 'ERR_UNSUPPORTED')
  assert.match(message, /musl \(Alpine\).* needs glibc 2\.28/)
  assert.match(hint, /bookworm-slim/)
})

/** Uses NPU memory, a pool and a refusal, and prints what the native part says of itself. */
const WORKLOAD = `
  const { MemoryManager } = require('${MAIN}')
  const memory = new MemoryManager({ backend: 'simulated' })
  memory.setMemoryLimits({ npu: { max: 1 << 20 } })
  const bytes = new Uint8Array(memory.allocateNPUMemory(65536))
  bytes.fill(7)
  const block = memory.createMemoryPool({ name: 'p', initialSize: 65536 }).allocate(4096)
  const sum = bytes.reduce((a, b) => a + b) + new Uint8Array(block.buffer).length
  let code
  try {
    memory.allocateNPUMemory(2 << 20)
  } catch (error) {
    code = error.code
  }
  memory.dispose()
  console.log(JSON.stringify({ sum, code, target: MemoryManager.buildInfo.target, version: MemoryManager.version }))`

test('the other processor: npm picks its binary alone, and under emulation it works', async () => {
  const other = arch === 'x64' ? 'arm64' : 'x64'
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN, '--os=linux', `--cpu=${other}`, '--libc=glibc'])
  const names = readdirSync(join(place.folder, 'node_modules/@rkllmjs')).sort()
  assert.deepEqual(names, ['memory', `memory-linux-${other}-gnu`])
  if (other !== 'arm64') return

  install({ 'qemu-aarch64-static': ['qemu-user-static'] })
  const system = emulatedRoot(other)
  place.write('workload.cjs', WORKLOAD)
  const emulator = ['/usr/bin/qemu-aarch64-static', '-L', system, join(system, 'bin/node')]
  const { stdout } = await place.program(emulator[0], [...emulator.slice(1), 'workload.cjs'])
  assert.deepEqual(JSON.parse(stdout), {
    sum: 7 * 65536 + 4096, code: 'ERR_MEMORY_LIMIT', target: 'aarch64-unknown-linux-gnu', version,
  })
})

test('without its optional dependency the package says which one to install', async () => {
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN, '--omit=optional'])
  place.write('load.cjs', LOAD)
  const { message, hint } = JSON.parse((await place.node(['load.cjs'])).stdout)
  assert.match(message, new RegExp(`${OWN_BINARY}, which has the native part, is not installed`))
  assert.match(hint, new RegExp(`npm install ${OWN_BINARY}@`))
})
