/** Draws a progress bar on a terminal; elsewhere it prints a line for every tenth of the way. */

const WIDTH = 30
const MS_BETWEEN_DRAWS = 100

export class Progress {
  #out
  #total
  #drawnAt = 0
  #tenths = 0

  constructor(total, out = process.stdout) {
    this.#total = total
    this.#out = out
  }

  /** Calls `detail()` only when it draws. */
  update(done, detail) {
    const share = done / this.#total
    if (this.#out.isTTY) {
      const now = Date.now()
      if (now - this.#drawnAt < MS_BETWEEN_DRAWS) return
      this.#drawnAt = now
      const filled = Math.round(share * WIDTH)
      const bar = '█'.repeat(filled) + '░'.repeat(WIDTH - filled)
      const line = `${bar} ${percent(share)}  ${detail()}`
      this.#out.write(`\r${line.slice(0, this.#out.columns ?? 80)}\x1b[K`)
    } else if (Math.floor(share * 10) > this.#tenths) {
      this.#tenths = Math.floor(share * 10)
      this.#out.write(`${percent(share)}  ${detail()}\n`)
    }
  }

  /** Clears the line for the next output. */
  clear() {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K')
  }
}

function percent(share) {
  return `${Math.floor(share * 100)} %`.padStart(5)
}
