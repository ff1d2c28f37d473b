'use strict'

// Validates arguments before a native call: types, whole numbers, and the names of options. The native part checks the
// ranges that depend on the device.

const { memoryError } = require('./errors.js')

/**
 * @template T
 * @typedef {(name: string, value: unknown) => T} Validator returns the value to use, or throws
 */
/** @typedef {Record<string, Validator<any>>} Schema */
/**
 * @template {Schema} S
 * @typedef {{ [Name in keyof S]?: ReturnType<S[Name]> }} Checked
 */

/**
 * @param {string} message
 * @param {string} [hint]
 */
const invalid = (message, hint) => memoryError('ERR_INVALID_ARG_TYPE', message, hint ? { hint } : undefined)

/**
 * @param {string} message
 * @param {Partial<import('../types/errors.js').MemoryError>} [figures]
 */
const outOfRange = (message, figures) => memoryError('ERR_OUT_OF_RANGE', message, figures)

/**
 * Formats `value` for a message. Reads no property of an object, which may be a proxy.
 *
 * @param {unknown} value
 */
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

/**
 * Checks for a whole number from `min` to `max`, and returns it.
 *
 * @param {string} name
 * @param {unknown} value
 * @param {number} min
 */
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

/** Makes validators of options. */
const kinds = {
  /** @type {Validator<boolean>} */
  boolean(name, value) {
    if (typeof value !== 'boolean') throw invalid(`${name} must be true or false, not ${shown(value)}`)
    return value
  },
  /** @type {Validator<string>} */
  string(name, value) {
    if (typeof value !== 'string') throw invalid(`${name} must be a string, not ${shown(value)}`)
    return value
  },
  /** @type {(min: number, max?: number) => Validator<number>} */
  integer: (min, max) => (name, value) => integer(name, value, min, max),
  /** @type {(max: number) => Validator<number>} */
  milliseconds: (max) => (name, value) => {
    if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${shown(value)}`)
    if (!(value >= 0 && value <= max)) throw outOfRange(`${name} is ${value}; it must be from 0 to ${max} ms`)
    return value
  },
  /** @type {<T extends string | boolean>(...allowed: T[]) => Validator<T>} */
  oneOf:
    (...allowed) =>
    (name, value) => {
      const found = allowed.find((choice) => choice === value)
      if (found !== undefined) return found
      const list = allowed.map(shown).join(', ')
      const known = allowed.some((choice) => typeof choice === typeof value)
      const message = `${name} is ${shown(value)}; it must be one of ${list}`
      throw known ? outOfRange(message) : invalid(message)
    },
  /** @type {<S extends Schema>(schema: S) => Validator<Checked<S>>} */
  nested: (schema) => (name, value) => check(name, value, schema),
}

/**
 * Checks options against a schema. Reads each option once; options that are left out or undefined are absent from the
 * result.
 *
 * @template {Schema} S
 * @param {string} what names the function in messages
 * @param {unknown} options
 * @param {S} schema
 * @returns {Checked<S>}
 */
function check(what, options, schema) {
  if (options === undefined) return {}
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalid(`the options of ${what} must be an object, not ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(schema, name)) throw unknownOption(what, name, Object.keys(schema))
  }
  /** @type {Record<string, unknown>} */
  const checked = {}
  for (const [name, kind] of Object.entries(schema)) {
    const value = /** @type {Record<string, unknown>} */ (options)[name]
    if (value !== undefined) checked[name] = kind(`${what}: ${name}`, value)
  }
  return /** @type {Checked<S>} */ (checked)
}

/**
 * @param {string} what
 * @param {string} name
 * @param {string[]} known
 */
function unknownOption(what, name, known) {
  const meant = nearest(name, known)
  const hint =
    meant === undefined
      ? `it has ${known.map((candidate) => JSON.stringify(candidate)).join(', ')}`
      : `did you mean ${JSON.stringify(meant)}?`
  return invalid(`${what} has no option ${JSON.stringify(name)}`, hint)
}

