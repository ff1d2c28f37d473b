/**
 * The reader of the documentation: the names that its code uses and does not define, the files that it opens, and the
 * runtimes that it loads (the understudies). `__test__/types/docs.mjs` declares the same names.
 */

import { chmodSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { PassThrough } from 'node:stream'
import { MessageChannel } from 'node:worker_threads'

import { open as openLibrary } from '../../examples/inference/ffi.mjs'
import { buildRknnUnderstudy, buildUnderstudy } from '../runtime/build.mjs'
import { loadRknn, writeRknnModel } from './rknn.mjs'

const require = createRequire(import.meta.url)
const api = require('../../index.js')
const MiB = 2 ** 20

/** Absolute paths of the pages, which the tests look for in a folder of their own. */
const ABSOLUTE = /(?<=['"`])\/(?:srv|var|run|models|etc)\//g

const QWEN3 = {
  model_type: 'qwen3', num_hidden_layers: 28, hidden_size: 1024, intermediate_size: 3072, num_attention_heads: 16,
  num_key_value_heads: 8, head_dim: 128, vocab_size: 151_936, tie_word_embeddings: true,
}

/** Builds the head of a .rknn file of `size` bytes. */
function rknn(size) {
  const head = Buffer.alloc(size)
  head.write('RKNN')
  head.writeBigUInt64LE(BigInt(size - 64), 16)
  return head
}

const UNDERSTUDY_MODEL = 'RKLLM understudy model\nweights = 1048576\nkv_per_token = 64\nscratch = 65536\n' +
  'hidden = 8\nvocab = 256\n'

const LOG = `I rkllm: rkllm-runtime version: 1.2.1, rknpu driver version: 0.9.6, platform: RK3588
E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address
`

/** A profiled manager's own log of events. */
async function eventLog(path) {
  const memory = new api.MemoryManager({ backend: 'simulated', profiling: true })
  const pool = memory.createMemoryPool({ name: 'kv', initialSize: MiB, maxSize: 64 * MiB })
  const blocks = Array.from({ length: 64 }, (_, at) => pool.allocate(4096 * (at + 1)))
  for (const block of blocks) block.free()
  memory.deallocate(memory.allocateNPUMemory(MiB))
  await memory.writeReport(path)
  memory.dispose()
}

/** Makes the folder of the reader, with the files that pages name. */
async function makeFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-docs-'))
  const write = (path, content) => {
    mkdirSync(join(folder, dirname(path)), { recursive: true })
    writeFileSync(join(folder, path), content)
  }
  for (const path of ['config.json', 'qwen.json', 'Qwen3-0.6B/config.json']) write(path, JSON.stringify(QWEN3))
  write('qwen.rkllm', Buffer.alloc(4096, 1))
  truncateSync(join(folder, 'qwen.rkllm'), 986 * MiB)
  write('coder.rkllm', Buffer.alloc(MiB, 1))
  for (const path of ['vision.rknn', 'srv/models/vision.rknn']) write(path, rknn(2 * MiB))
  for (const path of ['models/qwen3.rkllm', 'srv/models/Qwen3-1.7B.rkllm', 'srv/models/sql.rkllm'])
    write(path, UNDERSTUDY_MODEL)
  write('srv/models/qwen3.embed', Buffer.alloc(2 * 1024 * 16))
  const encoder = ['input = pixels uint8 nhwc 16 1 8 8 3', 'output = features float16 undefined 0 1 196 8']
  for (const name of ['vit', 'yolo'])
    writeRknnModel(join(folder, `srv/models/${name}.rknn`), { weights: 65_536, internal: 8192, tensors: encoder })
  write('llm.log', LOG)
  write('llm_demo', '#!/bin/sh\necho rkllm init success\nexec sleep 60\n')
  chmodSync(join(folder, 'llm_demo'), 0o755)
  for (const path of ['var/cache/chat', 'var/log/app', 'run/app']) mkdirSync(join(folder, path), { recursive: true })
  await eventLog(join(folder, 'events.csv'))
  return folder
}

const [POINTER, I32] = ['pointer', 'i32']

/** The functions of rkllm.h as pages call them: `handle` stands for the handle of the last rkllm_init. */
async function runtimeOf(path) {
  const takes = (count) => ({ returns: I32, takes: Array.from({ length: count }, () => POINTER) })
  const functions = { rkllm_init: takes(3), rkllm_run: takes(4), rkllm_run_async: takes(4), rkllm_destroy: takes(1) }
  const { call } = await openLibrary(path, functions)
  const memory = new api.MemoryManager({ backend: 'simulated' })
  const room = memory.createInferenceBuffers({ maxTokens: 16 })
  const handle = () => new BigUint64Array(room.tokens.buffer, room.tokens.byteOffset, 1)[0]
  return {
    rkllm_init: (_, param, callback) => call.rkllm_init(room.addresses.tokens, param, callback ?? 0n),
    rkllm_run: (_, input, infer, userdata) => call.rkllm_run(handle(), input, infer, userdata ?? 0n),
    rkllm_run_async: (_, input, infer, userdata) => call.rkllm_run_async(handle(), input, infer, userdata ?? 0n),
    rkllm_destroy: () => call.rkllm_destroy(handle()),
  }
}

/**
 * Opens the reader of one page.
 *
 * @returns {Promise<{ names: Record<string, any>, sourceOf(code: string): string, close(): Promise<void> }>}
 */
export async function openReader() {
  const folder = await makeFolder()
  const before = process.cwd()
  process.chdir(folder)
  process.env.XDG_STATE_HOME = join(folder, 'state')
  const made = []
  const closers = []
  /** A board is not asked for: a manager without options is a simulated one. */
  class MemoryManager extends api.MemoryManager {
    constructor(options = {}) {
      super({ backend: 'simulated', ...options })
      made.push(this)
    }
  }
  const patched = { ...api, MemoryManager }
  const library = buildUnderstudy('1.2')
  const rknnLibrary = buildRknnUnderstudy('2.1')
  const memory = new MemoryManager()
  const buffer = memory.allocateNPUMemory(4096)
  const kv = memory.createMemoryPool({ name: 'reader', initialSize: MiB, maxSize: 64 * MiB })
  const http = require('node:http')
  const names = {
    ...patched,
    require: (name) => (name === '@rkllmjs/memory' ? patched : require(name)),
    memory, manager: memory, kv, pool: kv, buffer, http,
    device: memory.device,
    token: memory.share(buffer),
    before: memory.takeSnapshot(),
    tokens: [1, 2, 3], ids: [1, 2, 3], keys: [4, 5, 6],
    handle: 0n, callback: 0n,
    worker: new MessageChannel().port1,
    response: new PassThrough().resume(),
    log: { warn() {}, debug() {}, info() {} },
    console: { ...console, log() {} },
    process: new Proxy(process, {
      get: (target, name) => (name === 'stdout' ? new PassThrough().resume() : Reflect.get(target, name)),
    }),
    kvCache: { shrink() {} },
    runOnNpu() {},
    handleRequests: async () => {},
    openChat: async () => ({ generate: async (text) => `${text} Because.`, close() {} }),
    openSpeech: async () => ({ close() {} }),
    librknnrt: (await loadRknn(rknnLibrary)).call,
    image: new Uint8Array(192),
    ...(await runtimeOf(library)),
  }
  names.worker.unref()
  closers.push(() => names.worker.close())
  const createServer = http.createServer
  http.createServer = (...args) => {
    const server = createServer(...args)
    closers.push(() => server.close())
    return server
  }
  return {
    names,
    sourceOf: (code) =>
      code
        .replaceAll('/usr/lib/librknnrt.so', rknnLibrary)
        .replaceAll('/usr/lib/librkllmrt.so', library)
        .replaceAll(ABSOLUTE, (path) => `${folder}${path}`),
    async close() {
      http.createServer = createServer
      for (const close of closers) close()
      for (const manager of made) await manager.disposeAsync()
      process.chdir(before)
      rmSync(folder, { recursive: true })
    },
  }
}
