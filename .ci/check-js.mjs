// Checks the types of the JavaScript in src/js chapter by chapter, in strict mode, against src/js/types. The chapters
// of STRICT must have no errors. The list only grows: a chapter without errors must be in it.
//   node .ci/check-js.mjs            errors of the strict chapters
//   node .ci/check-js.mjs CHAPTER    errors of that chapter

import { fileURLToPath } from 'node:url'

import ts from 'typescript'

const STRICT = [
  'allocation', 'arena', 'chapters', 'cli', 'core', 'devices', 'explain', 'functions', 'index', 'inference', 'inspect',
  'limits', 'manager', 'manager-async', 'manager-host', 'manager-options', 'metrics', 'models', 'pools', 'profiling',
  'reclaim', 'replay', 'report', 'residency', 'rknn', 'sharing', 'stats',
]

const root = fileURLToPath(new URL('..', import.meta.url))
const { config } = ts.readConfigFile(`${root}/tsconfig.json`, ts.sys.readFile)
const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
const program = ts.createProgram(fileNames, options)

/** The chapter of a file: its folder below src/js, or its name where it has none. */
const chapterOf = (name) => /\/src\/js\/([^/]+)/.exec(name)?.[1].replace(/\.(d\.ts|js)$/, '') ?? 'index'
const sources = program
  .getSourceFiles()
  .filter(({ fileName }) => /\/(index|src\/js\/.*)\.js$/.test(fileName) && fileNames.includes(fileName))
const errors = new Map(sources.map(({ fileName }) => [chapterOf(fileName), []]))
for (const source of sources) {
  const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)]
  errors.get(chapterOf(source.fileName)).push(...found)
}

const [chapter] = process.argv.slice(2)
const shown = (chapter === undefined ? STRICT : [chapter]).flatMap((name) => errors.get(name) ?? [])
const host = { getCurrentDirectory: () => root, getCanonicalFileName: (name) => name, getNewLine: () => '\n' }
process.stderr.write(ts.formatDiagnostics(shown, host))

const clean = [...errors].filter(([name, found]) => found.length === 0 && !STRICT.includes(name)).map(([name]) => name)
for (const name of clean) console.error(`src/js/${name} has no errors: add it to STRICT in .ci/check-js.mjs`)
for (const name of STRICT.filter((one) => !errors.has(one))) console.error(`there is no chapter ${name}`)

const left = [...errors].filter(([name]) => !STRICT.includes(name)).map(([name, { length }]) => `${name} ${length}`)
console.log(`strict: ${STRICT.length} of ${errors.size} chapters; errors of the others: ${left.join(', ') || 'none'}`)
if (shown.length > 0 || clean.length > 0 || STRICT.some((name) => !errors.has(name))) process.exitCode = 1
