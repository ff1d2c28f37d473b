/** Opens three managers with the backend in argv (default: 'auto', explicit and implicit), and prints the results. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager, probeDevices } from '../../../index.js'

const warnings = []
process.on('warning', ({ code }) => warnings.push(code))

const backend = process.argv[2]
const options = backend ? [{ backend }] : [undefined, {}, { backend: 'auto' }]
const managers = options.map((each) => new MemoryManager(each))
await nextTurn()

const npu = probeDevices().some((found) => !found.error && ['rknpu', 'rknpu-heap', 'rocket'].includes(found.backend))
console.log(JSON.stringify({ npu, simulated: managers.every(({ device }) => device.simulated), warnings }))
