/**
 * Fits the coefficients of the estimator to the vendor's measurements, and prints the error on held-back families: each
 * family of models is predicted by a fit to the other families.
 *
 *   node benchmark/estimator/fit.mjs            # the error, by runtime
 *   node benchmark/estimator/fit.mjs --rows     # every row too
 *   node benchmark/estimator/fit.mjs --write    # writes src/js/models/fit.json too
 *   node benchmark/estimator/fit.mjs other.csv  # on another table of the same columns
 */

import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

import { readRows } from './data.mjs'

const require = createRequire(import.meta.url)
const { RUNTIMES } = require('../../src/js/models/dtypes.js')
const { apply, bandClassOf, featuresOf } = require('../../src/js/models/terms.js')

const FIT = new URL('../../src/js/models/fit.json', import.meta.url)
const SMALL_CHIPS = ['rk3562', 'rv1126b']
const NONE = {
  groupBytes: { w8a8: 0, w4a16: 0 },
  bytesPerToken: 0,
  bytesPerMatrix: 0,
  nextDomain: 0,
  constants: Object.fromEntries(RUNTIMES.map((runtime) => [runtime, 0])),
  chips: {},
}

/** Fits the coefficients by least squares of relative errors. */
export function fit(rows) {
  const equations = rows.map((row) => {
    const { groupsOf8, groupsOf4, vocabulary, matrixCount, nextDomain } = featuresOf(row.terms, row)
    const features = [
      groupsOf8,
      groupsOf4,
      vocabulary,
      matrixCount,
      nextDomain,
      SMALL_CHIPS.includes(row.chip) ? 1 : 0,
      ...RUNTIMES.map((runtime) => (runtime === row.runtime ? 1 : 0)),
    ]
    const known = apply(NONE, row.terms, row).loaded + row.terms.kvCache - row.terms.kvFirst
    return { left: features.map((value) => value / row.measured), right: (row.measured - known) / row.measured }
  })
  const [w8a8, w4a16, bytesPerToken, bytesPerMatrix, nextDomain, small, ...constants] = leastSquares(equations)
  return {
    groupBytes: { w8a8, w4a16 },
    bytesPerToken,
    bytesPerMatrix,
    nextDomain,
    constants: Object.fromEntries(RUNTIMES.map((runtime, i) => [runtime, constants[i]])),
    chips: { rk3588: 0, rk3576: 0, ...Object.fromEntries(SMALL_CHIPS.map((chip) => [chip, small])) },
  }
}

/** Solves the normal equations, each column scaled to length 1, by elimination with pivots. */
function leastSquares(equations) {
  const size = equations[0].left.length
  const scale = Array.from({ length: size }, (_, i) => Math.hypot(...equations.map(({ left }) => left[i])))
  const at = (left, i) => (scale[i] === 0 ? 0 : left[i] / scale[i])
  const matrix = Array.from({ length: size }, (_, i) => [
    ...Array.from({ length: size }, (_, j) => equations.reduce((sum, { left }) => sum + at(left, i) * at(left, j), 0)),
    equations.reduce((sum, { left, right }) => sum + at(left, i) * right, 0),
  ])
  for (let i = 0; i < size; i++) {
    const larger = (best, row, k) => (Math.abs(row[i]) > Math.abs(matrix[best][i]) ? i + k : best)
    const pivot = matrix.slice(i).reduce(larger, i)
    ;[matrix[i], matrix[pivot]] = [matrix[pivot], matrix[i]]
    // A coefficient that no row has stays 0.
    if (scale[i] === 0) continue
    for (let k = 0; k < size; k++) {
      if (k === i) continue
      const factor = matrix[k][i] / matrix[i][i]
      for (let j = i; j <= size; j++) matrix[k][j] -= factor * matrix[i][j]
    }
  }
  return matrix.map((row, i) => (scale[i] === 0 ? 0 : row[size] / row[i] / scale[i]))
}

/** The measured context was used in full, so the figure of a full context is compared. */
export const relativeError = (coefficients, row) => apply(coefficients, row.terms, row).full / row.measured - 1

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Predicts every family from the other families. */
export function heldBack(rows) {
  const families = [...new Set(rows.map(({ family }) => family))]
  return families.flatMap((family) => {
    const coefficients = fit(rows.filter((row) => row.family !== family))
    return rows
      .filter((row) => row.family === family)
      .map((row) => ({ row, error: relativeError(coefficients, row) }))
  })
}

