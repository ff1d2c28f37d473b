/** The installed package: contents, exports and types. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'

import * as esm from '../../../index.js'
import memory from '../../../index.js'
import { notOn } from '../../support/helpers.mjs'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const require = createRequire(import.meta.url)
const manifest = require('../../../package.json')

const EXPORTS = [
  'DmaBufInbox',
  'MemoryBlock',
  'MemoryError',
  'MemoryManager',
  'MemoryPool',
  'ModelResidency',
  'SimulatedNPU',
  'closeDmaBuf',
  'diagnose',
  'diffSnapshots',
  'estimateModelMemory',
  'explainAll',
  'explainError',
  'measureModel',
  'planArena', 'planModels',
  'probeDevices',
  'replayEventLog',
  'runtimeVersion', 'runtimeVersionAsync',
  'sendDmaBuf',
  'unpinDropped',
]

test('CommonJS and ESM give the same classes', () => {
  const cjs = require('../../../index.js')
  assert.deepEqual(Object.keys(cjs).sort(), EXPORTS)
  for (const name of EXPORTS) {
    assert.equal(esm[name], cjs[name], `import { ${name} }`)
    assert.equal(memory[name], cjs[name], `import memory: ${name}`)
  }
})

test('the package finds itself under its name, its types and its manifest', () => {
  assert.equal(require(manifest.name), require('../../../index.js'))
  assert.equal(require(`${manifest.name}/package.json`), manifest)
  assert.ok(existsSync(`${root}/${manifest.types}`))
  for (const [name, { types, default: source }] of Object.entries(manifest.exports).filter(
    ([, { types }]) => types !== undefined,
  )) {
    assert.equal(require(`${manifest.name}${name.slice(1)}`), require(`${root}/${source}`))
    assert.ok(existsSync(`${root}/${types}`), types)
  }
})

test('internal modules cannot be imported', { skip: notOn({ bun: 'a package reaches its own files' }) }, () => {
  assert.throws(() => require(`${manifest.name}/src/js/manager.js`), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' })
})

/** The chapters that index.d.ts re-exports. */
const types = readdirSync(`${root}/src/js/types`)
  .map((name) => readFileSync(`${root}/src/js/types/${name}`, 'utf8'))
  .join('')

test('index.d.ts re-exports every chapter of the types', () => {
  const chapters = [
    ...readFileSync(`${root}/index.d.ts`, 'utf8').matchAll(/^export \* from '\.\/src\/js\/types\/([\w-]+)\.js'/gm),
  ]
  const files = readdirSync(`${root}/src/js/types`)
  assert.deepEqual(chapters.map(([, name]) => `${name}.d.ts`).sort(), files.sort())
})

test('every value that the types export exists, and the other way round', () => {
  const declared = [...types.matchAll(/^export (?:declare )?(?:class|function|const) (\w+)/gm)]
  // A function with several signatures is declared once for each.
  assert.deepEqual([...new Set(declared.map(([, name]) => name))].sort(), EXPORTS)
})

test('every method that the types declare exists, and the other way round', () => {
  const body = /export class MemoryManager[^{]*\{([\s\S]*?)\n\}/.exec(types)[1]
  const declared = new Set([...body.matchAll(/^ {2}(?:readonly )?(\w+)[(:<]/gm)].map(([, name]) => name))
  const { prototype } = esm.MemoryManager
  for (const name of declared) assert.ok(name in prototype, `${name} is declared but missing`)
  for (const name of Object.getOwnPropertyNames(prototype))
    assert.ok(declared.has(name), `${name} is there and not declared`)
})

const npm = spawnSync('npm', ['--version'], { encoding: 'utf8' })
test('npm pack: the files of the package and no others', { skip: npm.status !== 0 && 'npm is not installed' }, () => {
  const pack = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' })
  assert.equal(pack.status, 0, pack.stderr)
  const [{ files }] = JSON.parse(pack.stdout)
  const sources = readdirSync(`${root}/src/js`, { recursive: true }).filter((name) =>
    /\.js(on)?$|^(metrics|types)\/.*\.d\.ts$/.test(name),
  )
  assert.deepEqual(
    files.map(({ path }) => path).sort(),
    [
      'CHANGELOG.md', 'LICENSE', 'README.md', 'index.d.ts', 'index.js', 'package.json',
      ...sources.map((name) => `src/js/${name}`),
    ].sort(),
  )
})

test('the manifest: the only run-time dependencies are the binaries for arm64 and x64', () => {
  // It installs on every system, for its types; the packages of the binaries name theirs.
  assert.equal(manifest.os, undefined)
  assert.equal(manifest.license, 'MIT')
  assert.deepEqual(manifest.dependencies ?? {}, {})
  assert.equal(manifest.engines.node, '>=20.12')
  for (const platform of ['linux-arm64-gnu', 'linux-x64-gnu']) {
    const binary = require(`../../../npm/${platform}/package.json`)
    assert.equal(binary.name, `${manifest.name}-${platform}`)
    assert.equal(binary.version, manifest.version)
    assert.ok(binary.main.endsWith('.node'))
    assert.deepEqual(binary.os, ['linux'])
  }
})

test('the manager tells its version, and how its native part was built', () => {
  const { MemoryManager } = esm
  assert.equal(MemoryManager.version, manifest.version)
  const { version, target, profile, revision } = MemoryManager.buildInfo
  assert.equal(version, manifest.version)
  const machine = { arm64: 'aarch64', x64: 'x86_64' }[process.arch]
  assert.equal(target, `${machine}-unknown-linux-gnu`)
  assert.match(profile, /^(release|dev-addon|debug)$/)
  assert.match(revision ?? '', /^([0-9a-f]{40})?$/)
  assert.ok(Object.isFrozen(MemoryManager.buildInfo))
})

test('no scripts run when a user installs it', () => {
  for (const script of ['preinstall', 'install', 'postinstall', 'prepare'])
    assert.equal(manifest.scripts[script], undefined)
})

/** Copies the package, as npm does for two packages that depend on different versions. */
function anotherCopy(t) {
  const copy = mkdtempSync(join(tmpdir(), 'rkllm-copy-'))
  t.after(() => rmSync(copy, { recursive: true }))
  for (const name of ['index.js', 'package.json', 'src/js'])
    cpSync(join(root, name), join(copy, name), { recursive: true })
  return join(copy, 'index.js')
}

test('two copies in one thread are one', (t) => {
  const { MemoryManager } = esm
  const copy = require(anotherCopy(t))
  for (const name of EXPORTS) assert.equal(copy[name], esm[name])
  new MemoryManager({ backend: 'simulated' }).dispose()
})

test('two copies in two threads have one native part, and share memory', async (t) => {
  const manager = new esm.MemoryManager({ backend: 'simulated' })
  const buffer = manager.allocateNPUMemory(4096)
  const source = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { MemoryManager } = require(workerData.copy)
    const buffer = new MemoryManager({ backend: 'simulated' }).adopt(workerData.token)
    new Uint8Array(buffer).fill(6)
    parentPort.postMessage(Object.keys(require.cache).filter((path) => path.endsWith('.node')))`
  const workerData = { copy: anotherCopy(t), token: manager.share(buffer) }
  const worker = new Worker(source, { eval: true, workerData })
  const [message] = await Promise.race([
    once(worker, 'message'),
    once(worker, 'error').then(([error]) => Promise.reject(error)),
  ])
  assert.ok(message.every((path) => path.startsWith(root)), String(message))
  assert.deepEqual([...new Set(new Uint8Array(buffer))], [6])
  await worker.terminate()
  manager.dispose()
})
