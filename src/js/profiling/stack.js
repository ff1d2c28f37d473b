'use strict'

// Captures the call stack above this package's own frames.

const { join } = require('node:path')
const { pathToFileURL } = require('node:url')
const { wrappers } = require('../core/border.js')

/** The most frames of this package between the user's call and `stackHere`. */
const MAX_OWN_FRAMES = 20
/** Public functions on one stack are told apart by the frames below them, of which at most so many are counted. */
const MAX_COMPARED_FRAMES = 1000
/** Whether this file is part of a bundle, where all frames have one file. A bundle of modules has no __filename. */
const bundled = typeof __filename !== 'string' || !/[/\\]profiling[/\\]stack\.js$/.test(__filename)
const root = bundled ? '' : join(__dirname, '..')
const ownFolders = bundled ? [] : [`${root}/`, `${pathToFileURL(root)}/`]
/** @type {(frame: string) => boolean} */
const isOwn = (frame) => ownFolders.some((folder) => frame.includes(folder))

/**
 * Formatted stacks by the positions of their frames. V8 takes tens of µs to format a stack, because it searches a
 * method's name along its receiver's prototypes, and only a few to give positions. A program allocates from the same
 * places again and again.
 *
 * @type {Map<string | undefined, { depth: number, text: string }>}
 */
const cache = new Map()
const MAX_CACHED = 4096
/**
 * Script → its number in cache keys. OWN stands for all scripts of this package.
 *
 * @type {Map<string | null, number>}
 */
const scripts = new Map()
const OWN = 0
/**
 * The user's Error.prepareStackTrace under which the cache was filled.
 *
 * @type {typeof Error.prepareStackTrace}
 */
let cachedFormatter

let capturing = false

/**
 * Returns at most `depth` lines `at ...`, innermost first; '' if there are no frames or they cannot be captured.
 *
 * @param {number} depth
 */
function stackHere(depth) {
  // The user's prepareStackTrace may allocate, and that allocation may be sampled.
  if (capturing) return ''
  capturing = true
  const { stackTraceLimit } = Error
  try {
    Error.stackTraceLimit = depth + MAX_OWN_FRAMES
    const key = positions()
    const known = cache.get(key)
    if (known?.depth === depth) return known.text
    const text = formatted(depth)
    if (key !== undefined) cache.set(key, { depth, text })
    return text
  } catch {
    return '' // Error is frozen, or the user's prepareStackTrace throws
  } finally {
    capturing = false
    try {
      Error.stackTraceLimit = stackTraceLimit
    } catch {
      // A frozen Error was not changed above either.
    }
  }
}

/** @param {number} depth */
function formatted(depth) {
  if (bundled) return formattedInBundle(depth)
  // With --enable-source-maps, or a library that does the same, V8 gives lines of the sources here.
  const { stack } = new Error()
  if (typeof stack !== 'string') return ''
  const frames = stack.split('\n').map((line) => line.trim())
  return frames
    .filter((frame) => frame.startsWith('at ') && !isOwn(frame))
    .slice(0, depth)
    .join('\n')
}

/**
 * The frames below the outermost public function, which V8 leaves out by its identity. A method of the manager calls
 * methods of pools: the outermost function has the fewest frames below it.
 *
 * @param {number} depth
 */
function formattedInBundle(depth) {
  Error.stackTraceLimit = MAX_COMPARED_FRAMES
  /** @type {string[] | undefined} */
  let fewest
  for (const wrapper of wrappers) {
    /** @type {{ stack?: unknown }} */
    const holder = {}
    Error.captureStackTrace?.(holder, wrapper)
    const frames = framesIn(holder.stack)
    // Where the wrapper is not on the stack, only the frames of callers that wait are left.
    if (frames.length === 0 || frames[0].startsWith('at async ')) continue
    if (fewest === undefined || frames.length < fewest.length) fewest = frames
  }
  if (fewest !== undefined) return fewest.slice(0, depth).join('\n')
  // After an await there are only the frames of the callers that wait; the last public one ends the package's own.
  const frames = framesIn(new Error().stack)
  const names = new Set(wrappers.map(({ name }) => name))
  const own = frames.findLastIndex((frame) => names.has(/^at async (?:[\w$]+\.)?([\w$]+) /.exec(frame)?.[1] ?? ''))
  return frames
    .slice(own + 1)
    .filter((frame) => frame.startsWith('at async '))
    .slice(0, depth)
    .join('\n')
}

/** @param {unknown} stack */
const framesIn = (stack) =>
  String(stack)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('at '))

/** Returns the positions of all frames as a cache key; undefined where the engine does not give them. */
function positions() {
  const { prepareStackTrace } = Error
  if (cache.size >= MAX_CACHED || prepareStackTrace !== cachedFormatter) {
    cache.clear()
    scripts.clear()
    cachedFormatter = prepareStackTrace
  }
  // Not an assignment, which throws where the property is read-only.
  if (!Reflect.set(Error, 'prepareStackTrace', formatPositions)) return undefined
  try {
    const { stack } = new Error()
    return typeof stack === 'string' && stack.startsWith(KEY_PREFIX) ? stack : undefined
  } finally {
    Reflect.set(Error, 'prepareStackTrace', prepareStackTrace)
  }
}

/** Proves that `stack` was made by `formatPositions`. */
const KEY_PREFIX = 'positions'

/**
 * A prepareStackTrace that gives positions. Returns undefined for other engines' frames, and for evaluated code, which
 * has no name.
 *
 * @param {Error} _error
 * @param {any[]} frames which other engines make otherwise
 */
function formatPositions(_error, frames) {
  let text = KEY_PREFIX
  for (const frame of frames) {
    if (typeof frame.getPosition !== 'function' || frame.isEval()) return undefined
    // Built-in functions have a name and no script.
    const script = frame.getScriptNameOrSourceURL() || frame.getFunctionName()
    let number = scripts.get(script)
    if (number === undefined) scripts.set(script, (number = isOwn(`${script}`) ? OWN : scripts.size + 1))
    // Own frames are left out of the text, and one position takes a microsecond to find.
    if (number !== OWN) text += ` ${number}:${frame.getPosition()}`
  }
  return text
}

module.exports = { stackHere }
