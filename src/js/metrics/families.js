'use strict'

// The table of all metrics: names, help texts, and the figures behind them. The text formats and the adapters read this
// table, so that a figure has the same name and value everywhere.

const { counter, gauge, NO_LABELS, PREFIX, single } = require('./family.js')
const { profiling } = require('./profile-families.js')

/**
 * @typedef {import('../types/stats.js').PoolStats} PoolStats
 * @typedef {import('../types/stats.js').CounterStats} CounterStats
 * @typedef {import('./family.js').Figures} Figures
 * @typedef {import('./family.js').Samples} Samples
 * @typedef {import('./family.js').Family} Family
 */

// ── By kind: NPU memory and system memory have the same figures.

const KIND = ['kind']
/** @typedef {keyof CounterStats | 'limit' | 'total' | 'available'} KindField */
/** @type {(field: KindField) => Samples} */
const byKind =
  (field) =>
  ({ usage }) => [
    [usage.npu[field], 'npu'],
    [usage.system[field], 'system'],
  ]

const kinds = [
  gauge(
    'used_bytes',
    'bytes',
    'Bytes that allocations occupy: whole pages, and the chunks of named pools.',
    KIND,
    byKind('used'),
  ),
  gauge(
    'taken_bytes',
    'bytes',
    'Bytes that count against the limit: used, reserved, and requested right now.',
    KIND,
    byKind('taken'),
  ),
  gauge('peak_bytes', 'bytes', 'The most bytes used since the manager was made.', KIND, byKind('peak')),
  gauge('limit_bytes', 'bytes', 'The limit of setMemoryLimits; absent without one.', KIND, byKind('limit')),
  gauge(
    'capacity_bytes',
    'bytes',
    'Bytes that the NPU can address and the machine could provide; RAM of the machine.',
    KIND,
    byKind('total'),
  ),
  gauge('available_bytes', 'bytes', 'Bytes that could be allocated now.', KIND, byKind('available')),
  gauge('live_allocations', '', 'Live allocations.', KIND, byKind('liveAllocations')),
  counter('allocations_total', 'Allocations made.', KIND, byKind('totalAllocations')),
  counter('frees_total', 'Allocations that ended: deallocated, disposed or collected.', KIND, byKind('totalFrees')),
  counter(
    'failures_total',
    'Requests refused: allocations, slices of pools, pools and reservations.',
    KIND,
    byKind('failedAllocations'),
  ),
  single(
    'total_taken_bytes',
    'bytes',
    'Bytes that count against the limit of both kinds.',
    ({ usage }) => usage.total.taken,
  ),
  single('total_limit_bytes', 'bytes', 'The limit of both kinds together.', ({ usage }) => usage.total.limit),
  single('pinned_bytes', 'bytes', 'Bytes of pinned blocks.', ({ usage }) => usage.pinned.bytes),
  single(
    'pinned_dropped_bytes',
    'bytes',
    'Bytes of pinned blocks that JavaScript has dropped, those of ended managers of the process included.',
    ({ usage }) => usage.pinned.droppedBytes + usage.pinned.orphanedBytes,
  ),
]

// ── By pool.

const POOL = ['pool', 'kind']
/** @type {(figure: (pool: PoolStats) => number) => Samples} */
const byPool =
  (figure) =>
  ({ usage }) =>
    usage.pools.map((pool) => [figure(pool), pool.name, pool.kind])

