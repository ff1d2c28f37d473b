/** Runs the command line on a pseudo-terminal of 80 by 24, through util-linux's `script`. */

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { needsCommand, runtime } from './helpers.mjs'

const MAIN = fileURLToPath(new URL('../../src/js/cli/main.js', import.meta.url))
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`

export const needsTerminal = needsCommand('script') || needsCommand('stty')

/** Returns the shell command that runs the program `main` with `words` on this runtime. */
const shellOf = (main, words) =>
  [process.execPath, ...(runtime === 'deno' ? ['run', '--allow-all', '--no-check'] : []), main, ...words]
    .map(quoted)
    .join(' ')

/** Returns the shell command that runs the command line with `words` on this runtime. */
export const shell = (...words) => shellOf(MAIN, words)

/** Runs `words` in a terminal. At the end the shell prints the exit status, and "restored" if the settings are. */
export function terminal(t, words, env = {}, main = MAIN) {
  const command = `stty cols 80 rows 24; before=$(stty -g); ${shellOf(main, words)}; echo "status=$?"; ` +
    `[ "$before" = "$(stty -g)" ] && echo restored`
  const started = spawn('script', ['-qfc', command, '/dev/null'], {
    // Clears the user's colour settings; a test may set its own.
    env: { ...process.env, TERM: 'xterm', NODE_OPTIONS: '', NO_COLOR: '', FORCE_COLOR: '', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.after(() => started.kill('SIGKILL'))
  let screen = ''
  started.stdout.setEncoding('utf8').on('data', (text) => (screen += text))
  const closed = new Promise((resolve) => started.on('close', resolve))
  return {
    press: (keys) => started.stdin.write(keys),
    screen: () => screen,
    closed,
    /** Waits until the terminal's output after the first `from` characters matches `pattern`. */
    async shows(pattern, from = 0) {
      for (let tries = 0; tries < 6000 && !pattern.test(screen.slice(from)); tries++) await sleep(10)
      if (!pattern.test(screen.slice(from))) throw new Error(`${pattern} never came:\n${screen.slice(from)}`)
      return screen.length
    },
    /** Signals the command itself, not the shell around it. */
    signal: (name) => process.kill(descendant(started.pid), name),
  }
}

function descendant(pid) {
  const children = (of) =>
    readFileSync(`/proc/${of}/task/${of}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  const all = [pid]
  for (let at = 0; at < all.length; at++) all.push(...children(all[at]))
  return all.find((each) => readFileSync(`/proc/${each}/cmdline`, 'utf8').split('\0').includes(MAIN))
}
