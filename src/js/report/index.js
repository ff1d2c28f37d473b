'use strict'

// Writes reports in the format that the path's extension names. The path is checked first, and the manager is asked
// only for the data that the format needs.

const { memoryError } = require('../core/errors.js')
const { invalid, formatValue } = require('../core/options.js')
const { eventLog } = require('./csv.js')
const { diffSnapshots } = require('./diff.js')
const { json } = require('./json.js')
const { page } = require('./page.js')
const { pprof } = require('./pprof.js')
const { trace } = require('./trace.js')
const { replaceFile } = require('./write.js')

/**
 * The data that formats are made of.
 *
 * @typedef {object} Source
 * @property {() => import('../types/report.js').MemorySnapshot} snapshot
 * @property {() => import('../types/profiling.js').MemoryProfile} profile
 * @property {() => string} metrics
 */
/** @typedef {(source: Source) => string | Uint8Array | Promise<Uint8Array>} Render */

/**
 * Extension → a function that makes the content. Longer extensions come first: a trace is not plain JSON.
 *
 * @type {[extension: string, render: Render][]}
 */
const FORMATS = [
  ['.trace.json', (source) => trace(source.profile())],
  ['.pb.gz', (source) => pprof(source.profile())],
  ['.html', (source) => page(source.snapshot(), source.profile())],
  ['.json', (source) => json(source.snapshot(), source.profile())],
  ['.csv', (source) => eventLog(source.profile())],
  ['.prom', (source) => source.metrics()],
]

/** The extensions of all formats. */
const REPORT_FORMATS = Object.freeze(['.html', '.json', '.csv', '.pb.gz', '.trace.json', '.prom'])

/** @param {unknown} path */
function formatOf(path) {
  if (typeof path !== 'string') throw invalid(`writeReport: the path must be a string, not ${formatValue(path)}`)
  if (path === '' || path.includes('\0')) throw invalid(`writeReport: ${formatValue(path)} is not a path`)
  for (const [extension, render] of FORMATS) {
    if (path.toLowerCase().endsWith(extension)) return render
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
 * @param {Source} source
 */
async function writeReport(path, source) {
  const render = formatOf(path)
  await replaceFile(path, await render(source))
}

module.exports = { writeReport, diffSnapshots, REPORT_FORMATS }
