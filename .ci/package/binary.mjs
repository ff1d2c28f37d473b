// Checks a binary before it is packed. Throws an error with the reason.

import { readFileSync } from 'node:fs'
import { basename } from 'node:path'

import { checkGlibc, privateFolders } from '../../__test__/kernel/cross.mjs'
import { run } from '../../__test__/kernel/packages.mjs'

/** The number of each processor in an ELF header. */
const MACHINES = { arm64: 183, x64: 62 }
/** The libraries that every system with glibc has. */
const LIBRARIES = /^(libc|libm|libdl|libpthread|librt|ld-linux-(aarch64|x86-64))\.so\.\d$/

/** Names of folders of a build machine. */
const BUILD_FOLDERS = ['/.cargo/', '/.rustup/', '/node_modules/', '/home/', '/root/', '/Users/', 'registry/src']

/**
 * @param {string} file
 * @param {'arm64' | 'x64'} arch
 */
export function checkBinary(file, arch) {
  const name = basename(file)
  const refuse = (reason) => {
    throw new Error(`${name} cannot be packed: ${reason}`)
  }
  const bytes = readFileSync(file)
  if (bytes.toString('latin1', 0, 4) !== '\x7fELF') refuse('it is no shared library')
  if (bytes.readUInt16LE(18) !== MACHINES[arch]) refuse(`it is for another processor than ${arch}`)
  checkGlibc(file)
  const sections = run('readelf', ['-S', '--wide', file])
  const debug = /\.symtab|\.debug\w*|\.zdebug\w*/.exec(sections)
  if (debug !== null) refuse(`it is not stripped: it has the section ${debug[0]}`)
  const symbols = run('readelf', ['--dyn-syms', '--wide', file])
  if (!/ napi_register_module_v1$/m.test(symbols)) refuse('it is no Node-API module')
  for (const [, library] of run('readelf', ['-d', '--wide', file]).matchAll(/\(NEEDED\).*\[(.*)\]/g)) {
    if (!LIBRARIES.test(library)) refuse(`it needs ${library}, which not every system has`)
  }
  const text = bytes.toString('latin1')
  const folder = [...privateFolders(), ...BUILD_FOLDERS].find((path) => path.length > 1 && text.includes(path))
  if (folder !== undefined) refuse(`it names the folder ${folder} of the machine that built it`)
}
