'use strict'

// Finds and loads the native part, and says what happened if that fails.
//
// The paths are literals inside `try`, which bundlers recognize: they copy the file that exists and leave out the
// other. A bundle also finds a binary that lies beside it.

const { closeSync, existsSync, openSync, readFileSync, readSync, fstatSync } = require('node:fs')
const { createRequire } = require('node:module')
const { dirname, join } = require('node:path')
const { memoryError } = require('./errors.js')
const { Buffer } = require('./runtime.js')

const { arch, platform, versions } = process
const here = `${platform}-${arch}`
const FILE = `rkllm-memory.linux-${arch}-gnu.node`
const PACKAGE = `@rkllmjs/memory-linux-${arch}-gnu`

/** The processors that have a binary → their number in an ELF header. */
/** @type {Partial<Record<string, number>>} */
const MACHINES = { arm64: 183, x64: 62 }

/** @typedef {any} Binary the exports of the native part */
/** @typedef {{ binary: Binary, error?: undefined } | { binary?: undefined, error: any }} Outcome */

/* eslint-disable n/no-missing-require -- one of them exists, by how the package was built */
/** @type {Record<string, Array<() => Outcome>>} */
const LITERALS = {
  arm64: [
    () => {
      try {
        // @ts-ignore
        return { binary: require('../rkllm-memory.linux-arm64-gnu.node') }
      } catch (error) {
        return { error }
      }
    },
    () => {
      try {
        // @ts-ignore
        return { binary: require('@rkllmjs/memory-linux-arm64-gnu') }
      } catch (error) {
        return { error }
      }
    },
  ],
  x64: [
    () => {
      try {
        // @ts-ignore
        return { binary: require('../rkllm-memory.linux-x64-gnu.node') }
      } catch (error) {
        return { error }
      }
    },
    () => {
      try {
        // @ts-ignore
        return { binary: require('@rkllmjs/memory-linux-x64-gnu') }
      } catch (error) {
        return { error }
      }
    },
  ],
}

/* eslint-enable n/no-missing-require */

/**
 * The error of a file that is no binary for this machine; undefined where it looks right or is not found. The dynamic
 * linker ends the process with SIGBUS where a file is cut off, so the files are looked at before.
 *
 * @param {string} specifier
 * @param {string} version
 */
function brokenFileOf(specifier, version) {
  try {
    // A bundle of ECMAScript modules has no __filename, and other bundles have an invented one.
    return brokenFile(createRequire(__filename).resolve(specifier), version)
  } catch {
    return undefined
  }
}

/**
 * Loads a binary by its path.
 *
 * @param {string} path
 * @param {string} version
 * @returns {Outcome}
 */
function loadPath(path, version) {
  try {
    const error = brokenFile(path, version)
    return error === undefined ? { binary: createRequire(path)(path) } : { error }
  } catch (error) {
    return { error }
  }
}

/**
 * Paths beside a bundle: of this file, or of the program.
 *
 * @returns {string[]}
 */
function pathsBeside() {
  // A bundle of ECMAScript modules has no __dirname.
  const folders = [typeof __dirname === 'string' ? __dirname : '', process.argv[1] ? dirname(process.argv[1]) : '']
  return [...new Set(folders)]
    .filter((folder) => folder.startsWith('/'))
    .map((folder) => join(folder, FILE))
    .filter((path) => existsSync(path))
}

/**
 * Loads the binary's package from where the program is, for bundles that left the package out.
 *
 * @param {string} version
 * @returns {Outcome}
 */
function fromProgram(version) {
  try {
    return loadPath(createRequire(process.argv[1] ?? join(process.cwd(), 'index.js')).resolve(PACKAGE), version)
  } catch (error) {
    return { error }
  }
}

/**
 * Finds the native part that another copy of this version has loaded into the process, perhaps in another thread.
 * Copies share it, because device ledgers and shared memory are per process.
 *
 * @param {string} version
 * @returns {Binary | undefined}
 */
function findLoadedCopy(version) {
  let maps = ''
  try {
    maps = readFileSync('/proc/self/maps', 'utf8')
  } catch {
    // Without /proc each copy loads its own.
  }
  for (const path of new Set(maps.match(/\/.*\/rkllm-memory\.linux-[^/\n]*\.node$/gm))) {
    // The file may have been replaced or removed since.
    const { binary } = loadPath(path, version)
    if (versionOf(binary) === version) return binary
  }
  return undefined
}

