/**
 * Fits the coefficients of the estimator to half of the vendor's measurements and prints the error on the other half.
 *
 *   node benchmark/estimator/fit.mjs            # the error, by model
 *   node benchmark/estimator/fit.mjs --write    # writes src/js/models/fit.json too
 *   node benchmark/estimator/fit.mjs other.csv  # on another table of the same columns
 */

import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

import { calibrates, NAMES, readRows } from './data.mjs'

const require = createRequire(import.meta.url)
const { apply } = require('../../src/js/models/terms.js')

const FIT = new URL('../../src/js/models/fit.json', import.meta.url)
const DTYPES = ['w8a8', 'w4a16', 'w4a16_g128']
const SMALL_CHIPS = ['rk3562', 'rv1126b']
/** Student's t for the middle 90 %, by degrees of freedom. */
const T90 = [NaN, 6.314, 2.92, 2.353, 2.132, 2.015, 1.943, 1.895, 1.86, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753]

/** Fits six coefficients by least squares of relative errors. */
export function fit(rows) {
  const features = ({ dtype, chip, terms }) => [
    ...DTYPES.map((one) => (one === dtype ? terms.matrices : 0)),
    terms.vocabulary,
    1,
    SMALL_CHIPS.includes(chip) ? 1 : 0,
  ]
  const equations = rows.map((row) => {
    const known = row.terms.kvCache + row.terms.activations
    return { left: features(row).map((value) => value / row.measured), right: (row.measured - known) / row.measured }
  })
  const [w8, w4, w4g, bytesPerToken, constant, small] = leastSquares(equations)
  return {
    bytesPerWeight: { w8a8: w8, w4a16: w4, w4a16_g128: w4g },
    bytesPerToken,
    constant,
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

export const relativeError = (coefficients, row) => apply(coefficients, row.terms, row).total / row.measured - 1

const modelsOf = (rows) => NAMES.filter((name) => rows.some(({ model }) => model === name))

/**
 * Returns the half-width of the 90 % band, from the calibration half only. A fit to the other models predicts each
 * model. Student's t for so few models widens the root mean square of those errors.
 */
export function band(rows) {
  const models = modelsOf(rows)
  const squares = models.map((name) => {
    const others = rows.filter(({ model }) => model !== name)
    const without = fit(others)
    // The other models cannot predict rows of a chip that only this model was measured on.
    const known = rows.filter(({ model, chip }) => model === name && others.some((other) => other.chip === chip))
    const own = known.map((row) => relativeError(without, row) ** 2)
    return own.reduce((a, b) => a + b) / own.length
  })
  return T90[models.length - 1] * Math.sqrt(squares.reduce((a, b) => a + b) / models.length)
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Returns the coefficients to ship, and their error on the held-back half. */
export function calibrate(rows, side = calibrates) {
  const calibration = rows.filter(({ model }) => side(model))
  const heldBack = rows.filter(({ model }) => !side(model))
  const coefficients = fit(calibration)
  const width = band(calibration)
  const kinds = [...new Set(calibration.map(({ kind }) => kind))].sort()
  // The calibration half has no model of this kind, so nothing bounds its error: the band doubles.
  const widthFor = ({ kind }) => (kinds.includes(kind) ? width : 2 * width)
  const errors = heldBack.map((row) => ({ row, error: relativeError(coefficients, row), within: widthFor(row) }))
  return {
    coefficients,
    uncertainty: width,
    kinds,
    models: modelsOf(calibration),
    heldBack: {
      models: modelsOf(heldBack),
      rows: errors.length,
      medianError: median(errors.map(({ error }) => Math.abs(error))),
      withinBand: errors.filter(({ error, within }) => Math.abs(error) <= within).length / errors.length,
    },
    errors,
  }
}

const percent = (share) => `${(100 * share).toFixed(1)} %`

function report(title, { coefficients, uncertainty, heldBack, errors }) {
  const { bytesPerWeight, bytesPerToken, constant, chips } = coefficients
  console.log(`${title}: held back ${heldBack.rows} rows of ${heldBack.models.length} models:`)
  console.log(
    `  median error ${percent(heldBack.medianError)}, ${percent(heldBack.withinBand)} ` +
      `within the band of ± ${percent(uncertainty)}`,
  )
  console.log(`  bytes per weight ${DTYPES.map((dtype) => `${dtype} ${bytesPerWeight[dtype].toFixed(3)}`).join(', ')}`)
  console.log(
    `  bytes per token of the vocabulary ${bytesPerToken.toFixed(0)}, ` +
      `constant ${(constant / 2 ** 20).toFixed(1)} MiB, small chips ${(chips.rk3562 / 2 ** 20).toFixed(1)} MiB`,
  )
  for (const name of heldBack.models) {
    const own = errors.filter(({ row }) => row.model === name)
    const list = own.map(
      ({ row, error, within }) => `${row.chip} ${row.dtype} ${percent(error)}${Math.abs(error) > within ? ' !' : ''}`,
    )
    console.log(`  ${name}: ${list.join(', ')}`)
  }
}

function main(args) {
  const path = args.find((arg) => !arg.startsWith('--'))
  const rows = readRows(path)
  const result = calibrate(rows)
  report('Calibrated on the first, third, … model', result)
  report('\nThe other way round, for comparison', calibrate(rows, (model) => !calibrates(model)))
  if (!args.includes('--write')) return
  const round = (value) => Number(value.toPrecision(6))
  const rounded = (object) =>
    Object.fromEntries(
      Object.entries(object).map(([key, value]) => [key, typeof value === 'number' ? round(value) : rounded(value)]),
    )
  const { coefficients, uncertainty, kinds, models, heldBack } = result
  const shipped = {
    source:
      'airockchip/rknn-llm 1.3.0, benchmark.md: peak resident memory of one process; prompt of 128 tokens, 64 new ones',
    madeBy: 'benchmark/estimator/fit.mjs',
    ...rounded({ coefficients, uncertainty }),
    kinds,
    calibratedOn: models,
    heldBack: { ...heldBack, ...rounded({ medianError: heldBack.medianError, withinBand: heldBack.withinBand }) },
  }
  writeFileSync(FIT, `${JSON.stringify(shipped, null, 2)}\n`)
  console.log(`\nwrote ${fileURLToPath(FIT)}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv.slice(2))
