// Writes npm/THIRD-PARTY-NOTICES.txt, the licences of the code that is linked into the binaries:
//   node .ci/package/notices.mjs            writes it
//   node .ci/package/notices.mjs --check    fails if the file is not up to date

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { licenceText, linkedCrates, TARGETS } from './crates.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const file = join(root, 'npm/THIRD-PARTY-NOTICES.txt')
const RULE = `${'-'.repeat(80)}\n`
const stored = (name) => readFileSync(join(root, 'npm/licences', `${name}.txt`), 'utf8')

/** Linked code that is no crate of Cargo.lock. */
const OTHERS = [
  {
    title: 'The standard library of Rust, and the crates in it (MIT OR Apache-2.0)',
    text: stored('rust'),
  },
  { title: 'compiler_rt of Zig (MIT)', text: stored('zig') },
  { title: 'libunwind and compiler-rt of LLVM (Apache-2.0 WITH LLVM-exception)', text: stored('llvm') },
]

/** Licences of crates whose archives have no file of it, by the crate's name. */
const WITHOUT_FILE = { napi: stored('napi'), 'napi-sys': stored('napi') }

const plain = (text) => `${text.replaceAll('\r\n', '\n').replace(/[ \t]+$/gm, '').trim()}\n`

export function notices() {
  const [crates, other] = TARGETS.map(linkedCrates)
  const names = (list) => list.map(({ reference }) => reference).join('\n')
  if (names(crates) !== names(other)) throw new Error('the platforms link different crates: give each its own notices')
  const parts = crates.map((crate) => {
    // A text of Apache-2.0 alone would need other notices.
    if (!/\b(MIT|ISC)\b/.test(crate.license)) throw new Error(`${crate.name} has the licence ${crate.license}`)
    const text = licenceText(crate) ?? WITHOUT_FILE[crate.name]
    if (text === undefined) throw new Error(`${crate.name} has no file with its licence: add it to npm/licences/`)
    const title = `${crate.name} ${crate.version} (${crate.license})`
    return { title, text: crate.repository === null ? text : `${crate.repository}\n\n${text}` }
  })
  const all = [...parts, ...OTHERS].map(({ title, text }) => `${RULE}${title}\n\n${plain(text)}\n`)
  return `The binaries of @rkllmjs/memory contain code of others. Their licences follow.\n\n${all.join('')}`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = notices()
  if (process.argv[2] !== '--check') writeFileSync(file, text)
  else if (readFileSync(file, 'utf8') !== text) {
    console.error('npm/THIRD-PARTY-NOTICES.txt is not up to date; run: node .ci/package/notices.mjs')
    process.exitCode = 1
  }
}