/** @param {Binary} binary */
const versionOf = (binary) => (typeof binary?.version === 'function' ? String(binary.version()) : undefined)

/**
 * Returns the native part of `version`. Throws ERR_UNSUPPORTED with the reason if there is none.
 *
 * @param {string} version
 * @returns {Binary}
 */
function loadBinary(version) {
  const chosen = process.env.NAPI_RS_NATIVE_LIBRARY_PATH
  if (!chosen) {
    const loaded = findLoadedCopy(version)
    if (loaded !== undefined) return loaded
  }
  /** @type {Array<() => Outcome>} */
  const places = chosen
    ? [() => loadPath(chosen, version)]
    : [
        ...[`../${FILE}`, PACKAGE].map((specifier, at) => () => {
          const error = brokenFileOf(specifier, version)
          return error === undefined ? LITERALS[arch][at]() : { error }
        }),
        ...pathsBeside().map((path) => () => loadPath(path, version)),
        () => fromProgram(version),
      ]
  /** @type {unknown[]} */
  const errors = []
  for (const place of platform === 'linux' && Object.hasOwn(LITERALS, arch) ? places : []) {
    const outcome = place()
    // A bundler that copies files may give the file's name in place of its exports.
    const { binary, error } = typeof outcome.binary === 'string' ? loadPath(outcome.binary, version) : outcome
    if (binary === undefined) errors.push(error)
    else if (versionOf(binary) === version) return binary
    else errors.push(versionError(versionOf(binary), version))
  }
  throw explain(errors, version)
}

/** @type {(command: string) => string} */
const run = (command) => `run: ${command}`
/** @type {(message: string, hint: string, cause?: unknown) => Error} */
const unsupported = (message, hint, cause) =>
  memoryError('ERR_UNSUPPORTED', `@rkllmjs/memory: ${message}`, { hint }, { cause })

/**
 * @param {string | undefined} found
 * @param {string} version
 */
const versionError = (found, version) =>
  unsupported(
    `the native part is of version ${found ?? 'unknown'}, and the package of version ${version}`,
    run(`npm install ${PACKAGE}@${version}`),
  )

/**
 * Says why no place had a binary that loads. The first error of a binary that exists tells more than one that is
 * missing.
 *
 * @param {any[]} errors
 * @param {string} version
 * @param {string} [pnp] the version of Yarn's Plug'n'Play, if it resolves the packages
 */
