/** The row of `require`: processor time and modules, against loading every chapter. */

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { fileURLToPath } from 'node:url'

import { figuresOf } from './measure.mjs'

const run = promisify(execFile)
const path = (name) => JSON.stringify(fileURLToPath(new URL(`../../${name}`, import.meta.url)))

/**
 * Prints the milliseconds of processor time and the modules. The adapters need other packages, and the programs of
 * workers another process.
 */
const program = (all) => `
  const { readdirSync } = require('node:fs')
  const before = process.cpuUsage()
  require(${path('index.js')})
  if (${all}) {
    const others = /^cli|^metrics.(prom|open)|client|^residency.workers/
    for (const name of readdirSync(${path('src/js')}, { recursive: true }))
      if (/\\.js$/.test(name) && !others.test(name)) require(${path('src/js/')} + name)
  }
  const { user, system } = process.cpuUsage(before)
  console.log(JSON.stringify([(user + system) / 1000, Object.keys(require.cache).length]))`

/** @type {import('../scale.mjs').Row[]} */
export const rows = [
  {
    name: 'require, processor time',
    sides: 'every chapter : what it loads',
    unit: 'ms',
    reach: 'what allocateNPUMemory needs',
    rounds: 15,
    async run({ rounds, update }) {
      const samples = [[], []]
      const modules = []
      for (let round = 0; round < rounds; round++) {
        for (const [side, all] of [true, false].entries()) {
          const { stdout } = await run(process.execPath, ['-e', program(all)])
          const [ms, count] = JSON.parse(stdout)
          samples[side].push(ms)
          modules[side] = count
        }
        update(round)
      }
      return Object.assign(samples.map(figuresOf), { note: `${modules[0]} : ${modules[1]} modules` })
    },
  },
]
