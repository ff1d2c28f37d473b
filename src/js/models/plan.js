'use strict'

// Plans an IOMMU domain for each model, or explains why the models do not fit and which change would help.

const { formatBytes } = require('../core/format-bytes.js')
const { check, invalid, formatValue } = require('../core/options.js')
const { availableRam } = require('./available-ram.js')
const { estimate, isMeasured } = require('./estimate.js')
const schemas = require('./options.js')
const { pack } = require('./pack.js')
const { adviceOf, hasOneDomain, reasonOf, remediesOf } = require('./plan-reasons.js')
const { DOMAIN_WEIGHTS } = require('./terms.js')

/** The default RAM left to the rest of the machine. */
const KEEP_FREE = 256 * 2 ** 20
const GIB4 = 4 * 2 ** 30

/**
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('../types/models.js').DomainPlan} DomainPlan
 * @typedef {import('../types/models.js').ModelEstimate} ModelEstimate
 * @typedef {import('../types/models.js').ModelSpec} ModelSpec
 * @typedef {import('../types/stats.js').DomainStats} DomainStats
 */

/** @typedef {Omit<DomainStats, 'total'> & { total: number | null }} Place a domain; its total is null if unknown */

/**
 * @typedef {object} Demand
 * @property {string} name
 * @property {string | null} group
 * @property {ModelSpec} spec
 * @property {ModelEstimate} figures
 * @property {number} bytes of NPU memory
 * @property {number} ram
 */

/** @typedef {{ members: Demand[], bytes: number, fixed: boolean }} Group `fixed` groups have a .rknn model */

/**
 * @param {unknown} models
 * @param {string | null | undefined} soc of the device, for models that name none
 * @returns {Demand[]}
 */
function demandsOf(models, soc) {
  if (!Array.isArray(models)) throw invalid(`models must be an array of ModelSpec, not ${formatValue(models)}`)
  const names = new Set()
  return models.map((model, i) => {
    const { name, group, ...spec } = check(`models[${i}]`, model ?? null, schemas.plannedModel)
    if (name === undefined) throw invalid(`models[${i}] has no name`)
    if (names.has(name)) throw invalid(`two models are called ${JSON.stringify(name)}`, 'give each a name of its own')
    names.add(name)
    const figures = estimate(typeof soc === 'string' && isMeasured(soc) ? { soc, ...spec } : spec)
    // Plans with the upper ends of the bands; with the estimate itself half of the plans would fail.
    const ram = Math.ceil(figures.full * (1 + figures.uncertainty))
    return { name, group: group ?? null, spec, figures, bytes: figures.domain.max, ram }
  })
}

/**
 * Lists the IOMMU domains, or one area if the device has none.
 *
 * @param {DeviceInfo} device
 * @param {Partial<DomainStats>[] | undefined} domains
 * @returns {Place[]}
 */
function domainsOf(device, domains) {
  if (typeof device !== 'object' || device === null)
    throw invalid(`device must be a DeviceInfo, not ${formatValue(device)}`)
  const { iommu, iommuDomains, domainBytes } = device
  for (const [name, value] of Object.entries({ iommuDomains, domainBytes })) {
    if (!Number.isSafeInteger(value) || value < 0)
      throw invalid(`device.${name} must be a whole number, not ${formatValue(value)}`)
  }
  if (typeof iommu !== 'boolean') throw invalid(`device.iommu must be true or false, not ${formatValue(iommu)}`)
  const count = iommu && !hasOneDomain(device) ? Math.max(1, iommuDomains) : 1
  const total = domainBytes > 0 ? domainBytes : iommu ? GIB4 : null
  const all = Array.from({ length: count }, (_, id) => ({ id, total, used: 0, reservedForOthers: 0 }))
  for (const { id, total: own, used = 0, reservedForOthers = 0 } of domains ?? []) {
    if (id === undefined) throw invalid('an entry of domains has no id')
    if (all[id] === undefined) throw invalid(`domains names domain ${id}, and the device has ${count}`)
    all[id] = { id, total: own ?? all[id].total, used, reservedForOthers }
  }
  return all
}

/** @type {(place: Place) => number} Only RAM bounds a device that does not report its size. */
const roomOf = ({ total, used, reservedForOthers }) =>
  total === null ? Number.MAX_SAFE_INTEGER : Math.max(0, total - used - reservedForOthers)

/** @type {(domain: Place) => DomainStats} Converts to DomainStats, where 0 stands for an unknown size. */
const reported = (domain) => ({ ...domain, total: domain.total ?? 0 })

/**
 * Makes one item of the models of a group, such as a vision encoder and its language model.
 *
 * @param {Demand[]} demands
 * @returns {Group[]}
 */
function groupsOf(demands) {
  /** @type {Map<Demand | string, Demand[]>} */
  const groups = new Map()
  for (const demand of demands) {
    const key = demand.group === null ? demand : demand.group
    groups.set(key, [...(groups.get(key) ?? []), demand])
  }
  return [...groups.values()].map((members) => ({
    members,
    bytes: members.reduce((sum, { bytes }) => sum + bytes, 0),
    // The RKNN API has no base_domain_id for a model: it allocates in domain 0.
    fixed: members.some(({ figures }) => figures.architecture === 'rknn'),
  }))
}

