'use strict'

// Validates arguments before a native call: types, whole numbers, and the names of options. The native part checks the
// ranges that depend on the device.

const { memoryError } = require('./errors.js')

const invalid = (message, hint) => memoryError('ERR_INVALID_ARG_TYPE', message, hint && { hint })
const outOfRange = (message, figures) => memoryError('ERR_OUT_OF_RANGE', message, figures)

/** Formats `value` for a message. Reads no property of an object, which may be a proxy. */
function shown(value) {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'bigint':
      return `${value}n`
    case 'object':
      return value === null ? 'null' : 'an object'
    case 'function':
    case 'symbol':
      return `a ${typeof value}`
    default:
      return String(value)
  }
}

/** Checks for a whole number from `min` to `max`, and returns it. */
function integer(name, value, min, max = Number.MAX_SAFE_INTEGER) {
  if (typeof value !== 'number') {
    throw invalid(
      `${name} must be a number, not ${shown(value)}`,
      typeof value === 'bigint' ? 'convert it with Number()' : undefined,
    )
  }
  if (!Number.isInteger(value)) throw outOfRange(`${name} is ${value}; it must be a whole number`)
  if (value < min || value > max) {
    const bound = max === Number.MAX_SAFE_INTEGER ? `at least ${min} and below 2^53` : `from ${min} to ${max}`
    throw outOfRange(`${name} is ${value}; it must be ${bound}`, value >= 0 ? { requested: value } : undefined)
  }
  return value
}

// Validators of options: (name, value) => the value to use, or throw.
const kinds = {
  boolean(name, value) {
    if (typeof value !== 'boolean') throw invalid(`${name} must be true or false, not ${shown(value)}`)
    return value
  },
  string(name, value) {
    if (typeof value !== 'string') throw invalid(`${name} must be a string, not ${shown(value)}`)
    return value
  },
  integer: (min, max) => (name, value) => integer(name, value, min, max),
  milliseconds: (max) => (name, value) => {
    if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${shown(value)}`)
    if (!(value >= 0 && value <= max)) throw outOfRange(`${name} is ${value}; it must be from 0 to ${max} ms`)
    return value
  },
  oneOf:
    (...allowed) =>
    (name, value) => {
      if (allowed.includes(value)) return value
      const list = allowed.map(shown).join(', ')
      const known = allowed.some((choice) => typeof choice === typeof value)
      const message = `${name} is ${shown(value)}; it must be one of ${list}`
      throw known ? outOfRange(message) : invalid(message)
    },
  nested: (schema) => (name, value) => check(name, value, schema),
}

/**
 * Checks options against a schema. Reads each option once; options that are left out or undefined are absent from the
 * result.
 *
 * @param {string} what names the function in messages
 * @param {unknown} options
 * @param {Record<string, (name: string, value: unknown) => unknown>} schema
 */
function check(what, options, schema) {
  if (options === undefined) return {}
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalid(`the options of ${what} must be an object, not ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(schema, name)) throw unknownOption(what, name, Object.keys(schema))
  }
  const checked = {}
  for (const [name, kind] of Object.entries(schema)) {
    const value = options[name]
    if (value !== undefined) checked[name] = kind(`${what}: ${name}`, value)
  }
  return checked
}

function unknownOption(what, name, known) {
  const meant = nearest(name, known)
  const hint =
    meant === undefined
      ? `it has ${known.map((candidate) => JSON.stringify(candidate)).join(', ')}`
      : `did you mean ${JSON.stringify(meant)}?`
  return invalid(`${what} has no option ${JSON.stringify(name)}`, hint)
}

/** Returns the name in `known` that `name` probably misspells, if one is near enough. */
function nearest(name, known) {
  const distances = known.map((candidate) => [editDistance(name.toLowerCase(), candidate.toLowerCase()), candidate])
  const [distance, candidate] = distances.sort(([a], [b]) => a - b)[0]
  return distance <= Math.max(2, name.length / 3) ? candidate : undefined
}

/** Counts the letters to insert, delete or replace (Levenshtein distance). */
function editDistance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]
}

const allocation = {
  tag: kinds.string,
  alignment: kinds.integer(1),
  zeroed: kinds.boolean,
}

const npuAllocation = {
  ...allocation,
  cacheable: kinds.boolean,
  contiguous: kinds.boolean,
  placement: kinds.oneOf('dram', 'try-sram'),
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
  coreMask: kinds.integer(0, 2 ** 32 - 1),
  dedicated: kinds.boolean,
}

const receive = {
  signal: (name, value) => {
    if (value instanceof AbortSignal) return value
    throw invalid(`${name} must be an AbortSignal, not ${shown(value)}`)
  },
}

const npuAllocationAsync = { ...npuAllocation, ...receive }

const systemAllocation = {
  ...allocation,
  hugePages: kinds.oneOf(true, false, 'try'),
  lock: kinds.boolean,
  prefault: kinds.boolean,
}

const poolAllocation = { ...allocation, movable: kinds.boolean }

const defragment = {
  maxBytes: kinds.integer(0),
  maxMoves: kinds.integer(0),
  maxMs: kinds.milliseconds(Number.MAX_SAFE_INTEGER),
}

const optimize = {
  trim: kinds.boolean,
  defragment: (name, value) => (typeof value === 'boolean' ? value : check(name, value, defragment)),
}

const cleanup = {
  onPressure: kinds.boolean,
  onExhaustion: kinds.boolean,
  defragmentAbove: (name, value) => {
    if (value === null) return value
    if (typeof value !== 'number') throw invalid(`${name} must be a number or null, not ${shown(value)}`)
    if (!(value >= 0 && value <= 1)) throw outOfRange(`${name} is ${value}; it must be from 0 to 1`)
    return value
  },
}

