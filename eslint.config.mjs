// The linter's configuration for all JavaScript: the recommended rules, and others that find mistakes. It does not lint
// style. .ci/columns.mjs checks the length of lines in every language.

import { readdirSync, readFileSync } from 'node:fs'

import js from '@eslint/js'
import { defineConfig, globalIgnores } from 'eslint/config'
import node from 'eslint-plugin-n'
import globals from 'globals'

const mistakes = {
  'array-callback-return': 'error',
  'default-case-last': 'error',
  // `== null` means null or undefined.
  eqeqeq: ['error', 'always', { null: 'ignore' }],
  'no-constructor-return': 'error',
  // Terminal escapes and file signatures are matched by their control characters.
  'no-control-regex': 'off',
  'no-eval': 'error',
  'no-implied-eval': 'error',
  'no-new-wrappers': 'error',
  'no-self-compare': 'error',
  'no-template-curly-in-string': 'error',
  'no-throw-literal': 'error',
  'no-unreachable-loop': 'error',
  'no-unused-expressions': ['error', { allowShortCircuit: true, allowTernary: true, allowTaggedTemplates: true }],
  'no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true }],
  'no-use-before-define': ['error', { functions: false, classes: false, variables: false }],
  'no-useless-computed-key': 'error',
  'no-useless-return': 'error',
  'no-var': 'error',
  'object-shorthand': 'error',
  'prefer-const': ['error', { destructuring: 'all' }],
  'prefer-object-has-own': 'error',
  'symbol-description': 'error',
  radix: 'error',
}

const imports = {
  'n/no-deprecated-api': 'error',
  'n/no-missing-import': 'error',
  'n/no-missing-require': 'error',
  'n/prefer-node-protocol': 'error',
}

/** Globals that fake timers replace, or that a test environment such as jsdom lacks: core/runtime.js has them. */
const replaceable = [
  'AbortController', 'AbortSignal', 'Buffer', 'TextDecoder', 'TextEncoder', 'URL', 'clearImmediate', 'clearInterval',
  'clearTimeout', 'fetch', 'performance', 'queueMicrotask', 'setImmediate', 'setInterval', 'setTimeout',
  'structuredClone',
]

/** The scripts of the report's page share one scope: names that one declares are globals of the others. */
const page = 'src/js/report/page'
const scripts = readdirSync(new URL(page, import.meta.url)).filter((name) => name.endsWith('.client.js'))
const declared = scripts.map((name) => {
  const source = readFileSync(new URL(`${page}/${name}`, import.meta.url), 'utf8')
  const names = [...source.matchAll(/^(?:const|let|function|class) (?:\{ ([^}]+) \}|([\w$]+))/gm)]
  return { name, names: names.flatMap(([, several, one]) => several?.split(/,\s*/) ?? [one]) }
})
const pageScripts = declared.map(({ name }) => ({
  files: [`${page}/${name}`],
  languageOptions: {
    sourceType: 'script',
    globals: {
      ...globals.browser,
      formatBytes: false,
      ...Object.fromEntries(
        declared.filter((other) => other.name !== name).flatMap(({ names }) => names.map((key) => [key, false])),
      ),
    },
  },
  rules: { 'no-unused-vars': ['error', { vars: 'local' }] },
}))

export default defineConfig([
  globalIgnores(['**/node_modules/', '**/target/', '__test__/kernel/.cache/']),
  {
    files: ['**/*.js', '**/*.mjs'],
    plugins: { js, n: node },
    extends: ['js/recommended'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    languageOptions: { ecmaVersion: 2024 },
    rules: { ...mistakes, ...imports },
  },
  {
    files: ['**/*.mjs'],
    // `--expose-gc`.
    languageOptions: { sourceType: 'module', globals: { ...globals.nodeBuiltin, gc: false } },
  },
  {
    // Published: it runs on the oldest Node of `engines`.
    files: ['index.js', 'src/js/**/*.js'],
    ignores: [`${page}/*.client.js`],
    languageOptions: { sourceType: 'commonjs', globals: globals.node },
    rules: {
      'n/no-extraneous-require': 'error',
      'n/no-unsupported-features/node-builtins': 'error',
      'no-restricted-globals': ['error', ...replaceable],
    },
  },
  ...pageScripts,
  {
    // Tests drop references, so that the garbage collector finds the objects.
    files: ['__test__/support/child/*.mjs'],
    rules: { 'no-useless-assignment': 'off' },
  },
  {
    // Callbacks that run inside the page.
    files: ['__test__/browser/*.mjs', '.ci/site/check.mjs'],
    languageOptions: { globals: globals.browser },
  },
  {
    // `bun:ffi` is a module of Bun alone; the bundlers have a folder of their own, which `npm ci` does not install.
    files: ['examples/inference/ffi.mjs', '__test__/bundlers/bundle.mjs'],
    rules: { 'n/no-missing-import': 'off' },
  },
])
