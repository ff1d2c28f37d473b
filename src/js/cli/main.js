#!/usr/bin/env node
'use strict'

// `npx rkllm-memory`.

const { run } = require('./run.js')

// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', (error) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

run(process.argv.slice(2), process).then((status) => {
  process.exitCode = status
})
