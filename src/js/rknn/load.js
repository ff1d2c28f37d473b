'use strict'

// The steps that load models, in their order (rknn-api.md §4): each model's context with its queries and weights, its
// other contexts and their cores; then the scratch memory of all; then inputs and outputs.

const { memoryError } = require('../core/errors.js')
const { formatValue, outOfRange } = require('../core/options.js')
const { compareVersions, versionOf } = require('../core/versions.js')
const { headers, readAttributes, readInt, readVersions } = require('./layouts.js')
const { CORES, QUERIES, isSince } = require('./numbers.js')
const { Regions } = require('./regions.js')
const { checkSource, makeTensor, needOf } = require('./tensors.js')

/** No model has more inputs or outputs: a larger number is of another struct. */
const MAX_TENSORS = 1024
/** The demos round foreign memory up to it. */
const ROUNDING = 128

/**
 * @typedef {import('./calls.js').Step} Step
 * @typedef {import('./calls.js').CallStep} CallStep
 * @typedef {import('./calls.js').Steps} Steps
 * @typedef {import('./regions.js').Region} Region
 * @typedef {import('./tensors.js').Need} Need
 * @typedef {import('./desk.js').Place} Place
 * @typedef {import('./spec.js').Model} ModelSpec
 * @typedef {import('../types/rknn.js').RknnFunction} RknnFunction
 */

/**
 * A context: its number for the runtime, and the addresses of the rknn_tensor_mem structs that were made for it.
 *
 * @typedef {object} Context
 * @property {number} index
 * @property {import('../types/rknn.js').RknnCores} cores
 * @property {bigint} handle
 * @property {bigint[]} memories
 * @property {Record<string, import('../types/rknn.js').RknnTensor>} inputs
 * @property {Record<string, import('../types/rknn.js').RknnTensor>} outputs
 */
/**
 * @typedef {object} Tensor an input or output of a model, with its place in the runtime's struct
 * @property {string} key
 * @property {'inputs' | 'outputs'} group
 * @property {Need} need
 * @property {Place} place
 * @property {import('../types/rknn.js').RknnTensorMemory | undefined} memory
 */
/**
 * @typedef {object} Model
 * @property {ModelSpec} spec
 * @property {Context[]} contexts
 * @property {number | null} weightBytes
 * @property {number | null} scratchBytes
 * @property {Tensor[]} tensors
 */
/**
 * @typedef {object} Session what a load fills
 * @property {import('../types/rknn.js').RknnHeader} header
 * @property {Model[]} models
 * @property {import('./desk.js').Desk} desk
 * @property {Regions} regions
 * @property {{ api: string, driver: string } | null} runtime
 * @property {(buffer: import('../types/allocations.js').Buf) => { address: bigint, bytes: number }} locate
 * @property {(buffer: import('../types/allocations.js').Buf) => void} syncToDevice
 * @property {Context[]} created in the order of creation
 */

/** The fields of rknn_input_output_num, and the nouns of messages. */
const COUNTS = { inputs: 'n_input', outputs: 'n_output' }
const NOUNS = { inputs: 'input', outputs: 'output' }

/** @type {(model: Model) => string} */
const nameOf = ({ spec }) => `the model ${formatValue(spec.name)}`
/** @type {(model: Model, group: 'inputs' | 'outputs', key: string) => string} */
const whatOf = (model, group, key) => `${nameOf(model)}: ${NOUNS[group]} ${formatValue(key)}`

/** @type {(model: Model, context: Context, name: RknnFunction, args: Array<bigint | number>) => CallStep} */
const callOf = (model, { index }, name, args) => ({ name, args, model: model.spec.name, context: index })

/**
 * Yields one call. Returns its result.
 *
 * @param {Model} model
 * @param {Context} context
 * @param {RknnFunction} name
 * @param {Array<bigint | number>} args
 * @returns {Generator<Step, any, any>}
 */
function* call(model, context, name, ...args) {
  return yield callOf(model, context, name, args)
}

/**
 * @param {Session} session
 * @returns {Steps}
 */
