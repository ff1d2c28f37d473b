/** Runs the command line in this process, with the given arguments and captured output. */

import cli from '../../src/js/cli/run.js'

class Sink {
  text = ''
  constructor(properties) {
    Object.assign(this, properties)
  }

  write(text) {
    this.text += text
    return true
  }
}

/**
 * @param {string[]} words
 * @param {{ columns?: number, isTTY?: boolean, env?: Record<string, string>, stdin?: object }} [terminal]
 */
export async function command(words, { columns, isTTY, env = {}, stdin } = {}) {
  const [stdout, stderr] = [new Sink({ columns, isTTY }), new Sink({ columns, isTTY })]
  const status = await cli.run(words, { stdout, stderr, stdin, env })
  return { status, stdout: stdout.text, stderr: stderr.text }
}

export const STATUS = cli.STATUS
export const NAMES = cli.NAMES

/** Returns the columns of a line on a terminal. */
export const visibleWidth = (line) => [...line.replace(/\x1b\[[\d;?]*[a-zA-Z]/g, '')].length
