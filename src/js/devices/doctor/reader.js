'use strict'

// A machine to read from: /proc, /sys, /dev and /etc under a root. Every check sees the machine through this and nothing else, so that a copy
// of those files, a support bundle, is examined exactly as the machine itself.
//
// Device nodes do not survive copying. What matters of them, mode and owners, is in a bundle's file `nodes`, a line each:
// "crw-rw---- 0 44 /dev/dri/card1". A "+" behind the mode says that the user may open it, a "!" that not, whatever the mode says (ACLs).

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
  const noted = (kind, path, found) => (seen[kind].set(path, found), found)
  const reader = {
    root,
    /** Whether this is the machine that we run on. */
    live: root === '/',
    /** The file's text; undefined where there is none that we may read. */
    text: (path) =>
      noted(
        'texts',
        path,
        attempt(() => readFileSync(at(path), 'utf8')),
      ),
    /** What of the file's text matches: for files with more in them than a bundle should carry. Undefined where there is none. */
    only(path, pattern) {
      const found = attempt(() => readFileSync(at(path), 'utf8'))?.match(pattern) ?? []
      noted('texts', path, found.length === 0 && !existsSync(at(path)) ? undefined : found.join('\n'))
      return seen.texts.get(path) === undefined ? undefined : [...found]
    },
    /** What lies in a folder and has such a name, sorted; undefined where there is none that we may read. */
    list: (path, pattern = /./) =>
      noted(
        'folders',
        path,
        attempt(() =>
          readdirSync(at(path))
            .filter((name) => pattern.test(name))
            .sort(),
        ),
      ),
    /** Whether there is anything at `path`. */
    has: (path) =>
      noted(
        'texts',
        path,
        attempt(() => lstatSync(at(path)) && ''),
      ) !== undefined,
    link: (path) => attempt(() => readlinkSync(at(path))),
    number(path) {
      const text = reader.text(path)?.trim()
      return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined
    },
    /** A device node's mode and owners, and whether this user may open it, if that is known: { mode, uid, gid, access }. */
    node: (path) => noted('nodes', path, listed === undefined ? attempt(() => nodeAt(path)) : listed.get(path)),
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

/** Writes all that `reader` was asked for into the folder `to`: a bundle that gives the same findings. */
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
