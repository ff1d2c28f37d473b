/**
 * Reads the bodies of requests. A field that would change the answer and is not supported is refused, by its name.
 *
 * @typedef {object} Plan what a request asks for
 * @property {import('./options.mjs').Model} model
 * @property {(string | number[])[]} prompts
 * @property {number} maxTokens
 * @property {string[]} stop
 * @property {object} sampling
 * @property {boolean} stream
 * @property {boolean} usage whether a stream ends with the numbers of tokens
 * @property {'float' | 'base64'} format
 */

import { invalid } from './errors.mjs'

const MAX_INPUTS = 2048
const ROLES = new Set(['system', 'developer', 'user', 'assistant'])
/** Fields that change no answer here. */
const IGNORED = ['model', 'user', 'metadata', 'store', 'service_tier', 'safety_identifier', 'prompt_cache_key']
const SHARED = ['stream', 'stream_options', 'max_tokens', 'stop']
/** Numbers of sampling: bounds, and the name that the session has for each. */
const SAMPLING = {
  temperature: [0, 2, 'temperature'],
  top_p: [0, 1, 'topP'],
  frequency_penalty: [-2, 2, 'frequencyPenalty'],
  presence_penalty: [-2, 2, 'presencePenalty'],
}
/** Fields of the API that are accepted with these values, which change nothing. */
const FIXED = { n: [1], best_of: [1], echo: [false], logprobs: [false], response_format: [{ type: 'text' }] }
const MARKER = /<\|im_(start|end)\|>/

const shown = (value) => JSON.stringify(value)?.slice(0, 60) ?? String(value)
const isCount = (value, least) => Number.isSafeInteger(value) && value >= least

/** Returns `body` without fields that are absent or null. Throws for fields that are not known. */
function fields(body, known) {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw invalid(null, `the body must be a JSON object, not ${shown(body)}`, 'invalid_type')
  const present = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
  for (const [name, value] of Object.entries(present)) {
    if (known.includes(name) || IGNORED.includes(name)) continue
    const neutral = Object.hasOwn(FIXED, name) ? FIXED[name] : []
    if (neutral.some((one) => JSON.stringify(one) === JSON.stringify(value))) continue
    throw invalid(name, `this server does not support ${shown(name)}: ${shown(value)}`, 'unsupported_parameter')
  }
  return present
}

/** The fields that both kinds of completions have. */
function generation(body, model, most) {
  const max = body.max_completion_tokens ?? body.max_tokens ?? most
  const name = body.max_completion_tokens === undefined ? 'max_tokens' : 'max_completion_tokens'
  if (!isCount(max, 1)) throw invalid(name, `${name} must be a whole number from 1 up, not ${shown(max)}`)
  if (max > model.context) {
    const why = `${name} is ${max}, and the model's context has ${model.context} tokens`
    throw invalid(name, why, 'context_length_exceeded')
  }
  const { stream = false, stream_options: { include_usage: usage = false } = {} } = body
  for (const [flag, value] of Object.entries({ stream, 'stream_options.include_usage': usage }))
    if (typeof value !== 'boolean') throw invalid(flag, `${flag} must be true or false, not ${shown(value)}`)
  const stop = [body.stop ?? []].flat()
  if (stop.length > 4 || stop.some((text) => typeof text !== 'string' || text === ''))
    throw invalid('stop', `stop must be at most four texts, not ${shown(body.stop)}`)
  return { maxTokens: max, stop, stream, usage, sampling: sampling(body, model) }
}

function sampling(body, model) {
  const chosen = {}
  for (const [name, [least, most, option]] of Object.entries(SAMPLING)) {
    const value = body[name]
    if (value === undefined) continue
    if (typeof value !== 'number' || !(value >= least && value <= most))
      throw invalid(name, `${name} must be a number from ${least} to ${most}, not ${shown(value)}`)
    if (!model.samplesByRun) {
      const why = `version ${model.version} of the runtime takes sampling when the model is loaded`
      throw invalid(name, `${name} cannot be chosen by request: ${why}`, 'unsupported_parameter')
    }
    chosen[option] = value
  }
  return chosen
}