/**
 * Returns the half-width of the band of each class: the 95th percentile of its held-back errors, so that nine models in
 * ten of an unknown family stay inside.
 */
function bandsOf(errors) {
  const classes = [...new Set(errors.map(({ row }) => bandClassOf(row)))].sort()
  return Object.fromEntries(
    classes.map((name) => {
      const own = errors.filter(({ row }) => bandClassOf(row) === name).map(({ error }) => Math.abs(error))
      own.sort((x, y) => x - y)
      return [name, own[Math.ceil(0.95 * own.length) - 1]]
    }),
  )
}

/** Returns the coefficients to ship, their bands, and the errors on held-back families. */
export function calibrate(rows) {
  const errors = heldBack(rows)
  const uncertainty = bandsOf(errors)
  const within = ({ row, error }) => Math.abs(error) <= uncertainty[bandClassOf(row)]
  const versions = [...new Set(rows.map(({ version }) => version))].sort()
  const coefficients = fit(rows)
  const table = versions.map((version) => {
    const own = errors.filter(({ row }) => row.version === version)
    const fitted = own.map(({ row }) => Math.abs(relativeError(coefficients, row)))
    return {
      runtime: version,
      rows: own.length,
      medianHeldBack: median(own.map(({ error }) => Math.abs(error))),
      withinBand: own.filter(within).length / own.length,
      medianFitted: median(fitted),
    }
  })
  return { coefficients, uncertainty, table, errors: errors.map((each) => ({ ...each, within: within(each) })) }
}

const percent = (share) => `${(100 * share).toFixed(1)} %`
const MIB = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

function report({ coefficients, uncertainty, table, errors }, everyRow) {
  console.log('runtime  rows  median, family held back  in the band  median, fitted')
  for (const { runtime, rows, medianHeldBack, withinBand, medianFitted } of table) {
    console.log(
      [
        runtime.padEnd(7),
        String(rows).padStart(5),
        percent(medianHeldBack).padStart(25),
        percent(withinBand).padStart(12),
        percent(medianFitted).padStart(15),
      ].join('  '),
    )
  }
  const { groupBytes, bytesPerToken, bytesPerMatrix, nextDomain, constants, chips } = coefficients
  console.log(`\nbytes a group: w8a8 ${groupBytes.w8a8.toFixed(1)}, w4a16 ${groupBytes.w4a16.toFixed(1)}`)
  console.log(`bytes a token of the vocabulary ${bytesPerToken.toFixed(0)}, a matrix ${MIB(bytesPerMatrix)}`)
  console.log(`a further domain ${MIB(nextDomain)}, small chips ${MIB(chips.rk3562)}`)
  console.log(`constants ${RUNTIMES.map((runtime) => `${runtime} ${MIB(constants[runtime])}`).join(', ')}`)
  for (const [name, width] of Object.entries(uncertainty)) console.log(`band, ${name}: ± ${percent(width)}`)
  if (!everyRow) return
  for (const { row, error, within } of errors)
    console.log(`  ${row.version} ${row.chip} ${row.model} ${row.dtype}: ${percent(error)}${within ? '' : ' !'}`)
}

function main(args) {
  const path = args.find((arg) => !arg.startsWith('--'))
  const result = calibrate(readRows(path))
  report(result, args.includes('--rows'))
  if (!args.includes('--write')) return
  const round = (value) => Number(value.toPrecision(6))
  const rounded = (object) =>
    Object.fromEntries(
      Object.entries(object).map(([key, value]) => [key, typeof value === 'number' ? round(value) : rounded(value)]),
    )
  const shipped = {
    source: 'airockchip/rknn-llm, tables of releases 1.1.4 to 1.3.0: peak resident memory of a process',
    madeBy: 'benchmark/estimator/fit.mjs',
    ...rounded({ coefficients: result.coefficients, uncertainty: result.uncertainty }),
    heldBack: result.table.map(({ runtime, ...figures }) => ({ runtime, ...rounded(figures) })),
  }
  writeFileSync(FIT, `${JSON.stringify(shipped, null, 2)}\n`)
  console.log(`\nwrote ${fileURLToPath(FIT)}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv.slice(2))
