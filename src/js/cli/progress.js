'use strict'

// A progress bar on standard error. Writes nothing if that is not a terminal.

const { dateNow } = require('../core/runtime.js')
const { bar, widthOf } = require('./style.js')

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
    update(/** @type {number} */ done, what = '') {
      const now = dateNow()
      if (!shown || now - drawnAt < MS_BETWEEN_DRAWS) return
      drawnAt = now
      const share = Math.min(1, done / total)
      const line = `${bar(share, WIDTH)} ${`${Math.floor(share * 100)} %`.padStart(5)}  ${what}`
      stream.write(`\r${line.slice(0, widthOf(stream) - 1)}\x1b[K`)
    },
    /** Clears the line for the next output. */
    clear() {
      if (shown) stream.write('\r\x1b[K')
    },
  }
}

module.exports = { makeProgress }
