/** What tests of examples/server need; an emulated machine has neither a compiler nor the development packages. */

import { noFfi } from './ffi.mjs'
import { needsCommand } from './helpers.mjs'

/** Why the tests are skipped; false where they run. */
export const skip = needsCommand('cc') || noFfi
export const { end, HELLO, makeHold, NOTHING, rejected, startServer, until } = skip
  ? {}
  : await import('./server.mjs')