/** Reads /v1/chat/completions. The prompt is ChatML, which Qwen and others were trained with. */
export function chat(body, model, most) {
  const known = [...SHARED, ...Object.keys(SAMPLING), 'max_completion_tokens', 'messages']
  const present = fields(body, known)
  const { messages } = present
  if (!Array.isArray(messages) || messages.length === 0)
    throw invalid('messages', `messages must be an array with a message, not ${shown(messages)}`)
  const turns = messages.map((message, at) => {
    const where = `messages[${at}]`
    const { role, content } = message ?? {}
    if (!ROLES.has(role))
      throw invalid(`${where}.role`, `${where}.role must be one of ${[...ROLES].join(', ')}, not ${shown(role)}`)
    const speaker = role === 'developer' ? 'system' : role
    return `<|im_start|>${speaker}\n${contentOf(content, `${where}.content`)}<|im_end|>\n`
  })
  const prompt = fitting(`${turns.join('')}<|im_start|>assistant\n`, model, 'messages')
  return { prompts: [prompt], ...generation(present, model, most) }
}

function contentOf(content, where) {
  const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content
  if (!Array.isArray(parts) || parts.some((part) => part?.type !== 'text' || typeof part.text !== 'string'))
    throw invalid(where, `${where} must be a text, or parts of type "text", not ${shown(content)}`)
  const text = parts.map((part) => part.text).join('')
  // It would be read as the end of this message, and what follows as another speaker's.
  const [marker] = MARKER.exec(text) ?? []
  if (marker !== undefined) throw invalid(where, `${where} has a marker of the chat template, ${shown(marker)}`)
  return text
}

/** Reads /v1/completions: one prompt, as text or tokens. */
export function completion(body, model, most) {
  const present = fields(body, [...SHARED, ...Object.keys(SAMPLING), 'prompt'])
  const prompts = inputs(present.prompt, 'prompt', model)
  if (prompts.length !== 1) throw invalid('prompt', `one prompt a request, not ${prompts.length}`)
  return { prompts, ...generation(present, model, most) }
}

/** Reads /v1/embeddings: texts, or tokens. */
export function embedding(body, model) {
  const present = fields(body, ['input', 'encoding_format', 'dimensions'])
  const { input, encoding_format: format = 'float', dimensions } = present
  if (model.hidden === undefined)
    throw invalid('model', `${model.name} has no embeddings here: start the server with --hidden`, 'unsupported_model')
  if (format !== 'float' && format !== 'base64')
    throw invalid('encoding_format', `encoding_format must be "float" or "base64", not ${shown(format)}`)
  if (dimensions !== undefined && dimensions !== model.hidden)
    throw invalid('dimensions', `embeddings of ${model.name} have ${model.hidden} dimensions, not ${shown(dimensions)}`)
  return { prompts: inputs(input, 'input', model), format }
}

/** A text, tokens, or an array of either. */
function inputs(value, param, model) {
  const isTokens = (one) => Array.isArray(one) && one.length > 0 && one.every((id) => isCount(id, 0) && id < 2 ** 31)
  const isInput = (one) => (typeof one === 'string' && one !== '') || isTokens(one)
  const all = isInput(value) ? [value] : value
  if (!Array.isArray(all) || all.length < 1 || all.length > MAX_INPUTS || !all.every(isInput)) {
    const wanted = `a text that is not empty, token ids, or an array of 1 to ${MAX_INPUTS} of either`
    throw invalid(param, `${param} must be ${wanted}, not ${shown(value)}`)
  }
  return all.map((one) => fitting(one, model, param))
}

/** Refuses a prompt that cannot fit the context. The runtime counts the tokens of others. */
function fitting(prompt, model, param) {
  // The runtime's text ends with a NUL.
  const [length, most, unit] =
    typeof prompt === 'string'
      ? [Buffer.byteLength(prompt), model.promptBytes - 1, 'bytes']
      : [prompt.length, model.context, 'tokens']
  if (length > most)
    throw invalid(param, `the prompt has ${length} ${unit}, and there is room for ${most}`, 'context_length_exceeded')
  if (typeof prompt === 'string' && (prompt.includes('\0') || !prompt.isWellFormed?.()))
    throw invalid(param, `${param} has a NUL or half of a surrogate pair, which the runtime cannot take`)
  return prompt
}