const pools = [
  gauge(
    'pool_max_bytes',
    'bytes',
    'The most bytes that the chunks of a pool may have (maxSize).',
    POOL,
    byPool((pool) => pool.maxSize),
  ),
  gauge(
    'pool_reserved_bytes',
    'bytes',
    'Bytes of the chunks of a pool.',
    POOL,
    byPool((pool) => pool.reserved),
  ),
  gauge(
    'pool_allocated_bytes',
    'bytes',
    'Bytes that its slices occupy, padding included.',
    POOL,
    byPool((pool) => pool.allocated),
  ),
  gauge(
    'pool_requested_bytes',
    'bytes',
    'Bytes requested.',
    POOL,
    byPool((pool) => pool.requested),
  ),
  gauge(
    'pool_free_bytes',
    'bytes',
    'Bytes free in its chunks.',
    POOL,
    byPool((pool) => pool.free),
  ),
  gauge(
    'pool_waiting_bytes',
    'bytes',
    'Bytes of freed slices that wait before their bytes are used again.',
    POOL,
    byPool((pool) => pool.waiting),
  ),
  gauge(
    'pool_largest_free_bytes',
    'bytes',
    'The largest slice that fits into its chunks.',
    POOL,
    byPool((pool) => pool.largestFree),
  ),
  gauge(
    'pool_peak_allocated_bytes',
    'bytes',
    'The most bytes allocated.',
    POOL,
    byPool((pool) => pool.peakAllocated),
  ),
  gauge(
    'pool_fragmentation_ratio',
    'ratio',
    '1 - largest free / free; 0 for blocks of a fixed size.',
    POOL,
    byPool((pool) => pool.fragmentation),
  ),
  gauge(
    'pool_chunks',
    '',
    'Chunks of a pool.',
    POOL,
    byPool((pool) => pool.chunks),
  ),
  gauge(
    'pool_live_allocations',
    '',
    'Live slices.',
    POOL,
    byPool((pool) => pool.liveAllocations),
  ),
  counter(
    'pool_allocations_total',
    'Slices allocated.',
    POOL,
    byPool((pool) => pool.totalAllocations),
  ),
  counter(
    'pool_frees_total',
    'Slices freed.',
    POOL,
    byPool((pool) => pool.totalAllocations - pool.liveAllocations),
  ),
  counter(
    'pool_failures_total',
    'Slices refused.',
    POOL,
    byPool((pool) => pool.failedAllocations),
  ),
  counter(
    'pool_late_writes_total',
    'Slices written to after they were freed (debug.delayReuse).',
    POOL,
    byPool((pool) => pool.lateWrites),
  ),
  single(
    'fragmentation_ratio',
    'ratio',
    'Fragmentation of all pools, weighted by their free bytes.',
    ({ usage }) => usage.fragmentation,
  ),
]

// ── By tag.

const TAG = ['tag']
/** @type {(field: keyof CounterStats | 'limit') => Samples} */
const byTag =
  (field) =>
  ({ usage }) =>
    Object.entries(usage.tags).map(([tag, counters]) => [counters[field], tag])

const tags = [
  gauge('tag_used_bytes', 'bytes', 'Bytes in use under a tag, of either kind.', TAG, byTag('used')),
  gauge('tag_taken_bytes', 'bytes', 'Bytes that count against the limit of a tag.', TAG, byTag('taken')),
  gauge('tag_limit_bytes', 'bytes', 'The limit of a tag; absent without one.', TAG, byTag('limit')),
  gauge('tag_peak_bytes', 'bytes', 'The most bytes in use under a tag.', TAG, byTag('peak')),
  gauge('tag_live_allocations', '', 'Live allocations under a tag.', TAG, byTag('liveAllocations')),
  counter('tag_allocations_total', 'Allocations made under a tag.', TAG, byTag('totalAllocations')),
  counter('tag_frees_total', 'Allocations freed under a tag.', TAG, byTag('totalFrees')),
  counter('tag_failures_total', 'Requests refused under a tag.', TAG, byTag('failedAllocations')),
  gauge(
    'reserved_bytes',
    'bytes',
    'Bytes set aside by reserve(); the tag is empty without one.',
    ['tag', 'kind'],
    reservations,
  ),
]

/**
 * Sums the reservations of the same tag and kind.
 *
 * @type {Samples}
 */
function reservations({ usage }) {
  const sums = new Map()
  for (const { tag, kind, size } of usage.reservations) {
    const labels = JSON.stringify([tag ?? '', kind])
    sums.set(labels, (sums.get(labels) ?? 0) + size)
  }
  return [...sums].map(([labels, bytes]) => [bytes, ...JSON.parse(labels)])
}

// ── The device.