function* loadSteps(session) {
  const structs = headers[session.header]
  for (const model of session.models) {
    const from = yield* modelArguments(session, model)
    const [first, ...others] = model.contexts
    yield* init(session, model, first, from)
    yield* queries(session, model, first)
    yield* weights(session, model, [first])
    for (const context of others) {
      if (model.spec.contextsBy === 'init') yield* init(session, model, context, from)
      else yield* duplicate(session, model, context)
    }
    if (model.spec.contextsBy === 'init') yield* weights(session, model, others)
    for (const context of model.contexts) {
      if (context.cores === 'auto') continue
      yield* call(model, context, 'rknn_set_core_mask', context.handle, CORES[context.cores])
    }
  }
  yield* scratch(session)
  yield* inputsAndOutputs(session, structs)
}

/**
 * The model's bytes or path, their size, and rknn_init_extend, for rknn_init.
 *
 * @param {Session} session
 * @param {Model} model
 * @returns {Generator<Step, { pointer: bigint, size: number, extend: bigint }, any>}
 */
function* modelArguments({ header, desk, models, regions, locate, syncToDevice }, model) {
  const { file, buffer: given, weights, weightsOf } = model.spec
  const layout = headers[header].rknn_init_extend
  if (weights === 'file') {
    const buffer = given ?? (yield { path: /** @type {string} */ (file) })
    syncToDevice(buffer)
    const what = `the buffer of ${nameOf(model)}`
    const { address, bytes, fd, offset } = regions.ofModel(what, buffer)
    const [place] = desk.take(layout.size, 1)
    desk.fill(place, layout, { real_model_offset: offset, real_model_size: bytes, model_buffer_fd: fd })
    return { pointer: address, size: bytes, extend: place.address }
  }
  let extend = 0n
  if (weightsOf !== undefined) {
    const other = /** @type {Model} */ (models.find(({ spec }) => spec.name === weightsOf))
    const [place] = desk.take(layout.size, 1)
    desk.fill(place, layout, { ctx: other.contexts[0].handle })
    extend = place.address
  }
  if (given === undefined) return { pointer: desk.text(/** @type {string} */ (file)), size: 0, extend }
  const { address, bytes } = locate(given)
  return { pointer: address, size: bytes, extend }
}

/**
 * @param {Session} session
 * @param {Model} model
 * @param {Context} context
 * @param {{ pointer: bigint, size: number, extend: bigint }} from
 * @returns {Steps}
 */
function* init(session, model, context, { pointer, size, extend }) {
  const [place] = session.desk.take(8, 1)
  yield* call(model, context, 'rknn_init', place.address, pointer, size, model.spec.flags, extend)
  created(session, context, place)
}

/**
 * @param {Session} session
 * @param {Model} model
 * @param {Context} context
 * @returns {Steps}
 */
function* duplicate(session, model, context) {
  const [from, to] = session.desk.take(8, 2)
  from.view.setBigUint64(from.at, model.contexts[0].handle, true)
  yield* call(model, context, 'rknn_dup_context', from.address, to.address)
  created(session, context, to)
}

/**
 * @param {Session} session
 * @param {Context} context
 * @param {Place} place
 */
function created(session, context, { view, at }) {
  context.handle = view.getBigUint64(at, true)
  session.created.push(context)
}

/**
 * Asks for the runtime's version, the tensors and the sizes of memory.
 *
 * @param {Session} session
 * @param {Model} model
 * @param {Context} context
 * @returns {Steps}
 */
