'use strict'

// Replaces a file atomically.

const { randomBytes } = require('node:crypto')
const { open, rename, unlink } = require('node:fs/promises')
const { dirname, join } = require('node:path')
const { formatValue } = require('../core/options.js')
const { systemError } = require('../core/system-errors.js')

/**
 * Writes `content` to a file beside `path`, syncs it to disk, and renames it to `path`.
 *
 * @param {string} path
 * @param {string | Uint8Array} content
 */
async function replaceFile(path, content) {
  const draft = join(dirname(path), `.rkllm-report-${randomBytes(8).toString('hex')}`)
  let file
  try {
    file = await open(draft, 'wx')
    await file.writeFile(content)
    await file.sync()
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
