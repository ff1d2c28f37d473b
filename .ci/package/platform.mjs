// Refuses to pack a platform's package that lacks its binary or a file that belongs to it. npm itself leaves out files
// that do not exist. The packages' prepack script; the working directory is the package.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { checkBinary } from './binary.mjs'

/** @param {string} folder of the package */
export function checkPlatformPackage(folder) {
  const { name, main, cpu, files } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const missing = ['LICENSE', 'README.md', ...files].filter((file) => !existsSync(join(folder, file)))
  if (missing.length > 0) throw new Error(`${name} cannot be packed: it has no ${missing.join(', no ')}`)
  checkBinary(join(folder, main), cpu[0])
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    checkPlatformPackage(process.cwd())
  } catch (error) {
    console.error(`${error.message}\nnpm run package, in the repository's root, builds and packs all packages.`)
    process.exitCode = 1
  }
}
