#!/usr/bin/env node
/**
 * Checks the memory of an inference session from C. For each version of rkllm.h and both kinds of memory, the buffers
 * are made once. Each request fills the back set, swaps it to the front, and passes one pointer. The C library follows
 * the pointer and returns the values that it found. It writes logits, hidden states and tensors, which are compared
 * value by value.
 *
 *   node examples/inference/main.mjs     with koffi; bun and deno run the same file with their own FFI
 *     --corrupt                          changes one value after the fact, which the check must find
 *     --layouts                          prints the C compiler's offsets of the fields, as JSON
 * Needs a C compiler (cc). It runs on the simulated device; with RKLLM_BACKEND=rknpu on an NPU.
 */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { MemoryManager } from '../../index.js'
import { open } from './ffi.mjs'

const { values: options } = parseArgs({ options: { corrupt: { type: 'boolean' }, layouts: { type: 'boolean' } } })

const FUNCTIONS = {
  layouts: { returns: 'text', takes: [] },
  read_input: { returns: 'i32', takes: ['i32', 'pointer', 'u32', 'pointer'] },
  read_infer: { returns: 'i64', takes: ['i32', 'pointer'] },
  read_param: { returns: 'void', takes: ['i32', 'pointer', 'pointer'] },
  read_lora: { returns: 'void', takes: ['i32', 'pointer', 'pointer', 'pointer'] },
  read_cross_attn: { returns: 'u32', takes: ['pointer', 'i32', 'i32', 'i32', 'pointer'] },
  write_floats: { returns: 'void', takes: ['pointer', 'u64', 'u32'] },
  run_rknn: { returns: 'u32', takes: ['pointer', 'u32', 'pointer', 'u32'] },
}
/** The results of read_input, in its order. */
const FOUND = [
  'type', 'count', 'data', 'prompt', 'role', 'thinking', 'images', 'width', 'height', 'start', 'end', 'content',
  'video',
]
/** The versions, as check.c numbers them. */
const VERSIONS = { '1.1': 110, '1.2.0': 120, '1.2': 121, '1.3': 130 }
const REQUESTS = 4
const HIDDEN = 96
const IMAGE = { tokens: 36, width: 224, height: 168 }
const CROSS = { layers: 2, heads: 3, headDim: 16, tokens: 20 }

// FNV-1a, as in check.c.
const START = 2166136261
const step = (hash, value) => Math.imul(hash ^ value, 16777619)
const words = (array, hash = START) =>
  new Uint32Array(array.buffer, array.byteOffset, array.length).reduce(step, hash) >>> 0
const bytes = (array, hash = START) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength).reduce(step, hash) >>> 0
const text = (string) => bytes(new TextEncoder().encode(string))

function build(folder) {
  const library = join(folder, 'check.so')
  const source = fileURLToPath(new URL('check.c', import.meta.url))
  const { status, error, stderr } = spawnSync('cc', ['-shared', '-fPIC', '-O2', '-std=c11', '-o', library, source], {
    encoding: 'utf8',
  })
  if (error !== undefined || status !== 0) throw new Error(`cc cannot build check.c: ${error?.message ?? stderr}`)
  return library
}

/** Counts comparisons, and keeps the differences. */
class Tally {
  compared = 0
  wrong = []

  same(what, got, wanted) {
    this.compared++
    if (got !== wanted) this.wrong.push(`${what}: ${got}, not ${wanted}`)
  }

  all(what, array, wanted) {
    let differ = 0
    for (let i = 0; i < array.length; i++) if (array[i] !== wanted(i)) differ++
    this.compared += array.length
    if (differ > 0) this.wrong.push(`${what}: ${differ} of ${array.length} values`)
  }
}

/** Runs all requests of one session, with buffers that are made once. */
function session(memory, call, kind, header) {
  const tally = new Tally()
  const hasRoles = header === '1.2' || header === '1.3'
  const buffers = memory.createInferenceBuffers({
    kind,
    header,
    contextLength: 256,
    hiddenSize: HIDDEN,
    vocabSize: 5000,
    image: { ...IMAGE, count: header === '1.1' ? 1 : 2 },
    crossAttention: hasRoles ? CROSS : undefined,
    logits: { tokens: 2 },
    hiddenStates: { tokens: 8 },
    rknnInputs: [
      { name: 'pixels', shape: [1, 24, 24, 3], dtype: 'uint8' },
      { name: 'mask', shape: [1, 36], dtype: 'float32', passThrough: true },
    ],
    rknnOutputs: [
      { name: 'features', shape: [1, 36, 8], dtype: 'float16' },
      { name: 'scores', shape: [36], dtype: 'float32' },
    ],
    doubleBuffered: true,
    tag: 'inference',
  })
  const answers = memory.allocateSystemMemory(FOUND.length * 4)
  const { address } = memory.describe(answers)
  const found = new Uint32Array(answers)
  const before = memory.getMemoryStats()

  const input = (what, pointer, wanted) => {
    tally.same(`${what}: status`, call.read_input(VERSIONS[header], pointer, HIDDEN, address), 0)
    const all = { ...Object.fromEntries(FOUND.map((name) => [name, 0])), ...wanted }
    for (const [at, name] of FOUND.entries()) tally.same(`${what}: ${name}`, found[at], all[name])
  }
  parameters(buffers, call, tally, { header, address, found })
  for (let request = 0; request < REQUESTS; request++) {
    fill(buffers.back, request)
    buffers.swap()
    buffers.syncToDevice()
    exchange(buffers, call, tally, { header, hasRoles, request, input, address, found })
    buffers.reset()
    for (const name of ['tokens', 'embeddings', 'logits', 'hiddenStates'])
      tally.all(`${name} after reset`, buffers[name], () => 0)
  }
  const after = memory.getMemoryStats()
  tally.same('allocations of requests', after.liveAllocations, before.liveAllocations)
  const { bytes } = buffers
  buffers.dispose()
  memory.deallocate(answers)
  return { kind, header, bytes, ...tally }
}