/**
 * Spreads a model that no domain can hold over neighbouring ones, as the runtime does: it fills a domain up to
 * DOMAIN_WEIGHTS, whatever else is there, and continues in the next. Changes `places`.
 *
 * @param {Group} group
 * @param {Place[]} places
 */
function spreadOverDomains(group, places) {
  for (let first = 0; first < places.length; first++) {
    const pieces = []
    let rest = group.bytes
    for (let id = first; id < places.length && rest > 0; id++) {
      const bytes = Math.min(rest, DOMAIN_WEIGHTS, places[id].total ?? rest)
      if (bytes > roomOf(places[id])) break
      pieces.push({ id, bytes })
      rest -= bytes
    }
    if (rest > 0) continue
    for (const { id, bytes } of pieces) places[id].used += bytes
    return pieces.map(({ id, bytes }) => ({ model: group.members[0].name, domain: id, bytes }))
  }
  return null
}

/**
 * Returns why RAM does not suffice; null if it does.
 *
 * @param {Demand[]} demands
 * @param {number | null} ramAvailable
 * @param {number} keepFree
 */
function ramReason(demands, ramAvailable, keepFree) {
  const ram = demands.reduce((sum, demand) => sum + demand.ram, 0)
  if (ramAvailable === null || ram === 0 || ram + keepFree <= ramAvailable) return null
  const remedies = remediesOf(demands, ram + keepFree - ramAvailable, 'ram')
  const loaded = demands.reduce((sum, { figures }) => sum + figures.loaded, 0)
  return (
    `the models may need ${formatBytes(ram)} of RAM; ${formatBytes(ramAvailable)} is available, of which ` +
    `${formatBytes(keepFree)} stays free (full contexts; about ${formatBytes(loaded)} once loaded); ` +
    `${adviceOf(remedies, 'load fewer models at once, or smaller ones')}.`
  )
}

/**
 * Implements `planModels`.
 *
 * @param {Array<ModelSpec & { name: string, group?: string }>} models
 * @param {DeviceInfo} device
 * @param {import('../types/models.js').PlanOptions} [options]
 * @returns {DomainPlan}
 */
function planModels(models, device, options) {
  const { domains, ramAvailable, keepFree = KEEP_FREE, spread } = check('planModels', options, schemas.plan)
  const before = domainsOf(device, domains)
  const demands = demandsOf(models, device.soc)
  const estimates = Object.fromEntries(demands.map(({ name, figures }) => [name, figures]))
  const warnings = demands.flatMap(({ name, figures }) => figures.warnings.map((warning) => `${name}: ${warning}`))
  // A device without a node is no part of this machine, whose RAM says nothing about it.
  const ram = ramAvailable === undefined ? (device.path ? availableRam() : null) : ramAvailable
  /** @type {(reason: string) => DomainPlan} */
  const refuse = (reason) => ({
    fits: false,
    placements: [],
    domains: before.map(reported),
    ramAvailable: ram,
    reason,
    estimates,
    warnings,
  })
  const short = ramReason(demands, ram, keepFree)
  if (short !== null) return refuse(short)

  const places = before.map((place) => ({ ...place }))
  /** @type {DomainPlan['placements']} */
  const placements = []
  const groups = groupsOf(demands)
  const inDomain0 = groups.reduce((sum, { fixed, bytes }) => sum + (fixed ? bytes : 0), 0)
  const whole = []
  for (const group of groups) {
    const spreads = (spread ?? true) && device.iommu && places.length > 1 && group.members.length === 1 && !group.fixed
    const fitsOne = places.some((place) => group.bytes <= (place.total ?? Number.MAX_SAFE_INTEGER))
    if (!spreads || (fitsOne && group.members[0].figures.weights <= DOMAIN_WEIGHTS)) {
      whole.push(group)
      continue
    }
    places[0].used += inDomain0
    const pieces = spreadOverDomains(group, places)
    places[0].used -= inDomain0
    if (pieces === null) {
      if (!fitsOne) return refuse(reasonOf([group], places, device, roomOf))
      whole.push(group)
      continue
    }
    placements.push(...pieces)
    warnings.push(
      `${group.members[0].name}: exceeds what the runtime puts into a domain, and continues in those after domain ` +
        `${pieces[0].domain}; the vendor does not document which these are`,
    )
  }

  const bins = pack(
    whole.map(({ bytes }) => bytes),
    places.map(roomOf),
    whole.map(({ fixed }) => (fixed ? 0 : null)),
  )
  if (bins === null) return refuse(reasonOf(whole, places, device, roomOf))
  whole.forEach(({ members }, i) => {
    for (const { name, bytes } of members) {
      placements.push({ model: name, domain: bins[i], bytes })
      places[bins[i]].used += bytes
    }
  })
  const order = new Map(demands.map(({ name }, i) => [name, i]))
  const orderOf = (/** @type {string} */ name) => order.get(name) ?? 0
  placements.sort((a, b) => orderOf(a.model) - orderOf(b.model) || a.domain - b.domain)
  return {
    fits: true,
    placements,
    domains: places.map(reported),
    ramAvailable: ram,
    reason: null,
    estimates,
    warnings,
  }
}

module.exports = { planModels }
