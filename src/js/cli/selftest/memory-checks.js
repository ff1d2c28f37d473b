'use strict'

// Checks of allocations: sizes, contents, options, refusals, dma-bufs.

const { CheckError, expect, fill, randomNumbers, refuses, verify, verifyEqual } = require('./pattern.js')

/** @typedef {import('./checks.js').Context} Context */

const [KiB, MiB] = [1024, 2 ** 20]

/**
 * Allocates buffers of several sizes: zeroed, of the asked size, theirs alone, and gone after the free.
 *
 * @param {Context} context
 */
function sizes({ manager, largest }) {
  const wanted = [1, 4095, 4 * KiB, 64 * KiB + 1, MiB, 4 * MiB + 3, 16 * MiB].filter((size) => size <= largest)
  const buffers = wanted.map((size) => manager.allocateNPUMemory(size))
  buffers.forEach((buffer, seed) => {
    const bytes = new Uint8Array(buffer)
    expect(bytes.length === wanted[seed], `a buffer of ${wanted[seed]} bytes has ${bytes.length}`)
    verifyEqual(bytes, new Uint8Array(bytes.length), `a new buffer of ${bytes.length} bytes`)
    fill(bytes, seed)
  })
  buffers.forEach((buffer, seed) => verify(new Uint8Array(buffer), seed, `the buffer of ${wanted[seed]} bytes`))
  for (const buffer of buffers) {
    manager.deallocate(buffer)
    expect(buffer.byteLength === 0, `a freed buffer has ${buffer.byteLength} bytes`)
  }
  return { sizes: wanted.length, largest: wanted[wanted.length - 1] }
}

/**
 * Keeps many buffers alive, and frees them in a random order.
 *
 * @param {Context} context
 */
function many({ manager, largest }) {
  const size = 16 * KiB
  const count = Math.min(256, Math.floor(largest / size))
  const random = randomNumbers(11)
  const live = Array.from({ length: count }, (_, seed) => {
    const buffer = manager.allocateNPUMemory(size, { dedicated: seed % 8 === 0 })
    fill(new Uint8Array(buffer), seed)
    return { buffer, seed }
  })
  while (live.length > 0) {
    const [{ buffer, seed }] = live.splice(random(live.length), 1)
    verify(new Uint8Array(buffer), seed, `buffer ${seed} of ${count}`)
    manager.deallocate(buffer)
  }
  return { buffers: count, size }
}

/**
 * Tries each option of allocations that the device says it has. An option that it refuses as unsupported is a figure,
 * not a failure.
 *
 * @param {Context} context
 */
function options({ manager, device }) {
  /** @type {Record<string, import('../../types/allocations.js').NPUAllocationOptions>} */
  const cases = {
    dedicated: { dedicated: true },
    uncached: { cacheable: false },
    contiguous: { contiguous: true },
    ...(device.sramTotal > 0 && { sram: { placement: 'try-sram' } }),
    ...(device.iommuDomains > 1 && { lastDomain: { iommuDomain: device.iommuDomains - 1 } }),
  }
  /** @type {Record<string, string>} */
  const outcomes = {}
  for (const [name, option] of Object.entries(cases)) {
    try {
      const buffer = manager.allocateNPUMemory(64 * KiB, option)
      fill(new Uint8Array(buffer), 5)
      manager.syncToDevice(buffer)
      manager.syncFromDevice(buffer)
      verify(new Uint8Array(buffer), 5, `the buffer with ${JSON.stringify(option)}`)
      manager.deallocate(buffer)
      outcomes[name] = 'ok'
    } catch (error) {
      const { code } = /** @type {{ code?: string }} */ (error)
      if (code !== 'ERR_UNSUPPORTED') throw error
      outcomes[name] = code
    }
  }
  return outcomes
}

/**
 * Asks for the impossible, and checks that the refusal has its code and changes no figure.
 *
 * @param {Context} context
 */
function refusals({ manager }) {
  const figures = () => {
    const { used, taken, liveAllocations } = manager.getMemoryUsage().npu
    return `used ${used}, taken ${taken}, live ${liveAllocations}`
  }
  const before = figures()
  const { requested } = refuses(
    () => manager.allocateNPUMemory(2 ** 45),
    ['ERR_OUT_OF_RANGE', 'ERR_OUT_OF_MEMORY', 'ERR_IOVA_EXHAUSTED'],
    'an allocation of 32 TiB',
  )
  refuses(() => manager.allocateNPUMemory(0), ['ERR_OUT_OF_RANGE'], 'an allocation of 0 bytes')
  refuses(() => manager.deallocate(new ArrayBuffer(8)), ['ERR_UNKNOWN_BUFFER'], "the free of an engine's buffer")
  const buffer = manager.allocateNPUMemory(4096)
  manager.deallocate(buffer)
  refuses(() => manager.deallocate(buffer), ['ERR_BUFFER_FREED'], 'a second free')
  const after = figures()
  expect(before === after, `refused calls changed the usage from ${before} to ${after}`)
  return { requested }
}

/**
 * Allocates off the JavaScript thread.
 *
 * @param {Context} context
 */
async function twins({ manager }) {
  const buffers = await Promise.all(Array.from({ length: 8 }, () => manager.allocateNPUMemoryAsync(256 * KiB)))
  for (const [seed, buffer] of buffers.entries()) {
    fill(new Uint8Array(buffer), seed)
    await manager.syncToDeviceAsync(buffer)
  }
  for (const [seed, buffer] of buffers.entries()) {
    await manager.syncFromDeviceAsync(buffer)
    verify(new Uint8Array(buffer), seed, `asynchronous buffer ${seed}`)
    manager.deallocate(buffer)
  }
  return { buffers: buffers.length }
}

/**
 * Exports a buffer as a dma-buf and imports it again: both views show the same bytes.
 *
 * @param {Context} context
 */
function dmaBufs({ manager, library, unsupported }) {
  const size = 256 * KiB
  const buffer = manager.allocateNPUMemory(size, { dedicated: true })
  try {
    const { fd, offset, size: shared } = manager.exportDmaBuf(buffer)
    try {
      expect(shared === size, `the exported piece has ${shared} bytes in place of ${size}`)
      fill(new Uint8Array(buffer), 1)
      const twin = manager.importDmaBuf(fd, { offset, size })
      verify(new Uint8Array(twin), 1, 'the import')
      fill(new Uint8Array(twin), 2)
      verify(new Uint8Array(buffer), 2, 'the exported buffer')
      manager.deallocate(twin)
    } finally {
      library.closeDmaBuf(fd)
    }
  } catch (error) {
    if (error instanceof CheckError || /** @type {any} */ (error).code !== 'ERR_UNSUPPORTED') throw error
    return unsupported(error)
  } finally {
    manager.deallocate(buffer)
  }
  return { size }
}

module.exports = { dmaBufs, many, options, refusals, sizes, twins }
