/**
 * librkllmrt through the FFI of Node, Bun and Deno: the functions of rkllm.h with plain addresses. A session of the
 * library supplies the structs and the callbacks.
 */

import { open } from '../../examples/inference/ffi.mjs'

const [POINTER, I32] = ['pointer', 'i32']
const returnsInt = (...takes) => ({ returns: I32, takes })
const since11 = {
  rkllm_init: returnsInt(POINTER, POINTER, POINTER),
  rkllm_destroy: returnsInt(POINTER),
  rkllm_run: returnsInt(POINTER, POINTER, POINTER, POINTER),
  rkllm_run_async: returnsInt(POINTER, POINTER, POINTER, POINTER),
  rkllm_abort: returnsInt(POINTER),
  rkllm_is_running: returnsInt(POINTER),
  rkllm_load_lora: returnsInt(POINTER, POINTER),
  rkllm_load_prompt_cache: returnsInt(POINTER, POINTER),
  rkllm_release_prompt_cache: returnsInt(POINTER),
}
const template = { rkllm_set_chat_template: returnsInt(POINTER, POINTER, POINTER, POINTER) }
const since120 = { ...template, rkllm_clear_kv_cache: returnsInt(POINTER, I32) }
const since12 = {
  ...template,
  rkllm_clear_kv_cache: returnsInt(POINTER, I32, POINTER, POINTER),
  rkllm_get_kv_cache_size: returnsInt(POINTER, POINTER),
  rkllm_set_function_tools: returnsInt(POINTER, POINTER, POINTER, POINTER),
  rkllm_set_cross_attn_params: returnsInt(POINTER, POINTER),
}
const understudy = { understudy_bytes: { returns: 'u64', takes: [I32] } }

const FUNCTIONS = {
  1.1: since11,
  '1.2.0': { ...since11, ...since120 },
  1.2: { ...since11, ...since12 },
  1.3: { ...since11, ...since12 },
}

/**
 * Binds the library at `path`, an understudy whose header is `header`.
 *
 * @param {string} path
 * @param {string} header
 */
export async function loadRkllm(path, header) {
  const { name, call } = await open(path, { ...FUNCTIONS[header], ...understudy })
  return { name, header, path, bytesOf: (domain) => Number(call.understudy_bytes(domain)), model: modelOf(call, path) }
}

const scratch = (manager, bytes) => {
  const buffers = manager.createInferenceBuffers({ maxTokens: Math.ceil(bytes / 4) })
  return { tokens: buffers.tokens, addresses: buffers.addresses, dispose: () => buffers.dispose() }
}

/** One model: a method a function of rkllm.h, which returns what C returns. */
const modelOf = (call, path) => (manager, session) => {
  // The runtime writes the handle, and counts of positions, into memory with an address.
  const desk = manager.createInferenceBuffers({ maxTokens: 16 })
  const words = new BigUint64Array(desk.tokens.buffer, desk.tokens.byteOffset, 1)
  let handle = 0n
  /** Calls `use` with the address of `text` as a C string. */
  const withText = (text, use) => {
    const bytes = new TextEncoder().encode(`${text}\0`)
    const { tokens, addresses, dispose } = scratch(manager, bytes.length)
    new Uint8Array(tokens.buffer, tokens.byteOffset, bytes.length).set(bytes)
    try {
      return use(addresses.tokens)
    } finally {
      dispose()
    }
  }
  return {
    init(param) {
      const { result, struct } = session.callbacks()
      const answer = call.rkllm_init(desk.addresses.tokens, param, struct ?? result)
      if (answer === 0) handle = words[0]
      else desk.dispose()
      return answer
    },
    run: (input, infer) => call.rkllm_run(handle, input, infer, session.callbacks().userdata),
    runAsync: (input, infer) => call.rkllm_run_async(handle, input, infer, session.callbacks().userdata),
    /** Calls rkllm_run on a thread of `resultThread`. */
    runElsewhere: (resultThread, input, infer) =>
      withText(path, (at) => resultThread.runElsewhere(at, handle, input, infer, session.callbacks().userdata)),
    abort: () => call.rkllm_abort(handle),
    isRunning: () => call.rkllm_is_running(handle) === 0,
    loadLora: (adapter) => call.rkllm_load_lora(handle, adapter),
    loadPromptCache: (path) => withText(path, (at) => call.rkllm_load_prompt_cache(handle, at)),
    /** Sets the system prompt; nothing stands around the user's. */
    setSystemPrompt: (text) =>
      withText(text, (at) => withText('', (empty) => call.rkllm_set_chat_template(handle, at, empty, empty))),
    setFunctionTools: (system, tools, tag) =>
      withText(system, (first) =>
        withText(tools, (second) =>
          withText(tag, (third) => call.rkllm_set_function_tools(handle, first, second, third)),
        ),
      ),
    /** @param {bigint} params the address of an RKLLMCrossAttnParam */
    setCrossAttention: (params) => call.rkllm_set_cross_attn_params(handle, params),
    releasePromptCache: () => call.rkllm_release_prompt_cache(handle),
    /** Clears all positions, or with a range those from `start` to before `end`. */
    clearKv(keepSystemPrompt = false, range = undefined) {
      if (call.rkllm_get_kv_cache_size === undefined) return call.rkllm_clear_kv_cache(handle, +keepSystemPrompt)
      if (range !== undefined) desk.tokens.set(range, 4)
      const at = (word) => (range === undefined ? 0n : desk.addresses.tokens + 4n * BigInt(word))
      return call.rkllm_clear_kv_cache(handle, +keepSystemPrompt, at(4), at(5))
    },
    kvSize() {
      const answer = call.rkllm_get_kv_cache_size(handle, desk.addresses.tokens + 8n)
      return answer === 0 ? desk.tokens[2] : answer
    },
    destroy() {
      const answer = call.rkllm_destroy(handle)
      if (answer === 0) {
        session.releaseCallbacks()
        desk.dispose()
      }
      return answer
    },
  }
}
