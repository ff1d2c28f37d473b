'use strict'

// Checks the spec of RKNN memory, and decides the flags of each model. Allocates nothing.

const { memoryError } = require('../core/errors.js')
const { check, formatValue, invalid, kinds, outOfRange } = require('../core/options.js')
const { dtypes } = require('../inference/spec.js')
const { libraryPath } = require('../inference/runtime-version.js')
const { headerOfLibrary } = require('./library.js')
const { CORES, FLAGS, HEADERS, isSince } = require('./numbers.js')

const WHAT = 'createRknnMemory'
const NEWEST = '2.1'
const DEFAULT_TAG = 'rknn'
/** Sizes of rknn_api.h are uint32_t, offsets int32_t. */
const [MAX_SIZE, MAX_OFFSET] = [2 ** 32 - 1, 2 ** 31 - 1]
const [MAX_MODELS, MAX_CONTEXTS] = [64, 16]

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/**
 * @typedef {import('../types/rknn.js').RknnHeader} RknnHeader
 * @typedef {import('../types/rknn.js').RknnCores} RknnCores
 * @typedef {import('../types/rknn.js').RknnModelSpec} ModelSpec
 * @typedef {import('../types/rknn.js').RknnTensorOptions} TensorOptions
 * @typedef {import('../types/rknn.js').RknnTensorMemory} TensorMemory
 */

/** @type {Validator<bigint>} */
function address(name, value) {
  if (typeof value !== 'bigint') throw invalid(`${name} must be a bigint, not ${formatValue(value)}`)
  if (value <= 0n || value >= 2n ** 64n) throw outOfRange(`${name} is ${value}; it must be from 1 to 2^64 - 1`)
  return value
}

/** @type {Validator<import('../types/allocations.js').Buf>} createRknnMemory asks the manager whose it is. */
function buffer(name, value) {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return value
  throw invalid(`${name} must be an ArrayBuffer or a view of one, not ${formatValue(value)}`)
}

/** @type {Validator<[string, string]>} */
function source(name, value) {
  if (!Array.isArray(value) || value.length !== 2) {
    throw invalid(`${name} must be the names of a model and its output, not ${formatValue(value)}`)
  }
  return [kinds.nonEmptyString(`${name}[0]`, value[0]), kinds.nonEmptyString(`${name}[1]`, value[1])]
}

const memorySchema = {
  buffer,
  from: source,
  physical: address,
  address,
  size: kinds.integer(1, MAX_SIZE),
  mbBlk: address,
  offset: kinds.integer(0, MAX_OFFSET),
}
/** The options that belong together, by the one that names the kind. The second list may be left out. */
const MEMORY_KINDS = /** @type {const} */ ([
  ['buffer', [], []],
  ['from', [], []],
  ['physical', ['address', 'size'], []],
  ['mbBlk', ['size'], ['offset']],
])

/** @type {Validator<TensorMemory>} */
function tensorMemory(name, value) {
  const checked = check(name, value, memorySchema)
  const kind = MEMORY_KINDS.find(([key]) => checked[key] !== undefined)
  if (kind === undefined) throw invalid(`${name} needs one of "buffer", "from", "physical" and "mbBlk"`)
  const [key, needs, may] = kind
  for (const need of needs) if (checked[need] === undefined) throw invalid(`${name} with "${key}" needs "${need}"`)
  for (const given of Object.keys(checked)) {
    if (![key, ...needs, ...may].some((one) => one === given)) throw invalid(`${name} has "${key}" and "${given}"`)
  }
  return /** @type {TensorMemory} */ (checked)
}

const output = {
  dtype: kinds.oneOf(.../** @type {Array<keyof typeof dtypes>} */ (Object.keys(dtypes))),
  format: kinds.oneOf('nchw', 'nhwc'),
  layout: kinds.oneOf('plain', 'native', 'native-nhwc'),
  memory: tensorMemory,
}
const input = { ...output, passThrough: kinds.boolean }

/** @type {(schema: typeof output) => Validator<Map<string, TensorOptions>>} */
const tensors = (schema) => (name, value) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`${name} must be an object of options by name, not ${formatValue(value)}`)
  }
  return new Map(Object.entries(value).map(([own, options]) => [own, check(`${name}.${own}`, options, schema)]))
}

