'use strict'

// Explains why models do not fit, and which change would help.

const { formatBytes } = require('../core/format-bytes.js')
const { compareVersions } = require('../core/versions.js')
const { estimate } = require('./estimate.js')

/**
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('./plan.js').Demand} Demand
 * @typedef {import('./plan.js').Group} Group
 * @typedef {import('./plan.js').Place} Place
 */

/** The shortest context that is proposed, in tokens. */
const MIN_CONTEXT = 256

/** The backends whose version is rknpu's. */
const WITH_VERSIONS = ['rknpu', 'rknpu-heap', 'simulated']
/** The first rknpu whose other domains this package uses: earlier ones do not hold a domain during a call. */
const HOLDS_DOMAINS = [0, 9, 8]

/**
 * Whether the device's driver is too old for several domains. False if its version is unknown.
 *
 * @param {DeviceInfo} device
 */
function hasOneDomain({ backend, iommu, driverVersion }) {
  if (!WITH_VERSIONS.includes(backend) || !iommu || typeof driverVersion !== 'string') return false
  const parts = /^v?(\d+)\.(\d+)\.(\d+)/.exec(driverVersion)?.slice(1).map(Number)
  return parts !== undefined && compareVersions(parts, HOLDS_DOMAINS) < 0
}

/** @type {(members: Demand[]) => string} */
const namesOf = (members) => members.map(({ name }) => JSON.stringify(name)).join(' + ')

/**
 * Lists changes that save at least `over` bytes, the mildest first.
 *
 * @param {Demand[]} members
 * @param {number} over
 * @param {'ram' | 'domain'} what is short
 */
function remediesOf(members, over, what) {
  const remedies = []
  for (const { name, spec, figures } of members) {
    const { contextLength = 0 } = spec
    // The KV cache is in RAM, and takes no addresses of the NPU.
    const fewer = what === 'ram' ? contextThatSaves(spec, figures, over) : null
    if (fewer !== null) remedies.push(`a context of ${fewer} instead of ${contextLength} for ${JSON.stringify(name)}`)
    const eightBits =
      spec.config !== undefined &&
      spec.weightBytes === undefined &&
      spec.path === undefined &&
      spec.type !== 'vision' &&
      (spec.dtype ?? 'w8a8') === 'w8a8'
    if (eightBits) {
      const smaller = estimate({ ...spec, dtype: 'w4a16' })
      const saved = most(figures, what) - most(smaller, what)
      if (saved >= over)
        remedies.push(`4-bit weights (w4a16) for ${JSON.stringify(name)}, which save ${formatBytes(saved)}`)
    }
  }
  return remedies
}

/** @type {(figures: import('../types/models.js').ModelEstimate, what: 'ram' | 'domain') => number} */
const most = ({ full, uncertainty, domain }, what) =>
  what === 'ram' ? Math.ceil(full * (1 + uncertainty)) : domain.max

/**
 * Finds the longest context that saves `over` bytes of RAM; null if none of MIN_CONTEXT or more does.
 *
 * @param {Demand['spec']} spec
 * @param {Demand['figures']} figures
 * @param {number} over
 */
function contextThatSaves(spec, figures, over) {
  const { contextLength = 0 } = spec
  if (figures.kvCache === 0 || contextLength <= MIN_CONTEXT) return null
  const seen = {}
  const saves = (/** @type {number} */ length) =>
    most(figures, 'ram') - most(estimate({ ...spec, contextLength: length }, seen), 'ram') >= over
  if (!saves(MIN_CONTEXT)) return null
  let [low, high] = [MIN_CONTEXT, contextLength]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (saves(middle)) low = middle
    else high = middle
  }
  return low
}

/** @type {(remedies: string[], otherwise: string) => string} */
const adviceOf = (remedies, otherwise) =>
  remedies.length > 0 ? `it would fit with ${remedies.join(', or ')}` : otherwise

/**
 * Explains why the device has one domain, if its driver is the cause.
 *
 * @param {DeviceInfo} device
 */
const oneDomainOf = (device) =>
  hasOneDomain(device)
    ? [
        `rknpu ${device.driverVersion} has one usable domain, 0.9.8 and later have 16: a model above 4 GiB, or a ` +
          'second domain, needs the newer driver',
      ]
    : []

/**
 * @param {Group[]} groups
 * @param {Place[]} places
 * @param {DeviceInfo} device
 * @param {(place: Place) => number} roomOf
 */
function reasonOf(groups, places, device, roomOf) {
  const rooms = places.map(roomOf)
  const roomFor = (/** @type {Group} */ group) => (group.fixed ? rooms[0] : Math.max(...rooms))
  const largest = [...groups].sort((a, b) => b.bytes - roomFor(b) - (a.bytes - roomFor(a)))[0]
  const free = rooms.reduce((total, room) => total + room, 0)
  const where = device.iommu ? 'IOMMU domain' : 'CMA area'
  if (largest.bytes > roomFor(largest)) return `${tooLarge(largest, roomFor(largest), places, device, where)}.`
  const sum = groups.reduce((total, { bytes }) => total + bytes, 0)
  const needs =
    `together the models may need ${formatBytes(sum)} of NPU memory, and ` +
    `${places.length === 1 ? `the ${where} has` : `${places.length} domains have`} ${formatBytes(free)} free`
  const over = Math.max(1, sum - free)
  const members = groups.flatMap((group) => group.members)
  return (
    `${[`${needs}${sum <= free ? ', but in pieces that are too small' : ''}`, ...oneDomainOf(device)].join('; ')}; ` +
    `${adviceOf(remediesOf(members, over, 'domain'), 'load fewer models at once, or smaller ones')}.`
  )
}

/**
 * @param {Group} group
 * @param {number} room
 * @param {Place[]} places
 * @param {DeviceInfo} device
 * @param {string} where
 */
function tooLarge({ members, bytes, fixed }, room, places, device, where) {
  const empty = Math.max(...places.map(({ total }) => total ?? 0))
  const several = device.iommu && places.length > 1
  const free = fixed && several ? 'domain 0, where .rknn models go, has no' : `no ${where} has`
  const parts = [
    `${namesOf(members)} may need ${formatBytes(bytes)} of NPU memory, and ${free} more than ` +
      `${formatBytes(room)} free (of ${formatBytes(empty)})`,
  ]
  const apart = members.length > 1 && several ? ['apart, in domains of their own (leave group out)'] : []
  parts.push(...oneDomainOf(device))
  const remedies = [...apart, ...remediesOf(members, bytes - room, 'domain')]
  parts.push(adviceOf(remedies, 'use a smaller model, or free memory'))
  if (several && members.length === 1 && bytes > empty && !fixed)
    parts.push('spread: true lets the model continue in the following domains, as the runtime does with rknpu 0.9.8')
  return parts.join('; ')
}

module.exports = { adviceOf, hasOneDomain, reasonOf, remediesOf }
