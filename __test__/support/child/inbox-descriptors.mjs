/** Receives dma-bufs with at most 128 descriptors. */

import { mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { closeDmaBuf, DmaBufInbox, sendDmaBuf } from '../../../index.js'
import { isLimited } from './limited.mjs'
import { open } from './open.mjs'

if (isLimited(import.meta.url, 128)) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-inbox-'))
  const inbox = new DmaBufInbox(join(folder, 'inbox'))
  const manager = open()
  const { fd } = manager.exportDmaBuf(manager.allocateNPUMemory(8192, { dedicated: true }))
  await sendDmaBuf(inbox.path, fd, 'first')
  await sendDmaBuf(inbox.path, fd, 'second')
  const full = () => {
    const spare = []
    try {
      for (;;) spare.push(manager.exportDmaBuf(manager.allocateNPUMemory(100)).fd)
    } catch {
      return spare
    }
  }
  const spare = full()
  const code = async () => inbox.receive().then(({ message }) => message, (error) => error.code)
  const refused = [await code(), await code()]
  closeDmaBuf(spare.pop())
  const received = [await inbox.receive()]
  refused.push(await code())
  closeDmaBuf(received[0].fd)
  received.push(await inbox.receive())
  closeDmaBuf(received[1].fd)
  // A wait takes two descriptors, which are not there.
  const last = openSync('/dev/null')
  const waits = await Promise.race([code(), new Promise((resolve) => setTimeout(() => resolve('waits'), 1000))])
  for (const done of [...spare, fd]) closeDmaBuf(done)
  inbox.close()
  manager.dispose()
  rmSync(folder, { recursive: true })
  const messages = received.map(({ message }) => message)
  console.log(JSON.stringify({ refused, messages, waits, last: last > 0 }))
}
