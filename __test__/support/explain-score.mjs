/**
 * Recall and precision of `explainError` over the corpus, by kind.
 *
 *   npm run score:explain              the table
 *   npm run score:explain -- --wrong   and every log that is answered wrongly
 *
 * Recall: the share of a kind's logs that are answered rightly (kind, code, texts). Precision: the share of the answers
 * of that kind that are right.
 */

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

import { faultOf, GROUPS, WRAPPINGS } from './explain-corpus/index.mjs'

const { explainError } = createRequire(import.meta.url)('../../src/js/explain/explain.js')

/** Counts by kind, and the wrong answers: { kind, log, fault }. `wrap` surrounds each log. */
export function score(wrap = (log) => log) {
  const kinds = new Map()
  const of = (kind) => kinds.get(kind) ?? kinds.set(kind, { logs: 0, right: 0, answers: 0 }).get(kind)
  const wrong = []
  for (const group of GROUPS) {
    for (const log of group.logs) {
      const answer = explainError(wrap(log))
      const fault = faultOf(group, answer)
      const kind = group.kind ?? `null: ${group.share}`
      of(kind).logs++
      if (fault === null) of(kind).right++
      else wrong.push({ kind, log, fault })
      if (answer !== null) of(answer.kind).answers++
    }
  }
  return { kinds, wrong }
}

const percent = (part, whole) => (whole === 0 ? '    –' : `${((100 * part) / whole).toFixed(0).padStart(4)} %`)

function main() {
  const { kinds, wrong } = score()
  const total = { logs: 0, right: 0, answers: 0 }
  console.log(`${'kind'.padEnd(24)}  logs  recall  precision`)
  for (const [kind, { logs, right, answers }] of [...kinds].sort(([a], [b]) => (a < b ? -1 : 1))) {
    console.log(
      `${kind.padEnd(24)}  ${String(logs).padStart(4)}  ${percent(right, logs)}     ` +
        (kind.startsWith('null') ? '    –' : percent(right, answers)),
    )
    total.logs += logs
    total.right += right
    total.answers += answers
  }
  console.log(`${'all'.padEnd(24)}  ${String(total.logs).padStart(4)}  ${percent(total.right, total.logs)}`)
  for (const [name, wrap] of Object.entries(WRAPPINGS)) {
    const changed = score(wrap).wrong
    console.log(
      `${`in ${name}`.padEnd(24)}  ${String(total.logs).padStart(4)}  ` +
        percent(total.logs - changed.length, total.logs),
    )
    if (process.argv.includes('--wrong'))
      for (const { log, fault } of changed.slice(0, 5))
        console.log('   ', JSON.stringify(log.slice(0, 70)), fault.slice(0, 100))
  }
  if (process.argv.includes('--wrong'))
    for (const { kind, log, fault } of wrong)
      console.log(`\n${kind}\n  ${JSON.stringify(log).slice(0, 200)}\n  ${fault}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
