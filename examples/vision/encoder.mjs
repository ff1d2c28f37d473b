/** The vision encoder: librknnrt in Node, Bun and Deno, on memory of the package. */

import { open } from '../inference/ffi.mjs'

const returnsInt = (...takes) => ({ returns: 'i32', takes })
/** An address comes back as a number: of the FFIs, one would wrap a pointer. */
const returnsAddress = (...takes) => ({ returns: 'u64', takes })
export const FUNCTIONS = {
  rknn_init: returnsInt('pointer', 'pointer', 'u32', 'u32', 'pointer'),
  rknn_dup_context: returnsInt('pointer', 'pointer'),
  rknn_query: returnsInt('u64', 'i32', 'pointer', 'u32'),
  rknn_set_core_mask: returnsInt('u64', 'i32'),
  rknn_create_mem_from_fd: returnsAddress('u64', 'i32', 'pointer', 'u32', 'i32'),
  rknn_set_weight_mem: returnsInt('u64', 'pointer'),
  rknn_set_internal_mem: returnsInt('u64', 'pointer'),
  rknn_set_io_mem: returnsInt('u64', 'pointer', 'pointer'),
  rknn_run: returnsInt('u64', 'pointer'),
  rknn_destroy_mem: returnsInt('u64', 'pointer'),
  rknn_destroy: returnsInt('u64'),
}

export class Encoder {
  #call
  #rknn

  /**
   * Loads an encoder whose output `output` is `features`, memory of the same manager.
   *
   * @param {import('../../index.js').MemoryManager} memory
   * @param {{ encoder: string, rknn: string, header?: any, weights?: any, cores: any, output: string }} options
   * @param {Float32Array} features
   */
  static async load(memory, { encoder, rknn: library, header, weights, cores, output }, features) {
    const { call } = await open(library, FUNCTIONS)
    const rknn = memory.createRknnMemory({
      ...(header === undefined ? { library } : { header }),
      models: [
        {
          name: 'encoder',
          file: encoder,
          ...(weights && { weights }),
          contexts: [cores],
          outputs: { [output]: { dtype: 'float32', memory: { buffer: features } } },
        },
      ],
      tag: 'vision',
    })
    const made = new Encoder(call, rknn)
    try {
      for await (const each of rknn.loadAsync()) each.done(call[each.name](...each.args))
    } catch (error) {
      made.close()
      throw error
    }
    return made
  }

  constructor(call, rknn) {
    this.#call = call
    this.#rknn = rknn
  }

  get #context() {
    return this.#rknn.models.encoder.contexts[0]
  }

  get version() {
    return this.#rknn.runtime.api
  }

  get usage() {
    return this.#rknn.usage
  }

  /** The encoder's input of pixels: the first. */
  get input() {
    return Object.values(this.#context.inputs)[0]
  }

  /** @param {string} name */
  output(name) {
    return this.#context.outputs[name]
  }

  /** @param {Uint8Array} pixels 8-bit RGB of the encoder's size */
  run(pixels) {
    this.input.write(pixels)
    const status = this.#call.rknn_run(this.#context.handle, 0n)
    if (status !== 0) throw new Error(`rknn_run returned ${status}: its log on stderr says why`)
  }

  close() {
    for (const each of this.#rknn.unload()) each.done(this.#call[each.name](...each.args))
    this.#rknn.dispose()
  }
}
