/** The command line of the server. */

import { basename } from 'node:path'
import { parseArgs } from 'node:util'

export const HELP = `Serves language models of librkllmrt with OpenAI's API.

  npm run server -- --model NAME=FILE.rkllm [options]     on a board; several times for several models
  npm run server -- --understudy [options]                anywhere: a library for tests, which is no model

  --model NAME=FILE     a model and its name in the API (without NAME: that of the file); beside --understudy: a NAME
  --context N           tokens of the context (default: 4096)
  --hidden N            floats of a hidden state; without it there are no embeddings
  --ram BYTES           the most RAM that the model takes (default: estimated from the file)
                        these three also as NAME=N, for one model
  --library PATH        librkllmrt.so (default: /usr/lib/librkllmrt.so)
  --models-ram BYTES    RAM that all models may take together (default: what the machine has)
  --keep-alive-seconds N   an idle model stays in memory for so long, where there are several (default: 300)
  --pooling KIND        embeddings by the mean of the hidden states, or by the last: mean, last (default: mean)
  --max-tokens N        tokens of a reply that asks for no number (default: 512)

  --host HOST           (default: 127.0.0.1)
  --port PORT           0 takes a free one (default: 8080)
  --tenants FILE        API keys with their tags and limits, as JSON; without it every request is served
  --queue N             requests that may wait for a model (default: 64)
  --wait-seconds N      a request may wait so long for its model, loads included (default: 300)
  --memory KIND         memory of requests: system, npu (default: system)
  --max-body BYTES      the longest body of a request (default: 4194304)
  --stall-seconds N     a run without a result for so long hangs, and its process ends (default: 120)
  --drain-seconds N     after SIGTERM, running and waiting requests may take so long (default: 30)

  --header VERSION      the understudy's rkllm.h: 1.1, 1.2.0, 1.2, 1.3 (default: 1.3)
  --simulated JSON      the simulated board under the understudy, as {"domainBytes":1048576,"latencyMs":2}
  --help                print this text
`

const text = { type: 'string' }
const texts = { type: 'string', multiple: true }
const TEXTS = [
  'library', 'models-ram', 'keep-alive-seconds', 'pooling', 'max-tokens', 'host', 'port', 'tenants', 'queue',
  'wait-seconds', 'memory', 'max-body', 'stall-seconds', 'drain-seconds', 'header', 'simulated',
]
const PER_MODEL = ['model', 'context', 'hidden', 'ram']
const BYTES_PER_TOKEN = 8

/**
 * @typedef {{ name: string, file?: string, context: number, hidden?: number, ram?: number, maxPromptBytes: number,
 * library?: string, version?: string, samplesByRun?: boolean, understudy?: boolean }} Model
 */

/** An error of the command line: its message is for the user, its stack is not. */
export class UsageError extends Error {}

/** @param {string[]} args */
export function readOptions(args) {
  const values = parse(args)
  const whole = (name, value, least, most) => {
    const number = Number(value)
    if (value !== '' && Number.isSafeInteger(number) && number >= least && number <= most) return number
    throw new UsageError(`--${name} must be a whole number from ${least} to ${most}, not "${value}"`)
  }
  const number = (name, least, most, otherwise) =>
    values[name] === undefined ? otherwise : whole(name, values[name], least, most)
  const choice = (name, choices, otherwise) => {
    const value = values[name] ?? otherwise
    if (choices.includes(value)) return value
    throw new UsageError(`--${name} must be one of ${choices.join(', ')}, not "${value}"`)
  }
  const { understudy = false, tenants, host = '127.0.0.1', library = '/usr/lib/librkllmrt.so' } = values
  if (values.help) return { help: true }
  for (const name of ['header', 'simulated'])
    if (!understudy && values[name] !== undefined) throw new UsageError(`--${name} goes with --understudy`)

  const files = (values.model ?? (understudy ? ['understudy'] : [])).map((given) => namedFile(given, understudy))
  const names = files.map(([name]) => name)
  if (files.length === 0) throw new UsageError('give --model NAME=FILE or --understudy')
  if (new Set(names).size < names.length) throw new UsageError(`two models have the same name: ${names.join(', ')}`)
  /** The number of `name` for one model: its own, or that of all. */
  const ofModel = (name, model, most, otherwise) => {
    const given = (values[name] ?? []).map((value) => (value.includes('=') ? value.split('=') : ['', value]))
    const stranger = given.find(([one]) => one !== '' && !names.includes(one))
    if (stranger !== undefined) throw new UsageError(`--${name}: there is no model "${stranger[0]}"`)
    const [, value] = given.findLast(([one]) => one === model) ?? given.findLast(([one]) => one === '') ?? []
    return value === undefined ? otherwise : whole(name, value, 1, most)
  }
  const models = files.map(([name, file]) => {
    const context = ofModel('context', name, 2 ** 20, 4096)
    const [hidden, ram] = [ofModel('hidden', name, 2 ** 20), ofModel('ram', name, Number.MAX_SAFE_INTEGER)]
    return { name, file, context, hidden, ram, maxPromptBytes: context * BYTES_PER_TOKEN - 1 }
  })
  return {
    understudy, models, library, tenants, host,
    header: choice('header', ['1.1', '1.2.0', '1.2', '1.3'], '1.3'),
    simulated: board(values.simulated),
    modelsRam: number('models-ram', 1, Number.MAX_SAFE_INTEGER, undefined),
    keepAliveMs: 1000 * number('keep-alive-seconds', 0, 86_400, 300),
    pooling: choice('pooling', ['mean', 'last'], 'mean'),
    maxTokens: number('max-tokens', 1, 2 ** 20, 512),
    port: number('port', 0, 65535, 8080),
    queue: number('queue', 1, 100_000, 64),
    waitMs: 1000 * number('wait-seconds', 1, 86_400, 300),
    memoryKind: choice('memory', ['system', 'npu'], 'system'),
    maxBodyBytes: number('max-body', 1, 2 ** 30, 4 * 2 ** 20),
    stallMs: 1000 * number('stall-seconds', 1, 86_400, 120),
    drainMs: 1000 * number('drain-seconds', 0, 86_400, 30),
  }
}

/** `NAME=FILE`, a file without a name, or the name of an understudy. */
function namedFile(given, understudy) {
  if (understudy) return [given, undefined]
  const [, name = basename(given, '.rkllm'), file] = /^(?:([^/=]+)=)?(.+)$/s.exec(given) ?? []
  if (file === undefined) throw new UsageError('--model needs a file')
  return [name, file]
}

function parse(args) {
  const each = (names, kind) => Object.fromEntries(names.map((name) => [name, kind]))
  const flags = each(['understudy', 'help'], { type: 'boolean' })
  try {
    return parseArgs({ args, options: { ...each(TEXTS, text), ...each(PER_MODEL, texts), ...flags } }).values
  } catch (error) {
    throw new UsageError(error.message)
  }
}

function board(json) {
  try {
    return json === undefined ? undefined : JSON.parse(json)
  } catch (error) {
    throw new UsageError(`--simulated is not JSON: ${error.message}`)
  }
}
