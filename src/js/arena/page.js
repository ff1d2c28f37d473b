'use strict'

// Writes a plan as one HTML page: its figures, the picture, and a table of the placements. The page needs no other
// file, no network and no script; its Content-Security-Policy allows its style alone.

const { createHash } = require('node:crypto')
const { drawPlan, escape } = require('./svg.js')

const STYLE = `
:root { color-scheme: light dark; }
body { max-width: 1000px; margin: 24px auto; padding: 0 16px; font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 18px; }
svg { width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 12px 2px 0; text-align: right; overflow-wrap: anywhere; }
th:first-child, td:first-child { text-align: left; }
`
const POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`
const COLUMNS = /** @type {const} */ (['id', 'size', 'offset', 'lower', 'upper', 'alignment'])

/**
 * @param {import('../types/arena.js').ArenaPlan} plan
 * @returns {string}
 */
function pageOfPlan(plan) {
  const { size, lowerBound, isLeast, placements } = plan
  const apart = placements.reduce((sum, { size }) => sum + size, 0)
  const row = (/** @type {'th' | 'td'} */ kind, /** @type {readonly unknown[]} */ fields) =>
    `<tr>${fields.map((field) => `<${kind}>${escape(String(field))}</${kind}>`).join('')}</tr>`
  const rows = placements.map((placement) => row('td', COLUMNS.map((name) => placement[name])))
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plan of an arena</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${placements.length} buffers in ${size} bytes</h1>
<p>Lower bound: ${lowerBound} bytes${isLeast ? ', so no arena is smaller' : ''}. Without sharing: ${apart} bytes.</p>
<p>Time goes to the right, offsets go up. Each moment at which a buffer begins or ends is equally far from the next.</p>
${drawPlan(plan)}
<table>
<thead>${row('th', COLUMNS)}</thead>
<tbody>
${rows.join('\n')}
</tbody>
</table>
</body>
</html>
`
}

module.exports = { pageOfPlan }
