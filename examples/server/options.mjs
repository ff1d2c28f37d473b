/** The command line of the server. */

import { basename } from 'node:path'
import { parseArgs } from 'node:util'

/** An error of the command line: its message is for the user, its stack is not. */
export class UsageError extends Error {}

const MAX = Number.MAX_SAFE_INTEGER
const text = (value) => value
const whole = (least, most) => (value, name) => {
  if (/^\d+$/.test(value) && Number(value) >= least && Number(value) <= most) return Number(value)
  throw new UsageError(`--${name} must be a whole number from ${least} to ${most}, not "${value}"`)
}
const oneOf = (...choices) => (value, name) => {
  if (choices.includes(value)) return value
  throw new UsageError(`--${name} must be one of ${choices.join(', ')}, not "${value}"`)
}
const json = (value, name) => {
  try {
    return JSON.parse(value)
  } catch (error) {
    throw new UsageError(`--${name} is not JSON: ${error.message}`)
  }
}

/** Options by their names: how each is read, its default, and its line of the help. */
const OPTIONS = {
  library: [text, '/usr/lib/librkllmrt.so', 'PATH', 'librkllmrt.so'],
  'models-ram': [whole(1, MAX), undefined, 'BYTES', 'RAM that all models may take together; else what the machine has'],
  'keep-alive-seconds': [whole(0, 86_400), undefined, 'N', 'an idle model of several goes then; else for another'],
  pooling: [oneOf('mean', 'last'), 'mean', 'KIND', 'embeddings by these hidden states: mean, last'],
  'max-tokens': [whole(1, 2 ** 20), '512', 'N', 'tokens of a reply that asks for no number'],
  host: [text, '127.0.0.1', 'HOST', 'the address to listen on'],
  port: [whole(0, 65_535), '8080', 'PORT', '0 takes a free one'],
  tenants: [text, undefined, 'FILE', 'API keys with their tags and limits, as JSON; else every request is served'],
  queue: [whole(1, 100_000), '64', 'N', 'requests that may wait for a model'],
  'wait-seconds': [whole(1, 86_400), '300', 'N', 'a request may wait so long for its model, loads included'],
  memory: [oneOf('system', 'npu'), 'system', 'KIND', 'memory of requests: system, npu'],
  'max-body': [whole(1, 2 ** 30), '4194304', 'BYTES', 'the longest body of a request'],
  'stall-seconds': [whole(1, 86_400), '120', 'N', 'a run without a result for so long hangs, and its process ends'],
  'drain-seconds': [whole(0, 86_400), '30', 'N', 'after SIGTERM, running and waiting requests may take so long'],
  header: [oneOf('1.1', '1.2.0', '1.2', '1.3'), '1.3', 'VERSION', "the understudy's rkllm.h: 1.1, 1.2.0, 1.2, 1.3"],
  simulated: [json, undefined, 'JSON', 'the simulated board under the understudy, as {"domainBytes":1048576}'],
}
/** Options of each model: `N` for all models, or `NAME=N` for one. */
const PER_MODEL = {
  context: [whole(1, 2 ** 20), '4096', '[NAME=]N', 'tokens of the context'],
  hidden: [whole(1, 2 ** 20), undefined, '[NAME=]N', 'floats of a hidden state; without it there are no embeddings'],
  ram: [whole(1, MAX), undefined, '[NAME=]BYTES', 'the most RAM that the model takes; else estimated from the file'],
}
/** Room for a prompt: bytes for each token of the context. */
const BYTES_PER_TOKEN = 8

const lineOf = ([name, [, otherwise, value, help]]) =>
  `  --${`${name} ${value}`.padEnd(24)} ${help}${otherwise === undefined ? '' : ` (default: ${otherwise})`}\n`
const linesOf = (options) => Object.entries(options).map(lineOf).join('')

export const HELP = `Serves language models of librkllmrt with OpenAI's API.

  npm run server -- --model NAME=FILE.rkllm [options]     on a board; several times for several models
  npm run server -- --understudy [options]                anywhere: a library for tests, which is no model

  --model [NAME=]FILE        a model, and its name in the API; beside --understudy a NAME alone
${linesOf(PER_MODEL)}${linesOf(OPTIONS)}  --help                     print this text
`

/**
 * @typedef {{ name: string, file?: string, context: number, hidden?: number, ram?: number, promptBytes: number,
 * library?: string, version?: string, samplesByRun?: boolean, understudy?: boolean }} Model
 */

/** @param {string[]} args */
export function readOptions(args) {
  const given = parse(args)
  if (given.help) return { help: true }
  const { understudy = false } = given
  for (const name of ['header', 'simulated'])
    if (!understudy && given[name] !== undefined) throw new UsageError(`--${name} goes with --understudy`)
  const read = ([name, [kind, otherwise]]) => {
    const value = given[name] ?? otherwise
    return [camel(name), value === undefined ? undefined : kind(value, name)]
  }
  return { understudy, ...Object.fromEntries(Object.entries(OPTIONS).map(read)), models: modelsOf(given, understudy) }
}

/** @returns {Model[]} */
function modelsOf(given, understudy) {
  const files = (given.model ?? (understudy ? ['understudy'] : [])).map((value) => {
    if (understudy) {
      if (!value.includes('=')) return [value, undefined]
      throw new UsageError(`--model takes a name beside --understudy, not "${value}"`)
    }
    const [, name = basename(value, '.rkllm'), file] = /^(?:([^/=]+)=)?(.*)$/s.exec(value)
    return [name, file]
  })
  const names = files.map(([name]) => name)
  if (names.length === 0) throw new UsageError('give --model NAME=FILE or --understudy')
  if (new Set(names).size < names.length) throw new UsageError(`two models have the same name: ${names.join(', ')}`)
  const numberOf = (model) => ([name, [kind, otherwise]]) => {
    const values = (given[name] ?? []).map((value) => /^(?:([^=]*)=)?(.*)$/s.exec(value).slice(1))
    const [stranger] = values.find(([one]) => one !== undefined && !names.includes(one)) ?? []
    if (stranger !== undefined) throw new UsageError(`--${name}: there is no model "${stranger}"`)
    const of = (owner) => values.findLast(([one]) => one === owner)?.[1]
    const value = of(model) ?? of(undefined) ?? otherwise
    return [name, value === undefined ? undefined : kind(value, name)]
  }
  return files.map(([name, file]) => {
    const numbers = Object.fromEntries(Object.entries(PER_MODEL).map(numberOf(name)))
    return { name, file, ...numbers, promptBytes: numbers.context * BYTES_PER_TOKEN }
  })
}

const camel = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase())

function parse(args) {
  const typed = (names, type) => names.map((name) => [name, type])
  const options = Object.fromEntries([
    ...typed(['understudy', 'help'], { type: 'boolean' }),
    ...typed(Object.keys(OPTIONS), { type: 'string' }),
    ...typed(['model', ...Object.keys(PER_MODEL)], { type: 'string', multiple: true }),
  ])
  try {
    return parseArgs({ args, options }).values
  } catch (error) {
    throw new UsageError(error.message)
  }
}