/** Compares the structs of rkllm_init, of rkllm_load_lora, and of a run that uses what was loaded. */
function parameters(buffers, call, tally, { header, address, found }) {
  const is13 = header === '1.3'
  const all = (what, wanted) => wanted.forEach((value, at) => tally.same(`${what} ${at}`, found[at], value >>> 0))
  const numbers = [0.25, 0.5, 1.25, -0.5, 0.75]
  const sampling = {
    topK: 3, topP: 0.25, temperature: 0.5, repeatPenalty: 1.25, frequencyPenalty: -0.5, presencePenalty: 0.75,
    mirostat: 2, mirostatTau: 4, mirostatEta: 0.125,
  }
  const hash = words(Float32Array.of(4, 0.125), words(Int32Array.of(2), words(Float32Array.from(numbers))))
  const extended = header === '1.1' ? {} : { keep: 9, embedFlash: true, cpus: [0, 5] }
  const batch = is13 || header === '1.2' ? { batch: 7, crossAttention: true } : {}
  const own = is13 ? { ignoreEos: true } : { imageEnd: '</größe>' }
  const model = '/srv/Größe.rkllm'
  const options = { model, maxNewTokens: 77, ...sampling, async: true, domain: 3, ...extended, ...batch, ...own }
  call.read_param(VERSIONS[header], buffers.param(options), address)
  const rest = header === '1.1' ? 0 : 16 + 32 * 2 + 0x21 * 1024 + 3 * (batch.batch ?? 0) + (batch.batch ? 5 : 0)
  all('param', [
    text(model), 256, 77, 3, extended.keep ?? 0, hash, is13 ? 7 : 3, is13 ? 0 : text('</größe>'), 3 + rest,
  ])

  const adapter = buffers.loraAdapter({ path: '/srv/größer', name: 'größer', scale: -0.5 })
  const promptCache = { path: '/tmp/Maß', save: true }
  const infer = buffers.inferParam({ lora: 'größer', promptCache, ...(is13 ? { sampling: { topK: 8 } } : {}) })
  call.read_lora(VERSIONS[header], adapter, infer, address)
  const scale = words(Float32Array.of(-0.5))
  all('lora', [
    text('/srv/größer'), text('größer'), scale, text('größer'), text('/tmp/Maß') + 1, is13 ? hash + 8 : 0,
  ])
}

/** Writes the inputs of a tokenizer, an encoder and a camera. */
function fill(back, request) {
  const value = (at) => Math.fround(((at * 7 + request) % 1000) / 8 - 60)
  for (let i = 0; i < back.tokens.length; i++) back.tokens[i] = (i * 31 + request) % 5000
  for (const array of [
    back.embeddings, back.imageEmbeddings, back.encoderKeys, back.encoderValues, back.encoderMask, back.inputs.mask,
  ]) {
    for (let i = 0; i < (array?.length ?? 0); i++) array[i] = value(i)
  }
  for (let i = 0; i < (back.encoderPositions?.length ?? 0); i++) back.encoderPositions[i] = i + request
  for (let i = 0; i < back.inputs.pixels.length; i++) back.inputs.pixels[i] = i + request
}

