/** RKLLMParam, RKLLMLoraAdapter and RKLLMInferParam: each field of each version, lifetimes, and bad input. */

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { assertNothingLeft, open, refuses } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const { headers } = require('../../../src/js/inference/layouts.js')
const { Parameters, placeParameters } = require('../../../src/js/inference/parameters.js')
const { defaultSampling } = require('../../../src/js/inference/sampling.js')
const { readSpec } = require('../../../src/js/inference/spec.js')
const { Structs, placeStructs } = require('../../../src/js/inference/structs.js')

const HEADERS = Object.keys(headers)
const BASE = 0x7000_0000_0000n
/** The structs of the session begin here, those of a request at BASE. */
const SESSION = BASE + 0x1000_0000n

/** The structs of a spec in plain memory, with a reader of it. */
function structsOf(options) {
  const spec = readSpec({ contextLength: 64, ...options })
  const defaults = { sampling: defaultSampling }
  const [own, ours] = [placeStructs(spec), placeParameters(spec)]
  const [request, session] = [new ArrayBuffer(own.bytes), new ArrayBuffer(ours.bytes)]
  const memory = (address) => {
    const isSession = address >= SESSION
    return new DataView(isSession ? session : request, Number(address - (isSession ? SESSION : BASE)))
  }
  const text = (address) => {
    const view = memory(address)
    const bytes = new Uint8Array(view.buffer, view.byteOffset)
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, bytes.indexOf(0)))
  }
  const readers = {
    pointer: (view, at) => view.getBigUint64(at, true),
    size: (view, at) => Number(view.getBigUint64(at, true)),
    int: (view, at) => view.getInt32(at, true),
    float: (view, at) => view.getFloat32(at, true),
    byte: (view, at) => view.getUint8(at),
  }
  const read = (name, address) =>
    Object.fromEntries(
      Object.entries(headers[spec.header][name].fields).map(([field, { offset, type }]) => [
        field,
        readers[type](memory(address), offset),
      ]),
    )
  return {
    requests: new Structs(spec, own, request, BASE, {}, defaults),
    session: new Parameters(spec, { buffer: session, address: SESSION }, defaults),
    read,
    text,
    bytes: { request: new Uint8Array(request), session: new Uint8Array(session) },
  }
}

const f = Math.fround
const GIVEN = {
  model: '/srv/Größe.rkllm', maxNewTokens: 7, topK: 3, topP: 0.25, temperature: 0.5, repeatPenalty: 1.25,
  frequencyPenalty: -0.5, presencePenalty: 0.75, mirostat: 2, mirostatTau: 4, mirostatEta: 0.5,
  skipSpecialTokens: false, async: true, domain: 15,
}
/** What else each version has, and the fields. */
const MARKERS = [
  { imageStart: '<s>', imageEnd: '<e>', imageContent: '<c>' },
  { img_start: '<s>', img_end: '<e>', img_content: '<c>' },
]
const OF_12 = [
  { keep: 9, embedFlash: false, cpus: [31, 4, 0] },
  {
    n_keep: 9, 'extend_param.embed_flash': 0, 'extend_param.enabled_cpus_num': 3,
    'extend_param.enabled_cpus_mask': (1 << 31) | 0x11,
  },
]
const OF_121 = [{ batch: 255, crossAttention: true }, { 'extend_param.n_batch': 255, 'extend_param.use_cross_attn': 1 }]
const OF_13 = [{ ignoreEos: true }, { ignore_eos_token: 1 }]
const PARTS = { 1.1: [MARKERS], '1.2.0': [MARKERS, OF_12], 1.2: [MARKERS, OF_12, OF_121], 1.3: [OF_12, OF_121, OF_13] }

