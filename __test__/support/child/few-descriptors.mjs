/** Allocates and exports with at most 128 descriptors. */


import { closeDmaBuf } from '../../../index.js'
import { isLimited } from './limited.mjs'
import { open } from './open.mjs'

if (isLimited(import.meta.url, 128)) {
  const manager = open()
  const buffers = []
  const fds = []
  let failure
  try {
    while (buffers.length < 1000) {
      buffers.push(manager.allocateNPUMemory(4096))
      fds.push(manager.exportDmaBuf(buffers.at(-1)).fd)
    }
  } catch (error) {
    failure = error
  }
  // The diagnostics must work without a free descriptor.
  const { system, process: gauges } = manager.getMemoryUsage()
  const figures = { total: system.total, rss: system.rss, openFds: gauges.openFds, maxFds: gauges.maxFds }
  for (const fd of fds.splice(0)) closeDmaBuf(fd)
  const count = buffers.length
  for (const buffer of buffers.splice(0)) manager.deallocate(buffer)
  const again = manager.allocateNPUMemory(4096).byteLength === 4096
  manager.dispose()
  const { code, hint, message } = failure ?? {}
  console.log(
    JSON.stringify({ code, hint, message, buffers: count, figures, again, left: fds.length + buffers.length }),
  )
}
