/** README and docs: links and anchors, the index, the length of README, the codes of errors.md. */

import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { posix } from 'node:path'
import { describe, test } from 'node:test'

import { anchorsOf, exists, linksOf, markdownFiles, pages, read, root } from '../../support/docs.mjs'

/** A page with broken links, for a test of this test. */
const BROKEN = '__test__/js/docs/broken.md'

/** The faults of a page's relative links, as `LINE: TARGET: reason`. */
function brokenLinks(page) {
  return linksOf(page).flatMap(({ target, line }) => {
    if (/^[a-z]+:/.test(target)) return []
    const [file, anchor] = target.split('#')
    const path = file === '' ? page : posix.normalize(posix.join(posix.dirname(page), file))
    if (!exists(path)) return [`${line}: ${target}: no such file`]
    if (anchor === undefined || !path.endsWith('.md') || anchorsOf(path).includes(anchor)) return []
    return [`${line}: ${target}: no such heading`]
  })
}

describe('every relative link leads to a file, and every anchor to a heading', () => {
  for (const page of markdownFiles.filter((path) => path !== BROKEN)) {
    test(page, () => assert.deepEqual(brokenLinks(page), []))
  }
})

test('a broken link and a missing heading would be found', () => {
  const found = brokenLinks(BROKEN)
  const expected = ['3: missing.md: no such file', '4: #anchor: no such heading', '5: #twice-2: no such heading']
  assert.deepEqual(found, expected)
})

test('README has at most 150 lines, and names the way to install', () => {
  assert.ok(read('README.md').trimEnd().split('\n').length <= 150)
  assert.match(read('README.md'), /^npm install @rkllmjs\/memory\b/m)
})

test('the index lists every page of docs', () => {
  const listed = linksOf('docs/README.md').map(({ target }) => posix.normalize(posix.join('docs', target)))
  const own = pages.filter((page) => /^docs\/[^/]+\.md$/.test(page) && page !== 'docs/README.md')
  assert.deepEqual(own.filter((page) => !listed.includes(page)), [])
})

test('pictures are shown, and small', () => {
  const shown = markdownFiles.flatMap((page) => {
    const pictures = linksOf(page).filter(({ target }) => /\.(png|svg)$/.test(target))
    return pictures.map(({ target }) => posix.join(posix.dirname(page), target))
  })
  assert.ok(shown.length >= 2)
  for (const picture of shown) assert.ok(statSync(`${root}/${picture}`).size < 120_000, picture)
})

describe('errors.md', () => {
  const [, ...sections] = read('docs/errors.md').split(/^## /m)
  const codes = sections.filter((section) => section.startsWith('ERR_'))
  const named = codes.map((section) => /^\w+/.exec(section)[0])

  test('it has the codes of the native part and of the types, each once, and no other', () => {
    const native = [...read('src/error.rs').matchAll(/^ {4}\w+ = "(ERR_\w+)",$/gm)].map(([, code]) => code)
    const [union] = /export type MemoryErrorCode =[^]*?\n\n/.exec(read('src/js/types/errors.d.ts'))
    const typed = [...union.matchAll(/\| '(ERR_\w+)'/g)].map(([, code]) => code)
    assert.deepEqual(named.sort(), [...native].sort())
    assert.deepEqual(named, [...typed].sort())
  })

  for (const section of codes) {
    test(`${/^\w+/.exec(section)[0]} has its cause, its figures and its remedy, and its example shows it`, () => {
      const titles = [...section.matchAll(/^\*\*(\w+)\.\*\* \S/gm)].map(([, title]) => title)
      assert.deepEqual(titles, ['Cause', 'Figures', 'Remedy'])
      for (const [, shown] of section.matchAll(/\/\/ => '(ERR_\w+)'/g)) assert.ok(section.startsWith(`${shown}\n`))
    })
  }
})
