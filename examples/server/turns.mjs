import { setImmediate } from 'node:timers'

/**
 * Lets a number of requests begin in each turn of the event loop. Hundreds of clients that are refused and ask again at
 * once would else fill a turn, and the tokens of running requests would wait for them.
 *
 * @param {number} perTurn
 * @returns {() => Promise<void> | undefined} resolves when its caller may begin
 */
export function makeTurns(perTurn) {
  const waiting = []
  let [left, scheduled] = [perTurn, false]

  function turn() {
    const begin = waiting.splice(0, perTurn)
    left = perTurn - begin.length
    scheduled = begin.length > 0
    if (scheduled) setImmediate(turn)
    for (const resolve of begin) resolve()
  }

  return function enter() {
    if (!scheduled) setImmediate(turn)
    scheduled = true
    if (left === 0) return new Promise((resolve) => waiting.push(resolve))
    left--
  }
}
