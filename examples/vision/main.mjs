#!/usr/bin/env node
/**
 * Describes images. The encoder writes an image's embeddings into one dma-buf, and the language model reads them there:
 * no byte of them is copied.
 *
 *   npm run vision -- --understudy                          on any machine
 *   npm run vision -- --encoder FILE.rknn --model FILE.rkllm --tokens N --hidden N IMAGE.ppm ...
 *     --help                                                lists the options
 * It runs on the board's NPU, or with --understudy on the simulated device; RKLLM_BACKEND chooses another.
 */

import { basename } from 'node:path'

import { MemoryManager, closeDmaBuf } from '../../index.js'
import { loadRuntime } from '../server/runtime.mjs'
import { Encoder } from './encoder.mjs'
import { HELP, UsageError, readOptions } from './options.mjs'
import { readPpm } from './ppm.mjs'
import { makeUnderstudies } from './understudies.mjs'

const KiB = 1024
const kib = (bytes) => `${Math.round(bytes / KiB).toLocaleString('en-US')} KiB`

/** The language model: its session has the image's embeddings in NPU memory. */
async function loadLanguage(memory, { rkllm, model, context, tokens, hidden, maxTokens, width, height }) {
  const session = memory.createInferenceBuffers({
    kind: 'npu',
    library: rkllm,
    contextLength: context,
    image: { tokens, hiddenSize: hidden, width, height },
    tag: 'language',
  })
  const runtime = await loadRuntime(rkllm, session.header, memory)
  return {
    session,
    init() {
      const status = runtime.init(session, session.param({ model, maxNewTokens: maxTokens, async: true }))
      if (status !== 0) throw new Error(`rkllm_init returned ${status}: its log on stderr says why`)
    },
    /** Answers a prompt about the image whose embeddings are in the session. */
    async answer(prompt) {
      const results = session.results()
      if (runtime.run(session, session.multimodalInput(prompt), session.inferParam()) !== 0)
        throw new Error('rkllm_run_async refused the request: its log on stderr says why')
      let text = ''
      for await (const result of results) text += result.text
      while (runtime.isRunning()) await new Promise(setImmediate)
      return text
    },
    close() {
      runtime.destroy()
      session.releaseCallbacks()
      session.dispose()
    },
  }
}

async function describe(options) {
  const images = options.images.map((path) => ({ path, ...readPpm(path) }))
  if (images.length === 0) throw new UsageError('name one image or more')
  const [{ width, height }] = images
  const backend = process.env.RKLLM_BACKEND ?? (options.understudy ? 'simulated' : 'auto')
  const memory = new MemoryManager({ backend })
  const { soc, simulated } = memory.device
  const closers = [() => memory.dispose()]
  try {
    const language = await loadLanguage(memory, { ...options, width, height })
    closers.push(() => language.close())
    const { session } = language
    const encoder = await Encoder.load(memory, options, session.imageEmbeddings)
    closers.push(() => encoder.close())
    language.init()

    const features = encoder.output(options.output)
    const { fd, offset } = memory.exportDmaBuf(session.imageEmbeddings)
    closeDmaBuf(fd)
    const [written, read] = [features.address, session.addresses.imageEmbeddings].map((at) => `0x${at.toString(16)}`)
    if (written !== read) throw new Error(`the encoder writes to ${written}, and the language model reads ${read}`)
    console.log(`device    ${simulated ? `a simulated ${soc}` : `${soc ?? 'unknown'}, ${memory.device.backend}`}`)
    console.log(`encoder   librknnrt ${encoder.version}; input ${encoder.input.dims.join('×')} ${encoder.input.dtype}`)
    console.log(`language  rkllm.h ${session.header}; ${options.tokens} tokens of ${options.hidden} floats an image`)
    console.log(`shared    ${features.bytes} bytes at ${offset} of one dma-buf: written and read at ${written}\n`)
    for (const { path, pixels } of images) {
      encoder.run(pixels)
      console.log(`${basename(path)}: ${JSON.stringify(await language.answer(options.prompt))}`)
    }
    const { weights, scratch, tensors } = encoder.usage
    const { used } = memory.getMemoryUsage().tags.language
    const own = `weights ${kib(weights)}, scratch ${kib(scratch)}, other tensors ${kib(tensors)}`
    console.log(`\nmemory    encoder: ${own}; session: ${kib(used)}`)
  } finally {
    for (const close of closers.reverse()) close()
  }
}

async function main() {
  const options = readOptions(process.argv.slice(2))
  if (options.help) return console.log(HELP)
  if (!options.understudy) return describe(options)
  const understudies = makeUnderstudies(options)
  try {
    await describe({ ...options, ...understudies })
  } finally {
    understudies.remove()
  }
}

try {
  await main()
} catch (error) {
  console.error(error.message + (error.hint ? `; ${error.hint}` : ''))
  process.exitCode = error instanceof UsageError ? 2 : 1
}
