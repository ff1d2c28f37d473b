'use strict'

// Controls the terminal for a live view: the alternate screen and raw keys. Restores it at the end, also after a signal
// or an error.

const { styled } = require('../style.js')

const ENTER = '\x1b[?1049h\x1b[?25l'
const LEAVE = '\x1b[?25h\x1b[?1049l'
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']
/** @type {Record<string, number>} */
const NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }

/** @type {Record<string, string>} */
const NAMES = { '\x1b[A': 'up', '\x1b[B': 'down', '\x1bOA': 'up', '\x1bOB': 'down', '\x03': 'quit', '\x1a': 'stop' }

/**
 * @param {NodeJS.Process} io
 * @param {{ key(name: string): void, resized(): void, ended(status: number): void }} on `ended` is called for a signal
 */
function openScreen(io, on) {
  const { stdin, stdout } = io
  let open = false
  const enter = () => {
    stdout.write(ENTER)
    stdin.setRawMode?.(true)
    stdin.resume()
    open = true
  }
  const leave = () => {
    if (!open) return
    open = false
    stdin.setRawMode?.(false)
    stdin.pause()
    stdout.write(LEAVE)
  }
  const keys = (/** @type {Buffer | string} */ chunk) => {
    for (const [key] of String(chunk).matchAll(/\x1b(?:[[O][A-Z])?|[\s\S]/g)) {
      const name = NAMES[key] ?? key
      if (name === 'stop') suspend()
      else on.key(name)
    }
  }
  const suspend = () => {
    leave()
    process.once('SIGCONT', () => (enter(), on.resized()))
    process.kill(process.pid, 'SIGTSTP')
  }
  const handlers = Object.fromEntries(SIGNALS.map((signal) => [signal, () => on.ended(128 + NUMBERS[signal])]))
  for (const signal of SIGNALS) process.on(signal, handlers[signal])
  // Also restores after an uncaught error or process.exit.
  process.on('exit', leave)
  stdin.on('data', keys)
  stdout.on('resize', on.resized)
  enter()
  return {
    draw(/** @type {string[]} */ lines) {
      if (open) stdout.write(`\x1b[H${lines.map((line) => `${styled(line)}\x1b[K`).join('\r\n')}\x1b[J`)
    },
    close() {
      leave()
      for (const signal of SIGNALS) process.removeListener(signal, handlers[signal])
      process.removeListener('exit', leave)
      stdin.removeListener('data', keys)
      stdout.removeListener('resize', on.resized)
    },
  }
}

module.exports = { openScreen }
