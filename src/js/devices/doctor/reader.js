'use strict'

// Reads a machine's files: /proc, /sys, /dev and /etc under a root. Checks read the machine only through this, so that
// a copy of the files (a support bundle) gives the same findings as the machine.
//
// Device nodes cannot be copied. A bundle's file `nodes` holds their modes and owners, a line each: "crw-rw---- 0 44
// /dev/dri/card1". A "+" behind the mode means that the user may open the node, a "!" that it may not, whatever the
// mode says (ACLs).

const {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} = require('node:fs')
const { dirname, join } = require('node:path')

const NODES = 'nodes'
const BITS = 'rwxrwxrwx'

/**
 * A device node; `access` is whether this user may open it, if that is known.
 *
 * @typedef {{ mode: number, uid: number, gid: number, access: boolean | undefined }} DeviceNode
 */

/** @typedef {ReturnType<typeof makeReader>} Reader */

/** @param {string} [root] */
function makeReader(root = '/') {
  const at = (/** @type {string} */ path) => join(root, path)
  const listed = root === '/' ? undefined : readNodes(attempt(() => readFileSync(at(NODES), 'utf8')))
  const seen = {
    /** @type {Map<string, string | undefined>} */
    texts: new Map(),
    /** @type {Map<string, string[] | undefined>} */
    folders: new Map(),
    /** @type {Map<string, DeviceNode | undefined>} */
    nodes: new Map(),
  }
  /** @type {<T>(map: Map<string, T>, path: string, found: T) => T} */
  const record = (map, path, found) => (map.set(path, found), found)
  const reader = {
    root,
    /** Whether this reads the running machine. */
    live: root === '/',
    /** Reads a file; undefined if it cannot be read. */
    text: (/** @type {string} */ path) =>
      record(
        seen.texts,
        path,
        attempt(() => readFileSync(at(path), 'utf8')),
      ),
    /**
     * Reads the matches in a file, of which a bundle must not carry the rest; undefined without any.
     *
     * @param {string} path
     * @param {RegExp} pattern
     */
    only(path, pattern) {
      const found = attempt(() => readFileSync(at(path), 'utf8'))?.match(pattern) ?? []
      if (found.length === 0 && !existsSync(at(path))) {
        record(seen.texts, path, undefined)
        return undefined
      }
      // Several facts may come from one file.
      const before = seen.texts.get(path)?.split('\n') ?? []
      record(seen.texts, path, [...new Set([...before, ...found])].join('\n'))
      return [...found]
    },
    /** Lists the names in a folder that match, sorted; undefined if it cannot be read. */
    list: (/** @type {string} */ path, pattern = /./) =>
      record(
        seen.folders,
        path,
        attempt(() =>
          readdirSync(at(path))
            .filter((name) => pattern.test(name))
            .sort(),
        ),
      ),
    /** Whether `path` exists. */
    has: (/** @type {string} */ path) =>
      record(
        seen.texts,
        path,
        attempt(() => lstatSync(at(path)) && ''),
      ) !== undefined,
    link: (/** @type {string} */ path) => attempt(() => readlinkSync(at(path))),
    /** @param {string} path */
    number(path) {
      /** @type {string | undefined} */
      const text = reader.text(path)?.trim()
      return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined
    },
    /** Reads a device node; undefined if there is none. */
    node: (/** @type {string} */ path) =>
      record(seen.nodes, path, listed === undefined ? attempt(() => nodeAt(path)) : listed.get(path)),
    seen,
  }
  return reader
}

/**
 * @template T
 * @param {() => T} read
 * @returns {T | undefined}
 */
function attempt(read) {
  try {
    return read()
  } catch {
    return undefined
  }
}

/**
 * @param {string} path
 * @returns {DeviceNode}
 */
function nodeAt(path) {
  const { mode, uid, gid } = lstatSync(path)
  return {
    mode: mode & 0o777,
    uid,
    gid,
    access: attempt(() => (accessSync(path, constants.R_OK | constants.W_OK), true)) ?? false,
  }
}

/** @type {Record<string, boolean>} */
const MARKS = { '+': true, '!': false }

function readNodes(text = '') {
  const lines = [...text.matchAll(/^.([rwx-]{9})([+!]?) (\d+) (\d+) (\/\S+)$/gm)]
  /** @type {Map<string, DeviceNode>} */
  const nodes = new Map()
  for (const [, mode, mark, uid, gid, path] of lines) {
    nodes.set(path, { mode: parseMode(mode), uid: Number(uid), gid: Number(gid), access: MARKS[mark] })
  }
  return nodes
}

/** @type {(letters: string) => number} */
const parseMode = (letters) => [...letters].reduce((mode, letter) => mode * 2 + (letter === '-' ? 0 : 1), 0)
/** @type {(mode: number) => string} */
const showMode = (mode) => [...BITS].map((letter, at) => ((mode >> (8 - at)) & 1 ? letter : '-')).join('')

/**
 * Writes a bundle into the folder `to`: all that the checks read from `reader`, so that it gives the same findings.
 *
 * @param {Reader} reader
 * @param {string} to
 */
function save(reader, to) {
  const { texts, folders, nodes } = reader.seen
  const write = (/** @type {string} */ path, /** @type {string} */ text) => {
    mkdirSync(dirname(join(to, path)), { recursive: true })
    writeFileSync(join(to, path), text)
  }
  for (const [folder, names] of folders) {
    if (names === undefined) continue
    mkdirSync(join(to, folder), { recursive: true })
    for (const name of names) {
      const path = join(folder, name)
      const isFolder = [...folders.keys(), ...texts.keys()].some(
        (other) => other.startsWith(`${path}/`) || (other === path && folders.has(path)),
      )
      if (isFolder) mkdirSync(join(to, path), { recursive: true })
      else if (!texts.has(path)) write(path, '')
    }
  }
  for (const [path, text] of texts) if (text !== undefined) write(path, text)
  const mark = (/** @type {boolean | undefined} */ access) =>
    Object.keys(MARKS).find((of) => MARKS[of] === access) ?? ''
  const lines = [...nodes].map(([path, node]) => {
    if (node === undefined) return ''
    const { mode, uid, gid, access } = node
    return `c${showMode(mode)}${mark(access)} ${uid} ${gid} ${path}\n`
  })
  write(NODES, lines.join(''))
}

module.exports = { makeReader, save, showMode }
