// The scenarios of the emulated machine. A scenario is a board (module parameters) and a list of steps. One boot runs
// all the scenarios of its architecture one after the other, and loads the module afresh for each.
import { existsSync } from 'node:fs'
import { driverless, needingCompiler, pathOf, suites } from '../support/suites.mjs'

const MiB = 1 << 20

/** Suites that skip most tests on other devices than the simulated one. */
const needingSimulated = [
  'api',
  'async',
  'bad-input',
  'errors',
  'inbox',
  'limits',
  'memory-limits',
  'pools',
  'slabs',
  'stats',
]
/** Number of pieces of suites that exceed a scenario's limit under emulation (`inPiece` of helpers.mjs). */
const pieces = { attacks: 16, 'bad-input': 4, exits: 4, results: 6, understudy: 24 }

/** Makes one scenario for each suite on `board`. Every run has the suites of `always`; `--all` adds the others. */
const withSuites = (board, names, always, runtime = 'node') =>
  names.flatMap(name => {
    const count = pieces[name] ?? 1
    return Array.from({ length: count }, (_, at) => ({
      ...board,
      name: `${board.name}-${name}${count > 1 ? `-${at + 1}` : ''}`,
      about: `${board.about}: ${name}${count > 1 ? `, ${at + 1} of ${count}` : ''}`,
      always: always.includes(name) ? (board.arches ?? board.always ?? []) : [],
      steps: [{ ...js(pathOf(name)), runtime, compiled: builtByHost.includes(name) }],
      piece: `${at + 1}/${count}`,
    }))
  })

