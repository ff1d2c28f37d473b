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

/** @param {string} [root] */
function makeReader(root = '/') {
  const at = (path) => join(root, path)
  const listed = root === '/' ? undefined : readNodes(attempt(() => readFileSync(at(NODES), 'utf8')))
  const seen = { texts: new Map(), folders: new Map(), nodes: new Map() }
  const record = (kind, path, found) => (seen[kind].set(path, found), found)
  const reader = {
    root,
    /** Whether this reads the running machine. */
    live: root === '/',
    /** Reads a file; undefined if it cannot be read. */
    text: (path) =>
      record(
        'texts',
        path,
        attempt(() => readFileSync(at(path), 'utf8')),
      ),
    /** Reads the matches in a file, of which a bundle must not carry the rest; undefined without any. */
    only(path, pattern) {
      const found = attempt(() => readFileSync(at(path), 'utf8'))?.match(pattern) ?? []
      record('texts', path, found.length === 0 && !existsSync(at(path)) ? undefined : found.join('\n'))
      return seen.texts.get(path) === undefined ? undefined : [...found]
    },
    /** Lists the names in a folder that match, sorted; undefined if it cannot be read. */
    list: (path, pattern = /./) =>
      record(
        'folders',
        path,
        attempt(() =>
          readdirSync(at(path))
            .filter((name) => pattern.test(name))
            .sort(),
        ),
      ),
    /** Whether `path` exists. */
    has: (path) =>
      record(
        'texts',
        path,
        attempt(() => lstatSync(at(path)) && ''),
      ) !== undefined,
    link: (path) => attempt(() => readlinkSync(at(path))),
    number(path) {
      const text = reader.text(path)?.trim()
      return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined
    },
    /** Reads a device node: { mode, uid, gid, access }; `access` is whether this user may open it, if that is known. */
    node: (path) => record('nodes', path, listed === undefined ? attempt(() => nodeAt(path)) : listed.get(path)),
    seen,
  }
  return reader
}

function attempt(read) {
  try {
    return read()
  } catch {
    return undefined
  }
}

function nodeAt(path) {
  const { mode, uid, gid } = lstatSync(path)
  return {
    mode: mode & 0o777,
    uid,
    gid,
    access: attempt(() => (accessSync(path, constants.R_OK | constants.W_OK), true)) ?? false,
  }
}

const MARKS = { '+': true, '!': false }

function readNodes(text = '') {
  const lines = [...text.matchAll(/^.([rwx-]{9})([+!]?) (\d+) (\d+) (\/\S+)$/gm)]
  return new Map(
    lines.map(([, mode, mark, uid, gid, path]) => [
      path,
      { mode: parseMode(mode), uid: Number(uid), gid: Number(gid), access: MARKS[mark] },
    ]),
  )
}

const parseMode = (letters) => [...letters].reduce((mode, letter) => mode * 2 + (letter === '-' ? 0 : 1), 0)
const showMode = (mode) => [...BITS].map((letter, at) => ((mode >> (8 - at)) & 1 ? letter : '-')).join('')

/** Writes a bundle into the folder `to`: all that the checks read from `reader`, so that it gives the same findings. */
function save(reader, to) {
  const { texts, folders, nodes } = reader.seen
  const write = (path, text) => {
    mkdirSync(dirname(join(to, path)), { recursive: true })
    writeFileSync(join(to, path), text)
  }
  const known = [...texts].filter(([, text]) => text !== undefined)
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
  for (const [path, text] of known) write(path, text)
  const mark = (access) => Object.keys(MARKS).find((of) => MARKS[of] === access) ?? ''
  const lines = [...nodes].filter(([, node]) => node !== undefined)
  write(
    NODES,
    lines
      .map(([path, { mode, uid, gid, access }]) => `c${showMode(mode)}${mark(access)} ${uid} ${gid} ${path}\n`)
      .join(''),
  )
}

module.exports = { makeReader, save, showMode }
