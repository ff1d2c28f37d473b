'use strict'

// Writes reports in the format that the path's extension names. The path is checked first, and the manager is asked
// only for the data that the format needs.

const { memoryError } = require('../core/errors.js')
const { invalid, formatValue } = require('../core/options.js')
const { eventLog } = require('./csv.js')
const { checkSnapshot, diffSnapshots } = require('./diff.js')
const { json } = require('./json.js')
const { diffPage, page } = require('./page.js')
const { pprof } = require('./pprof.js')
const { trace } = require('./trace.js')
const { replaceFile } = require('./write.js')

/**
 * The data that formats are made of. A report about a process of an older version has no `usage`.
 *
 * @typedef {object} Figures
 * @property {import('../types/report.js').MemorySnapshot} snapshot
 * @property {import('../types/profiling.js').MemoryProfile} profile
 * @property {import('../types/stats.js').MemoryUsage} [usage]
 * @property {string} metrics the text format of Prometheus
 */
/** @typedef {keyof Figures} Need */
/** @typedef {string | Uint8Array} Piece */
/** @typedef {(figures: Figures) => Iterable<Piece> | AsyncIterable<Piece>} Render */
/** @typedef {{ needs: Need[], render: Render }} Format */

/** @type {Need[]} */
const ALL = ['snapshot', 'profile', 'usage']

/**
 * Extension → a function that makes the content. Longer extensions come first: a trace is not plain JSON.
 *
 * @type {[extension: string, needs: Need[], render: Render][]}
 */
const FORMATS = [
  ['.trace.json', ['profile'], ({ profile }) => trace(profile)],
  ['.pb.gz', ['profile'], ({ profile }) => pprof(profile)],
  ['.html', ALL, page],
  ['.json', ALL, json],
  ['.csv', ['profile'], ({ profile }) => eventLog(profile)],
  ['.prom', ['metrics'], ({ metrics }) => [metrics]],
]

/** The extensions of all formats. */
const REPORT_FORMATS = Object.freeze(['.html', '.json', '.csv', '.pb.gz', '.trace.json', '.prom'])

/**
 * @param {unknown} path
 * @returns {{ needs: Need[], render: Render }}
 */
function formatOf(path) {
  if (typeof path !== 'string') throw invalid(`writeReport: the path must be a string, not ${formatValue(path)}`)
  if (path === '' || path.includes('\0')) throw invalid(`writeReport: ${formatValue(path)} is not a path`)
  for (const [extension, needs, render] of FORMATS) {
    if (path.toLowerCase().endsWith(extension)) return { needs, render }
  }
  throw memoryError('ERR_OUT_OF_RANGE', `writeReport: ${formatValue(path)} has no known extension`, {
    hint: `end it in ${REPORT_FORMATS.slice(0, -1).join(', ')} or ${REPORT_FORMATS.at(-1)}`,
    path,
  })
}

/**
 * Writes a report. A reader of `path` sees the old file or the complete new one.
 *
 * @param {string} path
 * @param {(needs: Need[]) => Promise<Figures> | Figures} ask
 */
async function writeReport(path, ask) {
  const { needs, render } = formatOf(path)
  await replaceFile(path, render(await ask(needs)))
}

/**
 * Writes the comparison of two snapshots as a page.
 *
 * @param {string} path
 * @param {unknown} before
 * @param {(needs: Need[]) => Promise<Figures> | Figures} ask for the later snapshot
 */
async function writeDiff(path, before, ask) {
  const { render } = formatOf(path)
  const snapshot = checkSnapshot('before', before, 'writeReport')
  if (render !== page) {
    const message = `writeReport: a comparison cannot be written to ${formatValue(path)}`
    throw memoryError('ERR_OUT_OF_RANGE', message, { hint: 'end it in .html; diffSnapshots gives the figures', path })
  }
  const { snapshot: after } = await ask(['snapshot'])
  await replaceFile(path, diffPage(snapshot, checkSnapshot('the later one', after, 'writeReport')))
}

module.exports = { writeDiff, writeReport, diffSnapshots, REPORT_FORMATS }
