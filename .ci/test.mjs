// Runs the tests that need no emulator: the core without napi, the conformance suite on this machine's devices, the
// types, and the JavaScript suites on the simulated device.

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

// The types come last: they need npm packages, which `test:js` installs.
for (const script of ['test:rust', 'test:js', 'test:types']) {
  console.log(`\n# npm run ${script}`)
  const began = performance.now()
  const { status, error } = spawnSync('npm', ['run', '--silent', script], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (error !== undefined) console.error(error.message)
  if (status !== 0) process.exit(status ?? 1)
  console.log(`# ${script}: ${((performance.now() - began) / 1000).toFixed(0)} s`)
}
