'use strict'

// `rkllm-memory report PID FILE`: a report of a running process, rendered here and not there.

const { expectWords } = require('./args.js')
const { MANAGER, askOne } = require('./snapshot.js')

module.exports = {
  name: 'report',
  summary: 'writes a report about a running process',
  words: 'PID FILE',
  options: { manager: MANAGER },
  notes: [
    'The extension of FILE says which: .html (to look at), .json, .csv (event log, for replay), .pb.gz (pprof), .prom (OpenMetrics), .trace.json (Perfetto).',
    'The process must have made its manager with { inspect: true }, and be yours. Call sites and events are there if it profiles.',
  ],
  async run({ values, words, io }) {
    const [pid, path] = expectWords(words, ['PID', 'FILE'])
    const { snapshot, profile, metrics } = await askOne(pid, values.manager, ['snapshot', 'profile', 'metrics'])
    const { writeReport } = require('../report/index.js')
    await writeReport(path, { snapshot: () => snapshot, profile: () => profile, metrics: () => metrics })
    io.stderr.write(`wrote ${path}\n`)
  },
}
