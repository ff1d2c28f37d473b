#!/usr/bin/env node
'use strict'

// The executable `rkllm-memory`.

const { run } = require('./run.js')

// A reader that closes the pipe early (`| head`) is not an error.
process.stdout.on('error', (error) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

run(process.argv.slice(2), process).then((status) => {
  process.exitCode = status
})
