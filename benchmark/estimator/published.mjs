/**
 * Compares the estimator with figures that others published and that no coefficient was fitted to: long contexts,
 * language with vision, allocations in error messages, sizes of files.
 *
 *   node benchmark/estimator/published.mjs
 */

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

import memory from '../../index.js'

const require = createRequire(import.meta.url)
const { parametersOf } = require('../../src/js/models/parameters.js')
const { shapeOf } = require('../../src/js/models/shape.js')
const { fileBytesOf } = require('../../src/js/models/terms.js')

const { figures } = JSON.parse(readFileSync(new URL('./published.json', import.meta.url), 'utf8'))

/** Estimates every published figure: bytes, the error, the band, and whether the figure is in it. */
export const compared = () =>
  figures.map(({ model, kind, note, run, published, config }) => {
    const estimate = memory.estimateModelMemory({ config, ...run })
    const { loaded, loadedUncertainty, vision, weights } = estimate
    const [expected, found, band] =
      kind === 'long context'
        ? [published.loadedMiB * 2 ** 20, loaded, loadedUncertainty]
        : kind === 'with vision'
          ? [published.withVisionGB * 1e9, loaded + vision, loadedUncertainty]
          : kind === 'vision alone'
            ? [published.visionMiB * 2 ** 20, vision, null]
            : kind === 'allocation'
              ? [published.weights, weights, 0]
              : [published.fileMB * 1e6, fileBytesOf(parametersOf(shapeOf(config).shape), run.dtype), null]
    const error = found / expected - 1
    const within = band !== null && Math.abs(expected - found) <= band * found
    return { model, kind, note, run, expected, found, error, band, within }
  })

function main() {
  for (const kind of new Set(figures.map((figure) => figure.kind))) {
    console.log(kind)
    for (const { model, run, expected, found, error, band, note } of compared().filter((row) => row.kind === kind)) {
      const share = `${(100 * error).toFixed(1)} %`
      const width = band ? `± ${(100 * band).toFixed(1)} %` : ''
      const setup = `${model} ${run.dtype} ${run.contextLength}`
      const [a, b] = [expected, found].map((bytes) => (bytes / 2 ** 20).toFixed(0).padStart(6))
      const line = `${setup.padEnd(30)} ${a} MiB, estimated ${b} ${share.padStart(8)}  ${width}`
      console.log(`  ${line}${note ? `  (${note})` : ''}`)
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
