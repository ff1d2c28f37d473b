/** Reads the vendor's measurements with the shapes of their models. */

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const { runtimeOf } = require('../../src/js/models/dtypes.js')
const { shapeOf } = require('../../src/js/models/shape.js')
const { kindOfModel } = require('../../src/js/models/parameters.js')
const { termsOf } = require('../../src/js/models/terms.js')

const MiB = 2 ** 20
export const CSV = new URL('./memory.csv', import.meta.url)
const { models } = JSON.parse(readFileSync(new URL('./shapes.json', import.meta.url), 'utf8'))

export const NAMES = Object.keys(models).sort((a, b) => (a < b ? -1 : 1))

/** Returns the config.json of a model in the table, to estimate it as a user does. */
export const configOf = (model) => models[model].config

/** Families, which share an architecture and a tokenizer. All rows of a family are held back together. */
export const familyOf = (model) => /^(Qwen|MiniCPM|Gemma|[A-Za-z]+)/.exec(model)[1]

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
    const { runtime } = runtimeOf(row.runtime)
    return {
      version: row.runtime,
      runtime,
      model,
      family: familyOf(model),
      chip: row.chip.toLowerCase(),
      dtype: row.dtype,
      embedFlash: runtime !== '1.1',
      context,
      measured: Number(row.peak_rss_mb) * MiB,
      kind: kindOfModel(shape),
      terms: termsOf(shape, { context, batch: 1, kvBytes: 2 }),
    }
  })
}
