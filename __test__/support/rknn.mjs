/**
 * librknnrt through the FFI of Node, Bun and Deno. RKNN memory of the library says which calls to make; a test makes
 * them here.
 */

import { writeFileSync } from 'node:fs'

import { open } from '../../examples/inference/ffi.mjs'

const returnsInt = (...takes) => ({ returns: 'i32', takes })
const returnsAddress = (...takes) => ({ returns: 'u64', takes })

const FUNCTIONS = {
  rknn_init: returnsInt('pointer', 'pointer', 'u32', 'u32', 'pointer'),
  rknn_dup_context: returnsInt('pointer', 'pointer'),
  rknn_query: returnsInt('u64', 'i32', 'pointer', 'u32'),
  rknn_set_core_mask: returnsInt('u64', 'i32'),
  rknn_create_mem: returnsAddress('u64', 'u32'),
  rknn_create_mem_from_fd: returnsAddress('u64', 'i32', 'pointer', 'u32', 'i32'),
  rknn_create_mem_from_phys: returnsAddress('u64', 'u64', 'pointer', 'u32'),
  rknn_create_mem_from_mb_blk: returnsAddress('u64', 'pointer', 'i32'),
  rknn_set_weight_mem: returnsInt('u64', 'pointer'),
  rknn_set_internal_mem: returnsInt('u64', 'pointer'),
  rknn_set_io_mem: returnsInt('u64', 'pointer', 'pointer'),
  rknn_run: returnsInt('u64', 'pointer'),
  rknn_destroy_mem: returnsInt('u64', 'pointer'),
  rknn_destroy: returnsInt('u64'),
  rknn_understudy_count: { returns: 'u64', takes: ['i32'] },
  rknn_understudy_reset: { returns: 'void', takes: [] },
}
/** The counters of the understudy, in the order of `enum counter`. */
const COUNTERS = [
  'inside', 'insidePeak', 'contexts', 'memories', 'faults', 'runs', 'internalBytes', 'weightBytes', 'syncs',
]

/**
 * Binds the understudy at `path`.
 *
 * @param {string} path
 */
export async function loadRknn(path) {
  const { name, call } = await open(path, FUNCTIONS)
  const make = (made) => made.done(call[made.name](...made.args))
  return {
    name,
    call,
    /** Makes one call, and answers it. */
    make,
    /** Makes all calls of an iterator. Returns their names. */
    makeAll(calls) {
      const names = []
      for (const each of calls) {
        names.push(each.name)
        make(each)
      }
      return names
    },
    async makeAllAsync(calls) {
      const names = []
      for await (const each of calls) {
        names.push(each.name)
        make(each)
      }
      return names
    },
    run: (context) => call.rknn_run(context.handle, 0n),
    counts: () => Object.fromEntries(COUNTERS.map((key, at) => [key, Number(call.rknn_understudy_count(at))])),
    reset: () => call.rknn_understudy_reset(),
  }
}

const TEXT_BYTES = 4096

/**
 * Writes a model of the understudy: a text that states sizes and tensors, and weights.
 *
 * @param {string} path
 * @param {{ weights?: number, internal?: number, tensors: string[], withWeights?: boolean }} model
 */
export function writeRknnModel(path, { weights = 0, internal = 0, tensors, withWeights = true }) {
  const text = ['RKNN understudy model', `weights = ${weights}`, `internal = ${internal}`, ...tensors, ''].join('\n')
  const bytes = new Uint8Array(TEXT_BYTES + (withWeights ? weights : 0))
  bytes.set(new TextEncoder().encode(text))
  for (let at = TEXT_BYTES; at < bytes.length; at++) bytes[at] = (at * 31 + (at >> 8)) & 0xff
  writeFileSync(path, bytes)
  return bytes
}