function* queries(session, model, context) {
  const structs = headers[session.header]
  /** @type {(command: number, place: Place, layout: { size: number }) => Generator<Step, any, any>} */
  const ask = (command, place, { size }) =>
    call(model, context, 'rknn_query', context.handle, command, place.address, size)
  const { IN_OUT_NUM, SDK_VERSION, MEM_SIZE } = QUERIES

  if (session.runtime === null) {
    const [place] = session.desk.take(structs.rknn_sdk_version.size, 1)
    yield* ask(SDK_VERSION, place, structs.rknn_sdk_version)
    session.runtime = readVersions(place.view, place.at)
    checkRuntime(session.header, session.runtime.api)
  }

  const [numbers] = session.desk.take(structs.rknn_input_output_num.size, 1)
  yield* ask(IN_OUT_NUM, numbers, structs.rknn_input_output_num)
  for (const group of /** @type {const} */ (['inputs', 'outputs'])) {
    const count = readInt(numbers.view, numbers.at, structs.rknn_input_output_num, COUNTS[group])
    if (count > MAX_TENSORS) {
      throw memoryError('ERR_UNSUPPORTED', `${nameOf(model)} has ${count} ${group} by the runtime's answer`, {
        hint: 'is the runtime of the header?',
      })
    }
    const layout = structs.rknn_tensor_attr
    for (const [index, place] of session.desk.take(layout.size, count).entries()) {
      /** @type {(command: number) => Generator<Step, any, any>} */
      function* attributesOf(command) {
        session.desk.fill(place, layout, { index })
        yield* ask(command, place, layout)
        return { ...readAttributes(place.view, place.at), index }
      }
      model.tensors.push(yield* tensorOf(model, group, place, attributesOf))
    }
    const known = model.tensors.filter((one) => one.group === group).map(({ key }) => key)
    for (const name of model.spec[group].keys()) {
      if (known.includes(name)) continue
      throw outOfRange(`${nameOf(model)} has no ${NOUNS[group]} ${formatValue(name)}`, {
        hint: `it has ${known.map(formatValue).join(', ') || 'none'}`,
      })
    }
  }

  const [sizes] = session.desk.take(structs.rknn_mem_size.size, 1)
  yield* ask(MEM_SIZE, sizes, structs.rknn_mem_size)
  model.weightBytes = readInt(sizes.view, sizes.at, structs.rknn_mem_size, 'total_weight_size')
  model.scratchBytes = readInt(sizes.view, sizes.at, structs.rknn_mem_size, 'total_internal_size')
}

/**
 * Asks for the attributes of one tensor: first the plain ones, which have its name.
 *
 * @param {Model} model
 * @param {'inputs' | 'outputs'} group
 * @param {Place} place
 * @param {(command: number) => Generator<Step, import('./layouts.js').Attributes, any>} attributesOf
 * @returns {Generator<Step, Tensor, any>}
 */
function* tensorOf(model, group, place, attributesOf) {
  const plain = yield* attributesOf(QUERIES.attributes.plain[group])
  const isTaken = model.tensors.some((other) => other.group === group && other.key === plain.name)
  const key = isTaken ? `${plain.name}#${plain.index}` : plain.name
  /** @type {import('../types/rknn.js').RknnTensorOptions} */
  const options = model.spec[group].get(key) ?? {}
  const { layout = 'plain', memory } = options
  const found = layout === 'plain' ? plain : yield* attributesOf(QUERIES.attributes[layout][group])
  return { key, group, place, need: needOf(whatOf(model, group, key), found, options), memory }
}

/**
 * Refuses a runtime whose structs or flags are not those of the header. Later ones keep the structs of 1.4.
 *
 * @param {import('../types/rknn.js').RknnHeader} header
 * @param {string} api
 */
function checkRuntime(header, api) {
  const version = versionOf(api)
  if (version === undefined) return // it tells none
  const isOlder = compareVersions(version, /** @type {number[]} */ (versionOf(header))) < 0
  const isNewer = !isSince(header, '1.4') && compareVersions(version, [1, 4]) >= 0
  if (!isOlder && !isNewer) return
  throw memoryError('ERR_UNSUPPORTED', `createRknnMemory: header is ${header}, and the runtime is ${api}`, {
    hint: 'give the header of the runtime',
  })
}

/**
 * Allocates the weights once, and hands them to contexts that rknn_init made.
 *
 * @param {Session} session
 * @param {Model & { weights?: Region & { buffer: ArrayBuffer } }} model
 * @param {Context[]} contexts
 * @returns {Steps}
 */
