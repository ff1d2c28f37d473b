/**
 * Reads the project's Markdown: pages, blocks of code, headings as GitHub anchors, and links.
 *
 * Conventions: a JavaScript block is run by the suite `docs`. A block whose first line is `// Not run here: REASON` is
 * only compiled. One whose first line is `// NAME.mjs` is a module of that name, which other blocks of the page use.
 */

import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

const SKIPPED = new Set(['node_modules', 'target', 'site', 'dist'])

/** Paths of the Markdown files below `folder`, from the repository's root. */
function markdownIn(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (entry.isDirectory()) return SKIPPED.has(entry.name) || entry.name.startsWith('.') ? [] : markdownIn(path)
    return entry.name.endsWith('.md') ? [path] : []
  })
}

/** Every Markdown file of the repository. */
export const markdownFiles = markdownIn('').sort()
/** The pages of a user: their JavaScript is compiled and run. */
export const pages = markdownFiles.filter((path) => path === 'README.md' || path.startsWith('docs/'))
/** Returns the text of a page. */
export const read = (path) => readFileSync(join(root, path), 'utf8')
/** Whether a path from the root exists. */
export const exists = (path) => existsSync(join(root, path))

/**
 * The fenced blocks of a page, also those inside lists, in order.
 *
 * @returns {Array<{ page: string, line: number, language: string, code: string, notRun: string | null,
 *   file: string | null }>}
 */
export function blocksOf(page) {
  const lines = read(page).split('\n')
  const blocks = []
  let open = null
  for (const [at, text] of lines.entries()) {
    const fence = /^( *)```(\w*)\s*$/.exec(text)
    if (open === null && fence !== null) {
      open = { page, line: at + 2, language: fence[2], indent: fence[1].length, lines: [] }
    } else if (open !== null && fence !== null && fence[2] === '') {
      const { indent, lines: code, ...rest } = open
      const notRun = /^\/\/ Not run here: (.+)$/.exec(code[0] ?? '')?.[1] ?? null
      const file = /^\/\/ ([\w-]+\.mjs)$/.exec(code[0] ?? '')?.[1] ?? null
      blocks.push({ ...rest, code: `${code.join('\n')}\n`, notRun, file })
      open = null
    } else if (open !== null) {
      open.lines.push(text.slice(open.indent))
    }
  }
  if (open !== null) throw new Error(`${page}:${open.line}: this block has no end`)
  return blocks
}

/** The JavaScript and TypeScript of the pages. */
export const codeBlocks = pages.flatMap(blocksOf).filter(({ language }) => ['js', 'mjs', 'ts'].includes(language))

/** Replaces the code of a page by empty lines, and its spans of code by spaces, so that lines and columns stay. */
export function withoutCode(text) {
  let inside = false
  const prose = text.split('\n').map((line) => {
    const fence = /^ *```/.test(line)
    if (fence) inside = !inside
    return fence || inside ? '' : line
  })
  return prose.join('\n')
}

const textOf = (markdown) => markdown.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/[`*]/g, '')

/** The anchors that GitHub makes of a page's headings. */
export function anchorsOf(page) {
  const seen = new Map()
  const headings = [...withoutCode(read(page)).matchAll(/^#{1,6} +(.+?) *$/gm)].map(([, heading]) => heading)
  return headings.map((heading) => {
    const slug = textOf(heading)
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\p{M}\p{Pc} -]/gu, '')
      .replaceAll(' ', '-')
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    return count === 0 ? slug : `${slug}-${count}`
  })
}

/** The targets of a page's links and images, each with its line. */
export function linksOf(page) {
  const text = withoutCode(read(page)).replaceAll(/`[^`\n]*`/g, (span) => ' '.repeat(span.length))
  // A link's text may go on in the next line.
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(({ 1: target, index }) => {
    return { target, line: text.slice(0, index).split('\n').length }
  })
}
