/** The command line of the server. */

import { basename } from 'node:path'
import { parseArgs } from 'node:util'

export const HELP = `Serves a language model of librkllmrt with OpenAI's API.

  npm run server -- --model FILE.rkllm [options]     on a board
  npm run server -- --understudy [options]           anywhere: a library for tests, which is no model

  --library PATH        librkllmrt.so (default: /usr/lib/librkllmrt.so)
  --name ID             the model's name in the API (default: that of the file)
  --context N           tokens of the context (default: 4096)
  --hidden N            floats of a hidden state; without it there are no embeddings
  --pooling KIND        embeddings by the mean of the hidden states, or by the last: mean, last (default: mean)
  --domain N            IOMMU domain of the model (default: 0)
  --max-tokens N        tokens of a reply that asks for no number (default: 512)

  --host HOST           (default: 127.0.0.1)
  --port PORT           0 takes a free one (default: 8080)
  --tenants FILE        API keys with their tags and limits, as JSON; without it every request is served
  --queue N             requests that may wait for the running one (default: 64)
  --memory KIND         memory of requests: system, npu (default: system)
  --max-body BYTES      the longest body of a request (default: 4194304)
  --stall-seconds N     a run without a result for so long hangs, and the server ends (default: 120)
  --drain-seconds N     after SIGTERM, running and waiting requests may take so long (default: 30)

  --header VERSION      the understudy's rkllm.h: 1.1, 1.2.0, 1.2, 1.3 (default: 1.3)
  --simulated JSON      the simulated board under the understudy, as {"domainBytes":1048576,"latencyMs":2}
  --help                print this text
`

const text = { type: 'string' }
const TEXTS = [
  'model', 'library', 'name', 'context', 'hidden', 'pooling', 'domain', 'max-tokens', 'host', 'port', 'tenants',
  'queue', 'memory', 'max-body', 'stall-seconds', 'drain-seconds', 'header', 'simulated',
]
const FLAGS = { understudy: { type: 'boolean' }, help: { type: 'boolean' } }

/** An error of the command line: its message is for the user, its stack is not. */
export class UsageError extends Error {}

/** @param {string[]} args */
export function readOptions(args) {
  const values = parse(args)
  const number = (name, least, most, otherwise) => {
    if (values[name] === undefined) return otherwise
    const value = Number(values[name])
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value
    throw new UsageError(`--${name} must be a whole number from ${least} to ${most}, not "${values[name]}"`)
  }
  const choice = (name, choices, otherwise) => {
    const value = values[name] ?? otherwise
    if (choices.includes(value)) return value
    throw new UsageError(`--${name} must be one of ${choices.join(', ')}, not "${value}"`)
  }
  const { understudy = false, model, tenants, host = '127.0.0.1', library = '/usr/lib/librkllmrt.so' } = values
  if (values.help) return { help: true }
  if (understudy === (model !== undefined)) throw new UsageError('give either --model FILE or --understudy')
  for (const name of ['header', 'simulated'])
    if (!understudy && values[name] !== undefined) throw new UsageError(`--${name} goes with --understudy`)
  return {
    understudy, model, library, tenants, host,
    name: values.name ?? (understudy ? 'understudy' : basename(model, '.rkllm')),
    header: choice('header', ['1.1', '1.2.0', '1.2', '1.3'], '1.3'),
    simulated: board(values.simulated),
    context: number('context', 1, 2 ** 20, 4096),
    hidden: number('hidden', 1, 2 ** 20, undefined),
    pooling: choice('pooling', ['mean', 'last'], 'mean'),
    domain: number('domain', 0, 15, 0),
    maxTokens: number('max-tokens', 1, 2 ** 20, 512),
    port: number('port', 0, 65535, 8080),
    queue: number('queue', 1, 100_000, 64),
    memoryKind: choice('memory', ['system', 'npu'], 'system'),
    maxBodyBytes: number('max-body', 1, 2 ** 30, 4 * 2 ** 20),
    stallMs: 1000 * number('stall-seconds', 1, 86_400, 120),
    drainMs: 1000 * number('drain-seconds', 0, 86_400, 30),
  }
}

function parse(args) {
  const options = { ...Object.fromEntries(TEXTS.map((name) => [name, text])), ...FLAGS }
  try {
    return parseArgs({ args, options }).values
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
