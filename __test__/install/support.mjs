/** A registry with the packages of dist/, and empty folders to install them into, without Rust. */

import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after } from 'node:test'
import { fileURLToPath } from 'node:url'

import { fetched, node20 } from '../../.ci/fetch-runtimes.mjs'

export const root = fileURLToPath(new URL('../..', import.meta.url))
export const dist = join(root, 'dist')
export const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
export const { arch } = process
export const MAIN = '@rkllmjs/memory'
export const OWN_BINARY = `${MAIN}-linux-${arch}-gnu`

const names = readdirSync(dist).filter((name) => name.endsWith('.tgz'))
/** The tarballs: their names in the order of the alphabet, and the manifests in them. */
export const tarballs = names.map((name) => {
  const path = join(dist, name)
  const manifest = JSON.parse(execFileSync('tar', ['-xOf', path, 'package/package.json'], { encoding: 'utf8' }))
  return { name, path, manifest }
})

/** Runs a program, without blocking this process, which serves the registry. */
export async function run(command, args, { cwd, env, status: expected = 0 } = {}) {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr] = await Promise.all([child.stdout, child.stderr].map(textOf).concat(once(child, 'close')))
  const told = `${command} ${args.join(' ')}\n${stdout}\n${stderr}`
  if (expected !== null) assert.equal(child.exitCode, expected, told)
  return { stdout, stderr, status: child.exitCode }
}

async function textOf(stream) {
  let text = ''
  for await (const chunk of stream.setEncoding('utf8')) text += chunk
  return text
}

