/** Refuses requests beyond a driver's abilities before the driver is asked, with the figures. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { MemoryManager } from '../../../index.js'
import { GiB, KiB, MiB, refuses } from '../../support/helpers.mjs'

/** A manager on a simulated board, disposed after the test. */
function onBoard(t, simulated = {}) {
  const manager = new MemoryManager({ backend: 'simulated', simulated })
  t.after(() => manager.dispose())
  return manager
}

test('a buffer in SRAM is not exported, by nothing', (t) => {
  const manager = onBoard(t)
  const buffer = manager.allocateNPUMemory(64 * KiB, { placement: 'try-sram' })
  const error = refuses(() => manager.exportDmaBuf(buffer), 'ERR_UNSUPPORTED')
  assert.match(error.message, /64 KiB of this buffer are on-chip SRAM/)
  assert.ok(error.hint)
  const dram = manager.allocateNPUMemory(64 * KiB, { placement: 'dram', dedicated: true })
  assert.ok(manager.exportDmaBuf(dram).fd >= 0)
})

test('an alignment beyond what CMA gives is refused with what it gives', (t) => {
  const manager = onBoard(t, { soc: 'rk3566' })
  const error = refuses(() => manager.allocateNPUMemory(64 * KiB, { alignment: 4 * MiB }), 'ERR_UNSUPPORTED')
  assert.deepEqual([error.limit, error.scope], [MiB, 'alignment'])
  const { deviceAddress } = manager.describe(manager.allocateNPUMemory(64 * KiB, { alignment: MiB }))
  assert.equal(Number(deviceAddress) % MiB, 0)
})

test('a request beyond a domain has the bound, and leaves the figures alone', (t) => {
  const manager = onBoard(t)
  const before = manager.getNPUMemoryStats().domains
  // Page 0 of a domain is never used.
  const error = refuses(() => manager.allocateNPUMemory(4 * GiB), 'ERR_OUT_OF_RANGE')
  assert.ok(error.limit < 4 * GiB && error.limit >= 4 * GiB - 64 * KiB, error.message)
  assert.equal(error.requested, 4 * GiB)
  assert.deepEqual(manager.getNPUMemoryStats().domains, before)
})

test('a full domain reports what is free, and less than was asked for', (t) => {
  const manager = onBoard(t, { domainBytes: 64 * MiB, domains: 1 })
  const held = Array.from({ length: 7 }, () => manager.allocateNPUMemory(8 * MiB, { dedicated: true }))
  const error = refuses(() => manager.allocateNPUMemory(8 * MiB, { dedicated: true }), 'ERR_IOVA_EXHAUSTED')
  assert.ok(error.available < error.requested, `${error.available} of ${error.requested}`)
  assert.equal(held.length, 7)
})

test('small buffers on a full CMA area take few objects', (t) => {
  const manager = onBoard(t, { soc: 'rk3566', domainBytes: 64 * MiB })
  const large = Array.from({ length: 15 }, () => manager.allocateNPUMemory(4 * MiB, { dedicated: true }))
  const buffers = Array.from({ length: 128 }, () => manager.allocateNPUMemory(16 * KiB))
  const { objects } = manager.getNPUMemoryStats()
  assert.ok(objects - large.length <= 8, `${objects - large.length} objects for ${buffers.length} buffers`)
})

test('another IOMMU domain is a remedy where the device has another', async (t) => {
  for (const [simulated, code, has] of [
    [{ domainBytes: 16 * MiB }, 'ERR_IOVA_EXHAUSTED', true],
    [{ domainBytes: 16 * MiB, domains: 1 }, 'ERR_IOVA_EXHAUSTED', false],
    [{ domainBytes: 16 * MiB, soc: 'rk3566' }, 'ERR_OUT_OF_MEMORY', false],
  ]) {
    const manager = onBoard(t, simulated)
    const warnings = []
    manager.on('warning', ({ message }) => warnings.push(message))
    const fill = () => {
      for (const kept of Array(32)) assert.notEqual(manager.allocateNPUMemory(MiB, { dedicated: true }), kept)
    }
    const { hint } = refuses(fill, code)
    assert.equal(/iommuDomain/.test(hint), has, hint)
    if (simulated.soc === undefined) {
      const { hint: reserved } = refuses(() => manager.reserve(16 * MiB), 'ERR_IOVA_EXHAUSTED')
      assert.equal(/iommuDomain/.test(reserved), has, reserved)
    }
    await new Promise(setImmediate)
    const domain = warnings.filter((message) => message.startsWith('domain:'))
    for (const message of domain) assert.equal(/iommuDomain/.test(message), has, message)
    if (simulated.soc === undefined) assert.ok(domain.length > 0)
  }
})
