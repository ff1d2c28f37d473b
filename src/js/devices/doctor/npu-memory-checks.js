'use strict'

// Checks of the NPU's memory: the IOMMU, CMA, DMA heaps, SRAM, and its load.

const { formatBytes } = require('../../core/format-bytes.js')
const { compareVersions, versionOf } = require('../../core/versions.js')
const { GUIDE, OLDER_RUNTIMES } = require('./driver-checks.js')
const { fail, kernelArgument, ok, warn } = require('./findings.js')
const { mayOpen, permission } = require('./node-checks.js')
const { OTHER_DRIVERS, WITH_IOMMU } = require('./socs.js')

const MiB = 2 ** 20
/** The CMA sizes that are advised, and those that serve small models and none. */
const CMA = { wanted: 512 * MiB, enough: 256 * MiB, small: 64 * MiB, free: 16 * MiB }

/**
 * @typedef {import('./examine.js').Facts} Facts
 * @typedef {import('./findings.js').Finding} Finding
 * @typedef {import('./findings.js').Result} Result
 */

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function iommu({ npus, soc, tree, driver: { name, version } }) {
  const driven = npus.filter(({ driver: of }) => of !== undefined)
  if (driven.length === 0 || OTHER_DRIVERS.has(name ?? '')) return []
  if (driven.some((npu) => npu.iommu)) {
    if (name === 'rocket') return ok('iommu', 'on: every open file has 4 GiB of NPU addresses of its own')
    const parts = version === undefined ? undefined : versionOf(version)
    if (parts === undefined) return ok('iommu', 'on: 4 GiB of NPU addresses in each domain')
    if (compareVersions(parts, GUIDE) >= 0) return ok('iommu', 'on: up to 16 domains of 4 GiB of NPU addresses')
    const why =
      compareVersions(parts, OLDER_RUNTIMES) < 0
        ? 'supports no others'
        : 'does not hold a domain during a call, so this package uses no others'
    return warn(
      'iommu',
      'one-domain',
      `on, with one domain of 4 GiB: rknpu ${version} ${why}. Models of more than 4 GiB fail whichever ` +
        'base_domain_id they get (errno 14, "Bad address"), and buffers of more than 2 GiB too',
      'rknpu 0.9.8 and later have 16 domains: with them large models, and several, fit. Update the kernel, or use ' +
        '4-bit weights',
    )
  }
  const off = tree.filter((node) => node.iommu && !node.enabled).map((node) => node.name)
  const node = off.length > 0 ? `${off.join(', ')} (disabled)` : 'the rknpu_mmu node'
  const remedy = `enable ${node} in the device tree (the vendor kernel does), or make the CMA area larger: cma=512M`
  if (soc !== undefined && WITH_IOMMU.includes(soc)) {
    const message = `off on ${soc}, which has one: NPU memory must be contiguous, from the CMA area`
    return warn('iommu', 'iommu-off', message, remedy)
  }
  return ok('iommu', 'off: NPU memory is contiguous, from the CMA area')
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function cma(facts) {
  const { memory, npus, nodes: all, container } = facts
  if (memory === undefined || (all.length === 0 && npus.length === 0)) return []
  const { cmaTotal, cmaFree = NaN } = memory
  const driven = npus.some(({ driver }) => driver !== undefined) || all.length > 0
  if (!driven) return []
  const needed =
    all.some(({ backend }) => backend === 'rknpu-heap') || (npus.length > 0 && npus.every((npu) => !npu.iommu))
  const advised = advisedCma(memory)
  const where = container === undefined ? '' : 'on the host: '
  const enlarge = where + kernelArgument(`${cmaArgument(facts)}=${advised / MiB}M`)
  if (cmaTotal === undefined || cmaTotal === 0) {
    if (!needed) return ok('cma', 'none, and none needed with an IOMMU')
    return fail(
      'cma',
      'cma-missing',
      'there is no CMA area, and without an IOMMU all NPU memory comes from it',
      enlarge,
    )
  }
  const figures = `${formatBytes(cmaFree)} of ${formatBytes(cmaTotal)} free`
  if (!needed) return ok('cma', `${figures}; not needed with an IOMMU`)
  const larger =
    advised > cmaTotal ? enlarge : 'no larger area fits into this RAM: use smaller models and fewer buffers'
  if (cmaTotal < CMA.small && advised >= CMA.small && cmaFree > cmaTotal / 2) {
    return fail('cma', 'cma-too-small', `too small: ${figures}`, enlarge)
  }
  if (cmaFree < Math.min(CMA.free, cmaTotal / 4)) {
    return fail(
      'cma',
      'cma-used-up',
      `used up: ${figures}`,
      'stop what holds it (sudo cat /sys/kernel/debug/dma_buf/bufinfo)' +
        (advised > cmaTotal ? `, or make it larger: ${enlarge}` : `; ${larger}`),
    )
  }
  if (cmaTotal < CMA.enough) return warn('cma', 'cma-small', `${figures}: enough for small models only`, larger)
  return ok('cma', figures)
}

/**
 * The CMA area for a board of that RAM: at most half of it, in steps.
 *
 * @param {NonNullable<Facts['memory']>} memory
 */
function advisedCma({ total = Infinity }) {
  const half = total / 2
  const step = [CMA.wanted, CMA.enough, CMA.enough / 2].find((size) => size <= half)
  return step ?? Math.max(4 * MiB, Math.floor(half / (2 * MiB)) * 2 * MiB)
}

/**
 * The argument that sets the size of the area: the heap of the driver's DMA-heap flavour has one of its own.
 *
 * @param {Facts} facts
 */
const cmaArgument = ({ nodes: all, commandLine = [] }) =>
  all.some(({ backend }) => backend === 'rknpu-heap') || commandLine.some((word) => word.startsWith('rk_dma_heap_cma='))
    ? 'rk_dma_heap_cma'
    : 'cma'

/**
 * Checks the heaps from which MPP, RGA and backend 'dma-heap' allocate.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function heaps(facts) {
  const { heaps: all = [], user, npus } = facts
  if (all.length === 0)
    return npus.length === 0 ? [] : ok('heaps', 'no DMA-BUF heaps; MPP and RGA may need them, this package does not')
  const names = all.map(({ path }) => path.split('/').at(-1)).join(', ')
  const closed = all.filter((heap) => !mayOpen(heap, user))
  if (closed.length === 0) return ok('heaps', `${names}: all may be opened`)
  const which =
    closed.length === all.length
      ? `${names}: none may be opened`
      : `${names}: not ${closed.map(({ path }) => path.split('/').at(-1)).join(', ')}`
  const { reason, remedy } = permission(closed[0], facts)
  return warn('heaps', reason ?? 'permission', which, remedy)
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function sram({ sram: found, npus }) {
  if (npus.length === 0 || found === undefined) return []
  return ok(
    'sram',
    found.total === 0
      ? 'none is assigned to the NPU'
      : `${formatBytes(found.free)} of ${formatBytes(found.total)} free`,
  )
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function load({ load: cores, npus }) {
  if (npus.every(({ driver }) => driver === undefined || OTHER_DRIVERS.has(driver.toLowerCase()))) return []
  if (cores === undefined) return ok('load', "not readable by this user (/sys/kernel/debug is root's)")
  return ok('load', cores.map((share, core) => `core ${core}: ${share} %`).join(', '))
}

module.exports = { checks: [iommu, cma, sram, heaps, load] }
