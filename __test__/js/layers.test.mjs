// Checks src/js: a file imports only from its own room and from rooms below it, no files import each other, and only
// cli/ prints.
//
// The rooms are the folders of src/js, and the files beside them. ORDER says which may import which.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const SOURCES = join(ROOT, 'src/js')

/** Lowest first. A room imports from every lower line, and from no other room of its own line. */
const ORDER = [
  ['core'],
  [
    'allocation', 'arena', 'devices', 'inspect', 'limits', 'pools', 'profiling', 'reclaim', 'replay', 'sharing',
    'stats',
  ],
  ['explain', 'inference', 'metrics', 'models', 'report'],
  ['residency', 'rknn'],
  ['chapters.js'],
  ['manager-async.js', 'manager-host.js', 'manager-options.js'],
  ['manager.js', 'functions.js'],
  ['index.js'],
  ['cli'],
]

/** Path → code of every file, and of index.js, which the command line imports. */
function sources() {
  const names = readdirSync(SOURCES, { recursive: true }).filter((name) => name.endsWith('.js'))
  const files = new Map(names.map((name) => [name, readFileSync(join(SOURCES, name), 'utf8')]))
  return files.set('index.js', readFileSync(join(ROOT, 'index.js'), 'utf8'))
}

/** Code without its comments. */
const codeOf = (text) => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1')

/** The files of src/js that `name` requires, relative to src/js. */
function importsOf(name, text) {
  const folder = name === 'index.js' ? ROOT : join(SOURCES, dirname(name))
  const found = [...codeOf(text).matchAll(/(?:require|import)\(\s*'(\.[^']+)'\s*\)/g)].map(([, path]) =>
    normalize(join(folder, path)),
  )
  return found
    .map((path) => (path === join(ROOT, 'index.js') ? 'index.js' : relative(SOURCES, path)))
    .filter((path) => path.endsWith('.js') && !path.startsWith('..'))
}

const roomOf = (name) => name.split('/')[0]
const levelOf = (room) => ORDER.findIndex((rooms) => rooms.includes(room))

/** Imports that go up, or to another room of the same line. */
function backEdges(files) {
  const edges = []
  for (const [name, text] of files) {
    for (const target of importsOf(name, text)) {
      const [from, to] = [roomOf(name), roomOf(target)]
      if (from !== to && levelOf(to) >= levelOf(from)) edges.push(`${name} → ${target}`)
    }
  }
  return edges
}

/** Groups of files that import each other, directly or through others (Tarjan). */
function circles(files) {
  const [found, stack, index, low] = [[], [], new Map(), new Map()]
  const visit = (name) => {
    index.set(name, index.size)
    low.set(name, index.get(name))
    stack.push(name)
    for (const target of importsOf(name, files.get(name) ?? '')) {
      if (!index.has(target)) visit(target)
      if (stack.includes(target)) low.set(name, Math.min(low.get(name), low.get(target)))
    }
    if (low.get(name) !== index.get(name)) return
    const group = stack.splice(stack.indexOf(name))
    if (group.length > 1 || importsOf(name, files.get(name) ?? '').includes(name)) found.push(group)
  }
  for (const name of files.keys()) if (!index.has(name)) visit(name)
  return found
}

/** Files outside cli/ that write to the terminal. Client scripts run in a browser. */
const printers = (files) =>
  [...files]
    .filter(([name]) => roomOf(name) !== 'cli' && !name.endsWith('.client.js'))
    .filter(([, text]) => /\bconsole\.|process\.std(out|err)\b/.test(codeOf(text)))
    .map(([name]) => name)

const files = sources()

test('every folder and file of src/js has its place in the order, and every place exists', () => {
  const rooms = new Set([...files.keys()].map(roomOf))
  assert.deepEqual([...rooms].sort(), ORDER.flat().sort())
})

test('no import runs back up, and no files import each other', (t) => {
  const [edges, groups] = [backEdges(files), circles(files)]
  t.diagnostic(
    `${ORDER.flat().length} rooms, ${files.size} files, ${groups.length} circles, ${edges.length} back edges`,
  )
  assert.deepEqual(edges, [])
  assert.deepEqual(groups, [])
})

test('only the command line prints', () => {
  assert.deepEqual(printers(files), [])
})

test('every file that is required exists', () => {
  const missing = [...files].flatMap(([name, text]) =>
    importsOf(name, text).filter((target) => !files.has(target)),
  )
  assert.deepEqual(missing, [])
})

test('the checks find violations', () => {
  const wrong = new Map([
    ['core/options.js', "const { a } = require('../pools/pool.js')"],
    ['pools/pool.js', "const { b } = require('../core/options.js'), { c } = require('../limits/limits.js')"],
    ['limits/limits.js', "// require('../pools/pool.js')\nconsole.log(1)"],
    ['cli/run.js', "import('../../../index.js').then(console.log)"],
    ['index.js', "require('./src/js/cli/run.js')"],
  ])
  assert.deepEqual(backEdges(wrong), [
    'core/options.js → pools/pool.js',
    'pools/pool.js → limits/limits.js',
    'index.js → cli/run.js',
  ])
  assert.deepEqual(circles(wrong), [
    ['core/options.js', 'pools/pool.js'],
    ['cli/run.js', 'index.js'],
  ])
  assert.deepEqual(printers(wrong), ['limits/limits.js'])
})
