/** Waits at an inbox. With the argument "true" the wait is aborted, and the process ends by itself. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { DmaBufInbox } from '../../../index.js'

const folder = mkdtempSync(join(tmpdir(), 'rkllm-inbox-'))
const inbox = new DmaBufInbox(join(folder, 'inbox'))
const controller = new AbortController()
const aborted = process.argv[2] === 'true'

inbox.receive({ signal: controller.signal }).catch(() => {})
if (aborted) setTimeout(() => controller.abort(), 50)
// Keeps no process alive by itself.
const late = setTimeout(() => finish('waits'), aborted ? 60_000 : 1000)
late.unref()
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
if (aborted) process.once('beforeExit', () => finish('ended'))

function finish(end) {
  console.log(JSON.stringify({ end }))
  process.exit(0)
}
