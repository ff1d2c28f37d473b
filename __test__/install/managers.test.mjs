/** The packages, installed by each package manager into an empty folder without Rust, and run on each runtime. */

import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import {
  arch, checkOutput, emptyFolder, MAIN, OWN_BINARY, PROGRAM_FILES, run, runArguments, runtimes, startRegistry, version,
  writePrograms,
} from './support.mjs'

const { url, asked } = await startRegistry()

test('npm installs the package and the binary for this machine, and nothing else', async () => {
  const place = emptyFolder(url)
  await place.script('npm', ['install', MAIN])
  const installed = readdirSync(join(place.folder, 'node_modules/@rkllmjs')).sort()
  assert.deepEqual(installed, ['memory', `memory-linux-${arch}-gnu`])
  assert.deepEqual(readdirSync(join(place.folder, 'node_modules')).sort(), ['.bin', '.package-lock.json', '@rkllmjs'])
  assert.ok(!['cargo', 'rustc', 'gcc', 'cc'].some((name) => existsSync(join(place.env.PATH, name))))
  // The registry has no other package. npm looks at the optional peers, and does without them.
  const peers = ['/@opentelemetry/api', '/prom-client']
  assert.deepEqual(asked.filter((path) => !path.includes('rkllmjs') && !peers.includes(path)), [])

  writePrograms(place)
  for (const [name, binary] of Object.entries(runtimes)) {
    for (const file of PROGRAM_FILES) {
      const args = runArguments[name]?.(file) ?? [file]
      const { stdout, stderr } = await run(binary, args, { cwd: place.folder, env: place.env })
      checkOutput(stdout)
      assert.equal(stderr, '', `${name} ${file}`)
    }
  }
})

test('npx runs the command, by the name of the package or of the command', async () => {
  const place = emptyFolder(url)
  const { stdout } = await place.script('npx', ['--yes', MAIN, '--version'])
  assert.equal(stdout.trim(), version)
  await place.script('npm', ['install', MAIN])
  for (const [name, args] of [
    ['npx', ['--no', 'rkllm-memory', '--help']],
    ['npx', ['--no', '--', MAIN, 'bench', '--backend', 'simulated', '--rounds', '3', '--json']],
  ]) {
    assert.ok((await place.script(name, args)).stdout.length > 100)
  }
})

test('npm ci installs again from the lock file', async () => {
  const place = emptyFolder(url, { node: runtimes.node24 })
  await place.script('npm', ['install', MAIN])
  await place.script('npm', ['ci'])
  writePrograms(place)
  checkOutput((await place.node(['program.cjs'])).stdout)
})

test('pnpm', async () => {
  const place = emptyFolder(url)
  await place.script('pnpm', ['add', MAIN])
  writePrograms(place)
  for (const file of PROGRAM_FILES) checkOutput((await place.node([file])).stdout)
  assert.equal((await place.script('pnpm', ['exec', 'rkllm-memory', '--version'])).stdout.trim(), version)
})

test('Yarn 1', async () => {
  const place = emptyFolder(url)
  await place.script('yarn1', ['add', MAIN, '--registry', url])
  writePrograms(place)
  for (const file of PROGRAM_FILES) checkOutput((await place.node([file])).stdout)
})

for (const linker of ['node-modules', 'pnp']) {
  test(`Yarn with ${linker}`, async () => {
    const place = emptyFolder(url)
    // Without the loader, which Yarn adds by itself to projects of ECMAScript modules, `import` finds no package.
    place.write('.yarnrc.yml', `nodeLinker: ${linker}\npnpEnableEsmLoader: true\n`)
    // Yarn looks for a workspace in the parent folders, unless this one has a lock file.
    place.write('yarn.lock', '')
    await place.script('yarn', ['add', MAIN])
    assert.equal(existsSync(join(place.folder, '.pnp.cjs')), linker === 'pnp')
    writePrograms(place)
    for (const file of PROGRAM_FILES) checkOutput((await place.script('yarn', ['node', file])).stdout)
    assert.equal((await place.script('yarn', ['run', 'rkllm-memory', '--version'])).stdout.trim(), version)
  })
}

test('Bun', async () => {
  const place = emptyFolder(url)
  await place.program(runtimes.bun, ['add', MAIN])
  assert.ok(existsSync(join(place.folder, 'node_modules', OWN_BINARY)))
  writePrograms(place)
  for (const file of PROGRAM_FILES) {
    checkOutput((await place.program(runtimes.bun, [file])).stdout)
    checkOutput((await place.node([file])).stdout)
  }
})

test('Deno, by an npm: specifier and from node_modules', async () => {
  const place = emptyFolder(url)
  const env = { ...place.env, DENO_DIR: join(place.folder, '.deno'), NPM_CONFIG_REGISTRY: `${url}/` }
  const deno = (args) => place.program(runtimes.deno, args, { env })
  place.write('direct.mjs', `
    import { MemoryManager } from 'npm:${MAIN}@${version}'
    const manager = new MemoryManager({ backend: 'simulated' })
    console.log(manager.allocateNPUMemory(4096).byteLength, MemoryManager.version)
    manager.dispose()`)
  const direct = await deno(['run', '--allow-all', '--no-config', '--node-modules-dir=none', 'direct.mjs'])
  assert.equal(direct.stdout.trim(), `4096 ${version}`)
  await deno(['add', `npm:${MAIN}`])
  writePrograms(place)
  for (const file of PROGRAM_FILES) {
    checkOutput((await deno(['run', '--allow-all', '--node-modules-dir=auto', file])).stdout)
  }
})