function explain(errors, version, pnp = /** @type {Record<string, string | undefined>} */ (versions).pnp) {
  if (platform !== 'linux' || MACHINES[arch] === undefined) {
    const hint =
      arch === 'arm' ? 'use a 64-bit system and a 64-bit Node (uname -m: aarch64)' : 'use Linux on arm64 or x64'
    return unsupported(`there is no native part for ${here}: it exists for linux-arm64 and linux-x64`, hint)
  }
  const missing = ['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND']
  const cause = errors.find((error) => !missing.includes(error?.code)) ?? errors[0]
  if (cause?.code === 'ERR_UNSUPPORTED') return cause
  const text = String(cause?.message ?? cause)
  const path = /(\/[^:'"\n]*\.node)/.exec(text)?.[1]
  return (
    forbidden(cause, text) ??
    (pnp === undefined ? undefined : yarn(text, version)) ??
    (isMusl(text)
      ? unsupported(
          'this system has the C library musl (Alpine), and the native part needs glibc 2.28 or later',
          'use an image with glibc, as: FROM node:22-bookworm-slim',
          cause,
        )
      : undefined) ??
    brokenFile(path, version, cause) ??
    other(cause, text, path, version)
  )
}

/**
 * @param {any} cause
 * @param {string} text
 */
function forbidden(cause, text) {
  const model = /** @type {{ permission?: object }} */ (/** @type {unknown} */ (process)).permission !== undefined
  if (cause?.code === 'ERR_ACCESS_DENIED') {
    const hint = "start node with --allow-addons and --allow-fs-read=FOLDER, the program's folder with its node_modules"
    return unsupported("Node's permission model forbids to read the native part", hint, cause)
  }
  if (cause?.code === 'ERR_DLOPEN_DISABLED') {
    return model
      ? unsupported("Node's permission model forbids addons", 'start node with --allow-addons', cause)
      : unsupported('node was started with --no-addons, and this package is an addon', 'start it without', cause)
  }
  if (versions.deno !== undefined && /requires (ffi|read|env|sys) access/i.test(text)) {
    const hint = 'start it with: deno run --allow-ffi --allow-read --allow-env --allow-sys'
    return unsupported(`Deno forbids to load the native part (${text.split('\n')[0]})`, hint, cause)
  }
  if (['EMFILE', 'ENFILE'].includes(cause?.code) || /too many open files/i.test(text)) {
    const message = '@rkllmjs/memory: no file descriptor is left to load the native part'
    return memoryError('ERR_TOO_MANY_FDS', message, { hint: 'raise the limit: ulimit -n 65536' }, { cause })
  }
  return undefined
}

/**
 * @param {string} text
 * @param {string} version
 */
function yarn(text, version) {
  return /\.zip\//.test(text)
    ? unsupported("Yarn's Plug'n'Play keeps the native part in an archive", run(`yarn unplug ${PACKAGE}`))
    : unsupported(
        `Yarn's Plug'n'Play does not give the package ${PACKAGE}`,
        run(`yarn add ${PACKAGE}@${version}`),
      )
}

/** @param {string} text of the error */
function isMusl(text) {
  if (/libc\.musl|ld-musl/.test(text)) return true
  if (/GLIBC_/.test(text)) return false
  const name = arch === 'x64' ? 'x86_64' : 'aarch64'
  const loader = arch === 'x64' ? '/lib64/ld-linux-x86-64.so.2' : '/lib/ld-linux-aarch64.so.1'
  return existsSync(`/lib/ld-musl-${name}.so.1`) && !existsSync(loader)
}

/**
 * Looks at the file itself, of which the dynamic linker says little.
 *
 * @param {string | undefined} path
 * @param {string} version
 * @param {unknown} [cause]
 */
function brokenFile(path, version, cause) {
  if (path === undefined || !existsSync(path)) return undefined
  const header = Buffer.alloc(64)
  let size
  try {
    const file = openSync(path, 'r')
    try {
      readSync(file, header, 0, 64, 0)
      size = fstatSync(file).size
    } finally {
      closeSync(file)
    }
  } catch {
    return undefined
  }
  const again = run(`npm install --force ${PACKAGE}@${version}`)
  if (header.toString('latin1', 0, 4) !== '\x7fELF')
    return unsupported(`${path} is corrupt: it is no shared library`, again, cause)
  const machine = header.readUInt16LE(18)
  if (machine !== MACHINES[arch]) {
    const [name = `machine ${machine}`] = Object.entries(MACHINES).find(([, number]) => number === machine) ?? []
    const command = `npm install --force --os=linux --cpu=${arch} @rkllmjs/memory@${version}`
    return unsupported(`${path} is for ${name}, and this Node is for ${arch}`, run(command), cause)
  }
  // The section headers end the file.
  const end = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60)
  return end > size
    ? unsupported(`${path} is corrupt: it has ${size} of ${end} bytes`, again, cause)
    : undefined
}

/**
 * @param {any} cause
 * @param {string} text
 * @param {string | undefined} path
 * @param {string} version
 */
function other(cause, text, path, version) {
  const glibc = /`?(GLIBC_[\d.]+)'? not found/.exec(text)?.[1]
  if (glibc !== undefined) {
    const hint = 'use a newer system: Debian 10, Ubuntu 20.04 or later'
    return unsupported(`the native part needs ${glibc}, and this system's C library is older`, hint, cause)
  }
  if (/failed to map segment/.test(text)) {
    const mount = path === undefined ? 'MOUNTPOINT' : `$(findmnt -nT ${path} -o TARGET)`
    const hint = run(`mount -o remount,exec ${mount}`)
    return unsupported('the native part is on a file system that is mounted noexec', hint, cause)
  }
  if (cause === undefined || ['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(cause.code)) {
    return unsupported(
      `the package ${PACKAGE}, which has the native part, is not installed`,
      run(`npm install ${PACKAGE}@${version}`),
      cause,
    )
  }
  const [line] = text.split('\n')
  return unsupported(`the native part cannot be loaded: ${line}`, run('npm ls @rkllmjs/memory'), cause)
}

module.exports = { explain, loadBinary }
