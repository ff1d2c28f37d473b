'use strict'

// The arrays of one set, their addresses, and the structs that point to them, over blocks of a pool.

const { roundUp } = require('./layouts.js')
const { placeParameters } = require('./parameters.js')
const { dtypes } = require('./spec.js')
const { Structs, placeStructs } = require('./structs.js')

/** The arrays that a spec may ask for, besides RKNN tensors. */
const ARRAYS = [
  'tokens',
  'embeddings',
  'imageEmbeddings',
  'encoderKeys',
  'encoderValues',
  'encoderMask',
  'encoderPositions',
  'logits',
  'hiddenStates',
]
/** Arrays begin at cache lines, so that syncing one touches no other. */
const LINE = 64

/**
 * @typedef {ReturnType<typeof import('./spec.js').readSpec>} Spec
 * @typedef {import('./spec.js').Part} Part
 * @typedef {import('../pools/block.js').MemoryBlock} MemoryBlock
 * @typedef {import('../types/inference.js').RKNNArray} RKNNArray
 * @typedef {ReturnType<typeof makeSet>} Set
 */

/** @type {(set: Pick<Set, 'arrays'>, group: Part['group'], name: string) => RKNNArray} */
const find = ({ arrays }, group, name) => (group === '' ? arrays : arrays[group])[name]
/**
 * Computes the bytes that all sets take of the pool.
 *
 * @param {Spec} spec
 */
function bytesOf(spec) {
  const one = spec.parts.reduce((sum, { bytes }) => sum + roundUp(bytes, LINE), placeStructs(spec).bytes)
  return (spec.doubleBuffered ? 2 * one : one) + placeParameters(spec).bytes
}

/**
 * The bytes of the blocks of one set, in the order in which `makeSet` takes them.
 *
 * @param {Spec} spec
 */
const blockSizes = (spec) => [...spec.parts.map(({ bytes }) => bytes), placeStructs(spec).bytes]

/**
 * Makes one set: the arrays, their addresses, and the structs of a request.
 *
 * @param {Spec} spec
 * @param {MemoryBlock[]} blocks
 * @param {{ sampling: Record<string, any> }} defaults
 */
function makeSet(spec, blocks, defaults) {
  /** @type {Record<string, any>} */
  const arrays = { inputs: Object.create(null), outputs: Object.create(null) }
  /** @type {Record<string, any>} */
  const places = { inputs: Object.create(null), outputs: Object.create(null) }
  for (const name of ARRAYS) arrays[name] = places[name] = null
  for (const [at, { name, group, dtype }] of spec.parts.entries()) {
    const block = blocks[at]
    ;(group === '' ? arrays : arrays[group])[name] = new dtypes[dtype].Array(block.buffer)
    ;(group === '' ? places : places[group])[name] = block.address
  }
  const structPlaces = placeStructs(spec)
  const block = blocks[spec.parts.length]
  const structs = new Structs(spec, structPlaces, block.buffer, block.address, places, defaults)
  const addresses = freeze({ ...places, ...structs.addresses })
  return { arrays, addresses, structs, blocks, shown: freeze({ ...arrays, addresses }) }
}

/**
 * The arrays that take rows from the runtime.
 *
 * @param {Spec} spec
 * @param {Set} set
 * @returns {import('./sink.js').Targets}
 */
function targetsOf({ parts }, { arrays, addresses }) {
  const rows = parts.filter(({ group, name }) => group === '' && (name === 'logits' || name === 'hiddenStates'))
  const live = rows.filter(({ name }) => arrays[name].length !== 0)
  return Object.fromEntries(
    live.map(({ name, shape }) => [name, { address: addresses[name], rows: shape[0], width: shape[1] }]),
  )
}

/** @type {(set: Record<string, any>) => Readonly<Record<string, any>>} */
const freeze = (set) => {
  Object.freeze(set.inputs)
  Object.freeze(set.outputs)
  return Object.freeze(set)
}

/**
 * The bytes of the blocks of each set. The first has one more block for the structs of the session.
 *
 * @param {Spec} spec
 */
function setsOf(spec) {
  const sets = Array.from({ length: spec.doubleBuffered ? 2 : 1 }, () => blockSizes(spec))
  if (spec.rkllm) sets[0].push(placeParameters(spec).bytes)
  return sets
}

module.exports = { ARRAYS, bytesOf, find, makeSet, setsOf, targetsOf }
