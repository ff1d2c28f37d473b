// Bundles a program with esbuild, rollup, webpack and ncc, as CommonJS and as ECMAScript modules, the way
// docs/bundlers.md says, moves the bundle away from node_modules, and runs it. `npm run test:bundlers`.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import commonjs from '@rollup/plugin-commonjs'
import json from '@rollup/plugin-json'
import nodeResolve from '@rollup/plugin-node-resolve'
import * as esbuild from 'esbuild'
import { rollup } from 'rollup'
import webpack from 'webpack'

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL('../..', import.meta.url))
const FILE = `rkllm-memory.linux-${process.arch}-gnu.node`
const binary = join(root, 'src/js', FILE)
const folder = mkdtempSync(join(tmpdir(), 'rkllm-bundles-'))
after(() => rmSync(folder, { recursive: true }))

/** Installs the package as npm does: its files, and its binary in the platform's package. */
function install() {
  const own = join(folder, 'node_modules/@rkllmjs/memory')
  mkdirSync(own, { recursive: true })
  cpSync(join(root, 'index.js'), join(own, 'index.js'))
  cpSync(join(root, 'src/js'), join(own, 'src/js'), { recursive: true, filter: (path) => !path.endsWith('.node') })
  cpSync(join(root, 'package.json'), join(own, 'package.json'))
  execFileSync(process.execPath, [join(root, '.ci/page-scripts.mjs'), own])
  const platform = join(folder, `node_modules/@rkllmjs/memory-linux-${process.arch}-gnu`)
  mkdirSync(platform)
  cpSync(join(root, `npm/linux-${process.arch}-gnu/package.json`), join(platform, 'package.json'))
  cpSync(binary, join(platform, FILE))
}

const NAMES = '{ MemoryManager, MemoryPool, diagnose, estimateModelMemory, explainError }'
const BODY = `
  async function userCode() {
    const manager = new MemoryManager({ backend: 'simulated', profiling: { sampleInterval: 1 } })
    function allocateInUserCode() { return manager.allocateNPUMemory(4096, { tag: 'mine' }) }
    allocateInUserCode()
    const pool = manager.createMemoryPool({ name: 'p', initialSize: 65536 })
    if (!(pool instanceof MemoryPool)) throw new Error('another MemoryPool')
    // Chapters that load at their first use.
    if (explainError('failed to allocate handle, ret: -1')?.code !== 'ERR_OUT_OF_MEMORY') throw new Error('explain')
    if (diagnose().findings === undefined) throw new Error('diagnose')
    if (estimateModelMemory({ weightBytes: 1 << 30, contextLength: 128 }).total < 1 << 30) throw new Error('estimate')
    manager.createInferenceBuffers({ contextLength: 16, hiddenSize: 8, vocabSize: 8 }).dispose()
    function allocateFromPoolInUserCode() { return pool.allocate(100) }
    allocateFromPoolInUserCode()
    for (const extension of ['html', 'json', 'csv', 'pb.gz', 'trace.json', 'prom'])
      await manager.writeReport(process.argv[2] + '/report.' + extension)
    const stacks = manager.getMemoryProfile().callSites.map(({ stack }) => stack)
    manager.dispose()
    console.log(JSON.stringify(stacks))
  }
  userCode()`

install()
writeFileSync(join(folder, 'cjs.cjs'), `const ${NAMES} = require('@rkllmjs/memory')${BODY}`)
writeFileSync(join(folder, 'esm.mjs'), `import ${NAMES} from '@rkllmjs/memory'${BODY}`)