for (const header of HEADERS) {
  test(`${header}: param writes each field that the version has`, () => {
    const { session, read, text } = structsOf({ header })
    const [options, fields] = [0, 1].map((at) => Object.assign({}, ...PARTS[header].map((part) => part[at])))
    const found = read('RKLLMParam', session.param({ ...GIVEN, ...options }))
    for (const field of ['model_path', 'img_start', 'img_end', 'img_content']) {
      if (field in found) found[field] = text(found[field])
    }
    assert.deepEqual(found, {
      model_path: '/srv/Größe.rkllm', max_context_len: 64, max_new_tokens: 7, top_k: 3, top_p: 0.25, temperature: 0.5,
      repeat_penalty: 1.25, frequency_penalty: -0.5, presence_penalty: 0.75, mirostat: 2, mirostat_tau: 4,
      mirostat_eta: 0.5, skip_special_token: 0, is_async: 1, 'extend_param.base_domain_id': 15, ...fields,
    })
  })

  test(`${header}: param refuses each option that the version lacks, by name, and writes nothing`, () => {
    const { session, read, text } = structsOf({ header })
    const address = session.param({ model: 'first' })
    const lacking = [MARKERS, OF_12, OF_121, OF_13].filter((part) => !PARTS[header].includes(part))
    for (const [options] of lacking) {
      for (const [option, value] of Object.entries(options)) {
        const { message, hint } = refuses(() => session.param({ model: 'x', [option]: value }), 'ERR_UNSUPPORTED')
        assert.match(message, new RegExp(`rkllm\\.h ${header.replaceAll('.', '\\.')} has no ${option}$`))
        assert.ok(hint)
      }
    }
    assert.equal(text(read('RKLLMParam', address).model_path), 'first')
  })

  test(`${header}: the defaults of param`, () => {
    const { session, read, text } = structsOf({ header })
    const found = read('RKLLMParam', session.param({ model: 'm' }))
    const wanted = {
      max_context_len: 64, max_new_tokens: 64, top_k: 40, top_p: f(0.9), temperature: f(0.8), repeat_penalty: f(1.1),
      frequency_penalty: 0, presence_penalty: 0, mirostat: 0, mirostat_tau: 5, mirostat_eta: f(0.1),
      skip_special_token: 1, is_async: 0, 'extend_param.base_domain_id': 0,
    }
    for (const [field, value] of Object.entries(wanted)) assert.equal(found[field], value, field)
    if ('img_start' in found) assert.equal(text(found.img_start), '')
    if ('extend_param.embed_flash' in found) {
      assert.equal(found['extend_param.embed_flash'], 1)
      const bits = (found['extend_param.enabled_cpus_mask'] >>> 0).toString(2).replaceAll('0', '').length
      assert.equal(bits, found['extend_param.enabled_cpus_num'])
      assert.ok(bits >= 1 && bits <= 4)
    }
  })

  test(`${header}: inferParam with LoRA and prompt cache`, () => {
    const { requests, read, text } = structsOf({ header })
    const plain = read('RKLLMInferParam', requests.inferParam())
    assert.ok(Object.values(plain).every((value) => Number(value) === 0))
    const options = { mode: 'logits', lora: 'größer', promptCache: { path: '/tmp/cache', save: true } }
    const found = read('RKLLMInferParam', requests.inferParam(options))
    assert.equal(found.mode, 2)
    assert.equal(text(read('RKLLMLoraParam', found.lora_params).lora_adapter_name), 'größer')
    const cache = read('RKLLMPromptCacheParam', found.prompt_cache_params)
    assert.deepEqual([cache.save_prompt_cache, text(cache.prompt_cache_path)], [1, '/tmp/cache'])
    const again = read('RKLLMInferParam', requests.inferParam({ promptCache: { path: 'b', save: false } }))
    assert.deepEqual([again.mode, again.lora_params], [0, 0n])
    assert.equal(read('RKLLMPromptCacheParam', again.prompt_cache_params).save_prompt_cache, 0)
    requests.reset()
    assert.equal(read('RKLLMInferParam', requests.addresses.rkllmInferParam).prompt_cache_params, 0n)
  })
}

test('1.3: sampling of a request: numbers that are left out are those of the last param', () => {
  const { requests, session, read } = structsOf({ header: '1.3' })
  const sampling = (options) =>
    read('RKLLMSamplingParam', read('RKLLMInferParam', requests.inferParam({ sampling: options })).sampling_params)
  const wanted = {
    top_k: 40, top_p: f(0.9), temperature: 0, repeat_penalty: f(1.1), frequency_penalty: 0, presence_penalty: 0,
    mirostat: 0, mirostat_tau: 5, mirostat_eta: f(0.1),
  }
  assert.deepEqual(sampling({ temperature: 0 }), wanted)
  session.param({ model: 'm', topK: 1, presencePenalty: 0.5 })
  assert.deepEqual(sampling({ temperature: 0 }), { ...wanted, top_k: 1, presence_penalty: 0.5 })
  assert.throws(() => session.param({ model: 'm', topK: 2, topP: 2 }))
  assert.equal(sampling({}).top_k, 1)
  const { sampling_params: none } = read('RKLLMInferParam', requests.inferParam({ maxNewTokens: 5 }))
  assert.equal(none, 0n)
})