const DOMAIN = ['domain']
/** @type {(field: 'total' | 'used' | 'reservedForOthers') => Samples} */
const byDomain =
  (field) =>
  ({ usage }) =>
    usage.npu.domains.map((domain) => [domain[field], String(domain.id)])
const DEVICE = ['backend', 'simulated', 'path', 'soc', 'driver_version']

const device = [
  gauge('device_info', '', 'The opened device; always 1. Unknown labels are empty.', DEVICE, ({ device }) => [
    [1, device.backend, String(device.simulated), device.path ?? '', device.soc ?? '', device.driverVersion ?? ''],
  ]),
  gauge('domain_used_bytes', 'bytes', 'Bytes of an IOMMU domain that this process occupies.', DOMAIN, byDomain('used')),
  gauge('domain_capacity_bytes', 'bytes', 'Bytes that an IOMMU domain can address.', DOMAIN, byDomain('total')),
  gauge(
    'domain_reserved_bytes',
    'bytes',
    'Bytes of an IOMMU domain reserved for other allocators.',
    DOMAIN,
    byDomain('reservedForOthers'),
  ),
  single(
    'npu_objects',
    '',
    'Kernel objects behind NPU allocations, including empty ones that are kept.',
    ({ usage }) => usage.npu.objects,
  ),
  single(
    'npu_pending_free_bytes',
    'bytes',
    'Freed bytes that the driver has not yet taken back.',
    ({ usage }) => usage.npu.pendingFree,
  ),
  counter('npu_lost_objects_total', 'Kernel objects that the driver failed to take back.', NO_LABELS, ({ usage }) => [
    [usage.npu.lost.forGood],
  ]),
  single(
    'npu_mapped_freed_objects',
    '',
    'Freed kernel objects that the kernel could not unmap yet; they are tried again.',
    ({ usage }) => usage.npu.lost.objects - usage.npu.lost.forGood,
  ),
  single(
    'npu_lost_bytes',
    'bytes',
    'Bytes of lost kernel objects, and of those that could not be unmapped yet.',
    ({ usage }) => usage.npu.lost.bytes,
  ),
  single(
    'npu_process_mapped_bytes',
    'bytes',
    'Bytes of NPU buffers mapped in this process, by any library.',
    ({ usage }) => usage.npu.processMapped,
  ),
  single('slab_reserved_bytes', 'bytes', 'Bytes of slabs.', ({ usage }) => usage.npu.slabs.reserved),
  single(
    'slab_allocated_bytes',
    'bytes',
    'Bytes of slabs that live slices occupy.',
    ({ usage }) => usage.npu.slabs.allocated,
  ),
  single(
    'slab_waiting_bytes',
    'bytes',
    'Bytes of freed slab slices that wait before their bytes are used again.',
    ({ usage }) => usage.npu.slabs.waiting,
  ),
  counter('slab_late_writes_total', 'Slab slices written to after they were freed.', NO_LABELS, ({ usage }) => [
    [usage.npu.slabs.lateWrites],
  ]),
  single(
    'sram_capacity_bytes',
    'bytes',
    'On-chip SRAM that the driver can allocate.',
    ({ usage }) => usage.npu.sramTotal,
  ),
  single('sram_free_bytes', 'bytes', 'Free on-chip SRAM.', ({ usage }) => usage.npu.sramFree),
  single('cma_capacity_bytes', 'bytes', 'Size of the CMA area.', ({ usage }) => usage.npu.cmaTotal),
  single('cma_free_bytes', 'bytes', 'Free bytes of the CMA area.', ({ usage }) => usage.npu.cmaFree),
  gauge('npu_load_ratio', 'ratio', 'Load of an NPU core, if the kernel reports it.', ['core'], ({ usage }) =>
    (usage.npu.load ?? []).map((percent, core) => [percent / 100, String(core)]),
  ),
]

// ── The machine and the process.

