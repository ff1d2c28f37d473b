'use strict'

// `rkllm-memory report PID FILE`: writes a report about a running process. This process renders it, not the inspected
// one.

const { expectWords } = require('./args.js')
const { MANAGER, askOne } = require('./snapshot.js')
const { styled } = require('./style.js')

/** @type {import('./args.js').Command} */
const command = {
  name: 'report',
  summary: 'writes a report about a running process',
  words: 'PID FILE',
  options: { manager: MANAGER },
  notes: [
    'The extension of FILE selects the format: .html (to view), .json, .csv (event log, for replay), .pb.gz ' +
      '(pprof), .prom (OpenMetrics), .trace.json (Perfetto).',
    'The process must be yours and create its manager with { inspect: true }. Call sites and events are included ' +
      'if it profiles.',
  ],
  async run({ values, words, io }) {
    const [pid, path] = expectWords(words, ['PID', 'FILE'])
    const { snapshot, profile, metrics } = await askOne(pid, values.manager, ['snapshot', 'profile', 'metrics'])
    const { writeReport } = require('../report/index.js')
    await writeReport(path, { snapshot: () => snapshot, profile: () => profile, metrics: () => metrics })
    io.stderr.write(styled(`wrote ${path}\n`))
  },
}

module.exports = command
