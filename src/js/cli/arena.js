'use strict'

// `rkllm-memory arena FILE.csv`: places buffers with known lifetimes.

const { readFileSync, writeFileSync } = require('node:fs')
const { readLifetimes } = require('../arena/csv.js')
const { pageOfPlan } = require('../arena/page.js')
const { drawPlan } = require('../arena/svg.js')
const { expectWords, parseSize, wholeNumber } = require('./args.js')
const { bytes, columns, grouped } = require('./style.js')

const DEFAULT_MS = 10_000

/** @type {import('./args.js').Command} */
const command = {
  name: 'arena',
  summary: 'places buffers with known lifetimes into the least arena',
  words: 'FILE.csv',
  options: {
    capacity: { type: 'string', value: 'SIZE', text: 'a size that suffices; default: the least', parse: parseSize },
    'max-ms': {
      type: 'string',
      value: 'N',
      text: `time to look for a smaller arena; default ${DEFAULT_MS}`,
      parse: wholeNumber(0),
    },
    svg: { type: 'string', value: 'FILE', text: 'draw the placement' },
    html: { type: 'string', value: 'FILE', text: 'the figures, the picture and a table as a page' },
    json: { type: 'boolean', text: 'the placements as JSON' },
  },
  notes: [
    'FILE.csv has the columns id,lower,upper,size and perhaps alignment. A buffer is alive from lower to just before ' +
      'upper. Exit status 1 if --capacity was not reached.',
  ],
  examples: [
    'rkllm-memory arena lifetimes.csv --svg placement.svg',
    'rkllm-memory arena lifetimes.csv --capacity 1MiB',
  ],
  run({ values, words, print, paint, json, STATUS }) {
    const [path] = expectWords(words, ['FILE.csv'])
    const { planArena } = require('../../../index.js')
    const maxMs = values['max-ms'] ?? DEFAULT_MS
    const plan = planArena(readLifetimes(readFileSync(path, 'utf8')), { capacity: values.capacity, maxMs })
    if (values.svg !== undefined) writeFileSync(values.svg, drawPlan(plan))
    if (values.html !== undefined) writeFileSync(values.html, pageOfPlan(plan))
    if (values.json) json(plan)
    else {
      const { size, lowerBound, isLeast, placements } = plan
      const verdict = `${grouped(placements.length)} buffers lie in ${bytes(size)}`
      print(paint.bold(plan.fits === false ? paint.red(verdict) : paint.green(verdict)))
      print('')
      const apart = placements.reduce((sum, { size }) => sum + size, 0)
      const rows = [
        ['  bytes', grouped(size)],
        ['  lower bound', `${grouped(lowerBound)}${isLeast ? ': no arena is smaller' : ''}`],
        ['  without sharing', grouped(apart)],
      ]
      columns(rows).forEach((row) => print(row))
    }
    return plan.fits === false ? STATUS.finding : STATUS.ok
  },
}

module.exports = command
