/** The tarballs of `npm run package`: contents, manifests, licences, bills of materials; and refusals to pack. */

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { checkBinary } from '../../.ci/package/binary.mjs'
import { notices } from '../../.ci/package/notices.mjs'
import { arch, dist, MAIN, root, tarballs, tool, version } from './support.mjs'

const require = createRequire(import.meta.url)
const folder = mkdtempSync(join(tmpdir(), 'rkllm-packages-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const PLATFORMS = ['arm64', 'x64'].map((name) => `${MAIN}-linux-${name}-gnu`)

for (const { path, manifest } of tarballs) {
  const into = join(folder, manifest.name.replace('/', '-'))
  execFileSync('mkdir', [into])
  execFileSync('tar', ['-xzf', path, '-C', into, '--strip-components=1'])
}
const unpacked = (name) => join(folder, name.replace('/', '-'))
const bill = (name) => JSON.parse(readFileSync(join(unpacked(name), 'sbom.cdx.json'), 'utf8'))

test('there are three tarballs, and their checksums', () => {
  assert.deepEqual(tarballs.map(({ manifest }) => manifest.name).sort(), [MAIN, ...PLATFORMS])
  const sums = readFileSync(join(dist, 'SHA256SUMS'), 'utf8').trim().split('\n')
  assert.equal(sums.length, 3)
  for (const line of sums) {
    const [sum, name] = line.split('  ')
    assert.equal(createHash('sha256').update(readFileSync(join(dist, name))).digest('hex'), sum)
  }
})

test('the manifests: public, with addresses, a licence, and no script that an install runs', () => {
  for (const { manifest } of tarballs) {
    assert.equal(manifest.version, version)
    assert.equal(manifest.license, 'MIT')
    assert.deepEqual(manifest.publishConfig, { access: 'public' })
    assert.equal(manifest.repository.url, 'git+https://github.com/rkllmjs/memory.git')
    assert.match(manifest.homepage, /^https:/)
    assert.match(manifest.bugs.url, /^https:/)
    for (const name of ['scripts', 'dependencies', 'devDependencies']) assert.equal(manifest[name], undefined, name)
  }
})

test('the main package depends on the platforms of the same version, and installs everywhere', () => {
  const { manifest } = tarballs.find((one) => one.manifest.name === MAIN)
  assert.deepEqual(manifest.optionalDependencies, Object.fromEntries(PLATFORMS.map((name) => [name, version])))
  for (const field of ['os', 'cpu', 'libc']) assert.equal(manifest[field], undefined)
  for (const name of PLATFORMS) {
    const platform = tarballs.find((one) => one.manifest.name === name).manifest
    const [, cpu] = /-linux-(\w+)-gnu$/.exec(name)
    assert.deepEqual([platform.os, platform.cpu, platform.libc], [['linux'], [cpu], ['glibc']])
  }
})

test('the files: a binary in the packages of the platforms alone, licences in all, no tests, no Rust', () => {
  for (const name of PLATFORMS) {
    const [, cpu] = /-linux-(\w+)-gnu$/.exec(name)
    assert.deepEqual(readdirSync(unpacked(name)).sort(), [
      'LICENSE', 'README.md', 'THIRD-PARTY-NOTICES.txt', 'package.json', `rkllm-memory.linux-${cpu}-gnu.node`,
      'sbom.cdx.json',
    ])
    checkBinary(join(unpacked(name), `rkllm-memory.linux-${cpu}-gnu.node`), cpu)
  }
  const { path: tarball } = tarballs.find(({ manifest }) => manifest.name === MAIN)
  const listed = execFileSync('tar', ['-tzf', tarball], { encoding: 'utf8' }).trim().split('\n')
  const paths = listed.map((path) => path.replace(/^package\//, ''))
  const needed = ['LICENSE', 'README.md', 'CHANGELOG.md', 'index.js', 'index.d.ts', 'src/js/report/page/scripts.json']
  for (const name of needed) assert.ok(paths.includes(name), name)
  const odd = paths.filter((path) => !/\.(js|json|d\.ts|md)$|^LICENSE$/.test(path) || path.includes('__test__'))
  assert.deepEqual(odd, [])
})

test('publint has nothing to say', async () => {
  const { publint } = await import(tool('publint/src/index-node.js'))
  for (const { path, manifest } of tarballs) {
    const bytes = readFileSync(path)
    const tarball = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
    const { messages } = await publint({ pack: { tarball }, strict: true })
    assert.deepEqual(messages, [], manifest.name)
  }
})

test('arethetypeswrong finds nothing', () => {
  const { path } = tarballs.find(({ manifest }) => manifest.name === MAIN)
  const cli = tool('@arethetypeswrong/cli/dist/index.js')
  const args = [cli, path, '--profile', 'node16', '--format', 'table-flipped', '--no-color', '--no-definitely-typed']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stdout + stderr)
})

test('the bills of materials are valid CycloneDX, and name each linked crate with its checksum', async () => {
  const { Spec, Validation } = require(tool('@cyclonedx/cyclonedx-library'))
  const validator = new Validation.JsonStrictValidator(Spec.Version.v1dot6)
  for (const { manifest } of tarballs) {
    const text = readFileSync(join(unpacked(manifest.name), 'sbom.cdx.json'), 'utf8')
    assert.equal(await validator.validate(text), null, manifest.name)
  }
  for (const name of PLATFORMS) {
    const { components } = bill(name)
    assert.ok(components.some((one) => one.name === 'napi') && components.some((one) => one.name === 'libc'))
    assert.ok(!components.some((one) => ['proptest', 'syn', 'napi-derive'].includes(one.name)), 'these are not linked')
    for (const { purl, hashes } of components) assert.match(hashes[0].content, /^[0-9a-f]{64}$/, purl)
    const text = readFileSync(join(unpacked(name), 'THIRD-PARTY-NOTICES.txt'), 'utf8')
    for (const one of components) assert.ok(text.includes(`\n${one.name} ${one.version} (`), one.name)
  }
})

test('the notices in the repository are up to date', () => {
  assert.equal(readFileSync(join(root, 'npm/THIRD-PARTY-NOTICES.txt'), 'utf8'), notices())
})

/** Runs the prepack script of a platform's package that has these files. */
function packPlatform(files) {
  const place = mkdtempSync(join(folder, 'platform-'))
  cpSync(join(root, `npm/linux-${arch}-gnu`), place, { recursive: true })
  for (const [name, from] of Object.entries(files)) cpSync(from, join(place, name))
  const script = join(root, '.ci/package/platform.mjs')
  return spawnSync(process.execPath, [script], { cwd: place, encoding: 'utf8' })
}

test('a package of a platform without a binary, or with an unfit one, cannot be packed', () => {
  const FILE = `rkllm-memory.linux-${arch}-gnu.node`
  const own = unpacked(`${MAIN}-linux-${arch}-gnu`)
  const rest = Object.fromEntries(
    ['LICENSE', 'THIRD-PARTY-NOTICES.txt', 'sbom.cdx.json'].map((name) => [name, join(own, name)]),
  )
  assert.equal(packPlatform({ ...rest, [FILE]: join(own, FILE) }).status, 0)

  const refused = (files, reason) => {
    const { status, stderr } = packPlatform(files)
    assert.equal(status, 1)
    assert.match(stderr, reason)
    assert.match(stderr, /npm run package/)
  }
  refused(rest, new RegExp(`cannot be packed: it has no ${FILE}`))
  refused({ [FILE]: join(own, FILE) }, /it has no LICENSE, no THIRD-PARTY-NOTICES.txt, no sbom.cdx.json/)
  const other = arch === 'x64' ? 'arm64' : 'x64'
  const foreign = join(unpacked(`${MAIN}-linux-${other}-gnu`), `rkllm-memory.linux-${other}-gnu.node`)
  refused({ ...rest, [FILE]: foreign }, /another processor/)
  refused({ ...rest, [FILE]: join(root, 'LICENSE') }, /no shared library/)

  const program = join(folder, 'built.node')
  const build = (source, ...args) => {
    writeFileSync(join(folder, 'built.c'), source)
    execFileSync('gcc', ['-shared', '-fPIC', '-o', program, join(folder, 'built.c'), ...args])
    return program
  }
  const entry = 'void *napi_register_module_v1(void *env, void *exports) { return exports; }\n'
  refused({ ...rest, [FILE]: build(entry, '-g') }, /not stripped/)
  refused({ ...rest, [FILE]: build('int other(void) { return 1; }', '-s') }, /no Node-API module/)
  const threads = `#include <pthread.h>\n${entry}void *start = pthread_create;`
  refused({ ...rest, [FILE]: build(threads, '-s') }, /needs GLIBC_2\.34; boards have 2\.28/)
  const linked = build(entry, '-s', '-Wl,--no-as-needed', '-lgcc_s')
  refused({ ...rest, [FILE]: linked }, /needs libgcc_s\.so\.1, which not every system has/)
  refused({ ...rest, [FILE]: build(`${entry}const char *path = "${root}src";`, '-s') }, /names the folder/)
})

test('npm itself runs these checks, for the platforms and for the checkout', () => {
  for (const place of [root, join(root, `npm/linux-${arch}-gnu`)]) {
    const args = ['pack', '--pack-destination', folder, '--loglevel=error']
    const { status, stderr } = spawnSync('npm', args, { cwd: place, encoding: 'utf8' })
    assert.notEqual(status, 0)
    assert.match(stderr, /npm run package/)
  }
  assert.ok(!existsSync(join(root, `npm/linux-${arch}-gnu/LICENSE`)))
})
