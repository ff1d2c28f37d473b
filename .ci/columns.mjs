// Checks that no line has more than 120 columns, in every language. Lists the lines that do, and fails.
//
// Exceptions: rows of tables in Markdown and rustdoc, lines of one word (an address), licences, and data files (.txt,
// .csv, .json, .lock).

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const COLUMNS = 120
const CHECKED = /\.(rs|js|mjs|ts|c|h|sh|md|toml)$|^\.ci\/run$|\/(init|Kbuild)$/

const root = fileURLToPath(new URL('..', import.meta.url))
// Includes new files that are not yet added.
const listed = ['ls-files', '--cached', '--others', '--exclude-standard', '-z']
const names = execFileSync('git', listed, { cwd: root, encoding: 'utf8' }).split('\0')
const files = new Set(names.filter((name) => CHECKED.test(name)))

const isTableRow = (name, line) => /\.md$/.test(name) ? /^\s*(> )?\|/.test(line) : /^\s*\/\/[/!] \|.*\|$/.test(line)
/** Matches a line of one word, with or without the mark of a comment or of a list. */
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
