'use strict'

// The C structs of rknn_api.h by version, and the readers of those that the runtime fills in (rknn-api.md §1).

const { TextDecoder } = require('node:util')
const { struct } = require('../inference/layouts.js')

const [MAX_DIMS, NAME_BYTES, VERSION_BYTES] = [16, 256, 256]

/**
 * @typedef {import('../inference/layouts.js').Layout} Layout
 * @typedef {import('../inference/layouts.js').Member} Member
 * @typedef {import('../types/rknn.js').RknnHeader} RknnHeader
 */

/** @type {(type: 'int' | 'pointer' | 'byte' | 'float' | 'size', ...names: string[]) => Member[]} */
const all = (type, ...names) => names.map((name) => [name, type])
/** @type {(name: string, bytes: number) => Member} An array of bytes, of which the first is a field. */
const bytes = (name, size) => [name, { size, align: 1, fields: { 0: { offset: 0, type: 'byte' } } }]

/** @type {Member} */
const dims = ['dims', struct(...all('int', ...Array.from({ length: MAX_DIMS }, (_, at) => String(at))))]

const common = {
  rknn_input_output_num: struct(...all('int', 'n_input', 'n_output')),
  rknn_tensor_attr: struct(
    ...all('int', 'index', 'n_dims'),
    dims,
    bytes('name', NAME_BYTES),
    ...all('int', 'n_elems', 'size', 'fmt', 'type', 'qnt_type'),
    ...all('byte', 'fl'),
    ...all('int', 'zp'),
    ...all('float', 'scale'),
    ...all('int', 'w_stride', 'size_with_stride'),
    ...all('byte', 'pass_through'),
    ...all('int', 'h_stride'),
  ),
  rknn_tensor_mem: struct(
    ...all('pointer', 'virt_addr', 'phys_addr'),
    ...all('int', 'fd', 'offset', 'size', 'flags'),
    ...all('pointer', 'priv_data'),
  ),
  rknn_sdk_version: struct(bytes('api_version', VERSION_BYTES), bytes('drv_version', VERSION_BYTES)),
  rknn_run_extend: struct(...all('size', 'frame_id'), ...all('int', 'non_block', 'timeout_ms', 'fence_fd')),
}

const sizes13 = struct(...all('int', 'total_weight_size', 'total_internal_size'))
const sizes14 = struct(
  ...all('int', 'total_weight_size', 'total_internal_size'),
  ...all('size', 'total_dma_allocated_size'),
  ...all('int', 'total_sram_size', 'free_sram_size'),
  bytes('reserved', 40),
)
const extend13 = struct(...all('size', 'ctx'), bytes('reserved', 128))
const extend14 = struct(...all('size', 'ctx'), ...all('int', 'real_model_offset', 'real_model_size'),
  bytes('reserved', 120))
const extend21 = struct(
  ...all('size', 'ctx'),
  ...all('int', 'real_model_offset', 'real_model_size', 'model_buffer_fd', 'model_buffer_flags'),
  bytes('reserved', 112),
)

const with13 = { ...common, rknn_mem_size: sizes13, rknn_init_extend: extend13 }
const with14 = { ...common, rknn_mem_size: sizes14, rknn_init_extend: extend14 }
const with21 = { ...common, rknn_mem_size: sizes14, rknn_init_extend: extend21 }

/** @type {Record<RknnHeader, Record<keyof typeof with21, Layout>>} */
const headers = { 1.3: with13, 1.4: with14, '1.5.2': with14, 1.6: with14, '2.0': with14, 2.1: with21 }

/**
 * Reads a field that is an int of C, as a number without sign.
 *
 * @param {DataView} view
 * @param {number} at the struct's offset
 * @param {Layout} layout
 * @param {string} name
 */
const readInt = (view, at, layout, name) => view.getUint32(at + layout.fields[name].offset, true)

/**
 * Reads the text of an array of chars, up to its NUL or its end.
 *
 * @param {DataView} view
 * @param {number} at
 * @param {number} room
 */
function readText(view, at, room) {
  const all = new Uint8Array(view.buffer, view.byteOffset + at, room)
  const end = all.indexOf(0)
  return new TextDecoder().decode(end === -1 ? all : all.subarray(0, end))
}

/**
 * @typedef {object} Attributes of a tensor, as rknn_query tells them
 * @property {number} index
 * @property {string} name
 * @property {number[]} dims
 * @property {number} elements
 * @property {number} size
 * @property {number} format
 * @property {number} type
 * @property {number} quantization
 * @property {number} fractionalLength
 * @property {number} zeroPoint
 * @property {number} scale
 * @property {number} widthStride
 * @property {number} sizeWithStride
 */

/**
 * Reads an rknn_tensor_attr.
 *
 * @param {DataView} view
 * @param {number} at
 * @returns {Attributes}
 */
function readAttributes(view, at) {
  const layout = common.rknn_tensor_attr
  const { fields } = layout
  const int = (/** @type {string} */ name) => readInt(view, at, layout, name)
  const rank = Math.min(int('n_dims'), MAX_DIMS)
  return {
    index: int('index'),
    name: readText(view, at + fields['name.0'].offset, NAME_BYTES),
    dims: Array.from({ length: rank }, (_, axis) => int(`dims.${axis}`)),
    elements: int('n_elems'),
    size: int('size'),
    format: int('fmt'),
    type: int('type'),
    quantization: int('qnt_type'),
    fractionalLength: view.getInt8(at + fields.fl.offset),
    zeroPoint: view.getInt32(at + fields.zp.offset, true),
    scale: view.getFloat32(at + fields.scale.offset, true),
    widthStride: int('w_stride'),
    sizeWithStride: int('size_with_stride'),
  }
}

/**
 * Reads an rknn_sdk_version.
 *
 * @param {DataView} view
 * @param {number} at
 */
const readVersions = (view, at) => ({
  api: readText(view, at, VERSION_BYTES),
  driver: readText(view, at + VERSION_BYTES, VERSION_BYTES),
})

module.exports = { headers, readAttributes, readInt, readVersions }
