/** Reads the vendor's measurements with the shapes of their models, and splits them in halves. */

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const { shapeOf } = require('../../src/js/models/shape.js')
const { kindOfModel } = require('../../src/js/models/parameters.js')
const { termsOf } = require('../../src/js/models/terms.js')

const MiB = 2 ** 20
export const CSV = new URL('./memory.csv', import.meta.url)
const { models } = JSON.parse(readFileSync(new URL('./shapes.json', import.meta.url), 'utf8'))

/**
 * Every second model of the alphabetical list, from the first on, calibrates; the others are held back. All rows of a
 * model are on the same side, so that the fit sees no figure of a held-back model.
 */
export const NAMES = Object.keys(models).sort((a, b) => (a < b ? -1 : 1))
export const calibrates = (model) => NAMES.indexOf(model) % 2 === 0

/** Returns the config.json of a model in the table, to estimate it as a user does. */
export const configOf = (model) => models[model].config

/**
 * @param {string | URL} path of a csv with the columns of memory.csv
 */
export function readRows(path = CSV) {
  const [head, ...lines] = readFileSync(path, 'utf8').trim().split('\n')
  const columns = head.split(',')
  return lines.map((line) => {
    const row = Object.fromEntries(line.split(',').map((value, i) => [columns[i], value]))
    // The table writes one model's name in two ways.
    const model = `${row.model === 'Gemma-3n' ? 'Gemma3n' : row.model} ${row.size}`
    if (models[model] === undefined) throw new Error(`there is no shape for ${model}`)
    const { shape } = shapeOf(models[model].config)
    // The least context of the run; the table does not have the context that it was opened with.
    const context = Number(row.prompt_tokens) + Number(row.new_tokens)
    return {
      model,
      chip: row.chip.toLowerCase(),
      dtype: row.dtype,
      context,
      measured: Number(row.peak_rss_mb) * MiB,
      kind: kindOfModel(shape),
      terms: termsOf(shape, { context, batch: 1, kvBytes: 2 }),
    }
  })
}
