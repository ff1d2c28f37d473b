'use strict'

// `rkllm-memory replay LOG`: would a pool of another size have done?

const { readFileSync } = require('node:fs')
const { expectWords, size } = require('./args.js')
const { bytes, columns, grouped, wrap } = require('./style.js')

const SIZES = {
  capacity: ['capacity', 'what the pool may have; default: the least that serves everything'],
  'chunk-size': ['chunkSize', 'what it grows by; default: it has all at once'],
  'initial-size': ['initialSize', 'what it begins with'],
  'block-size': ['blockSize', 'blocks of one size, instead of any'],
  alignment: ['alignment', 'a power of two; default 64'],
}

module.exports = {
  name: 'replay',
  summary: 'replays an event log against a pool of another size',
  words: 'LOG.csv',
  options: {
    ...Object.fromEntries(
      Object.entries(SIZES).map(([option, [, text]]) => [option, { type: 'string', value: 'SIZE', text, parse: size }]),
    ),
    smallest: { type: 'boolean', text: 'look for the smallest capacity that serves everything as well' },
    json: { type: 'boolean', text: 'as JSON' },
  },
  notes: [
    "LOG.csv is what writeReport writes, or RMM's log. Exit status 1 if an allocation would have failed.",
    'Example: rkllm-memory replay log.csv --capacity 2GiB --chunk-size 64MiB',
  ],
  run({ values, words, paint, print, json, width, STATUS }) {
    const [path] = expectWords(words, ['LOG.csv'])
    const options = Object.fromEntries(
      Object.entries(SIZES).flatMap(([option, [field]]) =>
        values[option] === undefined ? [] : [[field, values[option]]],
      ),
    )
    if (values.smallest) options.smallestCapacity = true
    const text = readFileSync(path, 'utf8')
    const result = require('../../../index.js').replayEventLog(text, options)
    if (values.json) json(result)
    else show(result, { paint, print, width })
    return result.fits ? STATUS.ok : STATUS.finding
  },
}

function show(result, { paint, print, width }) {
  const { fits, capacity, firstFailure, failures, failedBytes } = result
  const room = capacity === null ? 'without a limit' : `in ${bytes(capacity)}`
  const refused = failures === 1 ? '1 allocation does' : `${grouped(failures)} allocations do`
  const verdict = fits
    ? paint.green(`Everything fits ${room}`)
    : paint.red(`${refused} not fit ${room} (${bytes(failedBytes)})`)
  print(paint.bold(verdict))
  if (firstFailure) {
    const { line, size: wanted, free, largestFree } = firstFailure
    const left =
      free === 0 ? 'nothing was free' : `${bytes(free)} were free, ${bytes(largestFree)} of them in one piece`
    print(wrap(`The first is line ${line}: ${bytes(wanted)}, when ${left}.`, width).join('\n'))
  }
  print('')
  const rows = [
    ['allocations, frees', `${grouped(result.allocations)}, ${grouped(result.frees)}`],
    ['most that was live', bytes(result.peakLive)],
    ['with padding', bytes(result.peakAllocated)],
    ['most that the pool took', bytes(result.peakReserved)],
    ['fragmentation then', result.fragmentationAtPeak.toFixed(2)],
    ...(result.smallestCapacity === null ? [] : [['smallest capacity that does', bytes(result.smallestCapacity)]]),
  ]
  for (const row of columns(rows.map(([what, figure]) => [`  ${what}`, figure]))) print(row)
}