function* weights(session, model, contexts) {
  if (model.spec.weights !== 'manager' || !model.weightBytes) return
  const bytes = model.weightBytes
  if (model.weights === undefined) {
    const buffer = yield { bytes: roundUp(bytes), role: 'weights' }
    model.weights = /** @type {any} */ (session.regions.ofBuffer(`the weights of ${nameOf(model)}`, buffer))
  }
  const { buffer } = /** @type {{ buffer: ArrayBuffer }} */ (model.weights)
  for (const context of contexts) {
    const memory = yield* create(model, context, /** @type {Region} */ (model.weights), bytes)
    yield* call(model, context, 'rknn_set_weight_mem', context.handle, memory)
  }
  // The runtime wrote them with the CPU.
  if (contexts.length > 0) session.syncToDevice(buffer)
}

/**
 * Hands over the scratch memory that the program gave, and allocates the others': of each group, and of each number of
 * a context, the largest.
 *
 * @param {Session} session
 * @returns {Steps}
 */
function* scratch(session) {
  for (const model of session.models) {
    const { spec, scratchBytes } = model
    if (spec.scratchMemory === undefined || !scratchBytes) continue
    for (const context of model.contexts) {
      const what = `scratchMemory[${context.index}] of ${nameOf(model)}`
      const region = session.regions.ofBuffer(what, spec.scratchMemory[context.index])
      Regions.expect(what, region, scratchBytes)
      session.syncToDevice(spec.scratchMemory[context.index])
      const memory = yield* create(model, context, region, scratchBytes)
      yield* call(model, context, 'rknn_set_internal_mem', context.handle, memory)
    }
  }
  for (const { bytes, users } of lanes(session.models)) {
    const buffer = yield { bytes: roundUp(bytes), role: 'scratch' }
    session.syncToDevice(buffer)
    const region = session.regions.ofBuffer('scratch memory', buffer)
    for (const { model, context } of users) {
      const memory = yield* create(model, context, region, Number(model.scratchBytes))
      yield* call(model, context, 'rknn_set_internal_mem', context.handle, memory)
    }
  }
}

/**
 * Groups contexts that never run at the same time: those of one number, of models of one group.
 *
 * @param {Model[]} models
 * @returns {Array<{ bytes: number, users: Array<{ model: Model, context: Context }> }>}
 */
function lanes(models) {
  /** @type {Map<string, { bytes: number, users: Array<{ model: Model, context: Context }> }>} */
  const found = new Map()
  for (const model of models) {
    const { spec, scratchBytes } = model
    if (spec.scratch !== 'manager' || spec.scratchMemory !== undefined || !scratchBytes) continue
    for (const context of model.contexts) {
      const key = JSON.stringify([spec.scratchGroup, context.index])
      const lane = found.get(key) ?? { bytes: 0, users: [] }
      found.set(key, lane)
      lane.bytes = Math.max(lane.bytes, scratchBytes)
      lane.users.push({ model, context })
    }
  }
  return [...found.values()]
}

/**
 * @param {Session} session
 * @param {typeof headers['2.1']} structs
 * @returns {Steps}
 */