/** @type {Validator<RknnCores[]>} */
function contexts(name, value) {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of cores, not ${formatValue(value)}`)
  if (value.length < 1 || value.length > MAX_CONTEXTS) {
    throw outOfRange(`${name} has ${value.length} entries; it must have from 1 to ${MAX_CONTEXTS}`)
  }
  const one = kinds.oneOf(.../** @type {RknnCores[]} */ (Object.keys(CORES)))
  return Array.from(value, (cores, at) => one(`${name}[${at}]`, cores))
}

/** @type {Validator<import('../types/allocations.js').Buf[]>} */
function buffers(name, value) {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of buffers, not ${formatValue(value)}`)
  return Array.from(value, (one, at) => buffer(`${name}[${at}]`, one))
}

const modelSchema = {
  name: kinds.nonEmptyString,
  file: kinds.nonEmptyString,
  buffer,
  weights: kinds.oneOf('file', 'manager', 'runtime'),
  weightsOf: kinds.nonEmptyString,
  scratch: kinds.oneOf('manager', 'runtime'),
  scratchGroup: kinds.nonEmptyString,
  scratchMemory: buffers,
  contexts,
  contextsBy: kinds.oneOf('duplicate', 'init'),
  priority: kinds.oneOf('high', 'medium', 'low'),
  sram: kinds.boolean,
  shareSram: kinds.boolean,
  flushInputs: kinds.boolean,
  flushOutputs: kinds.boolean,
  inputs: tensors(input),
  outputs: tensors(output),
}

/** @type {Validator<import('../core/options.js').Checked<typeof modelSchema>[]>} */
function models(name, value) {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of models, not ${formatValue(value)}`)
  if (value.length < 1 || value.length > MAX_MODELS) {
    throw outOfRange(`${name} has ${value.length} models; it must have from 1 to ${MAX_MODELS}`)
  }
  return Array.from(value, (model, at) => {
    if (model === undefined) throw invalid(`${name}[${at}] is missing`)
    return check(`${name}[${at}]`, model, modelSchema)
  })
}

const schema = {
  header: kinds.oneOf(...HEADERS),
  library: libraryPath,
  models,
  via: kinds.oneOf('fd', 'phys'),
  cacheable: kinds.boolean,
  iommuDomain: kinds.integer(0, 15),
  tag: kinds.tag,
}

/** @type {(message: string, hint: string) => import('../types/errors.js').MemoryError} */
const unsupported = (message, hint) => memoryError('ERR_UNSUPPORTED', message, { hint })

/**
 * The flags of rknn_init, by what the model asks for. Refuses a flag that the header does not have.
 *
 * @param {string} what
 * @param {RknnHeader} header
 * @param {Record<string, boolean>} wanted
 */
function flagsOf(what, header, wanted) {
  let flags = 0
  for (const [name, { bit, since }] of Object.entries(FLAGS)) {
    if (!wanted[name]) continue
    if (!isSince(header, since)) {
      throw unsupported(`${what}: rknn_api.h ${header} has no RKNN_FLAG_${name}`, `it came with ${since}`)
    }
    flags |= bit
  }
  return flags
}

/**
 * @param {RknnHeader} header
 * @param {ReturnType<typeof models>[number]} checked
 * @param {number} at
 */
function readModel(header, checked, at) {
  const where = `${WHAT}: models[${at}]`
  const { name, file, buffer: bytes, weightsOf, contexts: cores = ['auto'], contextsBy = 'duplicate' } = checked
  if (name === undefined) throw invalid(`${where} needs "name"`)
  const what = `${WHAT}: model ${formatValue(name)}`
  if ((file === undefined) === (bytes === undefined)) throw invalid(`${what} needs "file" or "buffer", and not both`)
  if (file?.includes('\0')) throw outOfRange(`${what}: file has a NUL in it, which no path has`)
  if (weightsOf !== undefined && checked.weights !== undefined && checked.weights !== 'runtime') {
    throw unsupported(`${what} has weightsOf and weights: ${formatValue(checked.weights)}`, 'leave weights out')
  }
  const fallback = weightsOf !== undefined ? 'runtime' : isSince(header, '2.1') ? 'file' : 'manager'
  const { weights = fallback, sram = false, shareSram = false } = checked
  const canSplit = isSince(header, '1.5.2')
  const scratch =
    checked.scratch ?? (sram || (weights === 'runtime' && !canSplit) ? 'runtime' : /** @type {const} */ ('manager'))
  if (weights === 'manager' && scratch === 'runtime') {
    throw unsupported(
      `${what}: with weights of the manager, the scratch memory is the manager's too`,
      "MEM_ALLOC_OUTSIDE is for all memory: leave scratch and sram out, or choose weights: 'file' or 'runtime'",
    )
  }
  if (sram && scratch === 'manager') {
    throw unsupported(`${what}: SRAM is the runtime's to allocate`, "no dma-buf shows it: choose scratch: 'runtime'")
  }
  const { scratchMemory } = checked
  if (scratchMemory !== undefined) {
    if (scratch === 'runtime') {
      throw unsupported(`${what}: scratch is the runtime's, and scratchMemory is given`, 'leave one of them out')
    }
    if (checked.scratchGroup !== undefined) throw invalid(`${what} has scratchMemory and scratchGroup`)
    if (scratchMemory.length !== cores.length) {
      throw outOfRange(`${what} has ${scratchMemory.length} buffers of scratchMemory for ${cores.length} contexts`, {
        hint: 'contexts may run at the same time: each needs a buffer',
      })
    }
  }
  if (shareSram && !sram) throw invalid(`${what}: shareSram needs sram: true`)
  if (cores.includes('all') && !isSince(header, '2.0')) {
    throw unsupported(`${what}: rknn_api.h ${header} has no RKNN_NPU_CORE_ALL`, 'it came with 2.0')
  }
  for (const [own, { memory }] of checked.outputs ?? []) {
    if (memory === undefined) continue
    if ('from' in memory) throw invalid(`${what}: output ${formatValue(own)} has memory "from", which is for inputs`)
    if (cores.length > 1) {
      throw unsupported(
        `${what}: ${cores.length} contexts would write the output ${formatValue(own)} to one memory`,
        'contexts may run at the same time: leave memory out',
      )
    }
  }
  const flags = flagsOf(what, header, {
    PRIOR_MEDIUM: checked.priority === 'medium',
    PRIOR_LOW: checked.priority === 'low',
    MEM_ALLOC_OUTSIDE: weights === 'manager',
    SHARE_WEIGHT_MEM: weightsOf !== undefined,
    INTERNAL_ALLOC_OUTSIDE: weights !== 'manager' && scratch === 'manager',
    ENABLE_SRAM: sram,
    SHARE_SRAM: shareSram,
    DISABLE_FLUSH_INPUT_MEM_CACHE: checked.flushInputs === false,
    DISABLE_FLUSH_OUTPUT_MEM_CACHE: checked.flushOutputs === false,
    MODEL_BUFFER_ZERO_COPY: weights === 'file',
  })
  return {
    name,
    file,
    buffer: bytes,
    weights,
    weightsOf,
    scratch,
    scratchGroup: checked.scratchGroup ?? 'shared',
    scratchMemory,
    cores,
    contextsBy,
    flags,
    inputs: checked.inputs ?? new Map(),
    outputs: checked.outputs ?? new Map(),
  }
}

