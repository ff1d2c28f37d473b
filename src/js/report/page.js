'use strict'

// Writes the report as one HTML page that needs no other file and no network. Its Content-Security-Policy allows the
// scripts and styles, which are separate files here, by their hashes. The data is JSON that cannot end its element.

const { createHash } = require('node:crypto')
const { readFileSync } = require('node:fs')
const { join } = require('node:path')
const { formatBytes } = require('../core/format-bytes.js')
const { body, diffBody } = require('./page/body.js')
const { css } = require('./page/style.js')
const { jsonPieces } = require('./json.js')
const { diffData } = require('./diff-data.js')
const { pageData } = require('./page-data.js')

/** The scripts in the order of their dependencies; the page runs them as one function. */
const SCRIPTS = [
  ...['base', 'theme', 'table', 'plain-table', 'overview', 'time-cursor', 'timeline', 'pools', 'flame', 'holders'],
  ...['alive', 'usage', 'events', 'main'],
]
const DIFF_SCRIPTS = ['base', 'theme', 'table', 'plain-table', 'holders', 'diff']

/**
 * Returns the sources of scripts. A bundle has no files beside it: it holds the file that `npm pack` makes.
 *
 * @param {string[]} names
 * @returns {string[]}
 */
function sources(names) {
  try {
    return names.map((name) => readFileSync(join(__dirname, 'page', `${name}.client.js`), 'utf8'))
  } catch (error) {
    const packed = packedScripts()
    if (packed === undefined) throw error
    return names.map((name) => packed[name])
  }
}

/** @returns {Record<string, string> | undefined} */
function packedScripts() {
  try {
    // @ts-ignore
    return require('./page/scripts.json') // eslint-disable-line n/no-missing-require
  } catch {
    return undefined
  }
}

/** @param {string[]} names */
function load(names) {
  const parts = sources(names)
  const common = `const formatBytes = ${formatBytes}\n`
  const script = `(() => {\n'use strict'\n${common}${parts.join('\n')}})()\n`
  const hash = (/** @type {string} */ text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
  const policy =
    `default-src 'none'; img-src data:; script-src ${hash(script)}; style-src ${hash(css)}; base-uri 'none'; ` +
    `form-action 'none'`
  return { script, policy }
}

/**
 * Escapes JSON so that no string in it can end the script element.
 *
 * @param {string} json
 */
const embedded = (json) =>
  json.replace(
    /[<\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/**
 * Yields a page that shows `data` by the scripts.
 *
 * @param {{ title: string, scripts: string[], body: string }} parts
 * @param {Record<string, unknown>} data
 */
async function* pageOf({ title, scripts, body }, data) {
  const { script, policy } = load(scripts)
  yield `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${css}</style>
</head>
${body}
<script type="application/json" id="data">`
  for await (const piece of jsonPieces(data)) yield embedded(piece)
  yield `</script>
<script>${script}</script>
</html>
`
}

/** @param {Pick<import('./index.js').Figures, 'snapshot' | 'profile' | 'usage'>} figures */
async function* page(figures) {
  yield* pageOf({ title: 'Memory report', scripts: SCRIPTS, body }, await pageData(figures))
}

/**
 * Writes the comparison of two snapshots as a page.
 *
 * @param {import('../types/report.js').MemorySnapshot} before
 * @param {import('../types/report.js').MemorySnapshot} after
 */
async function* diffPage(before, after) {
  yield* pageOf({ title: 'Memory diff', scripts: DIFF_SCRIPTS, body: diffBody }, await diffData(before, after))
}

module.exports = { diffPage, page }