test('reset leaves no text of a request, and all of the session', () => {
  const { requests, session, bytes } = structsOf({ header: '1.3' })
  session.param({ model: '/m' })
  session.loraAdapter({ path: '/a', name: 'a' })
  requests.promptInput('a secret', { role: 'tool' })
  requests.inferParam({ lora: 'secret', promptCache: { path: '/secret', save: true }, sampling: { topK: 1 } })
  const before = bytes.session.slice()
  assert.ok(Buffer.from(bytes.request).includes('a secret') && Buffer.from(before).includes('/m\0'))
  requests.reset()
  assert.ok(bytes.request.every((byte) => byte === 0))
  assert.deepEqual(bytes.session, before)
})

test('the mask of CPUs has a bit for each and no other', () => {
  const { session, read } = structsOf({ header: '1.2' })
  const mask = (cpus) => read('RKLLMParam', session.param({ model: 'm', cpus }))['extend_param.enabled_cpus_mask']
  assert.deepEqual([mask([4, 5, 6, 7]), mask([1]), mask([0])], [0xf0, 2, 1])
})

test('what inferParam has in no earlier version is refused with the version and the name', () => {
  for (const header of ['1.1', '1.2.0', '1.2']) {
    const { requests } = structsOf({ header })
    for (const options of [{ maxNewTokens: 1 }, { sampling: {} }]) {
      const { message, hint } = refuses(() => requests.inferParam(options), 'ERR_UNSUPPORTED')
      assert.ok(message.endsWith(`rkllm.h ${header} has no ${Object.keys(options)[0]}`), message)
      assert.match(hint, /param\(\)/)
    }
  }
  const { message } = refuses(() => structsOf({ header: '1.1' }).requests.inferParam({ keepHistory: true }),
    'ERR_UNSUPPORTED')
  assert.match(message, /1\.1 has no keepHistory/)
})

test('each adapter keeps a slot of its own; its name again overwrites it; one too many is refused', () => {
  const { session, read, text } = structsOf({ loraAdapters: 2 })
  const first = session.loraAdapter({ path: '/a', name: 'a' })
  const second = session.loraAdapter({ path: '/b', name: 'b', scale: -0.5 })
  const shown = (address) => {
    const { lora_adapter_path: path, lora_adapter_name: name, scale } = read('RKLLMLoraAdapter', address)
    return [text(path), text(name), scale]
  }
  assert.deepEqual([shown(first), shown(second)], [['/a', 'a', 1], ['/b', 'b', -0.5]])
  const error = refuses(() => session.loraAdapter({ path: '/c', name: 'c' }), 'ERR_OUT_OF_RANGE')
  assert.deepEqual([error.requested, error.limit], [3, 2])
  assert.match(error.hint, /loraAdapters: 3/)
  assert.equal(session.loraAdapter({ path: '/new', name: 'a', scale: 2 }), first)
  assert.deepEqual([shown(first), shown(second)], [['/new', 'a', 2], ['/b', 'b', -0.5]])
  refuses(() => structsOf({ loraAdapters: 0 }).session.loraAdapter({ path: 'a', name: 'a' }), 'ERR_OUT_OF_RANGE')
})

test('a session: parameters outlive requests, and end with it', (t) => {
  const manager = open(t)
  const buffers = manager.createInferenceBuffers({ contextLength: 8, header: '1.3', doubleBuffered: true })
  assert.equal(buffers.kind, 'system')
  const [param, adapter] = [buffers.param({ model: 'm' }), buffers.loraAdapter({ path: 'p', name: 'n' })]
  buffers.reset()
  buffers.swap()
  assert.equal(buffers.param({ model: 'm' }), param)
  assert.equal(buffers.loraAdapter({ path: 'p', name: 'n' }), adapter)
  const request = buffers.inferParam({ lora: 'n', sampling: { topK: 1 } })
  buffers.swap()
  assert.notEqual(buffers.inferParam({ lora: 'n' }), request)
  buffers.pin()
  refuses(() => buffers.dispose(), 'ERR_BUFFER_BUSY')
  buffers.unpin()
  buffers.dispose()
  refuses(() => buffers.param({ model: 'm' }), 'ERR_BUFFER_FREED')
  refuses(() => buffers.loraAdapter({ path: 'p', name: 'n' }), 'ERR_BUFFER_FREED')
  assertNothingLeft(manager)
})

