/**
 * Polls until `condition` holds, at most for `patienceMs`. Returns the milliseconds.
 *
 * @param {() => unknown} condition may return a promise
 * @param {() => string} what the state, for the error
 * @param {number} [patienceMs] no test waits so long, except on something that hangs
 */
export async function until(condition, what, patienceMs = 60_000) {
  const began = performance.now()
  while (!(await condition())) {
    if (performance.now() - began > patienceMs) throw new Error(`after ${patienceMs / 1000} s: ${what()}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return performance.now() - began
}
