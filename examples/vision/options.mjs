/** The command line of the vision example. */

import { parseArgs } from 'node:util'

export const HELP = `Describes images: an encoder on librknnrt, a language model on librkllmrt, one dma-buf between.

  npm run vision -- --encoder FILE.rknn --model FILE.rkllm --tokens N --hidden N IMAGE.ppm ...   on a board
  npm run vision -- --understudy                              anywhere: libraries for tests, which are no models

  --rknn PATH           librknnrt.so (default: /usr/lib/librknnrt.so)
  --rknn-header V       its rknn_api.h: 1.3, 1.4, 1.5.2, 1.6, 2.0, 2.1 (default: by the library)
  --rkllm PATH          librkllmrt.so (default: /usr/lib/librkllmrt.so)
  --tokens N            tokens of an image: the rows of the encoder's output
  --hidden N            floats of a token: its columns
  --output NAME         the encoder's output (default: the understudy's, "features")
  --weights WHERE       file, manager, runtime (default: by the header)
  --cores CORES         auto, 0, 1, 2, 0+1, 0+1+2, all (default: auto)
  --context N           tokens of the language model's context (default: 1024)
  --prompt TEXT         with <image> (default: "<image>What is in the image?")
  --max-tokens N        of an answer (default: 64)
  --help                print this text

Images are binary PPM of the encoder's size: ffmpeg -i photo.jpg -s 392x392 photo.ppm
`

export class UsageError extends Error {}

const text = { type: 'string' }
const TEXTS = [
  'encoder', 'model', 'rknn', 'rknn-header', 'rkllm', 'tokens', 'hidden', 'output', 'weights', 'cores', 'context',
  'prompt', 'max-tokens',
]

/** @param {string[]} args */
export function readOptions(args) {
  const { values, positionals } = parse(args)
  if (values.help) return { help: true }
  const { understudy = false, encoder, model } = values
  if (understudy === (encoder !== undefined)) throw new UsageError('give either --encoder and --model, or --understudy')
  if ((encoder === undefined) !== (model === undefined)) throw new UsageError('--encoder and --model go together')
  const number = (name, otherwise) => {
    if (values[name] === undefined) {
      if (otherwise !== undefined) return otherwise
      throw new UsageError(`--${name} is needed: the encoder's output has these figures`)
    }
    const value = Number(values[name])
    if (Number.isSafeInteger(value) && value >= 1 && value <= 2 ** 20) return value
    throw new UsageError(`--${name} must be a whole number from 1 to 1048576, not "${values[name]}"`)
  }
  const choice = (name, choices, otherwise) => {
    const value = values[name] ?? otherwise
    if (value === undefined || choices.includes(value)) return value
    throw new UsageError(`--${name} must be one of ${choices.join(', ')}, not "${value}"`)
  }
  return {
    understudy, encoder, model,
    images: positionals,
    rknn: values.rknn ?? '/usr/lib/librknnrt.so',
    header: choice('rknn-header', ['1.3', '1.4', '1.5.2', '1.6', '2.0', '2.1']),
    rkllm: values.rkllm ?? '/usr/lib/librkllmrt.so',
    tokens: number('tokens', understudy ? 16 : undefined),
    hidden: number('hidden', understudy ? 64 : undefined),
    output: values.output ?? 'features',
    weights: choice('weights', ['file', 'manager', 'runtime']),
    cores: choice('cores', ['auto', '0', '1', '2', '0+1', '0+1+2', 'all'], 'auto'),
    context: number('context', 1024),
    prompt: values.prompt ?? '<image>What is in the image?',
    maxTokens: number('max-tokens', 64),
  }
}

function parse(args) {
  const flags = { understudy: { type: 'boolean' }, help: { type: 'boolean' } }
  const options = { ...Object.fromEntries(TEXTS.map((name) => [name, text])), ...flags }
  try {
    return parseArgs({ args, options, allowPositionals: true })
  } catch (error) {
    throw new UsageError(error.message)
  }
}
