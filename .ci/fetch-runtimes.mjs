// The supported runtimes, each from its npm package.

import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

import { once } from '../__test__/kernel/packages.mjs'

const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rkllmjs-memory', 'runtimes')
const { arch } = process

const node = (major) => ({
  spec: `node-linux-${arch}@${major}`,
  binary: 'bin/node',
  test: (file) => ['--test', '--test-reporter=tap', file],
  run: (file) => ['--expose-gc', file],
})

/** The oldest supported Node, for those who start another one. */
export const node20 = node(20)

export const runtimes = {
  node22: node(22),
  node24: node(24),
  node26: node(26),
  bun: {
    spec: `@oven/bun-linux-${arch === 'arm64' ? 'aarch64' : arch}@1`,
    binary: 'bin/bun',
    // Bun's default timeout of 5 s is too short for the slowest tests.
    test: (file) => ['test', '--timeout', '120000', `./${file}`],
    run: (file) => ['--expose-gc', file],
  },
  deno: {
    spec: `@deno/linux-${arch}-glibc@2`,
    binary: 'deno',
    test: (file) => ['test', '--allow-all', '--no-check', file],
    run: (file) => ['run', '--allow-all', '--v8-flags=--expose-gc', file],
  },
}

/** Returns the path of a runtime's binary; downloads it the first time. */
export function fetched(name, { spec, binary } = runtimes[name]) {
  const folder = once(join(cache, `${name}-${arch}`), (into) => {
    const packed = execFileSync('npm', ['pack', '--silent', spec], { cwd: into, encoding: 'utf8' })
      .trim()
      .split('\n')
      .at(-1)
    execFileSync('tar', ['xzf', packed], { cwd: into })
    rmSync(join(into, packed))
  })
  return join(folder, 'package', binary)
}
