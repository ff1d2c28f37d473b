// Makes the tarballs of the three packages: `npm run package [-- --output FOLDER]`; default dist/, which git ignores.
//
// Packs copies in target/package/, so that the working tree does not change. The main package's copy gets the optional
// dependencies on the platforms' packages, which a checkout does not have: they are not on the registry yet.

import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { releasePath, TARGETS } from '../__test__/kernel/cross.mjs'
import { run } from '../__test__/kernel/packages.mjs'
import { notices } from './package/notices.mjs'
import { checkPlatformPackage } from './package/platform.mjs'
import { mainBill, platformBill } from './package/sbom.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { output } = parseArgs({ options: { output: { type: 'string', default: join(root, 'dist') } } }).values
const dist = resolve(output)
const staging = join(root, 'target/package')
const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'))
const writeJson = (path, value) => writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`)
const git = (...args) => run('git', args, { cwd: root }).trim()

/** The revision of the sources; undefined where they have changes, or are no checkout. */
function revision() {
  try {
    return git('status', '--porcelain', '--untracked-files=no') === '' ? git('rev-parse', 'HEAD') : undefined
  } catch {
    return undefined
  }
}

/** Checks that the manifests name one version. */
function checkVersions({ version }) {
  const crate = /^version = "(.*)"$/m.exec(readFileSync(join(root, 'Cargo.toml'), 'utf8'))?.[1]
  const others = { 'Cargo.toml': crate }
  for (const arch of Object.keys(TARGETS)) {
    const path = `npm/linux-${arch}-gnu/package.json`
    others[path] = readJson(join(root, path)).version
  }
  const wrong = Object.entries(others).find(([, other]) => other !== version)
  if (wrong === undefined) return
  throw new Error(`${wrong[0]} has the version ${wrong[1]}, and package.json ${version}: RELEASING.md sets them`)
}

function stagePlatform(arch) {
  const folder = join(staging, `linux-${arch}-gnu`)
  cpSync(join(root, `npm/linux-${arch}-gnu`), folder, { recursive: true })
  const { scripts: _, ...manifest } = readJson(join(folder, 'package.json'))
  writeJson(join(folder, 'package.json'), manifest)
  cpSync(releasePath(arch), join(folder, manifest.main))
  cpSync(join(root, 'LICENSE'), join(folder, 'LICENSE'))
  writeFileSync(join(folder, 'THIRD-PARTY-NOTICES.txt'), notices())
  writeJson(join(folder, 'sbom.cdx.json'), platformBill(manifest, TARGETS[arch]))
  checkPlatformPackage(folder)
  return { folder, manifest }
}

function stageMain(platforms) {
  const folder = join(staging, 'memory')
  const [{ files }] = JSON.parse(run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root }))
  for (const { path } of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    cpSync(join(root, path), join(folder, path))
  }
  run(process.execPath, [join(root, '.ci/page-scripts.mjs'), folder])
  const { scripts: _, devDependencies: __, napi: ___, ...manifest } = readJson(join(root, 'package.json'))
  manifest.files = [...manifest.files, 'sbom.cdx.json']
  manifest.optionalDependencies = Object.fromEntries(platforms.map(({ name, version }) => [name, version]))
  writeJson(join(folder, 'package.json'), manifest)
  writeJson(join(folder, 'sbom.cdx.json'), mainBill(manifest, platforms))
  return folder
}

/** Packs a folder, and returns the tarball's name. */
function pack(folder) {
  const args = ['pack', '--silent', '--ignore-scripts', '--pack-destination', dist]
  return run('npm', args, { cwd: folder }).trim().split('\n').at(-1)
}

const main = readJson(join(root, 'package.json'))
checkVersions(main)
const known = process.env.RKLLM_REVISION || revision()
if (known === undefined) console.log('The tree has changes: the packages will not name a revision.')
else process.env.RKLLM_REVISION = known

rmSync(staging, { recursive: true, force: true })
rmSync(dist, { recursive: true, force: true })
mkdirSync(dist, { recursive: true })
const platforms = Object.keys(TARGETS).map(stagePlatform)
const folders = [...platforms.map(({ folder }) => folder), stageMain(platforms.map(({ manifest }) => manifest))]
// Modes of a checkout follow the user's umask, and are part of a tarball.
for (const folder of folders) run('chmod', ['-R', 'u=rwX,go=rX', folder])

const sums = folders.map(pack).map((name) => {
  const bytes = readFileSync(join(dist, name))
  return `${createHash('sha256').update(bytes).digest('hex')}  ${name}\n`
})
writeFileSync(join(dist, 'SHA256SUMS'), sums.join(''))
for (const name of readdirSync(dist)) console.log(`${String(statSync(join(dist, name)).size).padStart(9)}  ${name}`)
