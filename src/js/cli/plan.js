'use strict'

// `rkllm-memory plan MODEL…`: plans an IOMMU domain for each model.

const { UsageError, oneOf } = require('./args.js')
const { DEFAULT_CONTEXT, SHAPE, parseModel } = require('./models.js')
const { bar, bytes, columns, wrap } = require('./style.js')

const BOARDS = ['rk3588', 'rk3588s', 'rk3576', 'rk3562', 'rk3566', 'rk3568']
const BAR = 24

/** @type {import('./args.js').Command} */
const command = {
  name: 'plan',
  summary: 'plans an IOMMU domain for each model, if they fit together',
  words: 'MODEL[:NAME][@CONTEXT]…',
  options: {
    context: SHAPE.context,
    soc: {
      type: 'string',
      value: 'SOC',
      text: `plan for this SoC instead of this machine: ${BOARDS.join(', ')}`,
      parse: oneOf(...BOARDS),
    },
    json: { type: 'boolean', text: 'as JSON' },
  },
  notes: [
    'MODEL is a .rkllm or .rknn file. Example: rkllm-memory plan qwen.rkllm:chat@8192 vision.rknn',
    'Set RKLLMExtendParam.base_domain_id to the domain. Exit status 1 if the models do not fit.',
  ],
  run({ values, words, paint, print, json, width, STATUS }) {
    if (words.length === 0) throw new UsageError('MODEL is missing')
    const models = words.map((word) => ({ contextLength: values.context ?? DEFAULT_CONTEXT, ...parseModel(word) }))
    const memory = require('../../../index.js')
    const device = deviceOf(memory, values.soc)
    const plan = memory.planModels(models, device)
    if (values.json) json({ device, ...plan })
    else show(plan, device, { paint, print, width })
    return plan.fits ? STATUS.ok : STATUS.finding
  },
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
function show({ fits, placements, domains, reason }, device, { paint, print, width }) {
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
  if (used.length === 0) return
  print('')
  for (const { id, total, used: own, reservedForOthers } of used) {
    const share = (own + reservedForOthers) / total
    print(`  domain ${String(id).padEnd(2)} ${bar(share, BAR)} ${bytes(own + reservedForOthers)} of ${bytes(total)}`)
  }
}

module.exports = command
