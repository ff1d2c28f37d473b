'use strict'

// Runs all checks over one machine.

const { checks: driverChecks } = require('./driver-checks.js')
const { factsOf } = require('./facts.js')
const { fail, ok } = require('./findings.js')
const { checks: machineChecks } = require('./machine-checks.js')
const { checks: nodeChecks, deviceFlags } = require('./node-checks.js')
const { checks: memoryChecks } = require('./npu-memory-checks.js')

const deviceChecks = [...driverChecks, ...nodeChecks, ...memoryChecks]

/**
 * @typedef {import('./reader.js').Reader} Reader
 * @typedef {import('./npu-facts.js').Node} Node
 * @typedef {import('./findings.js').Finding} Finding
 * @typedef {import('./findings.js').Result} Result
 * @typedef {import('../../types/doctor.js').Diagnosis} Diagnosis
 * @typedef {import('../../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('../../types/devices.js').DeviceRefusal} DeviceRefusal
 */

/**
 * @typedef {ReturnType<typeof factsOf> & {
 *   heaps: Node[],
 *   sram: { total: number, free: number } | undefined,
 *   hugePages: string | undefined,
 * }} Facts
 */

/**
 * @param {Reader} reader
 * @param {() => Array<DeviceInfo | DeviceRefusal>} [probe] `probeDevices`, if the reader reads this machine
 * @param {string} [models] where the models lie: an absolute path without symbolic links
 * @returns {Diagnosis}
 */
function examine(reader, probe, models) {
  const facts = {
    ...factsOf(reader, models),
    heaps: heapsOf(reader),
    sram: sramOf(reader),
    hugePages: hugePagesOf(reader),
  }
  /** @type {Probed} */
  const opened = probe === undefined ? { findings: [] } : openDevices(probe, facts)
  const checked = run(deviceChecks, opened.facts ?? facts)
  const npu = [
    ...checked,
    ...opened.findings
      .filter(({ path }) => path === undefined || !explained(checked, path))
      .map(({ path: _, ...finding }) => finding),
  ]
  const machine = run(machineChecks, facts)
  const count = (/** @type {Finding['status']} */ status) =>
    [...npu, ...machine].filter((finding) => finding.status === status).length
  return {
    machine: {
      board: facts.board ?? null,
      soc: facts.soc ?? null,
      kernel: facts.kernel ?? null,
      container: facts.container ?? null,
    },
    findings: [
      ...npu.map((finding) => ({ area: /** @type {const} */ ('npu'), ...finding })),
      ...machine.map((finding) => ({ area: /** @type {const} */ ('machine'), ...finding })),
    ],
    counts: { ok: count('ok'), warn: count('warn'), fail: count('fail') },
  }
}

/** @type {(checks: Array<(facts: Facts) => Result>, facts: Facts) => Finding[]} */
const run = (checks, facts) => checks.flatMap((check) => check(facts))

/**
 * Whether a check has already reported why `path` cannot be opened.
 *
 * @param {Finding[]} findings
 * @param {string} path
 */
const explained = (findings, path) =>
  findings.some(({ id, status, message }) => id === 'permission' && status !== 'ok' && message.startsWith(`${path} `))

/** @typedef {{ facts?: Facts, findings: Array<Finding & { path?: string }> }} Probed */

/**
 * Opens every device: returns facts that files do not hold, and findings. A finding of missing permission has a `path`.
 *
 * @param {() => Array<DeviceInfo | DeviceRefusal>} probe
 * @param {Facts} facts
 * @returns {Probed}
 */
function openDevices(probe, facts) {
  let found
  try {
    found = probe()
  } catch (reason) {
    const error = /** @type {import('../../types/errors.js').MemoryError} */ (reason)
    return { findings: [fail('package', error.code ?? 'unloadable', error.message, error.hint ?? null)] }
  }
  const npus = found.flatMap((one) =>
    'error' in one || one.backend === 'dma-heap' || one.backend === 'simulated' ? [] : [one],
  )
  const version = facts.driver.version ?? npus.map(({ driverVersion }) => driverVersion ?? undefined).find(Boolean)
  /** @type {Probed['findings']} */
  const findings = npus.map(({ path, npuCores, iommuDomains }) => {
    const what = [npuCores && `${npuCores} cores`, iommuDomains > 0 && `${iommuDomains} IOMMU domains`]
      .filter(Boolean)
      .join(', ')
    return ok('opened', [path, what].filter(Boolean).join(': '))
  })
  for (const { path, backend, error } of found.flatMap((one) => ('error' in one ? [one] : []))) {
    // A heap is not an NPU.
    if (backend === 'dma-heap') continue
    const refused = fail('opened', error.code, `${path}: ${error.message}`, error.hint ?? null)
    if (error.code !== 'ERR_DEVICE_PERMISSION') findings.push(refused)
    // The node's mode allows it and the kernel does not: the container has the node without the right to it.
    else findings.push({ ...refused, path, remedy: deviceFlags(facts) ?? refused.remedy })
  }
  return { facts: { ...facts, driver: { ...facts.driver, version } }, findings }
}

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function heapsOf(reader) {
  return ['/dev/dma_heap', '/dev/rk_dma_heap'].flatMap((folder) =>
    (reader.list(folder) ?? []).map((name) => ({
      path: `${folder}/${name}`,
      backend: 'dma-heap',
      role: 'heap',
      ...reader.node(`${folder}/${name}`),
    })),
  )
}

/** @param {Reader} reader */
function sramOf(reader) {
  const text = reader.text('/proc/rknpu/mm') ?? reader.text('/sys/kernel/debug/rknpu/mm')
  if (text === undefined) return undefined
  const [, total, free] = /SRAM total size: (\d+), used: \d+, free: (\d+)/.exec(text) ?? [undefined, 0, 0]
  return { total: Number(total), free: Number(free) }
}

/** @type {(reader: Reader) => string | undefined} */
const hugePagesOf = (reader) => /\[(\w+)\]/.exec(reader.text('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1]

module.exports = { examine }
