/** The JavaScript of README and docs/: every block runs, and each line with `// => value` has that value. */

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'

import ts from 'typescript'

import { blocksOf, codeBlocks, pages } from '../../support/docs.mjs'
import { openReader } from '../../support/docs-reader.mjs'
import { needsCommand, notOn } from '../../support/helpers.mjs'

const needsKoffi = (await import('koffi').then(() => true, () => false)) ? false : 'needs koffi'
const skip = notOn({ bun: 'its pages use koffi', deno: 'its pages use koffi' }) || needsCommand('cc') || needsKoffi

/** Makes an assertion of a line that states its value. */
const checked = (line) => line.replace(/^(\s*)(.+?) \/\/ => (.+)$/, '$1assert.deepEqual($2, $3)')

/** The names that a block declares at its top level, for the later blocks of its page. */
function declaredIn(code) {
  const names = []
  const add = (name) => (ts.isIdentifier(name) ? names.push(name.text) : name.elements.forEach((one) => add(one.name)))
  for (const statement of ts.createSourceFile('block.ts', code, ts.ScriptTarget.ES2022).statements) {
    if (ts.isVariableStatement(statement)) statement.declarationList.declarations.forEach(({ name }) => add(name))
    else if ((ts.isFunctionDeclaration(statement) || ts.isClassDeclaration(statement)) && statement.name)
      names.push(statement.name.text)
  }
  return names
}

/** Compiles a block to a function of the names that it may use. It returns the names that it declares. */
function compile(code, names) {
  const body = code.split('\n').map(checked).join('\n')
  const source = `(async ({ ${['assert', ...names].join(', ')} }) => { {\n${body}\nreturn { ${declaredIn(code)} }\n} })`
  const { outputText, diagnostics } = ts.transpileModule(source, {
    reportDiagnostics: true,
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.None },
  })
  assert.deepEqual(diagnostics.map(({ messageText }) => messageText), [])
  // eslint-disable-next-line no-eval
  return (0, eval)(outputText)
}

for (const page of pages) {
  const blocks = codeBlocks.filter((block) => block.page === page)
  if (blocks.length === 0) continue
  describe(page, { skip }, () => {
    let reader
    before(async () => {
      reader = await openReader()
      for (const { file, code } of blocks) if (file !== null) writeFileSync(file, code)
    })
    after(() => reader.close())
    for (const { line, code, notRun, file } of blocks) {
      if (notRun !== null) {
        test(`the block at line ${line} is a program: ${notRun}`, () => {
          const { diagnostics } = ts.transpileModule(code, { reportDiagnostics: true })
          assert.deepEqual(diagnostics.map(({ messageText }) => messageText), [])
        })
        continue
      }
      if (file !== null) {
        test(`the module ${file} at line ${line} loads`, async () => {
          assert.notDeepEqual(Object.keys(await import(pathToFileURL(resolve(file)).href)), [])
        })
        continue
      }
      test(`the block at line ${line} runs, and its values are true`, async () => {
        const run = compile(reader.sourceOf(code), Object.keys(reader.names))
        Object.assign(reader.names, await run({ assert, ...reader.names }))
      })
    }
  })
}

test('a false value would fail, and a block that throws', { skip }, async () => {
  await assert.rejects(compile('1 + 1 // => 3', [])({ assert }), assert.AssertionError)
  await assert.rejects(compile('missing()', [])({ assert }), ReferenceError)
  assert.deepEqual(await compile('const { a, b: [c] } = value', ['value'])({ assert, value: { a: 1, b: [2] } }), {
    a: 1, c: 2,
  })
})

test('blocks inside lists are found', () => {
  const indented = blocksOf('docs/freeing.md').filter(({ code }) => code.includes('response.end('))
  assert.equal(indented.length, 1)
})