/** Runs a bundle from a folder of its own, and looks at what it wrote. */
function check(bundle) {
  const place = mkdtempSync(join(tmpdir(), 'rkllm-bundle-'))
  try {
    cpSync(dirname(bundle), place, { recursive: true })
    const output = mkdtempSync(join(place, 'out-'))
    const moved = join(place, bundle.slice(dirname(bundle).length + 1))
    const stdout = execFileSync(process.execPath, ['--no-warnings', moved, output], { encoding: 'utf8', cwd: place })
    const stacks = JSON.parse(stdout)
    assert.ok(stacks.length >= 2, stdout)
    for (const stack of stacks) assert.match(stack.split('\n')[0], /InUserCode|userCode/, `the first frame of ${stack}`)
    assert.ok(stacks.some((stack) => /allocateInUserCode/.test(stack.split('\n')[0])), stdout)
    assert.equal(readdirSync(output).length, 6)
    assert.match(readFileSync(join(output, 'report.html'), 'utf8'), /<script>\(\(\) => \{/)
  } finally {
    rmSync(place, { recursive: true })
  }
}

const target = (bundler, format) => {
  const own = join(folder, 'dist', `${bundler}-${format}`)
  mkdirSync(own, { recursive: true })
  return join(own, format === 'cjs' ? 'program.cjs' : 'program.mjs')
}
const entry = (format) => join(folder, format === 'cjs' ? 'cjs.cjs' : 'esm.mjs')
/** Defines `require` in an ECMAScript module. */
const banner =
  "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url)"

for (const format of ['cjs', 'esm']) {
  test(`esbuild, ${format}`, async () => {
    const outfile = target('esbuild', format)
    await esbuild.build({
      entryPoints: [entry(format)], outfile, bundle: true, platform: 'node', format, loader: { '.node': 'copy' },
      banner: format === 'esm' ? { js: banner } : {}, logLevel: 'error',
    })
    check(outfile)
  })

  test(`esbuild, ${format}, minified, with the binary copied beside it`, async () => {
    const outfile = target('esbuild-min', format)
    await esbuild.build({
      entryPoints: [entry(format)], outfile, bundle: true, platform: 'node', format,
      external: ['*.node', '@rkllmjs/memory-linux-*'],
      minify: true, keepNames: true, banner: format === 'esm' ? { js: banner } : {}, logLevel: 'error',
    })
    cpSync(binary, join(dirname(outfile), FILE))
    check(outfile)
  })

  test(`rollup, ${format}`, async () => {
    const file = target('rollup', format)
    const bundle = await rollup({
      input: entry(format),
      plugins: [nodeResolve({ preferBuiltins: true }), commonjs(), json()],
      external: [/^node:/, /\.node$/, /^@rkllmjs\/memory-linux-/],
      onwarn: () => {},
    })
    await bundle.write({ file, format, inlineDynamicImports: true, banner: format === 'esm' ? banner : '' })
    cpSync(binary, join(dirname(file), FILE))
    check(file)
  })

  test(`webpack, ${format}`, async () => {
    const file = target('webpack', format)
    const config = {
      mode: 'production', target: 'node', entry: entry(format), optimization: { minimize: false },
      output: {
        path: dirname(file), filename: file.slice(dirname(file).length + 1),
        ...(format === 'esm' ? { module: true, chunkFormat: 'module', library: { type: 'module' } } : {}),
      },
      ...(format === 'esm' ? { experiments: { outputModule: true } } : {}),
      externals: [/^@rkllmjs\/memory-linux-/, /\.node$/],
      externalsType: format === 'esm' ? 'node-commonjs' : 'commonjs',
    }
    const stats = await new Promise((resolve, reject) =>
      webpack(config, (error, done) => (error ? reject(error) : resolve(done))),
    )
    assert.deepEqual(stats.toJson({ errors: true, all: false }).errors, [])
    cpSync(binary, join(dirname(file), FILE))
    check(file)
  })

  test(`ncc, ${format}`, async () => {
    const file = target('ncc', format)
    const options = { cache: false, quiet: true, esm: format === 'esm' }
    const { code, assets } = await require('@vercel/ncc')(entry(format), options)
    writeFileSync(file, code)
    for (const [name, { source }] of Object.entries(assets)) {
      mkdirSync(dirname(join(dirname(file), name)), { recursive: true })
      writeFileSync(join(dirname(file), name), source)
    }
    check(file)
  })
}