test('the default kind: system, and npu where the NPU may read tensors', (t) => {
  const manager = open(t)
  const tensor = { name: 'a', shape: [4], dtype: 'int8' }
  const kindOf = (spec) => manager.createInferenceBuffers(spec).kind
  assert.equal(kindOf({ maxTokens: 4 }), 'system')
  assert.equal(kindOf({ maxTokens: 4, kind: 'npu' }), 'npu')
  assert.equal(kindOf({ rknnInputs: [tensor] }), 'npu')
  assert.equal(kindOf({ maxTokens: 4, rknnOutputs: [tensor] }), 'npu')
  const only = manager.createInferenceBuffers({ rknnInputs: [tensor] })
  for (const use of [
    () => only.param({ model: 'm' }), () => only.loraAdapter({ path: 'a', name: 'b' }),
    () => only.inferParam({ lora: 'a' }), () => only.inferParam({ promptCache: { path: 'a', save: true } }),
    () => only.inferParam({ sampling: {} }),
  ]) {
    assert.match(refuses(use, 'ERR_UNSUPPORTED').message, /RKNN tensors alone/)
  }
})

test('bad input of parameters is refused by name', (t) => {
  const buffers = open(t).createInferenceBuffers({ contextLength: 8, header: '1.3' })
  const bad = (method, options, code, message) => {
    const error = refuses(() => buffers[method](options), code, message.source)
    assert.match(`${error.message} ${error.hint}`, message)
    return error
  }
  const param = (options, code, message) => bad('param', { model: 'm', ...options }, code, message)
  const [type, range] = ['ERR_INVALID_ARG_TYPE', 'ERR_OUT_OF_RANGE']
  bad('param', undefined, type, /needs "model"/)
  bad('param', 5, type, /options of param/)
  bad('param', { model: 5 }, type, /model must be a string/)
  param({ model: '' }, range, /must not be empty/)
  param({ model: 'a\0b' }, range, /NUL/)
  param({ model: 'a\ud800b' }, range, /surrogate pair at index 1/)
  const { requested, limit } = param({ model: 'ü'.repeat(2048) }, range, /4097 bytes of UTF-8/)
  assert.deepEqual([requested, limit], [4097, 4096])
  buffers.param({ model: `${'ü'.repeat(2047)}a` })
  param({ temprature: 1 }, type, /did you mean "temperature"/)
  for (const value of [NaN, Infinity, -1, 1e39]) param({ temperature: value }, range, /temperature/)
  for (const value of ['1', 1n, null]) param({ temperature: value }, type, /temperature must be a number/)
  param({ topP: 1.01 }, range, /from 0 to 1/)
  param({ topK: -1 }, range, /topK/)
  param({ mirostat: 3 }, range, /mirostat/)
  param({ maxNewTokens: 0 }, range, /maxNewTokens/)
  param({ maxNewTokens: -1 }, range, /maxNewTokens/)
  param({ maxNewTokens: 2 ** 31 }, range, /maxNewTokens/)
  param({ domain: 16 }, range, /domain/)
  param({ batch: 256 }, range, /batch/)
  param({ embedFlash: 1 }, type, /embedFlash/)
  param({ cpus: [] }, range, /0 CPUs/)
  param({ cpus: [1, 1] }, range, /CPU 1 twice/)
  param({ cpus: [32] }, range, /cpus\[0\] is 32/)
  param({ cpus: 4 }, type, /array of CPU numbers/)
  param({ cpus: new Array(2) }, type, /cpus\[0\]/)

  bad('loraAdapter', undefined, type, /needs "path"/)
  bad('loraAdapter', { path: 'a' }, type, /needs "name"/)
  bad('loraAdapter', { path: 'a\0', name: 'b' }, range, /path has a NUL/)
  bad('loraAdapter', { path: 'a', name: 'b'.repeat(256) }, range, /257 bytes/)
  bad('loraAdapter', { path: 'a', name: 'b', scale: NaN }, range, /scale/)

  bad('inferParam', { lora: '' }, range, /lora/)
  bad('inferParam', { lora: 'a\udc00' }, range, /surrogate/)
  bad('inferParam', { promptCache: {} }, type, /needs "path"/)
  bad('inferParam', { promptCache: { path: 'a' } }, type, /needs "save"/)
  bad('inferParam', { promptCache: { path: 'a', save: 1 } }, type, /save/)
  bad('inferParam', { promptCache: { path: 'a', saves: true } }, type, /did you mean "save"/)
  bad('inferParam', { promptCache: 'a' }, type, /promptCache/)
  bad('inferParam', { sampling: { topk: 1 } }, type, /did you mean "topK"/)
  bad('inferParam', { sampling: { topP: -1 } }, range, /topP/)
  refuses(() => buffers.promptInput('\ud800'), 'ERR_OUT_OF_RANGE')
})
