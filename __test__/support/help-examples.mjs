/** The examples in the help of a command, as words to run. */

import { command } from './command.mjs'

/**
 * Reads the lines under "Examples". A line is `rkllm-memory WORDS`, or `PROGRAM | rkllm-memory WORDS`.
 *
 * @param {string} name
 * @returns {Promise<Array<{ line: string, words: string[], piped: string | null }>>}
 */
export async function examplesOf(name) {
  const { stdout } = await command([name, '--help'])
  const [, listed = ''] = stdout.split(/^Examples$/m)
  const lines = listed.split('\n').map((line) => line.trim()).filter(Boolean)
  return lines.map((line) => {
    const [, piped = null, rest] = /^(?:(.+) \| )?rkllm-memory (.+)$/.exec(line)
    const words = [...rest.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(([, a, b, c]) => a ?? b ?? c)
    return { line, words, piped }
  })
}
