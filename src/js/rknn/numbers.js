'use strict'

// The numbers of rknn_api.h: flags, queries, errors, cores, types and formats (rknn-api.md §2 to §4).

const { memoryError } = require('../core/errors.js')
const { dtypes } = require('../inference/spec.js')

/**
 * @typedef {import('../types/rknn.js').RknnHeader} RknnHeader
 * @typedef {import('../types/rknn.js').RknnFunction} RknnFunction
 * @typedef {import('../types/rknn.js').RknnCType} CType
 * @typedef {import('../types/errors.js').MemoryErrorCode} Code
 */

/** Oldest first. */
const HEADERS = /** @type {const} */ (['1.3', '1.4', '1.5.2', '1.6', '2.0', '2.1'])

/**
 * Whether `header` is `first` or later.
 *
 * @param {RknnHeader} header
 * @param {RknnHeader} first
 */
const isSince = (header, first) => HEADERS.indexOf(header) >= HEADERS.indexOf(first)

/** @type {Record<string, { bit: number, since: RknnHeader }>} */
const FLAGS = {
  PRIOR_MEDIUM: { bit: 1, since: '1.3' },
  PRIOR_LOW: { bit: 2, since: '1.3' },
  MEM_ALLOC_OUTSIDE: { bit: 0x10, since: '1.3' },
  SHARE_WEIGHT_MEM: { bit: 0x20, since: '1.3' },
  INTERNAL_ALLOC_OUTSIDE: { bit: 0x200, since: '1.5.2' },
  ENABLE_SRAM: { bit: 0x800, since: '1.6' },
  SHARE_SRAM: { bit: 0x1000, since: '1.6' },
  DISABLE_FLUSH_INPUT_MEM_CACHE: { bit: 0x4000, since: '2.1' },
  DISABLE_FLUSH_OUTPUT_MEM_CACHE: { bit: 0x8000, since: '2.1' },
  MODEL_BUFFER_ZERO_COPY: { bit: 0x10000, since: '2.1' },
}

const QUERIES = {
  IN_OUT_NUM: 0,
  SDK_VERSION: 5,
  MEM_SIZE: 6,
  attributes: {
    plain: { inputs: 1, outputs: 2 },
    native: { inputs: 8, outputs: 9 },
    'native-nhwc': { inputs: 10, outputs: 11 },
  },
}

/** @type {Record<import('../types/rknn.js').RknnCores, number>} */
const CORES = { auto: 0, 0: 1, 1: 2, 2: 4, '0+1': 3, '0+1+2': 7, all: 0xffff }

const FORMATS = /** @type {const} */ (['nchw', 'nhwc', 'nc1hwc2', 'undefined'])

/**
 * @typedef {object} ElementType
 * @property {import('../types/inference.js').RKNNDataType | 'int4'} name
 * @property {number} bits
 * @property {any} Array
 */

/** @type {ElementType[]} Element types by their numbers. */
const TYPES = []
for (const [name, { number, Array }] of Object.entries(dtypes)) {
  TYPES[number] = { name: /** @type {ElementType['name']} */ (name), bits: 8 * Array.BYTES_PER_ELEMENT, Array }
}
TYPES[10] = { name: 'int4', bits: 4, Array: Uint8Array }

/**
 * The types of the arguments, and of the result where it is a pointer.
 *
 * @type {Record<RknnFunction, { takes: CType[], returns: 'i32' | 'pointer' }>}
 */
const FUNCTIONS = {
  rknn_init: { takes: ['pointer', 'pointer', 'u32', 'u32', 'pointer'], returns: 'i32' },
  rknn_dup_context: { takes: ['pointer', 'pointer'], returns: 'i32' },
  rknn_query: { takes: ['u64', 'i32', 'pointer', 'u32'], returns: 'i32' },
  rknn_set_core_mask: { takes: ['u64', 'i32'], returns: 'i32' },
  rknn_create_mem_from_fd: { takes: ['u64', 'i32', 'pointer', 'u32', 'i32'], returns: 'pointer' },
  rknn_create_mem_from_phys: { takes: ['u64', 'u64', 'pointer', 'u32'], returns: 'pointer' },
  rknn_create_mem_from_mb_blk: { takes: ['u64', 'pointer', 'i32'], returns: 'pointer' },
  rknn_set_weight_mem: { takes: ['u64', 'pointer'], returns: 'i32' },
  rknn_set_internal_mem: { takes: ['u64', 'pointer'], returns: 'i32' },
  rknn_set_io_mem: { takes: ['u64', 'pointer', 'pointer'], returns: 'i32' },
  rknn_destroy_mem: { takes: ['u64', 'pointer'], returns: 'i32' },
  rknn_destroy: { takes: ['u64'], returns: 'i32' },
}

const OTHER_HEADER = 'is the runtime of the header, and the model converted for it and for this chip?'
/** @type {Record<string, { name: string, code: Code, hint?: string }>} */
const ERRORS = {
  '-1': { name: 'FAIL', code: 'ERR_DEVICE_IO', hint: 'the runtime writes the reason to its log (RKNN_LOG_LEVEL=4)' },
  '-2': { name: 'TIMEOUT', code: 'ERR_DEVICE_IO' },
  '-3': { name: 'DEVICE_UNAVAILABLE', code: 'ERR_DEVICE_NOT_FOUND' },
  '-4': { name: 'MALLOC_FAIL', code: 'ERR_OUT_OF_MEMORY', hint: 'the runtime found no memory of its own' },
  '-5': { name: 'PARAM_INVALID', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-6': { name: 'MODEL_INVALID', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-7': { name: 'CTX_INVALID', code: 'ERR_DEVICE_IO' },
  '-8': { name: 'INPUT_INVALID', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-9': { name: 'OUTPUT_INVALID', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-10': { name: 'DEVICE_UNMATCH', code: 'ERR_UNSUPPORTED', hint: 'update the runtime and the driver' },
  '-11': { name: 'INCOMPATILE_PRE_COMPILE_MODEL', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-12': { name: 'INCOMPATILE_OPTIMIZATION_LEVEL_VERSION', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
  '-13': { name: 'TARGET_PLATFORM_UNMATCH', code: 'ERR_UNSUPPORTED', hint: OTHER_HEADER },
}

/**
 * The MemoryError of a function that failed.
 *
 * @param {string} what names the function, the model and the context
 * @param {number | null} result null for a NULL
 */
function runtimeError(what, result) {
  if (result === null) {
    return memoryError('ERR_DEVICE_IO', `${what} returned NULL`, {
      hint: 'the runtime writes the reason to its log (RKNN_LOG_LEVEL=4)',
    })
  }
  const { name, code, hint } = ERRORS[String(result)] ?? { name: 'not in rknn_api.h', code: 'ERR_DEVICE_IO' }
  return memoryError(code, `${what} returned ${result} (${name})`, hint === undefined ? {} : { hint })
}

module.exports = { CORES, FLAGS, FORMATS, FUNCTIONS, HEADERS, QUERIES, TYPES, isSince, runtimeError }