/** @typedef {ReturnType<typeof readModel>} Model */

/**
 * Checks that names of other models are those of earlier ones.
 *
 * @param {Model[]} all
 */
function checkNames(all) {
  /** @type {Map<string, Model>} */
  const earlier = new Map()
  for (const model of all) {
    const what = `${WHAT}: model ${formatValue(model.name)}`
    if (earlier.has(model.name)) throw outOfRange(`${what} appears twice`)
    const needs = [model.weightsOf, ...[...model.inputs.values()].map(({ memory }) => memory?.from?.[0])]
    for (const other of needs) {
      if (other !== undefined && !earlier.has(other)) {
        throw outOfRange(`${what} names the model ${formatValue(other)}, which is not before it`)
      }
    }
    earlier.set(model.name, model)
  }
}

/** @param {unknown} options */
function readSpec(options) {
  if (options === undefined) throw invalid(`${WHAT} needs a spec`)
  const checked = check(WHAT, options, schema)
  const { library, via = 'fd', cacheable = true, iommuDomain } = checked
  if (checked.models === undefined) throw invalid(`${WHAT} needs "models"`)
  const header = library === undefined ? (checked.header ?? NEWEST) : headerOfLibrary(WHAT, library, checked.header)
  const all = checked.models.map((model, at) => readModel(header, model, at))
  checkNames(all)
  const tag = 'tag' in checked ? checked.tag : DEFAULT_TAG // null is no tag
  return { header, via, cacheable, iommuDomain, tag, models: all }
}

module.exports = { MAX_OFFSET, MAX_SIZE, readSpec }