/** Steps that run a program of this folder; run.mjs builds the others. */
const smoke = flavour => ({ name: 'smoke', seconds: 30, run: ['/host/smoke', flavour], clears: true })
const misuse = flavour => ({ name: 'misuse', seconds: 15, run: ['/host/smoke', 'misuse', flavour], misuse: true })
const killed = flavour => ({ name: 'killed', seconds: 20, run: ['/host/smoke', 'hold', flavour], kill: true })
const conformance = backend => ({
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
/**
 * Prints what opening and pairs of allocations cost. A build of another commit in target/before (index.js, src/js,
 * package.json) is measured in turn.
 */
const costs = backend => ({
  name: 'costs',
  seconds: 110,
  needs: 'addon',
  run: [
    ...['/bin/node', '/repo/benchmark/device.mjs', '--backend', backend, '--rounds', '40'],
    ...(hasBefore ? ['--against', '/repo/target/before'] : []),
  ],
  prints: true,
})
const hasBefore = existsSync(new URL('../../target/before/index.js', import.meta.url))
const js = (...files) => ({ name: 'js', seconds: 110, needs: 'addon', js: files })

const all = [...suites.keys()]
/** The suites that need a compiler, but not where the host has built their libraries (`compiled` of a scenario). */
const builtByHost = ['layouts', 'residency-runtime', 'results', 'understudy', 'understudy-callbacks']
/** The suites that call a driver. */
const onDriver = all.filter(name => !driverless.includes(name))

export const scenarios = [
  {
    name: 'rk3588',
    always: ['x64', 'arm64'],
    about: 'IOMMU with 16 domains, SRAM, driver 0.9.8',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
    steps: [
      smoke('gem'),
      misuse('gem'),
      conformance('rknpu'),
      killed('gem'),
      script('hold', { kill: true }),
      script('worker'),
      script('overhead'),
    ],
  },
  {
    name: 'rk3566',
    always: ['x64', 'arm64'],
    about: 'no IOMMU, 64 MiB of CMA, memory that is not zeroed',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', soc: 'fde40000.npu', iommu: 0, cma_bytes: 64 * MiB, dirty: 1 },
    steps: [smoke('gem'), misuse('gem'), conformance('rknpu'), killed('gem'), script('hold', { kill: true })],
  },
  {
    name: 'driver-0.8',
    always: ['x64'],
    about: 'MEM_CREATE of 40 bytes, no domains, addresses aligned to powers of two',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.8.3', sram_bytes: 393216 },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  {
    name: 'driver-0.7',
    always: ['x64'],
    about: 'MEM_CREATE of 32 bytes, no SRAM',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.7.2' },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  // Below 0.9.8 the driver does not hold the domain of a call: nothing may switch it.
  {
    name: 'driver-0.9.6',
    always: ['x64'],
    about: 'a domain that is not held, addresses aligned to powers of two; another process allocates',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.6', sram_bytes: 966656, dirty: 1 },
    steps: [smoke('gem'), misuse('gem'), script('neighbour')],
  },
  {
    name: 'driver-0.9.6-conformance',
    always: [],
    about: 'a domain that is not held: conformance',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.6', sram_bytes: 966656, dirty: 1 },
    steps: [conformance('rknpu')],
  },
  {
    name: 'driver-0.9.7',
    always: [],
    about: 'a domain that is not held; another process allocates',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.7', sram_bytes: 966656, dirty: 1 },
    steps: [smoke('gem'), conformance('rknpu'), script('neighbour')],
  },
  {
    name: 'neighbour',
    always: ['x64'],
    about: '0.9.8: another process allocates while this one uses two domains',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
    steps: [script('neighbour')],
  },
  {
    name: 'job',
    always: ['x64'],
    about: 'a job holds domain 0 while devices are opened and probed',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8' },
    steps: [script('job')],
  },
  {
    name: 'costs',
    always: [],
    about: 'opening a device, and pairs of allocations; printed, not tested',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656 },
    steps: [costs('rknpu')],
  },
  {
    name: 'cma-full',
    always: ['x64'],
    about: 'no IOMMU, 256 MiB of CMA that fills up, ordinary pages behind it',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', soc: 'fde40000.npu', iommu: 0, cma_bytes: 256 * MiB },
    steps: [script('cma')],
  },
  {
    name: 'narrow',
    always: ['x64'],
    about: 'a domain of 64 MiB that fills up; domain ids ignored, as in the mainline port',
    backend: 'rknpu',
    module: { flavour: 'gem', version: '0.9.8', domain_bytes: 64 * MiB, domains: 0 },
    steps: [smoke('gem'), conformance('rknpu')],
  },
  {
    name: 'heap',
    always: ['x64', 'arm64'],
    about: '/dev/rknpu: buffers are dma-buf fds',
    backend: 'rknpu-heap',
    module: { flavour: 'heap', version: '0.9.8', iommu: 0, cma_bytes: 64 * MiB },
    steps: [smoke('heap'), misuse('heap'), conformance('rknpu-heap'), killed('heap'), script('hold', { kill: true })],
  },
  {
    name: 'heap-incoherent',
    always: ['x64'],
    about: '/dev/rknpu whose syncs clean or drop the lines of whole objects',
    backend: 'rknpu-heap',
    module: { flavour: 'heap', version: '0.9.8', iommu: 0, cma_bytes: 64 * MiB, incoherent: 1 },
    steps: [smoke('heap'), conformance('rknpu-heap'), script('incoherent')],
  },
  {
    name: 'dma-heap',
    always: ['x64'],
    about: "the stock kernel's /dev/dma_heap/system and udmabuf",
    arches: ['x64'],
    backend: 'dma-heap',
    module: null,
    steps: [conformance('dma-heap')],
  },
  {
    name: 'rocket',
    always: ['x64'],
    about: 'the mainline accel driver',
    arches: ['x64'],
    backend: 'rocket',
    module: { flavour: 'rocket' },
    steps: [smoke('rocket'), conformance('rocket'), killed('rocket')],
  },
  {
    name: 'permission',
    always: ['x64'],
    about: 'a user who may not open the node',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('permission', { user: 'nobody' })],
  },
  {
    name: 'slow-switch',
    always: ['x64'],
    about: 'another process takes the domain away; switches are slow, then time out',
    backend: 'rknpu',
    module: { flavour: 'gem', rival: 1, switch_ms: 1 },
    steps: [conformance('rknpu'), script('slow')],
  },
  {
    name: 'faults',
    always: ['arm64'],
    about: 'every kind of call fails once, at every turn',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('faults')],
  },
  {
    name: 'pressure',
    always: ['x64'],
    about: 'a cgroup that is short of memory',
    backend: 'rknpu',
    module: { flavour: 'gem' },
    steps: [script('pressure')],
  },
  // Every run has each suite with the driver once, on x64, where emulation is faster.
  ...withSuites(
    {
      name: 'js',
      about: 'IOMMU, 0.9.8',
      backend: 'rknpu',
      module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
      always: ['x64'],
    },
    onDriver,
    onDriver,
  ),
  ...withSuites(
    {
      name: 'js-0.9.6',
      about: 'IOMMU with a domain that is not held, 0.9.6',
      backend: 'rknpu',
      module: { flavour: 'gem', version: '0.9.6', sram_bytes: 966656, dirty: 1 },
    },
    onDriver,
    [],
  ),
  // The understudy of librkllmrt takes its memory from the driver. The host builds it. koffi has no arm64 build here.
  ...withSuites(
    {
      name: 'runtime',
      about: 'IOMMU, 0.9.8',
      arches: ['x64'],
      backend: 'rknpu',
      module: { flavour: 'gem', version: '0.9.8', sram_bytes: 966656, dirty: 1 },
    },
    builtByHost,
    ['understudy-callbacks'],
  ),
  // Without an IOMMU memory is contiguous, there are no domains, and CMA runs out: every run has the suites that depend
  // on it.
  ...withSuites(
    {
      name: 'cma',
      about: 'no IOMMU, 256 MiB of CMA',
      backend: 'rknpu',
      module: { flavour: 'gem', version: '0.9.8', soc: 'fde40000.npu', iommu: 0, cma_bytes: 256 * MiB, dirty: 1 },
      always: ['x64'],
    },
    onDriver,
    ['api', 'compaction', 'fuzz', 'memory-limits', 'pool-blocks', 'pool-ends', 'pools', 'slabs'],
  ),
  // Caches that a kernel maintains for whole objects: the suites whose slices share objects.
  ...withSuites(
    {
      name: 'incoherent',
      about: '/dev/rknpu with caches that are not coherent',
      backend: 'rknpu-heap',
      module: { flavour: 'heap', version: '0.9.8', iommu: 0, cma_bytes: 256 * MiB, incoherent: 1 },
    },
    ['api', 'compaction', 'fuzz', 'pool-blocks', 'pool-ends', 'pools', 'slabs'],
    [],
  ),
  // The engines on arm64: the code of their ArrayBuffers, threads and exits differs there.
  ...withSuites(
    { name: 'js-simulated', about: 'no driver, arm64 Node', arches: ['arm64'], backend: 'simulated', module: null },
    all.filter(name => ![...needingSimulated, ...needingCompiler, 'layers'].includes(name)),
    ['attacks', 'exits', 'lifetime'],
  ),
  // User-mode emulation refuses an mprotect that Bun needs for resizable ArrayBuffers, which `bad-input` uses.
  ...withSuites(
    { name: 'bun', about: 'no driver, Bun', arches: ['arm64'], backend: 'simulated', module: null },
    all.filter(name => !['layers', 'bad-input'].includes(name)),
    ['lifetime', 'understudy-callbacks'],
    'bun',
  ),
]
