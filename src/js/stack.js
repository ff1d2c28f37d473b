'use strict'

// Where in the program something is called: the frames above this package's own.

const { pathToFileURL } = require('node:url')

/** Frames of this package that may lie between its user and here. */
const OURS = 12
const here = [`${__dirname}/`, `${pathToFileURL(__dirname)}/`]
const isOurs = (frame) => here.some((folder) => frame.includes(folder))

let capturing = false

/** At most `depth` frames, `at ...` each, the innermost first; an empty text where there are none, or none can be had. */
function stackHere(depth) {
  // A prepareStackTrace of the user's may allocate, which may be sampled.
  if (capturing) return ''
  capturing = true
  const { stackTraceLimit } = Error
  try {
    Error.stackTraceLimit = depth + OURS
    // With --enable-source-maps, or a library that does the same, these are the lines of the sources.
    const { stack } = new Error()
    if (typeof stack !== 'string') return ''
    const frames = stack.split('\n').map((line) => line.trim())
    return frames
      .filter((frame) => frame.startsWith('at ') && !isOurs(frame))
      .slice(0, depth)
      .join('\n')
  } catch {
    return '' // Error is frozen, or what prepares its stacks throws
  } finally {
    capturing = false
    try {
      Error.stackTraceLimit = stackTraceLimit
    } catch {
      // Then it was not changed either.
    }
  }
}

module.exports = { stackHere }
