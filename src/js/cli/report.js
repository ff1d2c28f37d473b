'use strict'

// `rkllm-memory report`: writes a report about a running process, or of a .json report; or compares two .json reports.
// This process renders it, not the inspected one.

const { readFileSync } = require('node:fs')
const { UsageError, expectWords } = require('./args.js')
const { MANAGER, askOne } = require('./snapshot.js')
const { bytes, clip, columns, styled } = require('./style.js')

/**
 * @typedef {import('./args.js').Context} Context
 * @typedef {import('../types/report.js').SnapshotDiff} SnapshotDiff
 */

const WRITE_ONE = 'write one: rkllm-memory report PID A.json'
/** The most rows of each list of growth. */
const MAX_ROWS = 15

/** @type {import('./args.js').Command} */
const command = {
  name: 'report',
  summary: 'writes a report about a running process, or compares two',
  words: 'PID|A.json FILE',
  options: {
    manager: MANAGER,
    diff: { type: 'string', value: 'B.json', text: 'compare A.json with this later report or snapshot' },
    json: { type: 'boolean', text: 'with --diff and without FILE: as JSON' },
  },
  notes: [
    'The extension of FILE selects the format: .html (to view), .json, .csv (event log, for replay), .pb.gz ' +
      '(pprof), .prom (Prometheus), .trace.json (Perfetto).',
    'The process must be yours and create its manager with { inspect: true }. Call sites and events are included ' +
      'if it profiles.',
    'A.json is a .json report, or what `snapshot` writes. With --diff FILE is an .html page; without FILE the growth ' +
      'is printed.',
  ],
  async run(context) {
    const { values, words, io } = context
    if (values.diff !== undefined) return compare(context)
    const [source, path] = expectWords(words, ['PID', 'FILE'])
    if (values.json) throw new UsageError('--json needs --diff', 'for a report as JSON, end FILE in .json')
    const { writeReport } = require('../report/index.js')
    const recorded = isFile(source) ? readReport(source) : undefined
    await writeReport(path, async (needs) => {
      if (recorded === undefined) {
        // A .prom report has the older text format, as `writeReport` writes it: promtool reads that only.
        const parts = needs.map((need) => (need === 'metrics' ? 'prometheus' : need))
        const { prometheus, ...figures } = await askOne(source, values.manager, parts)
        return /** @type {any} */ ({ ...figures, metrics: prometheus })
      }
      const missing = needs.find((need) => need !== 'usage' && recorded[need] === undefined)
      if (missing !== undefined) throw new UsageError(`${source} has no ${missing}, which ${path} needs`)
      return recorded
    })
    io.stderr.write(styled(`wrote ${path}\n`))
  },
}

/** @param {Context} context */
async function compare({ values, words, io, print, paint, json, width }) {
  const [first, path] = expectWords(words, ['A.json', 'FILE'], 1)
  const [before, after] = [first, values.diff].map((name) => {
    if (!isFile(name)) throw new UsageError(`${JSON.stringify(name)} is no .json report`, WRITE_ONE)
    return readReport(name).snapshot
  })
  const { writeDiff } = require('../report/index.js')
  if (path !== undefined) {
    await writeDiff(path, before, () => /** @type {any} */ ({ snapshot: after }))
    io.stderr.write(styled(`wrote ${path}\n`))
    return
  }
  const diff = require('../../../index.js').diffSnapshots(before, after)
  if (values.json) json(diff)
  else show(diff, { print, paint, width })
}

/** @param {string} word */
const isFile = (word) => /\.json$/i.test(word)

/**
 * Reads a .json report, or a snapshot alone.
 *
 * @param {string} path
 * @returns {Record<string, any>}
 */
function readReport(path) {
  let parsed
  const text = readFileSync(path, 'utf8')
  try {
    parsed = JSON.parse(text)
  } catch (cause) {
    throw new UsageError(`${path} is no JSON: ${/** @type {Error} */ (cause).message}`)
  }
  if (parsed?.snapshot !== undefined) return parsed
  if (Array.isArray(parsed?.buffers)) return { snapshot: parsed }
  throw new UsageError(`${path} is no report: it has no snapshot`, WRITE_ONE)
}

/**
 * @param {SnapshotDiff} diff
 * @param {Pick<Context, 'print' | 'paint' | 'width'>} context
 */
function show(diff, { print, paint, width }) {
  const signed = (/** @type {number} */ growth) =>
    `${growth > 0 ? '+' : growth < 0 ? '-' : ''}${bytes(Math.abs(growth))}`
  const { npuUsed, systemUsed, poolReserved, elapsedMs } = diff
  const grown = [`NPU ${signed(npuUsed)}`, `system ${signed(systemUsed)}`, `chunks of pools ${signed(poolReserved)}`]
  print(`In ${(elapsedMs / 1000).toFixed(1)} s: ${grown.join(', ')}`)
  /** @type {(title: string, rows: Array<import('../types/report.js').Growth & { name: string }>) => void} */
  const list = (title, rows) => {
    const changed = rows.filter(({ growth, countBefore, countAfter }) => growth !== 0 || countBefore !== countAfter)
    if (changed.length === 0) return
    print(`\n${paint.bold(title)}`)
    const cells = changed
      .slice(0, MAX_ROWS)
      .map((row) => [
        `  ${clip(row.name, Math.max(12, width - 44))}`,
        signed(row.growth),
        `${bytes(row.before)} to ${bytes(row.after)}`,
      ])
    for (const line of columns(cells)) print(line)
    if (changed.length > MAX_ROWS) print(paint.dim(`  and ${changed.length - MAX_ROWS} more; --json has all`))
  }
  list('By tag', diff.byTag.map((row) => ({ ...row, name: row.tag ?? '(no tag)' })))
  list('By pool', diff.byPool.map((row) => ({ ...row, name: row.pool ?? '(no pool)' })))
  list('By call site', diff.bySite.map((row) => ({ ...row, name: row.stack?.split('\n')[0] ?? '(not sampled)' })))
}

module.exports = command
