'use strict'

// Reports: what holds memory and how it came to that, in the format that a path's extension names. Nothing is asked of the
// manager before the path is found good, and only what the format needs.

const { memoryError } = require('../core/errors.js')
const { invalid, shown } = require('../core/options.js')
const { eventLog } = require('./csv.js')
const { diffSnapshots } = require('./diff.js')
const { json } = require('./json.js')
const { page } = require('./page.js')
const { pprof } = require('./pprof.js')
const { trace } = require('./trace.js')
const { replaceFile } = require('./write.js')

/** Extension → the file's content. Longer ones first: a trace is not plain JSON. */
const FORMATS = new Map([
  ['.trace.json', (source) => trace(source.profile())],
  ['.pb.gz', (source) => pprof(source.profile())],
  ['.html', (source) => page(source.snapshot(), source.profile())],
  ['.json', (source) => json(source.snapshot(), source.profile())],
  ['.csv', (source) => eventLog(source.profile())],
  ['.prom', (source) => source.metrics()],
])

/** The extensions that `writeReport` knows. */
const REPORT_FORMATS = Object.freeze(['.html', '.json', '.csv', '.pb.gz', '.trace.json', '.prom'])

function formatOf(path) {
  if (typeof path !== 'string') throw invalid(`writeReport: the path must be a string, not ${shown(path)}`)
  if (path === '' || path.includes('\0')) throw invalid(`writeReport: ${shown(path)} is not a path`)
  for (const [extension, render] of FORMATS) {
    if (path.toLowerCase().endsWith(extension)) return render
  }
  throw memoryError('ERR_OUT_OF_RANGE', `writeReport: no format belongs to the name ${shown(path)}`, {
    hint: `end it in ${REPORT_FORMATS.slice(0, -1).join(', ')} or ${REPORT_FORMATS.at(-1)}`,
    path,
  })
}

/**
 * Writes the report that the extension of `path` names. Readers of `path` see the old file or the whole new one.
 *
 * @param {string} path
 * @param {{snapshot(): object, profile(): object, metrics(): string}} source
 */
async function writeReport(path, source) {
  const render = formatOf(path)
  await replaceFile(path, await render(source))
}

module.exports = { writeReport, diffSnapshots, REPORT_FORMATS }
