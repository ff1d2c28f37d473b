/** The holdings of a process: descriptors, mappings, resident memory, address space. */

import { readdirSync, readFileSync } from 'node:fs'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

/** The figures of this moment; `rss` and `vm` in bytes. */
export function footprint() {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bytes = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)[1]) * 1024
  return {
    fds: readdirSync('/proc/self/fd').length,
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').length - 1,
    rss: bytes('VmRSS'),
    vm: bytes('VmSize'),
  }
}

/**
 * Milliseconds that this thread ran on a processor, and that it waited for one because others had them: the machine's
 * load as the event loop meets it.
 */
export function processorTime() {
  const [ran, waited] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ').map(Number)
  return { ran: ran / 1e6, waited: waited / 1e6 }
}

/** Collects garbage until finalizers have run; needs `--expose-gc`. */
export async function collected() {
  for (let i = 0; i < 20; i++) {
    gc()
    await nextTurn()
  }
  await sleep(200)
  return footprint()
}
