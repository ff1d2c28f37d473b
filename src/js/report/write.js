'use strict'

// Replaces a file atomically.

/** @typedef {string | Uint8Array} Piece of a file; a file has texts or bytes, not both */

const { randomBytes } = require('node:crypto')
const { fsync } = require('node:fs')
const { open, rename, unlink } = require('node:fs/promises')
const { dirname, join } = require('node:path')
const { promisify } = require('node:util')
const { formatValue } = require('../core/options.js')
const { systemError } = require('../core/system-errors.js')

/** Short pieces are written together up to this length. */
const WRITE_LENGTH = 65_536
/** `FileHandle.sync` is not implemented under Yarn's Plug'n'Play. */
const syncFile = promisify(fsync)

/**
 * Writes pieces to a file beside `path`, syncs it to disk, and renames it to `path`.
 *
 * @param {string} path
 * @param {Iterable<Piece> | AsyncIterable<Piece>} pieces
 */
async function replaceFile(path, pieces) {
  const draft = join(dirname(path), `.rkllm-report-${randomBytes(8).toString('hex')}`)
  let file
  try {
    file = await open(draft, 'wx')
    let text = ''
    for await (const piece of pieces) {
      if (typeof piece !== 'string') {
        await file.appendFile(piece)
        continue
      }
      text += piece
      if (text.length < WRITE_LENGTH) continue
      await file.appendFile(text)
      text = ''
    }
    if (text !== '') await file.appendFile(text)
    await syncFile(file.fd)
    await file.close()
    await rename(draft, path)
  } catch (error) {
    if (file !== undefined) {
      await file.close().catch(() => {})
      await unlink(draft).catch(() => {})
    }
    throw systemError(`the report ${formatValue(path)} cannot be written`, error, path) ?? error
  }
}

module.exports = { replaceFile }
