'use strict'

// `rkllm-memory replay LOG`: replays an event log against a pool of another size.

const { readFileSync } = require('node:fs')
const { outOfRange } = require('../core/options.js')
const { expectWords, parseSize } = require('./args.js')
const { makeProgress } = require('./progress.js')
const { bytes, columns, grouped, wrap } = require('./style.js')

/** Progress is looked at once in so many lines. */
const LINES_BETWEEN_LOOKS = 1024

const SIZES = {
  capacity: ['capacity', 'capacity of the pool; default: the smallest that fits all allocations'],
  'chunk-size': ['chunkSize', 'size by which it grows; default: the whole capacity at once'],
  'initial-size': ['initialSize', 'size at the start'],
  'block-size': ['blockSize', 'fixed blocks of this size'],
  alignment: ['alignment', 'a power of two; default 64'],
}

/** @type {import('./args.js').Command} */
const command = {
  name: 'replay',
  summary: 'replays an event log against a pool of another size',
  words: 'LOG.csv',
  options: {
    ...Object.fromEntries(
      Object.entries(SIZES).map(([option, [, text]]) => [
        option,
        { type: 'string', value: 'SIZE', text, parse: parseSize },
      ]),
    ),
    smallest: { type: 'boolean', text: 'also find the smallest capacity that fits all allocations' },
    json: { type: 'boolean', text: 'as JSON' },
  },
  notes: [
    'LOG.csv is a .csv report or a log of RMM. Exit status 1 if an allocation would have failed.',
  ],
  examples: ['rkllm-memory replay log.csv --capacity 2GiB --chunk-size 64MiB'],
  run({ values, words, io, paint, print, json, width, STATUS }) {
    const [path] = expectWords(words, ['LOG.csv'])
    const options = Object.fromEntries(
      Object.entries(SIZES).flatMap(([option, [field]]) =>
        values[option] === undefined ? [] : [[field, values[option]]],
      ),
    )
    if (values.smallest) options.smallestCapacity = true
    const text = readFileSync(path, 'utf8')
    const result = replay(text, options, io.stderr)
    if (result.allocations + result.failures === 0) throw outOfRange(`${path} has no allocation: nothing was replayed`)
    if (values.json) json(result)
    else show(result, { paint, print, width })
    return result.fits ? STATUS.ok : STATUS.finding
  },
}

/**
 * Replays, on a terminal with a progress bar. Reading takes two thirds of the time; the rest is one call of the native
 * part.
 *
 * @param {string} text
 * @param {import('../types/replay.js').ReplayOptions} options
 * @param {import('./args.js').Stream} stream
 * @returns {import('../types/replay.js').ReplayResult}
 */
function replay(text, options, stream) {
  if (stream.isTTY !== true) return require('../../../index.js').replayEventLog(text, options)
  // The function of index.js takes no progress.
  const { replayEventLog } = require('../replay/replay.js')
  let lines = 0
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines++
  const progress = makeProgress(stream, lines * 1.5)
  try {
    return replayEventLog(text, options, (line) => {
      if (line % LINES_BETWEEN_LOOKS > 0 && line < lines) return
      progress.update(line, () => `${grouped(line)} of ${grouped(lines)} lines`)
    })
  } finally {
    progress.clear()
  }
}

/**
 * @param {import('../types/replay.js').ReplayResult} result
 * @param {Pick<import('./args.js').Context, 'paint' | 'print' | 'width'>} context
 */
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
    ['peak of live bytes', bytes(result.peakLive)],
    ['with padding', bytes(result.peakAllocated)],
    ['peak size of the pool', bytes(result.peakReserved)],
    ['fragmentation at the peak', result.fragmentationAtPeak.toFixed(2)],
    ...(result.smallestCapacity === null ? [] : [['smallest capacity', bytes(result.smallestCapacity)]]),
  ]
  for (const row of columns(rows.map(([what, figure]) => [`  ${what}`, figure]))) print(row)
}

module.exports = command
