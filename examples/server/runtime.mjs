/** librkllmrt in Node, Bun and Deno: the functions of rkllm.h that the server calls, with plain addresses. */

import { open } from '../inference/ffi.mjs'

const [POINTER, I32] = ['pointer', 'i32']
const returnsInt = (...takes) => ({ returns: I32, takes })

const FUNCTIONS = {
  rkllm_init: returnsInt(POINTER, POINTER, POINTER),
  rkllm_destroy: returnsInt(POINTER),
  rkllm_run_async: returnsInt(POINTER, POINTER, POINTER, POINTER),
  rkllm_abort: returnsInt(POINTER),
  rkllm_is_running: returnsInt(POINTER),
}
const TEMPLATE = { rkllm_set_chat_template: returnsInt(POINTER, POINTER, POINTER, POINTER) }

/**
 * Binds the library at `path`.
 *
 * @param {string} path
 * @param {string} header of the session that was made for this library
 * @param {import('../../index.js').MemoryManager} memory
 */
export async function loadRuntime(path, header, memory) {
  const { name, call } = await open(path, header === '1.1' ? FUNCTIONS : { ...FUNCTIONS, ...TEMPLATE })
  // The library writes the handle into the first eight bytes, and reads an empty text from the next.
  const desk = memory.allocateSystemMemory(16, { tag: 'runtime' })
  const { address } = memory.describe(desk)
  let handle = 0n
  return {
    ffi: name,
    /** Loads the model. Blocks the event loop meanwhile. */
    init(session, param) {
      const { result, struct } = session.callbacks()
      const status = call.rkllm_init(address, param, struct ?? result)
      if (status === 0) handle = new BigUint64Array(desk)[0]
      return status
    },
    /** Turns the runtime's own chat template off: prompts come complete. Version 1.1 has none. */
    useRawPrompts: () => call.rkllm_set_chat_template?.(handle, address + 8n, address + 8n, address + 8n) ?? 0,
    run: (session, input, infer) => call.rkllm_run_async(handle, input, infer, session.callbacks().userdata),
    abort: () => call.rkllm_abort(handle),
    isRunning: () => call.rkllm_is_running(handle) === 0,
    /** Ends the model and its threads; nothing of the session is read afterwards. */
    destroy() {
      if (handle !== 0n && call.rkllm_destroy(handle) !== 0) throw new Error('rkllm_destroy failed')
      handle = 0n
      memory.deallocate(desk)
    },
  }
}