const pool = {
  name: kinds.string,
  kind: kinds.oneOf('npu', 'system'),
  initialSize: kinds.integer(0),
  maxSize: kinds.integer(1),
  chunkSize: kinds.integer(1),
  blockSize: kinds.integer(1),
  alignment: kinds.integer(1),
  tag: kinds.string,
  // createPool checks it with the schema of the pool's kind.
  allocation: (_name, value) => value,
}

const destroyPool = { force: kinds.boolean }

const dmaBufImport = { size: kinds.integer(1), tag: kinds.string }

const reservation = {
  kind: kinds.oneOf('npu', 'system'),
  tag: kinds.string,
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
}

const DTYPES = ['w8a8', 'w4a16', 'w4a16_g128']

const model = {
  path: kinds.string,
  weightBytes: kinds.integer(1),
  config: (name, value) => {
    if (typeof value === 'string') return value
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
    throw invalid(`${name} must be a path or an object, not ${shown(value)}`)
  },
  layers: kinds.integer(1, 4096),
  hiddenSize: kinds.integer(1, 2 ** 24),
  kvHeads: kinds.integer(1, 2 ** 16),
  headDim: kinds.integer(1, 2 ** 16),
  vocabSize: kinds.integer(1, 2 ** 28),
  contextLength: kinds.integer(1, 2 ** 31 - 1),
  batch: kinds.integer(1, 4096),
  kvBytesPerElement: kinds.integer(1, 8),
  dtype: kinds.oneOf(...DTYPES),
  soc: kinds.string,
  type: kinds.oneOf('language', 'vision'),
}

const plannedModel = { ...model, name: kinds.string, group: kinds.string }

const plan = {
  domains: (name, value) => {
    if (Array.isArray(value)) return value.map((domain, i) => check(`${name}[${i}]`, domain, domainUse))
    throw invalid(`${name} must be an array of DomainStats, not ${shown(value)}`)
  },
  ramAvailable: kinds.integer(0),
  keepFree: kinds.integer(0),
  spread: kinds.boolean,
}

const domainUse = {
  id: kinds.integer(0, 2 ** 31 - 1),
  total: kinds.integer(0),
  used: kinds.integer(0),
  reservedForOthers: kinds.integer(0),
}

const BACKENDS = ['rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated']

const manager = {
  backend: kinds.oneOf('auto', ...BACKENDS),
  device: kinds.string,
  simulated: kinds.nested({
    soc: kinds.string,
    domainBytes: kinds.integer(1),
    domains: kinds.integer(0, 2 ** 31 - 1),
    sramBytes: kinds.integer(0),
    maxObjects: kinds.integer(1),
    latencyMs: kinds.milliseconds(60_000),
  }),
  slabs: kinds.nested({ threshold: kinds.integer(0), size: kinds.integer(1) }),
  cleanup: kinds.nested(cleanup),
  // `Limits.check` checks it.
  limits: (_name, value) => value,
  debug: kinds.nested({ delayReuse: kinds.integer(0, 1_000_000) }),
  inspect: kinds.boolean,
  profiling: (name, value) => (typeof value === 'boolean' ? value : check(name, value, profiling)),
}

/** A list of names; null stands for entries without a name. */
const names = (name, value) => {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array, not ${shown(value)}`)
  const wrong = value.find((item) => item !== null && typeof item !== 'string')
  if (wrong !== undefined || value.includes(undefined))
    throw invalid(`${name} must hold strings and null, not ${shown(wrong)}`)
  return [...value]
}

const replay = {
  capacity: kinds.integer(1),
  suballocator: kinds.oneOf('tlsf', 'fixed'),
  blockSize: kinds.integer(1),
  chunkSize: kinds.integer(1),
  initialSize: kinds.integer(0),
  maxSize: kinds.integer(1),
  alignment: kinds.integer(1),
  kinds: names,
  pools: names,
  tags: names,
  smallestCapacity: kinds.boolean,
}

const metrics = { format: kinds.oneOf('openmetrics', 'prometheus') }

const profiling = {
  sampleInterval: kinds.integer(1),
  eventCapacity: kinds.integer(0, 2 ** 24),
  stackDepth: kinds.integer(1, 200),
  leakAfterMs: kinds.milliseconds(2 ** 31 - 1),
}

const diagnose = { root: kinds.string }

const schemas = {
  defragment,
  destroyPool,
  diagnose,
  dmaBufImport,
  manager,
  metrics,
  model,
  npuAllocation,
  npuAllocationAsync,
  optimize,
  plan,
  plannedModel,
  pool,
  poolAllocation,
  profiling,
  receive,
  replay,
  reservation,
  systemAllocation,
}

/** Checks the options of an NPU allocation and converts them for the native part. */
function npuRequest(what, options, schema = schemas.npuAllocation) {
  const { placement, ...rest } = check(what, options, schema)
  return { ...rest, sram: placement === 'try-sram' }
}

/** Checks the options of a system allocation and converts them for the native part. */
function systemRequest(what, options) {
  // The kernel always gives zeroed pages.
  const { hugePages, zeroed: _always, ...rest } = check(what, options, schemas.systemAllocation)
  return { ...rest, hugePages: { true: true, try: false }[hugePages] }
}

module.exports = { check, integer, invalid, kinds, nearest, npuRequest, outOfRange, shown, schemas, systemRequest }
