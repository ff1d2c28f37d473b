/**
 * Measures a device of this machine: what opening it costs, and pairs of an allocation and its free. The simulated
 * device beside it has no driver: the difference of the two is the driver's share. With `--against`, another build of
 * this package does the same in turn, and the ratio of the two is printed. Prints figures, without a verdict.
 *
 *   node benchmark/device.mjs [--backend rknpu] [--rounds N] [--against PATH]
 *
 * Times are medians, of CPU time of the process where `cpu` stands: other load on the machine affects them less.
 */

import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

import { countsOf, machine } from './options.mjs'

const values = countsOf(
  'device.mjs',
  { rounds: { fallback: 100, text: 'measurements of each case' } },
  {
    backend: { type: 'string', value: 'NAME', text: 'the backend; default auto' },
    against: { type: 'string', value: 'PATH', text: 'another build, to compare with' },
  },
)
const ROUNDS = values.rounds
const WARM_UP = Math.ceil(ROUNDS / 10)
const KiB = 1024
const MiB = 1024 * KiB

const require = createRequire(import.meta.url)
const own = fileURLToPath(new URL('..', import.meta.url))
const builds = { 'this build': own, ...(values.against && { [values.against]: resolve(values.against) }) }
const sides = Object.entries(builds).map(([name, path]) => ({ name, ...require(join(path, 'index.js')) }))

console.log(`${machine()}, ${ROUNDS} rounds`)
const { backend, path, driverVersion } = describe()
console.log(`${backend}${path ? ` at ${path}` : ''}, driver ${driverVersion ?? 'unknown'}\n`)

for (const device of new Set([backend, 'simulated'])) {
  compare(`opening: new MemoryManager({ backend: '${device}' })`, ({ MemoryManager }) => {
    let manager
    return { call: () => (manager = new MemoryManager({ backend: device })), after: () => manager.dispose() }
  })
}
compare('probeDevices()', ({ probeDevices }) => ({ call: () => probeDevices() }))
for (const [what, size, options] of [
  ['allocateNPUMemory(1 MiB) + deallocate', MiB, undefined],
  ['allocateNPUMemory(4 KiB, dedicated) + deallocate', 4 * KiB, { dedicated: true }],
  ['allocateNPUMemory(16 KiB) + deallocate, in slabs', 16 * KiB, undefined],
]) {
  compare(what, ({ MemoryManager }) => {
    const manager = new MemoryManager({ backend })
    return {
      call: () => manager.deallocate(manager.allocateNPUMemory(size, options)),
      end: () => manager.dispose(),
    }
  })
}

/** Opens the chosen device once, for its properties. */
function describe() {
  const manager = new sides[0].MemoryManager({ backend: values.backend ?? 'auto' })
  const { device } = manager
  manager.dispose()
  return device
}

/**
 * Times the call of each build in turn, after a warm-up. `prepare` makes the call, what follows it untimed, and the
 * end.
 */
function compare(what, prepare) {
  const runs = sides.map((side) => ({ name: side.name, wall: [], cpu: [], ...prepare(side) }))
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    // The first of a round may find other caches than the second.
    for (const run of round % 2 === 0 ? runs : runs.toReversed()) {
      const cpu = process.cpuUsage()
      const begun = process.hrtime.bigint()
      run.call()
      const wall = Number(process.hrtime.bigint() - begun)
      const { user, system } = process.cpuUsage(cpu)
      run.after?.()
      if (round < 0) continue
      run.wall.push(wall / 1000)
      run.cpu.push(user + system)
    }
  }
  for (const run of runs) run.end?.()
  console.log(what)
  const [own] = runs
  for (const run of runs) {
    const times = [median(run.wall), median(run.cpu), Math.min(...run.wall)].map(us)
    console.log(`  ${run.name}: ${times[0]} µs, cpu ${times[1]} µs, least ${times[2]} µs`)
    if (run !== own) console.log(`  ratio ${ratioOf(own.wall, run.wall)}, of cpu ${ratioOf(own.cpu, run.cpu)}`)
  }
}

function median(list) {
  return list.toSorted((a, b) => a - b)[list.length >> 1]
}

function ratioOf(list, others) {
  return (median(list) / median(others)).toFixed(3)
}

function us(value) {
  return value.toFixed(value < 100 ? 1 : 0).padStart(7)
}