/**
 * Returns the name in `known` that `name` probably misspells, if one is near enough.
 *
 * @param {string} name
 * @param {string[]} known
 */
function nearest(name, known) {
  const distances = known.map((candidate) => ({
    candidate,
    distance: editDistance(name.toLowerCase(), candidate.toLowerCase()),
  }))
  const [{ distance, candidate }] = distances.sort((a, b) => a.distance - b.distance)
  return distance <= Math.max(2, name.length / 3) ? candidate : undefined
}

/**
 * Counts the letters to insert, delete or replace (Levenshtein distance).
 *
 * @param {string} a
 * @param {string} b
 */
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
  /** @type {Validator<AbortSignal>} */
  signal: (name, value) => {
    if (value instanceof AbortSignal) return value
    throw invalid(`${name} must be an AbortSignal, not ${shown(value)}`)
  },
}

const npuAllocationAsync = { ...npuAllocation, ...receive }

const systemAllocation = {
  ...allocation,
  hugePages: kinds.oneOf(/** @type {boolean | 'try'} */ (true), false, 'try'),
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
  /** @type {Validator<boolean | Checked<typeof defragment>>} */
  defragment: (name, value) => (typeof value === 'boolean' ? value : check(name, value, defragment)),
}

const cleanup = {
  onPressure: kinds.boolean,
  onExhaustion: kinds.boolean,
  /** @type {Validator<number | null>} */
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
  /** @type {Validator<any>} createPool checks it with the schema of the pool's kind. */
  allocation: (_name, value) => value,
}

const destroyPool = { force: kinds.boolean }

const dmaBufImport = { size: kinds.integer(1), tag: kinds.string }

const reservation = {
  kind: kinds.oneOf('npu', 'system'),
  tag: kinds.string,
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
}

/** @type {import('../types/models.js').QuantizedType[]} */
const DTYPES = ['w8a8', 'w4a16', 'w4a16_g128']

const model = {
  path: kinds.string,
  weightBytes: kinds.integer(1),
  /** @type {Validator<string | Record<string, unknown>>} */
  config: (name, value) => {
    if (typeof value === 'string') return value
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return /** @type {Record<string, unknown>} */ (value)
    }
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
  /** @type {Validator<Checked<typeof domainUse>[]>} */
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

/** @type {import('../types/devices.js').Backend[]} */
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
  /** @type {Validator<unknown>} `Limits.check` checks it. */
  limits: (_name, value) => value,
  debug: kinds.nested({ delayReuse: kinds.integer(0, 1_000_000) }),
  inspect: kinds.boolean,
  /** @type {Validator<boolean | Checked<typeof profiling>>} */
  profiling: (name, value) => (typeof value === 'boolean' ? value : check(name, value, profiling)),
}

/**
 * A list of names; null stands for entries without a name.
 *
 * @type {Validator<Array<string | null>>}
 */
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

/**
 * Checks the options of an NPU allocation and converts them for the native part.
 *
 * @param {string} what
 * @param {unknown} options
 * @param {typeof npuAllocation} [schema]
 */
function npuRequest(what, options, schema = schemas.npuAllocation) {
  const { placement, ...rest } = check(what, options, /** @type {typeof npuAllocationAsync} */ (schema))
  return { ...rest, sram: placement === 'try-sram' }
}

/**
 * Checks the options of a system allocation and converts them for the native part.
 *
 * @param {string} what
 * @param {unknown} options
 */
function systemRequest(what, options) {
  // The kernel always gives zeroed pages.
  const { hugePages, zeroed: _always, ...rest } = check(what, options, schemas.systemAllocation)
  return { ...rest, hugePages: hugePages === true ? true : hugePages === 'try' ? false : undefined }
}

module.exports = { check, integer, invalid, kinds, nearest, npuRequest, outOfRange, shown, schemas, systemRequest }
