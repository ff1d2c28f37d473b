'use strict'

// The report as one page: no file beside it, nothing from any network. Scripts and styles are files of their own here, put into the
// page with the hashes that its Content-Security-Policy allows; data is put in as JSON that cannot end its element.

const { createHash } = require('node:crypto')
const { readFileSync } = require('node:fs')
const { join } = require('node:path')
const { body } = require('./page/body.js')
const { css } = require('./page/style.js')
const { pageData } = require('./page-data.js')

/** In the order of their dependence; together they are one function. */
const SCRIPTS = ['base', 'table', 'overview', 'timeline', 'pools', 'flame', 'holders', 'events', 'main']

let assets

function load() {
  const parts = SCRIPTS.map((name) => readFileSync(join(__dirname, 'page', `${name}.client.js`), 'utf8'))
  const script = `(() => {\n'use strict'\n${parts.join('\n')}})()\n`
  const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
  const policy = `default-src 'none'; img-src data:; script-src ${hash(script)}; style-src ${hash(css)}; base-uri 'none'; form-action 'none'`
  return { script, policy }
}

/** JSON that is safe inside a script element, whatever its strings say. */
const embedded = (value) =>
  JSON.stringify(value).replace(
    /[<\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/** @returns {string} */
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
