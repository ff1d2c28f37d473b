#!/usr/bin/env node
// node cross.mjs [addon|conformance]: builds for linux-arm64-gnu on an x64 machine, from packages alone, for boards
// with glibc 2.28. Checks the glibc versions that the binary needs. run.mjs gets its binaries from here, for x64 too,
// and .ci/package.mjs the binaries to publish.
import { copyFileSync, existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addArchitecture, arches, install, once, cache, run } from './packages.mjs'

const repo = resolve(dirname(fileURLToPath(import.meta.url)), '../..')

/** The targets of the Rust compiler, by Node's name of the processor. */
export const TARGETS = { arm64: 'aarch64-unknown-linux-gnu', x64: 'x86_64-unknown-linux-gnu' }

const cargoHome = process.env.CARGO_HOME ?? join(homedir(), '.cargo')

/** The oldest supported glibc. */
const GLIBC = [2, 28]
const versioned = (arch) => `${TARGETS[arch]}.${GLIBC.join('.')}`

/** Returns the newest glibc version that `file` needs. Throws if it is newer than `GLIBC`. */
export function checkGlibc(file) {
  const versions = [...run('readelf', ['-V', '--wide', file]).matchAll(/Name: GLIBC_(\d+)\.(\d+)/g)]
    .map(([, major, minor]) => [Number(major), Number(minor)])
    .sort((a, b) => b[0] - a[0] || b[1] - a[1])
  const [major, minor] = versions[0] ?? [0, 0]
  if (major > GLIBC[0] || (major === GLIBC[0] && minor > GLIBC[1]))
    throw new Error(`${file} needs GLIBC_${major}.${minor}; boards have ${GLIBC.join('.')}`)
  return `${major}.${minor}`
}

/** Installs a linker that can target old glibcs. Debian's own would link against its glibc 2.36. */
function zigbuild() {
  const dir = once(join(cache, 'zigbuild'), into => {
    console.log('fetching a linker for old glibcs')
    install({ pip3: ['python3-pip'] })
    run('python3', ['-m', 'pip', 'install', '--quiet', '--target', into, 'ziglang', 'cargo-zigbuild'])
  })
  return { command: join(dir, 'bin/cargo-zigbuild'), zig: join(dir, 'ziglang/zig') }
}

/**
 * Returns a cargo with Rust's library for `arch`, and the folder of its compiler. Uses Debian's cargo by path, with its
 * own target directory, because rustup's network is not available everywhere. Other builds keep the rustup toolchain.
 */
function crossCargo(arch) {
  const sysroot = run('rustc', ['--print', 'sysroot'], { cwd: repo }).trim()
  if (existsSync(join(sysroot, 'lib/rustlib', TARGETS[arch]))) return { dir: null, env: {}, sysroot }
  if (!existsSync(join('/usr/lib/rustlib', TARGETS[arch])) || !existsSync('/usr/bin/cargo')) {
    const { debian } = arches[arch]
    addArchitecture(debian)
    install({
      [`rustlib/${TARGETS[arch]}`]: ['rustc-web', 'cargo-web', `libstd-rust-web-dev:${debian}`, 'gcc', 'libc6-dev'],
    })
  }
  return { dir: '/usr/bin', env: { CARGO: '/usr/bin/cargo', RUSTC: '/usr/bin/rustc' }, sysroot: '/usr' }
}

/**
 * Returns the folders of this machine, and their names in a binary: the compiler writes paths of sources into messages
 * of panics. Of several that match a path, rustc takes the last.
 */
function renamedFolders(sysroot) {
  const registry = join(cargoHome, 'registry/src')
  const crates = readdirSync(registry).map(name => [join(registry, name), 'crates'])
  return [[homedir(), 'home'], [sysroot, 'rust'], [cargoHome, 'cargo'], ...crates, [repo, 'rkllmjs-memory']]
}

/** Returns the folders that no binary may name. */
export const privateFolders = () => [homedir(), cargoHome, repo].map(name => name.replace(/\/$/, ''))

/** Returns the command and the environment that build for `--target` of `versioned(arch)`. */
function cross(arch) {
  install({ gcc: ['gcc', 'libc6-dev'] })
  const { dir, env, sysroot } = crossCargo(arch)
  const { command, zig } = zigbuild()
  // The folders of the registry exist from then on.
  run(env.CARGO ?? 'cargo', ['fetch', '--locked', '--quiet'], { cwd: repo, env: { ...process.env, ...env } })
  const flags = renamedFolders(sysroot).map(([from, to]) => `--remap-path-prefix=${from}=${to}`)
  return {
    command,
    env: {
      ...process.env, ...env,
      PATH: dir ? `${dir}:${process.env.PATH}` : process.env.PATH,
      CARGO_TARGET_DIR: process.env.CARGO_TARGET_DIR ?? join(repo, 'target/cross'),
      CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f'),
      CARGO_ZIGBUILD_ZIG_PATH: zig,
    },
  }
}

/** Builds, and returns the artefact with this `kind` ("cdylib", "test") and `name` in cargo's messages. */
function build(command, args, env, kind, name) {
  const messages = run(command, [...args, '--locked', '--quiet', '--message-format=json-render-diagnostics'], {
    cwd: repo,
    env,
  })
  const artefact = messages
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
    .findLast(
      (m) => m.reason === 'compiler-artifact' && m.target.kind.includes(kind) && (!name || m.target.name === name),
    )
  const file = artefact?.executable ?? artefact?.filenames.find(f => f.endsWith('.so'))
  if (!file) throw new Error(`cargo built no ${kind} ${name ?? ''}`)
  return file
}

const manifest = () => JSON.parse(readFileSync(join(repo, 'package.json'), 'utf8'))

/** Builds the Rust conformance suite and returns its path. */
export function conformancePath(arch) {
  const args = ['test', '--no-default-features', '--test', 'conformance', '--no-run']
  if (arch === 'x64') return build('cargo', args, process.env, 'test', 'conformance')
  const { command, env } = cross(arch)
  const file = build(command, [...args, '--target', versioned(arch)], env, 'test', 'conformance')
  checkGlibc(file)
  return file
}

/** Builds the addon for publishing: optimized, stripped, for old glibcs, without paths of this machine. Returns it. */
export function releasePath(arch) {
  const { command, env } = cross(arch)
  const file = build(command, ['zigbuild', '--release', '--lib', '--target', versioned(arch)], env, 'cdylib')
  checkGlibc(file)
  return file
}

/** Builds the addon where index.js finds it. The x64 build also writes the private loader, which arm64 shares. */
export function addonPath(arch) {
  const dir = join(repo, 'src/js')
  const file = join(dir, `${manifest().napi.binaryName}.linux-${arch}-gnu.node`)
  // Does nothing in a prepared checkout.
  run(process.execPath, ['.ci/prepare.mjs'], { cwd: repo, stdio: ['ignore', 'ignore', 'inherit'] })
  if (arch === 'x64') return file
  copyFileSync(releasePath(arch), file)
  return file
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const wanted = process.argv.slice(2)
  for (const what of wanted.length ? wanted : ['addon']) {
    const file = { addon: addonPath, conformance: conformancePath }[what]?.('arm64')
    if (!file) throw new Error(`cross.mjs: no target "${what}"; the targets are addon, conformance`)
    console.log(`${what}: ${file}, GLIBC_${checkGlibc(file)}`)
  }
}