const machine = [
  single('swap_capacity_bytes', 'bytes', 'Swap of the machine.', ({ usage }) => usage.system.swapTotal),
  single('swap_free_bytes', 'bytes', 'Free swap of the machine.', ({ usage }) => usage.system.swapFree),
  single(
    'cgroup_limit_bytes',
    'bytes',
    'The limit of the memory cgroup of this process that leaves the fewest bytes.',
    ({ usage }) => usage.system.cgroup?.limit,
  ),
  single(
    'cgroup_used_bytes',
    'bytes',
    'Bytes used by that cgroup, page cache included.',
    ({ usage }) => usage.system.cgroup?.current,
  ),
  gauge(
    'pressure_ratio',
    'ratio',
    'Share of the last 10 s in which some or all tasks waited for memory (PSI).',
    ['tasks'],
    ({ usage }) => {
      const { someAvg10 = NaN, fullAvg10 = NaN } = usage.system.pressure ?? {}
      return [
        [someAvg10 / 100, 'some'],
        [fullAvg10 / 100, 'full'],
      ]
    },
  ),
  single('process_resident_bytes', 'bytes', 'Resident set of this process.', ({ usage }) => usage.process.rss),
  single('process_heap_used_bytes', 'bytes', 'JavaScript heap in use.', ({ usage }) => usage.process.heapUsed),
  single(
    'process_external_bytes',
    'bytes',
    'Memory outside the JavaScript heap, as the runtime counts it.',
    ({ usage }) => usage.process.external,
  ),
  single('process_open_fds', '', 'Open file descriptors.', ({ usage }) => usage.process.openFds),
  single('process_max_fds', '', 'Limit of open file descriptors (RLIMIT_NOFILE).', ({ usage }) => usage.process.maxFds),
  single('process_maps', '', 'Memory mappings.', ({ usage }) => usage.process.maps),
  single('process_max_maps', '', 'Limit of memory mappings (vm.max_map_count).', ({ usage }) => usage.process.maxMaps),
]

// ── By model of a residency.

/** Not "model": that is a label of the program's own. */
const MODEL = ['model_name']
/** @type {(figure: (model: import('../types/residency.js').ModelStats) => number | null) => Samples} */
const byModel =
  (figure) =>
  ({ usage }) =>
    usage.models.map((model) => [figure(model), model.name])

const models = [
  gauge(
    'model_reserved_bytes',
    'bytes',
    'RAM that counts for a model now.',
    MODEL,
    byModel(({ bytes }) => bytes.reserved),
  ),
  gauge('model_measured_bytes', 'bytes', 'RAM that its last load took.', MODEL, byModel(({ bytes }) => bytes.measured)),
  gauge(
    'model_stuck_bytes',
    'bytes',
    'RAM that did not come back after its last unload.',
    MODEL,
    byModel(({ bytes }) => bytes.stuck),
  ),
  gauge('model_state', '', 'The state of a model; always 1.', ['model_name', 'state'], ({ usage }) =>
    usage.models.map(({ name, state }) => [1, name, state]),
  ),
  gauge('model_leases', '', 'Leases of a model.', MODEL, byModel(({ leases }) => leases)),
  gauge('model_waiting', '', 'Requests that wait for a model.', MODEL, byModel(({ waiting }) => waiting)),
  counter('model_loads_total', 'Loads of a model.', MODEL, byModel(({ loads }) => loads)),
  counter('model_evictions_total', 'Unloads of a model.', MODEL, byModel(({ evictions }) => evictions)),
  gauge(
    'model_load_seconds',
    'seconds',
    'Duration of its last load.',
    MODEL,
    byModel(({ loadMs }) => (loadMs === null ? null : loadMs / 1000)),
  ),
]

const families = [...kinds, ...pools, ...tags, ...models, ...device, ...machine, ...profiling]

/**
 * Returns the known samples of a family as `[value, label values]`.
 *
 * @param {Pick<Family, 'samples'>} family
 * @param {Figures} from
 * @returns {[value: any, labels: string[]][]} the value is a Distribution in a family of histograms, else a number
 */
function samplesOf({ samples }, from) {
  const known = (/** @type {unknown} */ value) => value !== null && value !== undefined && !Number.isNaN(value)
  return samples(from).flatMap(([value, ...labels]) => (known(value) ? [[value, labels]] : []))
}

module.exports = { PREFIX, families, samplesOf }
