/** Runs a child program with few descriptors. Loads nothing of the package. */

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * Returns true in a process that may open `descriptors` files. In any other it runs the program `url` in such a process
 * and prints what that prints. The shell sets the hard limit: Node raises the soft one.
 */
export function isLimited(url, descriptors) {
  if (process.argv[2] === 'limited') return true
  const self = fileURLToPath(url)
  const command = `ulimit -n ${descriptors} && exec "$0" "$@" limited`
  const run = process.versions.deno ? ['run', '-A', self] : [self]
  process.stdout.write(execFileSync('/bin/sh', ['-c', command, process.execPath, ...run], { encoding: 'utf8' }))
  return false
}