function* inputsAndOutputs(session, structs) {
  /** @type {Map<Tensor, number>} An output → the most bytes of the inputs that read it. */
  const readers = new Map()
  for (const model of session.models) {
    for (const tensor of model.tensors) {
      const source = sourceOf(session, model, tensor)
      if (source !== undefined) readers.set(source.tensor, Math.max(readers.get(source.tensor) ?? 0, tensor.need.bytes))
    }
  }
  /** @type {Map<string, Region>} By model, context and tensor. */
  const placed = new Map()
  const keyOf = (/** @type {Model} */ model, /** @type {number} */ context, /** @type {Tensor} */ { key, group }) =>
    JSON.stringify([model.spec.name, context, group, key])
  for (const model of session.models) {
    for (const tensor of model.tensors) {
      session.desk.fill(tensor.place, structs.rknn_tensor_attr, tensor.need.fields)
      const source = sourceOf(session, model, tensor)
      const what = whatOf(model, tensor.group, tensor.key)
      const bytes = Math.max(tensor.need.bytes, readers.get(tensor) ?? 0)
      /** @type {Region | undefined} One of all contexts. */
      let shared
      if (source !== undefined) {
        const writer = `${nameOf(source.model)}, ${formatValue(source.tensor.key)},`
        checkSource(what, tensor.need, writer, source.tensor.need)
        shared = placed.get(keyOf(source.model, 0, source.tensor))
      } else if (tensor.memory !== undefined && !('from' in tensor.memory)) {
        shared = session.regions.ofMemory(what, tensor.memory)
        // Else a line that the CPU wrote before may be written back over what the NPU wrote.
        if (shared.buffer !== null) session.syncToDevice(shared.buffer)
      }
      if (shared !== undefined) Regions.expect(what, shared, bytes)
      for (const context of model.contexts) {
        const region = shared ?? (yield* allocated(session, what, bytes))
        placed.set(keyOf(model, context.index, tensor), region)
        const memory = yield* create(model, context, region, tensor.need.bytes)
        yield* call(model, context, 'rknn_set_io_mem', context.handle, memory, tensor.place.address)
        context[tensor.group][tensor.key] = makeTensor(tensor.need, region, tensor.group === 'inputs')
      }
    }
  }
}

/**
 * The output that an input reads.
 *
 * @param {Session} session
 * @param {Model} model
 * @param {Tensor} tensor
 */
function sourceOf({ models }, model, { key, memory }) {
  if (memory === undefined || !('from' in memory)) return undefined
  const [of, output] = memory.from
  const source = /** @type {Model} */ (models.find(({ spec }) => spec.name === of))
  const tensor = source.tensors.find((one) => one.group === 'outputs' && one.key === output)
  if (tensor !== undefined) return { model: source, tensor }
  const known = source.tensors.filter(({ group }) => group === 'outputs').map((one) => formatValue(one.key))
  throw outOfRange(
    `${nameOf(model)}: input ${formatValue(key)} reads ${formatValue(output)}, which ${nameOf(source)} does not write`,
    { hint: `it writes ${known.join(', ')}` },
  )
}

/**
 * @param {Session} session
 * @param {string} what
 * @param {number} bytes
 * @returns {Generator<Step, Region, any>}
 */
function* allocated(session, what, bytes) {
  const buffer = yield { bytes: roundUp(bytes), role: 'tensors' }
  // Else a line that the zeroing left in a cache may be written over what the NPU wrote.
  session.syncToDevice(buffer)
  return session.regions.ofBuffer(what, buffer)
}

/**
 * Makes the runtime's struct of a region's first bytes. Returns its address.
 *
 * @param {Model} model
 * @param {Context} context
 * @param {Region} region
 * @param {number} bytes
 * @returns {Generator<Step, bigint, any>}
 */
function* create(model, context, region, bytes) {
  const [name, args] = region.create(context.handle, bytes)
  const memory = yield* call(model, context, name, ...args)
  context.memories.push(memory)
  return memory
}

/**
 * The steps that undo a load, as far as it came: last first.
 *
 * @param {Session} session
 * @returns {Steps}
 */
function* unloadSteps(session) {
  const modelOf = (/** @type {Context} */ context) =>
    /** @type {Model} */ (session.models.find(({ contexts }) => contexts.includes(context)))
  // A call that was answered is not made again, also where it failed.
  for (const context of session.created.toReversed()) {
    for (const memory of context.memories.toReversed()) {
      const settle = () => context.memories.pop()
      yield { ...callOf(modelOf(context), context, 'rknn_destroy_mem', [context.handle, memory]), settle }
    }
  }
  for (const context of session.created.toReversed()) {
    const settle = () => {
      session.created.pop()
      context.handle = 0n
    }
    yield { ...callOf(modelOf(context), context, 'rknn_destroy', [context.handle]), settle }
  }
}

/** @type {(bytes: number) => number} */
const roundUp = (bytes) => Math.ceil(bytes / ROUNDING) * ROUNDING

module.exports = { loadSteps, unloadSteps }
