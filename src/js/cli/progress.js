'use strict'

// A progress bar on standard error. Writes nothing if that is not a terminal.

const { dateNow } = require('../core/runtime.js')
const { bar, clip, widthOf } = require('./style.js')

const WIDTH = 30
const MS_BETWEEN_DRAWS = 100

/**
 * @param {import('./args.js').Stream} stream
 * @param {number} total
 */
function makeProgress(stream, total) {
  let drawnAt = 0
  const shown = stream.isTTY === true
  return {
    /**
     * @param {number} done of `total`
     * @param {string | (() => string)} [detail] a function is called only when the bar is drawn
     */
    update(done, detail = '') {
      if (!shown) return
      const now = dateNow()
      if (now - drawnAt < MS_BETWEEN_DRAWS) return
      drawnAt = now
      const share = total > 0 ? Math.min(1, done / total) : 1
      const text = typeof detail === 'function' ? detail() : detail
      const line = `${bar(share, WIDTH)} ${`${Math.floor(share * 100)} %`.padStart(5)}  ${text}`
      stream.write(`\r${clip(line, widthOf(stream) - 1)}\x1b[K`)
    },
    /** Clears the line for the next output. */
    clear() {
      if (!shown) return
      drawnAt = 0
      stream.write('\r\x1b[K')
    },
  }
}

module.exports = { makeProgress }
