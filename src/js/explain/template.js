'use strict'

// Fills the texts of the rules: `{name}` is a field of the line or a fact of the log, `{name|bytes}` is formatted. A
// part in [brackets] is left out unless all its names are known.

const { formatBytes } = require('../core/format-bytes.js')

const PAGE = 4096

/** @type {Record<string, (text: string) => string>} */
const FORMATS = {
  bytes: (text) => formatBytes(Number(text)),
  kib: (text) => formatBytes(Number(text) * 1024),
  mib: (text) => formatBytes(Math.round(Number(text) * 2 ** 20)),
  pages: (text) => formatBytes(Number(text) * PAGE),
  order: (text) => formatBytes(PAGE * 2 ** Number(text)),
  seconds: (text) => `${Number(text) / 1e6} s`,
}

/**
 * @param {string} template
 * @param {(name: string) => string | undefined} look
 */
function fill(template, look) {
  const names = (/** @type {string} */ text) =>
    text.replace(/\{(\w+)(?:\|(\w+))?\}/g, (_, name, format) => {
      const value = look(name) ?? ''
      return format === undefined ? value : FORMATS[format](value)
    })
  const known = (/** @type {string} */ text) =>
    [...text.matchAll(/\{(\w+)/g)].every(([, name]) => (look(name) ?? '') !== '')
  return names(template.replace(/\[([^\]]*)\]/g, (_, part) => (known(part) ? part : '')))
}

module.exports = { fill }
