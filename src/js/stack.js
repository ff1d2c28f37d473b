'use strict'

// Where in the program something is called: the frames above this package's own.

const { pathToFileURL } = require('node:url')

/** Frames of this package that may lie between its user and here. */
const OURS = 12
const here = [`${__dirname}/`, `${pathToFileURL(__dirname)}/`]
const isOurs = (frame) => here.some((folder) => frame.includes(folder))

/**
 * What was said of stacks before, by the places of their frames. V8 takes tens of µs to put a stack in words (a method's name is searched
 * along its receiver's prototypes), and few to say where its frames are; a program allocates from the same places again and again.
 */
const said = new Map()
const MOST_SAID = 4096

let capturing = false

/** At most `depth` frames, `at ...` each, the innermost first; an empty text where there are none, or none can be had. */
function stackHere(depth) {
  // A prepareStackTrace of the user's may allocate, which may be sampled.
  if (capturing) return ''
  capturing = true
  const { stackTraceLimit } = Error
  try {
    Error.stackTraceLimit = depth + OURS
    const place = placeHere()
    const known = said.get(place)
    if (known?.depth === depth) return known.text
    const text = textHere(depth)
    if (said.size >= MOST_SAID) said.clear()
    if (place !== undefined) said.set(place, { depth, text })
    return text
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

/** The frames in words. */
function textHere(depth) {
  // With --enable-source-maps, or a library that does the same, these are the lines of the sources.
  const { stack } = new Error()
  if (typeof stack !== 'string') return ''
  const frames = stack.split('\n').map((line) => line.trim())
  return frames
    .filter((frame) => frame.startsWith('at ') && !isOurs(frame))
    .slice(0, depth)
    .join('\n')
}

/** The same places, the same text; undefined on engines other than V8. */
function placeHere() {
  const { prepareStackTrace } = Error
  Error.prepareStackTrace = places
  try {
    const { stack } = new Error()
    return typeof stack === 'string' && stack.startsWith(MARK) ? stack : undefined
  } finally {
    Error.prepareStackTrace = prepareStackTrace
  }
}

const MARK = 'places'
/** A number for each script: short texts are compared quickly. */
const scripts = new Map()

function places(_error, frames) {
  let text = MARK
  for (const frame of frames) {
    if (typeof frame.getPosition !== 'function') return undefined
    const script = frame.getScriptNameOrSourceURL()
    let number = scripts.get(script)
    if (number === undefined) scripts.set(script, (number = scripts.size))
    text += ` ${number}:${frame.getPosition()}`
  }
  return text
}

module.exports = { stackHere }
