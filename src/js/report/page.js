'use strict'

// Writes the report as one HTML page that needs no other file and no network. Its Content-Security-Policy allows the
// scripts and styles, which are separate files here, by their hashes. The data is JSON that cannot end its element.

const { createHash } = require('node:crypto')
const { readFileSync } = require('node:fs')
const { join } = require('node:path')
const { formatBytes } = require('../core/format-bytes.js')
const { body } = require('./page/body.js')
const { css } = require('./page/style.js')
const { pageData } = require('./page-data.js')

/** The scripts in the order of their dependencies; the page runs them as one function. */
const SCRIPTS = ['base', 'table', 'overview', 'timeline', 'pools', 'flame', 'holders', 'events', 'main']

/** @type {{ script: string, policy: string } | undefined} */
let assets

/**
 * Returns the sources of the scripts. A bundle has no files beside it: it holds the file that `npm pack` makes.
 *
 * @returns {string[]}
 */
function sources() {
  try {
    return SCRIPTS.map((name) => readFileSync(join(__dirname, 'page', `${name}.client.js`), 'utf8'))
  } catch (error) {
    const packed = packedScripts()
    if (packed === undefined) throw error
    return SCRIPTS.map((name) => packed[name])
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

function load() {
  const parts = sources()
  const common = `const formatBytes = ${formatBytes}\n`
  const script = `(() => {\n'use strict'\n${common}${parts.join('\n')}})()\n`
  const hash = (/** @type {string} */ text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
  const policy =
    `default-src 'none'; img-src data:; script-src ${hash(script)}; style-src ${hash(css)}; base-uri 'none'; ` +
    `form-action 'none'`
  return { script, policy }
}

/**
 * Encodes JSON so that no string in it can end the script element.
 *
 * @param {unknown} value
 */
const embedded = (value) =>
  JSON.stringify(value).replace(
    /[<\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/**
 * @param {import('../types/report.js').MemorySnapshot} snapshot
 * @param {import('../types/profiling.js').MemoryProfile} profile
 * @returns {string}
 */
function page(snapshot, profile) {
  assets ??= load()
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${assets.policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Memory report</title>
<link rel="icon" href="data:,">
<style>${css}</style>
</head>
${body}
<script type="application/json" id="data">${embedded(pageData(snapshot, profile))}</script>
<script>${assets.script}</script>
</html>
`
}

module.exports = { page }
