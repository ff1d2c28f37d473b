'use strict'

// Implements `explainError`: reads a log as a whole, and matches its lines against the rules in rules/.

const { check, formatValue, invalid, kinds } = require('../core/options.js')
const { factsOf } = require('./log-facts.js')
const { bare, clean, deviceOf } = require('./log-lines.js')
const { fill } = require('./template.js')

/**
 * @typedef {import('../types/errors.js').MemoryErrorCode} MemoryErrorCode
 * @typedef {import('../types/explain.js').Explanation} Explanation
 * @typedef {import('./log-facts.js').FactTable} FactTable
 * @typedef {Record<string, string | undefined>} Fields the named groups of a pattern, and `device`
 */

/**
 * A known message. Its texts are templates (template.js).
 *
 * @typedef {object} Rule
 * @property {string} kind what went wrong, as a stable name
 * @property {RegExp[]} patterns with named groups; one of them matches
 * @property {'npu' | 'npu or unnamed'} [on] the line names the NPU; or names no other device. Without it: any line
 * @property {number} weight 4: names the root of the trouble; 3: names the cause; 2: a consequence that narrows the
 *   cause down; 1: a bare failure
 * @property {MemoryErrorCode | null} code
 * @property {string} cause
 * @property {string} remedy
 * @property {Variant[]} [variants] the first whose condition holds replaces what it names
 * @property {string} source the thread or the file that has the message
 *
 * @typedef {Partial<Pick<Rule, 'code' | 'cause' | 'remedy' | 'weight' | 'kind'>> & {
 *   when: (fields: Fields, facts: FactTable) => boolean | undefined,
 *   not?: true,
 * }} Variant `not`: the line is no error after all
 *
 * @typedef {{ rule: Omit<Rule, 'patterns'>, fields: Fields, line: number, text: string }} Match
 */

/** @type {Rule[]} This package's messages come first, because they quote the kernel's. */
const RULES = [
  ...require('./rules/this-package.js'),
  ...require('./rules/ram.js'),
  ...require('./rules/contiguous.js'),
  ...require('./rules/rknpu-memory.js'),
  ...require('./rules/rknpu-jobs.js'),
  ...require('./rules/power.js'),
  ...require('./rules/other-npus.js'),
  ...require('./rules/runtime-memory.js'),
  ...require('./rules/runtime.js'),
  ...require('./rules/llama.js'),
  ...require('./rules/access.js'),
  ...require('./rules/media.js'),
]

/** Bounds the work of the patterns: longer lines are cut, further lines ignored. */
const MAX_LINE_LENGTH = 1024
const MAX_LINES = 10_000

/**
 * @param {string} text
 * @param {FactTable} facts
 * @param {number} line
 * @returns {Match | undefined} the match of the highest weight
 */
function bestMatch(text, facts, line) {
  const device = deviceOf(text)
  /** @type {Match | undefined} */
  let best
  for (const rule of RULES) {
    if (rule.on === 'npu' && device?.npu !== true) continue
    if (rule.on === 'npu or unnamed' && device?.npu === false) continue
    for (const pattern of rule.patterns) {
      const found = pattern.exec(text)
      if (found === null) continue
      const fields = { device: device?.name, ...found.groups }
      const variant = rule.variants?.find(({ when }) => when(fields, facts))
      if (variant?.not) break
      const applied = { ...rule, ...variant }
      if (best === undefined || applied.weight > best.rule.weight) best = { rule: applied, fields, line, text }
      break
    }
  }
  return best
}

/**
 * @param {Match} match
 * @param {FactTable} facts
 * @returns {Explanation}
 */
function explanation({ rule, fields, line, text }, facts) {
  /** @type {Explanation['facts']} */
  const used = []
  const look = (/** @type {string} */ name) => {
    if (fields[name] !== undefined) return fields[name]
    const fact = facts[name]
    if (fact !== undefined && !used.some((one) => one.name === name)) used.push({ name, ...fact })
    return fact?.value
  }
  const [cause, remedy] = [fill(rule.cause, look), fill(rule.remedy, look)]
  return { kind: rule.kind, code: rule.code, cause, remedy, line, text, count: 1, facts: used }
}

/**
 * Explains every known line, ranked: by weight, then by line. Lines of one cause are counted.
 *
 * @param {string} log
 * @returns {Explanation[]}
 */
function findings(log) {
  const lines = log.split('\n', MAX_LINES).map((line) => bare(clean(line.slice(0, MAX_LINE_LENGTH))))
  const facts = factsOf(lines)
  /** @type {Map<string, { weight: number, found: Explanation }>} */
  const causes = new Map()
  lines.forEach((text, at) => {
    const match = bestMatch(text, facts, at + 1)
    if (match === undefined) return
    const found = explanation(match, facts)
    const before = causes.get(found.cause)
    if (before !== undefined) before.found.count++
    else causes.set(found.cause, { weight: match.rule.weight, found })
  })
  return [...causes.values()].sort((a, b) => b.weight - a.weight).map(({ found }) => found)
}

/**
 * @param {string} log one or several lines
 * @param {{ all?: boolean }} [options]
 * @returns {any} an explanation or null; with `all` every explanation
 */
function explainError(log, options) {
  const text = checkedLog('explainError', log)
  const { all = false } = check('explainError', options, { all: kinds.boolean })
  const found = findings(text)
  return all ? found : (found[0] ?? null)
}

/**
 * @param {string} log
 * @returns {Explanation[]}
 */
function explainAll(log) {
  return findings(checkedLog('explainAll', log))
}

/**
 * @param {string} call
 * @param {unknown} log
 */
function checkedLog(call, log) {
  if (typeof log === 'string') return log
  throw invalid(
    `${call} needs a log line, not ${formatValue(log)}`,
    log instanceof Error ? 'pass error.message' : undefined,
  )
}

module.exports = { RULES, explainAll, explainError }
