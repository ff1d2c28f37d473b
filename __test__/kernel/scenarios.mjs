// What is run in the emulated machine. A scenario is a board (module parameters) and a list of steps; each boot runs
// all the scenarios of its architecture one after the other, with the module loaded afresh for each.
import { pathOf, suites } from '../support/suites.mjs'

const MiB = 1 << 20

/**
 * The JavaScript suite. Emulation is slow: each file of it is a scenario of its own, named after the board and the
 * file.
 */
const suite = [...suites.keys()].map(name => `${name}.test.mjs`)
/** Suites that ask nothing of a driver: once an architecture and runtime is enough. */
const driverless = [
  'adapters', 'attacks', 'channels', 'cli', 'estimate', 'event-log', 'explain', 'inspect-socket', 'metrics', 'plan',
  'replay', 'reports', 'snapshot-diff', 'top',
].map((name) => `${name}.test.mjs`)
/**
 * Of these, those that call nothing native either, or no more than others do: JavaScript is the same on every
 * processor.
 */
const pure = driverless.filter(name => name !== 'attacks.test.mjs')
/** Suites that `--once` runs against the driver on x64, which is faster; the others on arm64. */
const onX64 = [
  'bad-input', 'compaction-trace', 'doctor', 'errors', 'estimate', 'fuzz', 'inspect', 'limits', 'memory-limits',
  'package', 'pools-bad-input', 'pressure', 'profiling', 'stats', 'walls',
].map((name) => `${name}.test.mjs`)
/** Long ones that Node has on arm64, and Bun on x64. */
const onceOnArm64 = ['attacks', 'compaction-trace', 'demo', 'fuzz', 'pools-bad-input'].map(name => `${name}.test.mjs`)
/** Suites that skip much unless the device is simulated. */
const needingSimulated = [
  'api', 'async', 'bad-input', 'errors', 'inbox', 'limits', 'memory-limits', 'pools', 'slabs', 'stats', 'walls',
].map((name) => `${name}.test.mjs`)
/** Suites that take emulation too long in one scenario, and in how many they are run (`inPiece` of ../helpers.mjs). */
const pieces = { 'attacks.test.mjs': 14, 'bad-input.test.mjs': 3, 'exits.test.mjs': 4 }
const withSuite = (board, except, runtime = 'node') => suite.filter(file => !except.includes(file)).flatMap(file => {
  const { [file]: count = 1 } = pieces
  return Array.from({ length: count }, (_, at) => ({
    ...board,
    name: `${board.name}-${file.replace('.test.mjs', '')}${count > 1 ? `-${at + 1}` : ''}`,
    about: `${board.about}: ${file}${count > 1 ? `, ${at + 1} of ${count}` : ''}`,
    ...(board.module ? { repeats: onX64.includes(file) ? 'arm64' : 'x64' } : {}),
    ...(board.name === 'bun' && onceOnArm64.includes(file) ? { repeats: 'arm64' } : {}),
    steps: [{ ...js(pathOf(file.replace('.test.mjs', ''))), runtime }],
    piece: `${at + 1}/${count}`,
  }))
})

/** Steps that run a program of this folder; the others are built by run.mjs. */
const smoke = flavour => ({ name: 'smoke', seconds: 30, run: ['/host/smoke', flavour] })
const sins = flavour => ({ name: 'sins', seconds: 15, run: ['/host/smoke', 'sins', flavour], sins: true })
const killed = flavour => ({ name: 'killed', seconds: 20, run: ['/host/smoke', 'hold', flavour], kill: true })
const conformance = (backend) => ({
  name: 'conformance',
  seconds: 110,
  needs: 'conformance',
  run: ['/host/conformance', '--require', '--backend', backend],
})
const script = (name, extra = {}) => ({
  name,
  seconds: 90,
  needs: 'addon',
  run: ['/bin/node', '--expose-gc', `/repo/__test__/kernel/guest/${name}.mjs`],
  ...extra,
})
const js = (...files) => ({ name: 'js', seconds: 110, needs: 'addon', js: files })

export const scenarios = [
  {
    name: 'rk3588',
    about: 'IOMMU with 16 domains, SRAM, driver 0.9.8',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
    steps: [
      smoke('gem'), sins('gem'), conformance('rknpu'), killed('gem'), script('hold', { kill: true }), script('worker'),
      script('overhead'),
    ],
  },
  {
    name: 'rk3566',
    about: 'no IOMMU, 64 MiB of CMA, memory that is not zeroed',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', soc: 'fde40000.npu', iommu: 0, cma_bytes: 64 * MiB, dirty: 1 },
    steps: [smoke('gem'), sins('gem'), conformance('rknpu'), killed('gem'), script('hold', { kill: true })],
  },
  {
    name: 'driver-0.8',
    about: 'MEM_CREATE of 40 bytes, no domains, addresses aligned to powers of two',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.8.3', sram_bytes: 393216 },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  {
    name: 'driver-0.7',
    about: 'MEM_CREATE of 32 bytes, no SRAM',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.7.2' },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  {
    name: 'narrow',
    about: 'a domain of 64 MiB that fills up; domain ids ignored, as in the mainline port',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', domain_bytes: 64 * MiB, domains: 0 },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  {
    name: 'heap',
    about: '/dev/rknpu: buffers are dma-buf fds',
    backend: 'rknpu-heap',
    module: { flavour: 'heap', version: '0.9.8', iommu: 0, cma_bytes: 64 * MiB },
    steps: [smoke('heap'), sins('heap'), conformance('rknpu-heap'), killed('heap'), script('hold', { kill: true })],
  },
  {
    name: 'dma-heap',
    about: "the stock kernel's /dev/dma_heap/system and udmabuf",
    arches: ['x64'],
    backend: 'dma-heap',
    module: null,
    steps: [conformance('dma-heap')],
  },
  {
    name: 'rocket',
    about: 'the mainline accel driver',
    arches: ['x64'],
    backend: 'rocket',
    module: { flavour: 'rocket' },
    steps: [smoke('rocket'), conformance('rocket'), killed('rocket')],
  },
  {
    name: 'permission',
    about: 'a user who may not open the node',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('permission', { user: 'nobody' })],
  },
  {
    name: 'slow-switch',
    about: 'another process takes the domain away; switches are slow, then time out',
    backend: 'rknpu',
    module: { flavour: 'gem', rival: 1, switch_ms: 1 },
    steps: [conformance('rknpu'), script('slow')],
  },
  {
    name: 'faults',
    about: 'every kind of call fails once, at every turn',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('faults')],
  },
  {
    name: 'pressure',
    about: 'a cgroup that is short of memory',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('pressure')],
  },
  ...withSuite(
    {
      name: 'js',
      about: 'IOMMU, 0.9.8',
      backend: 'rknpu',
      module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
    },
    ['demo.test.mjs', ...driverless],
  ), // the demo brings its own, simulated device
  // The rest of the suite on an arm64 Node: what the board above has to skip, and what asks nothing of it. Those that
  // take longest skip little there.
  ...withSuite(
    { name: 'js-simulated', about: 'no driver, arm64 Node', arches: ['arm64'], backend: 'simulated', module: null },
    suite.filter((file) => ![...needingSimulated, ...driverless, ...onX64, 'demo.test.mjs'].includes(file)),
  ),
  // User-mode emulation refuses an mprotect that Bun does for resizable ArrayBuffers, which are bad input too.
  ...withSuite(
    { name: 'bun', about: 'no driver, Bun', arches: ['arm64'], backend: 'simulated', module: null },
    ['bad-input.test.mjs', ...pure],
    'bun',
  ),
]
