'use strict'

// Runs all checks over one machine.

const { checks: deviceChecks, deviceFlags, ok, fail } = require('./device-checks.js')
const { factsOf } = require('./facts.js')
const { checks: machineChecks } = require('./machine-checks.js')

const LEVELS = ['ok', 'warn', 'fail']

/**
 * @param {ReturnType<import('./reader.js').makeReader>} reader
 * @param {() => Array<object>} [probe] `probeDevices`, if the reader reads this machine
 */
function examine(reader, probe) {
  const facts = { ...factsOf(reader), heaps: heapsOf(reader), sram: sramOf(reader), hugePages: hugePagesOf(reader) }
  const opened = probe === undefined ? { findings: [] } : probed(probe, facts)
  const checked = run(deviceChecks, opened.facts ?? facts)
  const npu = [
    ...checked,
    ...opened.findings.filter(({ path }) => !explained(checked, path)).map(({ path: _, ...finding }) => finding),
  ]
  const machine = run(machineChecks, facts)
  const count = (status) => [...npu, ...machine].filter((finding) => finding.status === status).length
  return {
    machine: {
      board: facts.board ?? null,
      soc: facts.soc ?? null,
      kernel: facts.kernel ?? null,
      container: facts.container ?? null,
    },
    findings: [
      ...npu.map((finding) => ({ area: 'npu', ...finding })),
      ...machine.map((finding) => ({ area: 'machine', ...finding })),
    ],
    counts: Object.fromEntries(LEVELS.map((status) => [status, count(status)])),
  }
}

const run = (checks, facts) => checks.flatMap((check) => check(facts))

/** Whether a check has already reported why `path` cannot be opened. */
const explained = (findings, path) =>
  findings.some(({ id, status, message }) => id === 'permission' && status !== 'ok' && message.startsWith(`${path} `))

/**
 * Opens every device: returns facts that files do not hold, and findings. A finding of missing permission has a `path`.
 */
function probed(probe, facts) {
  let found
  try {
    found = probe()
  } catch (error) {
    return { findings: [fail('package', error.message, error.hint ?? null)] }
  }
  const npus = found.filter(
    ({ backend, error }) => error === undefined && backend !== 'dma-heap' && backend !== 'simulated',
  )
  const version = facts.driver.version ?? npus.map(({ driverVersion }) => driverVersion).find(Boolean)
  const findings = npus.map(({ path, npuCores, iommuDomains }) => {
    const what = [npuCores && `${npuCores} cores`, iommuDomains > 0 && `${iommuDomains} IOMMU domains`]
      .filter(Boolean)
      .join(', ')
    return ok('opened', [path, what].filter(Boolean).join(': '))
  })
  for (const { path, backend, error } of found.filter(({ error }) => error !== undefined)) {
    // A heap is not an NPU.
    if (backend === 'dma-heap') continue
    const refused = fail('opened', `${path}: ${error.message}`, error.hint ?? null)
    if (error.code !== 'ERR_DEVICE_PERMISSION') findings.push(refused)
    // The node's mode allows it and the kernel does not: the container has the node without the right to it.
    else findings.push({ ...refused, path, remedy: deviceFlags(facts) ?? refused.remedy })
  }
  return { facts: { ...facts, driver: { ...facts.driver, version } }, findings }
}

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

function sramOf(reader) {
  const text = reader.text('/proc/rknpu/mm') ?? reader.text('/sys/kernel/debug/rknpu/mm')
  if (text === undefined) return undefined
  const [, total, free] = /SRAM total size: (\d+), used: \d+, free: (\d+)/.exec(text) ?? [undefined, 0, 0]
  return { total: Number(total), free: Number(free) }
}

const hugePagesOf = (reader) => /\[(\w+)\]/.exec(reader.text('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1]

module.exports = { examine }
