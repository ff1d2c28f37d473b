// Makes a checkout runnable: installs the npm packages and builds the native part, where they are missing or outdated.
//   node .ci/prepare.mjs            packages, and an up-to-date addon of either profile
//   node .ci/prepare.mjs release    packages, and an up-to-date release build, which benchmarks and packages need
//   node .ci/prepare.mjs packages   the npm packages alone
// An installed package brings its binary and needs no build.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const run = (command, ...args) => execFileSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })

/** Returns the modification time of the newest source file under `path`, in ms. */
function newest(path) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return /\.(rs|toml|lock)$/.test(path) ? stat.mtimeMs : 0
  return Math.max(0, ...readdirSync(path).map((name) => newest(join(path, name))))
}

/** Whether the addon is the release build: napi's CLI copies the library that cargo built. */
function isRelease(binary) {
  const library = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'release/librkllmjs_memory.so')
  return existsSync(library) && readFileSync(library).equals(readFileSync(binary))
}

const [wanted = 'addon'] = process.argv.slice(2)
if (!['addon', 'release', 'packages'].includes(wanted)) {
  console.error(`prepare.mjs: no target "${wanted}"; the targets are addon, release, packages`)
  process.exit(2)
}

const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
if (Object.keys(devDependencies).some((name) => !existsSync(join(root, 'node_modules', name)))) {
  // `npm ci` requires platform packages of the CLI's dependencies, which some registries do not have.
  run('npm', 'install', '--no-audit', '--no-fund', '--loglevel=error')
}

// The loader that the napi CLI generated in older checkouts.
rmSync(join(root, 'src/js/native.js'), { force: true })

if (wanted !== 'packages') {
  const binary = join(root, `src/js/rkllm-memory.linux-${process.arch}-gnu.node`)
  const built = statSync(binary, { throwIfNoEntry: false })?.mtimeMs ?? 0
  const sources = Math.max(...['src', 'build.rs', 'Cargo.toml', 'Cargo.lock'].map((name) => newest(join(root, name))))
  if (built < sources || (wanted === 'release' && !isRelease(binary))) {
    console.error('Building the native part; the first build takes about a minute.')
    run('npm', 'run', '--silent', wanted === 'release' ? 'build' : 'build:dev')
  }
}
