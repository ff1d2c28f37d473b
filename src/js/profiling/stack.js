'use strict'

// Where in the program something is called: the frames above this package's own.

const { join } = require('node:path')
const { pathToFileURL } = require('node:url')

/** Frames of this package that may lie between its user and here. */
const OURS = 12
const root = join(__dirname, '..')
const here = [`${root}/`, `${pathToFileURL(root)}/`]
const isOurs = (frame) => here.some((folder) => frame.includes(folder))

/**
 * What was said of stacks before, by the places of their frames. V8 takes tens of µs to put a stack in words (a method's name is searched
 * along its receiver's prototypes), and few to say where its frames are; a program allocates from the same places again and again.
 */
const said = new Map()
const MOST_SAID = 4096
/** A number for each script, short texts are compared quickly; OWN for this package's. */
const scripts = new Map()
const OWN = 0
/** The user's Error.prepareStackTrace that was in force. */
let saidBy

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

/** Where the frames are: for the same text the words are the same. Undefined where that cannot be told. */
function placeHere() {
  const { prepareStackTrace } = Error
  if (said.size >= MOST_SAID || prepareStackTrace !== saidBy) {
    said.clear()
    scripts.clear()
    saidBy = prepareStackTrace
  }
  // Not an assignment, which throws where Error is frozen in part.
  if (!Reflect.set(Error, 'prepareStackTrace', places)) return undefined
  try {
    const { stack } = new Error()
    return typeof stack === 'string' && stack.startsWith(MARK) ? stack : undefined
  } finally {
    Reflect.set(Error, 'prepareStackTrace', prepareStackTrace)
  }
}

const MARK = 'places'

/** V8's frames only: others do not know their positions. Evaluated code has positions, and no name to tell it from other such code. */
function places(_error, frames) {
  let text = MARK
  for (const frame of frames) {
    if (typeof frame.getPosition !== 'function' || frame.isEval()) return undefined
    // What is built in has no script, but a name.
    const script = frame.getScriptNameOrSourceURL() || frame.getFunctionName()
    let number = scripts.get(script)
    if (number === undefined) scripts.set(script, (number = isOurs(`${script}`) ? OWN : scripts.size + 1))
    // What is left out of the text need not be told apart, and finding a position takes a microsecond.
    if (number !== OWN) text += ` ${number}:${frame.getPosition()}`
  }
  return text
}

module.exports = { stackHere }
