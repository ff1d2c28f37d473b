// Checks that no line has more than 120 columns, in every language. Fails with a list of the lines that have.
//
// Excepted by rule: rows of tables in Markdown and rustdoc, a line that is one word (an address), licences, and files
// that hold data (.txt, .csv, .json, .lock).

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const COLUMNS = 120
const CHECKED = /\.(rs|js|mjs|ts|c|h|sh|md|toml)$|^\.ci\/run$|\/(init|Kbuild)$/

const root = fileURLToPath(new URL('..', import.meta.url))
// Files that are new and not yet added count too.
const listed = ['ls-files', '--cached', '--others', '--exclude-standard', '-z']
const names = execFileSync('git', listed, { cwd: root, encoding: 'utf8' }).split('\0')
const files = new Set(names.filter((name) => CHECKED.test(name)))

const isTableRow = (name, line) => /\.md$/.test(name) ? /^\s*(> )?\|/.test(line) : /^\s*\/\/[/!] \|.*\|$/.test(line)
/** A line of one word, which may follow the mark of a comment or of a list. */
const isOneWord = (line) => /^\s*((\/\/[/!]?|\*|#|-)\s+)?\S+$/.test(line)

const found = [...files].flatMap((name) => {
  let text
  try {
    text = readFileSync(`${root}/${name}`, 'utf8')
  } catch {
    return [] // Deleted in the working tree.
  }
  return text.split('\n').flatMap((line, at) => {
    const width = [...line].length
    return width > COLUMNS && !isTableRow(name, line) && !isOneWord(line) ? [`${name}:${at + 1}: ${width} columns`] : []
  })
})

for (const line of found) console.error(line)
if (found.length > 0) {
  console.error(`${found.length} lines have more than ${COLUMNS} columns`)
  process.exit(1)
}
