// Sets the version of a release in all manifests: node .ci/package/version.mjs 1.0.0

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { TARGETS } from '../../__test__/kernel/cross.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [, , version] = process.argv
if (!/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version ?? '')) {
  console.error(`version.mjs: ${version ?? 'nothing'} is no version; call it as: node .ci/package/version.mjs 1.0.0`)
  process.exit(2)
}

/** Replaces the first match in a file of the repository. */
function replace(name, pattern) {
  const path = join(root, name)
  const text = readFileSync(path, 'utf8')
  if (!pattern.test(text)) throw new Error(`${name} has no version`)
  writeFileSync(path, text.replace(pattern, (_, before, after) => `${before}${version}${after}`))
}

const manifests = ['package.json', ...Object.keys(TARGETS).map((arch) => `npm/linux-${arch}-gnu/package.json`)]
for (const name of manifests) replace(name, /("version": ").*(")/)
replace('package-lock.json', /("name": "@rkllmjs\/memory",\s+"version": ").*(")/)
replace('package-lock.json', /("": \{\s+"name": "@rkllmjs\/memory",\s+"version": ").*(")/)
replace('Cargo.toml', /(^version = ").*(")/m)
execFileSync('cargo', ['update', '--workspace', '--offline', '--quiet'], { cwd: root, stdio: 'inherit' })