/** Runs one request: every kind of RKLLM input, its outputs, cross-attention, and a run of RKNN. */
function exchange(buffers, call, tally, { header, hasRoles, request, input, address, found }) {
  const count = 10 + request
  const talk = hasRoles ? { role: 'tool', enableThinking: request % 2 === 1 } : {}
  const said = hasRoles ? { role: text('tool'), thinking: request % 2 } : {}
  const prompt = `Größe <image> 尺寸 № ${request}?`

  input('prompt', buffers.promptInput(prompt, talk), { type: 0, prompt: text(prompt), ...said })
  const tokens = { type: 1, count, data: words(buffers.tokens.subarray(0, count)), ...said }
  if (options.corrupt && request === 1) buffers.tokens[3]++
  input('tokens', buffers.tokenInput(count, talk), tokens)
  const embeddings = words(buffers.embeddings.subarray(0, count * HIDDEN))
  input('embeddings', buffers.embedInput(count, talk), { type: 2, count, data: embeddings, ...said })

  const [images] = buffers.shapes.imageEmbeddings
  const markers =
    header === '1.3'
      ? { imageStart: '<|vision_start|>', imageEnd: '<|vision_end|>', imageContent: '<|image_pad|>' }
      : {}
  const shown = Object.entries(markers).map(([name, marker]) => [
    name.slice('image'.length).toLowerCase(),
    text(marker),
  ])
  const size = header === '1.1' ? {} : { width: IMAGE.width, height: IMAGE.height }
  input('images', buffers.multimodalInput(prompt, { ...talk, ...markers }), {
    type: 3,
    images,
    count: IMAGE.tokens,
    data: words(buffers.imageEmbeddings),
    prompt: text(prompt),
    ...size,
    ...said,
    ...Object.fromEntries(shown),
  })

  const most = header === '1.3' ? { maxNewTokens: 64 } : {}
  const history = header === '1.1' ? {} : { keepHistory: true }
  const param = buffers.inferParam({ mode: 'logits', ...history, ...most })
  const wanted = 2 + (history.keepHistory ? 10 : 0) + 100 * (most.maxNewTokens ?? 0)
  tally.same('infer param', Number(call.read_infer(VERSIONS[header], param)), wanted)

  if (hasRoles) {
    const hash = call.read_cross_attn(buffers.crossAttention(), CROSS.layers, CROSS.heads, CROSS.headDim, address)
    tally.same('cross-attention: tokens', found[0], CROSS.tokens)
    tally.same('cross-attention: caches', hash, crossAttentionHash(buffers))
  }

  for (const [name, seed] of [['logits', request], ['hiddenStates', request + 100]]) {
    call.write_floats(buffers.addresses[name], buffers[name].length, seed)
    buffers.syncFromDevice(name)
    tally.all(name, buffers[name], (i) => (Math.imul(i, 2654435761) + seed) >>> 8)
  }

  const { rknnInputs, rknnOutputs } = buffers.addresses
  const hash = rknnHash(buffers.inputs)
  tally.same('rknn inputs', call.run_rknn(rknnInputs, 2, rknnOutputs, 2), hash)
  buffers.syncFromDevice('outputs.features', 'outputs.scores')
  for (const [at, [name, wantFloat]] of [['features', 0], ['scores', 1]].entries()) {
    const output = new Uint8Array(buffers.outputs[name].buffer)
    tally.all(`rknn output ${name}`, output, (i) => (hash + i * 31 + at + wantFloat) & 0xff)
  }
}

function crossAttentionHash({ encoderKeys, encoderValues, encoderMask, encoderPositions }) {
  const { layers, heads, headDim, tokens } = CROSS
  const [keys, values] = [encoderKeys, encoderValues].map(({ buffer }) => new Uint32Array(buffer))
  let hash = START
  for (let l = 0; l < layers; l++) {
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        for (let d = 0; d < headDim; d++) {
          hash = step(hash, keys[((l * tokens + t) * heads + h) * headDim + d])
          hash = step(hash, values[((l * heads + h) * headDim + d) * tokens + t])
        }
      }
    }
  }
  return words(encoderPositions, words(encoderMask, hash))
}

/**
 * Hashes each tensor, followed by type, format and pass-through: uint8 NHWC, then float32 without format, passed
 * through.
 */
function rknnHash({ pixels, mask }) {
  const image = [3, 1, 0].reduce(step, bytes(pixels))
  return [0, 3, 1].reduce(step, bytes(mask, image)) >>> 0
}

const folder = mkdtempSync(join(tmpdir(), 'rkllm-inference-'))
try {
  const { name, call } = await open(build(folder), FUNCTIONS)
  if (options.layouts) console.log(call.layouts())
  else run(name, call)
} catch (error) {
  console.error(error.message)
  process.exitCode = 2
} finally {
  rmSync(folder, { recursive: true })
}

function run(name, call) {
  const memory = new MemoryManager({ backend: process.env.RKLLM_BACKEND ?? 'simulated' })
  const { soc, simulated, backend } = memory.device
  console.log(`C through ${name}, on ${simulated ? `a simulated ${soc}` : backend}; ${REQUESTS} requests each\n`)
  console.log('memory  rkllm.h     bytes  values compared  wrong')
  const sessions = ['npu', 'system'].flatMap((kind) =>
    Object.keys(VERSIONS).map((header) => session(memory, call, kind, header)),
  )
  for (const { kind, header, bytes, compared, wrong } of sessions) {
    console.log(
      `${kind.padEnd(8)}${header.padEnd(7)} ${String(bytes).padStart(9)}  ` +
        `${String(compared).padStart(15)}  ${String(wrong.length).padStart(5)}`,
    )
    for (const what of wrong) console.error(`  ${kind}, ${header}: ${what}`)
  }
  const left = memory.getMemoryStats().liveAllocations
  if (left !== 0) console.error(`${left} allocations left`)
  memory.dispose()
  const right = left === 0 && sessions.every(({ wrong }) => wrong.length === 0)
  console.log(right ? '\nevery value the same on both sides' : '\nthe two sides differ')
  process.exitCode = right ? 0 : 1
}
