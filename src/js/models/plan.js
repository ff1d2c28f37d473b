'use strict'

// Plans an IOMMU domain for each model, or explains why the models do not fit and which change would help.

const { formatBytes } = require('../core/format-bytes.js')
const { check, invalid, formatValue } = require('../core/options.js')
const { estimate } = require('./estimate.js')
const schemas = require('./options.js')
const { pack } = require('./pack.js')

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

/** @typedef {{ members: Demand[], bytes: number }} Group */

/**
 * @param {unknown} models
 * @returns {Demand[]}
 */
function demandsOf(models) {
  if (!Array.isArray(models)) throw invalid(`models must be an array of ModelSpec, not ${formatValue(models)}`)
  const names = new Set()
  return models.map((model, i) => {
    const { name, group, ...spec } = check(`models[${i}]`, model ?? null, schemas.plannedModel)
    if (name === undefined) throw invalid(`models[${i}] has no name`)
    if (names.has(name)) throw invalid(`two models are called ${JSON.stringify(name)}`, 'give each a name of its own')
    names.add(name)
    const figures = estimate(spec)
    // Plans with the upper end of the band; with the estimate itself half of the plans would fail.
    const margin = 1 + figures.uncertainty
    return {
      name,
      group: group ?? null,
      spec,
      figures,
      bytes: Math.ceil(figures.npuTotal * margin),
      ram: Math.ceil(figures.total * margin),
    }
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
  const count = iommu ? Math.max(1, iommuDomains) : 1
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
  return [...groups.values()].map((members) => ({ members, bytes: members.reduce((sum, { bytes }) => sum + bytes, 0) }))
}

/** @type {(members: Demand[]) => string} */
const namesOf = (members) => members.map(({ name }) => JSON.stringify(name)).join(' + ')

/**
 * Lists changes that save at least `over` bytes, the mildest first.
 *
 * @param {Demand[]} members
 * @param {number} over
 */
function remediesOf(members, over) {
  const remedies = []
  for (const { name, spec, figures } of members) {
    const margin = 1 + figures.uncertainty
    const { contextLength = 0 } = spec
    const perToken = contextLength > 0 ? (figures.kvCache * margin) / contextLength : 0
    const fewer = perToken > 0 ? Math.floor(contextLength - over / perToken) : 0
    if (fewer >= 256) remedies.push(`a context of ${fewer} instead of ${contextLength} for ${JSON.stringify(name)}`)
    const eightBits =
      spec.config !== undefined &&
      spec.weightBytes === undefined &&
      spec.path === undefined &&
      (spec.dtype ?? 'w8a8') === 'w8a8'
    if (eightBits) {
      const saved = (figures.npuTotal - estimate({ ...spec, dtype: 'w4a16' }).npuTotal) * margin
      if (saved >= over)
        remedies.push(`4-bit weights (w4a16) for ${JSON.stringify(name)}, which save ${formatBytes(saved)}`)
    }
  }
  return remedies
}

/** @type {(remedies: string[], otherwise: string) => string} */
const adviceOf = (remedies, otherwise) =>
  remedies.length > 0 ? `it would fit with ${remedies.join(', or ')}` : otherwise

/** The first rknpu whose other domains this package uses: earlier ones do not hold a domain during a call. */
const HOLDS_DOMAINS = [0, 9, 8]

/**
 * Explains why the device has one domain, if its driver is the cause.
 *
 * @param {DeviceInfo} device
 */
function oneDomainOf({ backend, iommu, iommuDomains, driverVersion }) {
  if (backend !== 'rknpu' || !iommu || iommuDomains > 1 || typeof driverVersion !== 'string') return []
  const parts = driverVersion.split('.').map(Number)
  const differs = HOLDS_DOMAINS.findIndex((part, at) => part !== (parts[at] ?? 0))
  if (differs === -1 || (parts[differs] ?? 0) > HOLDS_DOMAINS[differs]) return []
  return [`rknpu ${driverVersion} has one usable domain, 0.9.8 and later have 16`]
}

/**
 * @param {Group[]} groups
 * @param {Place[]} places
 * @param {DeviceInfo} device
 */
function reasonOf(groups, places, device) {
  const largest = [...groups].sort((a, b) => b.bytes - a.bytes)[0]
  const rooms = places.map(roomOf)
  const most = Math.max(...rooms)
  const where = device.iommu ? 'IOMMU domain' : 'CMA area'
  const sentence = (/** @type {string} */ text) => `${text}.`
  if (largest.bytes > most) {
    const empty = Math.max(...places.map(({ total }) => total ?? 0))
    const over = largest.bytes - most
    const parts = [
      `${namesOf(largest.members)} may need ${formatBytes(largest.bytes)} of NPU memory, and no ${where} has more ` +
        `than ${formatBytes(most)} free (of ${formatBytes(empty)})`,
    ]
    const apart =
      largest.members.length > 1 && device.iommu && places.length > 1
        ? ['apart, in domains of their own (leave group out)']
        : []
    parts.push(...oneDomainOf(device))
    parts.push(adviceOf([...apart, ...remediesOf(largest.members, over)], 'use a smaller model, or free memory'))
    if (device.iommu && places.length > 1 && largest.members.length === 1 && largest.bytes > empty) {
      parts.push(
        'the vendor documents base_domain_id as the first domain of a model, and measured models above 4 GiB with ' +
          'runtime 1.3.0: spread: true plans with the following domains',
      )
    }
    return sentence(parts.join('; '))
  }
  const sum = groups.reduce((total, { bytes }) => total + bytes, 0)
  const free = rooms.reduce((total, room) => total + room, 0)
  const needs =
    `together the models may need ${formatBytes(sum)} of NPU memory, and ` +
    `${places.length === 1 ? `the ${where} has` : `${places.length} domains have`} ${formatBytes(free)} free`
  const over = Math.max(1, sum - free)
  const members = groups.flatMap((group) => group.members)
  return sentence(
    `${[`${needs}${sum <= free ? ', but in pieces that are too small' : ''}`, ...oneDomainOf(device)].join('; ')}; ` +
      `${adviceOf(remediesOf(members, over), 'load fewer models at once, or smaller ones')}`,
  )
}

/**
 * Spreads a model that no domain can hold over neighbouring ones. Changes `places`.
 *
 * @param {Group} group
 * @param {Place[]} places
 */
function spreadOverDomains(group, places) {
  for (let first = 0; first < places.length; first++) {
    const pieces = []
    let rest = group.bytes
    for (let id = first; id < places.length && rest > 0; id++) {
      const bytes = Math.min(rest, roomOf(places[id]))
      if (bytes === 0) break
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
 * Implements `planModels`.
 *
 * @param {Array<ModelSpec & { name: string, group?: string }>} models
 * @param {DeviceInfo} device
 * @param {import('../types/models.js').PlanOptions} [options]
 * @returns {DomainPlan}
 */
function planModels(models, device, options) {
  const { domains, ramAvailable, keepFree = KEEP_FREE, spread = false } = check('planModels', options, schemas.plan)
  const demands = demandsOf(models)
  const before = domainsOf(device, domains)
  const estimates = Object.fromEntries(demands.map(({ name, figures }) => [name, figures]))
  const warnings = demands.flatMap(({ name, figures }) => figures.warnings.map((warning) => `${name}: ${warning}`))
  /** @type {(reason: string) => DomainPlan} */
  const refuse = (reason) => ({
    fits: false,
    placements: [],
    domains: before.map(reported),
    reason,
    estimates,
    warnings,
  })

  const ram = demands.reduce((sum, demand) => sum + demand.ram, 0)
  if (ramAvailable !== undefined && ram > 0 && ram + keepFree > ramAvailable) {
    const over = ram + keepFree - ramAvailable
    return refuse(
      `the models may need ${formatBytes(ram)} of RAM; ${formatBytes(ramAvailable)} is available, of which ` +
        `${formatBytes(keepFree)} stays free; ` +
        `${adviceOf(remediesOf(demands, over), 'load fewer models at once, or smaller ones')}.`,
    )
  }

  const places = before.map((place) => ({ ...place }))
  /** @type {DomainPlan['placements']} */
  const placements = []
  const groups = groupsOf(demands)
  const whole = []
  for (const group of groups) {
    const alone = places.some((place) => group.bytes <= (place.total ?? Number.MAX_SAFE_INTEGER))
    if (alone || !spread || !device.iommu || group.members.length > 1) {
      whole.push(group)
      continue
    }
    const pieces = spreadOverDomains(group, places)
    if (pieces === null) return refuse(reasonOf([group], places, device))
    placements.push(...pieces)
    warnings.push(
      `${group.members[0].name}: spread over domains from ${pieces[0].domain} on; the vendor does not document ` +
        'which domains follow base_domain_id',
    )
  }

  const bins = pack(
    whole.map(({ bytes }) => bytes),
    places.map(roomOf),
  )
  if (bins === null) return refuse(reasonOf(whole, places, device))
  whole.forEach(({ members }, i) => {
    for (const { name, bytes } of members) {
      placements.push({ model: name, domain: bins[i], bytes })
      places[bins[i]].used += bytes
    }
  })
  const order = new Map(demands.map(({ name }, i) => [name, i]))
  const orderOf = (/** @type {string} */ name) => order.get(name) ?? 0
  placements.sort((a, b) => orderOf(a.model) - orderOf(b.model) || a.domain - b.domain)
  return { fits: true, placements, domains: places.map(reported), reason: null, estimates, warnings }
}

module.exports = { planModels }
