// Packs a commit twice, in folders of other names and with another cargo home, and compares the tarballs byte by byte:
//   npm run test:reproducible
// Takes four release builds, some minutes on an idle machine. Changes that are not committed are left out.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { cache } from '../__test__/kernel/packages.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const base = mkdtempSync(join(tmpdir(), 'rkllm-reproducible-'))

// Both builds have this commit, also if another one is made meanwhile.
const commit = execFileSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()

/** Clones and packs into a folder, and returns the checksums. */
function pack(folder, variables) {
  mkdirSync(folder, { recursive: true })
  const run = (command, args, options) =>
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'], ...options })
  run('git', ['clone', '--quiet', '--no-hardlinks', '--no-checkout', root, folder])
  run('git', ['checkout', '--quiet', '--detach', commit], { cwd: folder })
  // The linker is an input, as the compiler is: both builds take the same.
  mkdirSync(join(folder, '__test__/kernel'), { recursive: true })
  run('ln', ['-s', cache, join(folder, '__test__/kernel/.cache')])
  run(process.execPath, ['.ci/package.mjs'], { cwd: folder, env: { ...process.env, ...variables } })
  return readFileSync(join(folder, 'dist/SHA256SUMS'), 'utf8')
}

try {
  const first = pack(join(base, 'a'), {})
  console.log(first)
  const second = pack(join(base, 'another/much/longer/path'), { CARGO_HOME: join(base, 'cargo-home') })
  if (first !== second) {
    console.error(`the second build differs:\n${second}`)
    process.exitCode = 1
  } else console.log('built twice: the same bytes')
} finally {
  rmSync(base, { recursive: true, force: true })
}