/** Serves the packages of dist/ and nothing else: an install must need no other. */
export async function startRegistry() {
  const asked = []
  const server = createServer((request, response) => {
    const path = decodeURIComponent(request.url)
    asked.push(path)
    const tarball = tarballs.find(({ name }) => path === `/tarballs/${name}`)
    if (tarball !== undefined) return response.end(readFileSync(tarball.path))
    const found = tarballs.find(({ manifest }) => path === `/${manifest.name}`)
    if (found === undefined) return response.writeHead(404, { 'content-type': 'application/json' }).end('{}')
    const bytes = readFileSync(found.path)
    const hash = (name, encoding) => createHash(name).update(bytes).digest(encoding)
    const archive = {
      tarball: `${url}/tarballs/${found.name}`,
      shasum: hash('sha1', 'hex'),
      integrity: `sha512-${hash('sha512', 'base64')}`,
    }
    response.setHeader('content-type', 'application/json')
    return response.end(
      JSON.stringify({
        name: found.manifest.name, 'dist-tags': { latest: version }, time: { [version]: '2020-01-01T00:00:00.000Z' },
        versions: { [version]: { ...found.manifest, _id: `${found.manifest.name}@${version}`, dist: archive } },
      }),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${server.address().port}`
  after(() => (server.closeAllConnections(), server.close()))
  return { url, asked }
}

const npmCli = join(dirname(realpathSync(execFileSync('which', ['npm'], { encoding: 'utf8' }).trim())), 'npm-cli.js')

export const runtimes = {
  node20: process.versions.node.startsWith('20.') ? process.execPath : fetched('node20', node20),
  ...Object.fromEntries(['node22', 'node24', 'node26', 'bun', 'deno'].map((name) => [name, fetched(name)])),
}
export const runArguments = {
  bun: (file) => [file],
  deno: (file) => ['run', '--allow-all', '--node-modules-dir=manual', file],
}

/** The programs that package managers need; there is no cargo, no rustc and no compiler among them. */
const PROGRAMS = ['sh', 'env', 'uname', 'dirname', 'sed', 'ldd', 'getconf', 'cat']

/** Makes an empty folder with a manifest, and an environment without Rust whose registry is `url`. */
export function emptyFolder(url, { node = runtimes.node20, manifest = {} } = {}) {
  const base = mkdtempSync(join(tmpdir(), 'rkllm-install-'))
  after(() => rmSync(base, { recursive: true, force: true }))
  const [bin, home, folder] = ['bin', 'home', 'app'].map((name) => join(base, name))
  for (const each of [bin, home, folder]) mkdirSync(each)
  for (const name of PROGRAMS) {
    const path = ['/bin', '/usr/bin'].map((place) => join(place, name)).find((each) => realpath(each) !== undefined)
    if (path !== undefined) symlinkSync(path, join(bin, name))
  }
  symlinkSync(node, join(bin, 'node'))
  const scripts = {
    npm: npmCli,
    npx: npmCli.replace('npm-cli', 'npx-cli'),
    pnpm: tool('pnpm/bin/pnpm.cjs'),
    yarn1: tool('yarn/bin/yarn.js'),
    yarn: tool('@yarnpkg/cli-dist/bin/yarn.js'),
  }
  const env = {
    PATH: bin, HOME: home, TMPDIR: base, NO_COLOR: '1', CI: '1',
    npm_config_registry: url, npm_config_update_notifier: 'false', npm_config_fund: 'false', npm_config_audit: 'false',
    YARN_NPM_REGISTRY_SERVER: url, YARN_UNSAFE_HTTP_WHITELIST: '127.0.0.1', YARN_ENABLE_TELEMETRY: '0',
    YARN_ENABLE_IMMUTABLE_INSTALLS: 'false', YARN_ENABLE_GLOBAL_CACHE: 'false',
  }
  const own = { name: 'app', version: '1.0.0', private: true, ...manifest }
  writeFileSync(join(folder, 'package.json'), JSON.stringify(own))
  writeFileSync(join(folder, '.npmrc'), `registry=${url}/\n`)
  const options = { cwd: folder, env }
  return {
    folder, env,
    node: (args, more) => run(node, args, { ...options, ...more }),
    /** Runs a package manager: npm, npx, pnpm, yarn1, yarn. */
    script: (name, args, more) => run(node, [scripts[name], ...args], { ...options, ...more }),
    program: (command, args, more) => run(command, args, { ...options, ...more }),
    write: (name, text) => writeFileSync(join(folder, name), text),
  }
}

function realpath(path) {
  try {
    return realpathSync(path)
  } catch {
    return undefined
  }
}

/** The path of a program among the tools of this folder. */
export const tool = (path) => join(root, '__test__/install/node_modules', path)

const BODY = `
  const manager = new MemoryManager({ backend: 'simulated' })
  const buffer = manager.allocateNPUMemory(4096)
  new Uint8Array(buffer).fill(7)
  manager.syncToDevice(buffer)
  const used = manager.getMemoryUsage().npu.used
  manager.deallocate(buffer)
  manager.dispose()
  const { buildInfo, version } = MemoryManager
  console.log(JSON.stringify({ version, buildInfo, used, length: buffer.byteLength, error: typeof MemoryError }))`
const NAMES = '{ MemoryError, MemoryManager }'

/** Writes programs that allocate, as CommonJS and as ECMAScript modules. */
export function writePrograms({ write }) {
  write('program.cjs', `const ${NAMES} = require('${MAIN}')${BODY}`)
  write('program.mjs', `import ${NAMES} from '${MAIN}'\nimport memory from '${MAIN}'${BODY}
  if (memory.MemoryManager !== MemoryManager) throw new Error('the default export has another class')`)
}

export const PROGRAM_FILES = ['program.cjs', 'program.mjs']
const TRIPLES = { arm64: 'aarch64', x64: 'x86_64' }

/** Checks what a program of `writePrograms` printed. */
export function checkOutput(stdout) {
  const { buildInfo, ...rest } = JSON.parse(stdout)
  const { revision, ...build } = buildInfo
  assert.deepEqual(rest, { version, used: 4096, length: 0, error: 'function' })
  assert.deepEqual(build, { version, target: `${TRIPLES[arch]}-unknown-linux-gnu`, profile: 'release' })
  assert.match(String(revision), /^([0-9a-f]{40}|null)$/)
}
