'use strict'

// `rkllm-memory plan MODEL…`: plans an IOMMU domain for each model.

const { hasOneDomain } = require('../models/plan-reasons.js')
const { UsageError, oneOf, parseSize } = require('./args.js')
const { RUN, parseModel, printWarnings, specOf } = require('./models.js')
const { bar, bytes, columns, wrap } = require('./style.js')

const BOARDS = ['rk3588', 'rk3588s', 'rk3576', 'rk3562', 'rk3566', 'rk3568']
const BAR = 24

/** @type {import('./args.js').Command} */
const command = {
  name: 'plan',
  summary: 'plans an IOMMU domain for each model, if they fit together',
  words: 'MODEL[:NAME][@CONTEXT]…',
  options: {
    ...RUN,
    config: {
      type: 'string',
      value: '[NAME=]FILE',
      text: 'the config.json of the models, or of the one called NAME; may be repeated',
      multiple: true,
    },
    soc: {
      type: 'string',
      value: 'SOC',
      text: `plan for this SoC instead of this machine: ${BOARDS.join(', ')}`,
      parse: oneOf(...BOARDS),
    },
    driver: {
      type: 'string',
      value: 'VERSION',
      text: 'plan for this version of rknpu: below 0.9.8 there is one domain',
      parse: (name, word) => {
        if (/^\d+\.\d+\.\d+$/.test(word)) return word
        throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be a version`, 'as 0.9.8')
      },
    },
    ram: {
      type: 'string',
      value: 'SIZE',
      text: 'RAM that the models may take, or none; default: what is available here, without --soc',
      parse: (name, word) => (word === 'none' ? { size: null } : { size: parseSize(name, word) }),
    },
    'keep-free': { type: 'string', value: 'SIZE', text: 'RAM to leave to others; default 256MiB', parse: parseSize },
    spread: { type: 'boolean', text: 'models above 4 GiB continue in the next domains; the default' },
    'no-spread': { type: 'boolean', text: 'models above 4 GiB do not fit' },
    json: { type: 'boolean', text: 'as JSON' },
  },
  notes: [
    'MODEL is a .rkllm, .rknn or .gguf file.',
    'Set RKLLMExtendParam.base_domain_id to the domain. Exit status 1 if the models do not fit.',
  ],
  examples: [
    'rkllm-memory plan --soc rk3588 qwen.rkllm:chat@8192 vision.rknn',
    'rkllm-memory plan --soc rk3588 qwen.rkllm --config config.json',
    'rkllm-memory plan --soc rk3588 --ram 8GiB --dtype w8a8 qwen.rkllm',
  ],
  run({ values, words, paint, print, json, width, STATUS }) {
    if (words.length === 0) throw new UsageError('MODEL is missing')
    const models = modelsOf(words, values)
    const memory = require('../../../index.js')
    const found = deviceOf(memory, values.soc)
    const device = values.driver === undefined ? found : withDriver(found, values.driver)
    const plan = memory.planModels(models, device, optionsOf(values))
    if (values.json) json({ device, ...plan })
    else show(plan, device, { paint, print, width })
    return plan.fits ? STATUS.ok : STATUS.finding
  },
}

/**
 * Makes the specs of the models: the options hold for all, and a configuration with a name for one.
 *
 * @param {string[]} words
 * @param {Record<string, any>} values
 */
function modelsOf(words, { config: configs = [], soc: _board, ...values }) {
  const shared = specOf(values)
  const models = words.map((word) => ({ ...shared, ...parseModel(word) }))
  const byName = new Map()
  for (const each of configs) {
    const [, name, path] = /^([^=/]+)=(.+)$/.exec(each) ?? [undefined, null, each]
    if (name !== null && !models.some((model) => model.name === name)) {
      const names = models.map((model) => model.name).join(', ')
      throw new UsageError(`--config names ${JSON.stringify(name)}, and no model is called so`, `models: ${names}`)
    }
    if (byName.has(name)) throw new UsageError('--config is given twice for the same models')
    byName.set(name, path)
  }
  return models.map((model) => {
    const config = byName.get(model.name) ?? (/\.rknn$/i.test(model.path) ? undefined : byName.get(null))
    return config === undefined ? model : { ...model, config }
  })
}

/**
 * @param {DeviceInfo} device
 * @param {string} driverVersion
 * @returns {DeviceInfo}
 */
function withDriver(device, driverVersion) {
  const other = { ...device, driverVersion }
  return hasOneDomain(other) ? { ...other, iommuDomains: 1 } : other
}

/** @param {Record<string, any>} values */
function optionsOf(values) {
  if (values.spread && values['no-spread']) throw new UsageError('--spread and --no-spread exclude each other')
  return {
    ...(values.ram === undefined ? {} : { ramAvailable: values.ram.size }),
    ...(values['keep-free'] === undefined ? {} : { keepFree: values['keep-free'] }),
    ...(values.spread ? { spread: true } : values['no-spread'] ? { spread: false } : {}),
  }
}

/**
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('../types/models.js').DomainPlan} DomainPlan
 */

/**
 * Returns the device to plan for: the named SoC, or the best NPU of this machine.
 *
 * @param {Pick<typeof import('../../../index.js'), 'MemoryManager' | 'probeDevices'>} library
 * @param {string | undefined} soc
 * @returns {DeviceInfo}
 */
function deviceOf({ MemoryManager, probeDevices }, soc) {
  if (soc === undefined) {
    for (const device of probeDevices()) {
      if (!('error' in device) && !['dma-heap', 'simulated'].includes(device.backend)) return device
    }
    throw new UsageError('this machine has no NPU to plan for', `name a SoC: --soc ${BOARDS[0]}`)
  }
  const manager = new MemoryManager({ backend: 'simulated', simulated: { soc } })
  const { device } = manager
  manager.dispose()
  return device
}

/**
 * @param {DomainPlan} plan
 * @param {DeviceInfo} device
 * @param {Pick<import('./args.js').Context, 'paint' | 'print' | 'width'>} context
 */
function show(plan, device, { paint, print, width }) {
  const { fits, placements, domains, reason, warnings } = plan
  const verdict = fits ? paint.green('They fit') : paint.red('They do not fit')
  print(
    `${paint.bold(verdict)} on ${device.soc ?? device.backend}, ${device.iommuDomains} domain(s) of ` +
      `${bytes(device.domainBytes)}`,
  )
  if (reason) print(`\n${wrap(reason, width).join('\n')}`)
  if (placements.length > 0) {
    const rows = placements.map(({ model, domain, bytes: taken }) => [`  ${model}`, String(domain), bytes(taken)])
    print('')
    columns([['  MODEL', 'DOMAIN', 'MEMORY'], ...rows]).forEach((row, at) => print(at === 0 ? paint.dim(row) : row))
  }
  const used = domains.filter((domain) => domain.used + domain.reservedForOthers > 0)
  if (used.length > 0) print('')
  for (const { id, total, used: own, reservedForOthers } of used) {
    const share = (own + reservedForOthers) / total
    print(`  domain ${String(id).padEnd(2)} ${bar(share, BAR)} ${bytes(own + reservedForOthers)} of ${bytes(total)}`)
  }
  if (fits && plan.ramAvailable === null) print('\n  RAM was not looked at: --ram SIZE')
  printWarnings(warnings, { paint, print, width })
}

module.exports = command
