'use strict'

// Facts about the NPU: its devices, the device tree, the drivers that this kernel has, its nodes.

const { isNpuAddress } = require('../../core/npu-addresses.js')

/**
 * @typedef {import('./reader.js').Reader} Reader
 * @typedef {import('./reader.js').DeviceNode} DeviceNode
 * @typedef {import('../../types/devices.js').Backend} Backend
 * @typedef {{ path: string, backend: Backend, role: string } & Partial<DeviceNode>} Node
 * @typedef {ReturnType<typeof platformDevices>[number]} Npu
 */

/** @type {(text: string, separator: string) => Record<string, string | undefined>} */
const fields = (text, separator) =>
  Object.fromEntries(
    text
      .split('\n')
      .flatMap((line) => (line.includes(separator) ? [line.split(separator, 2).map((part) => part.trim())] : [])),
  )

/**
 * Lists the NPUs on the platform bus, with or without a driver.
 *
 * @param {Reader} reader
 */
function platformDevices(reader) {
  const folder = '/sys/bus/platform/devices'
  return (reader.list(folder, /\.npu$/) ?? []).map((name) => {
    const uevent = fields(reader.text(`${folder}/${name}/uevent`) ?? '', '=')
    return {
      name,
      driver: uevent.DRIVER,
      compatible: uevent.OF_COMPATIBLE_0,
      iommu: reader.has(`${folder}/${name}/iommu_group`),
    }
  })
}

const TREES = ['/proc/device-tree', '/sys/firmware/devicetree/base']
const TREE_NODE = /^(?:(?:rk)?npu|rknn(?:-core)?|iommu)@([0-9a-f]+)$/

/**
 * Lists the nodes of the NPU and of its IOMMU in the device tree, with their status.
 *
 * @param {Reader} reader
 */
function treeNodes(reader) {
  const tree = TREES.find((path) => (reader.list(path, TREE_NODE) ?? []).length > 0) ?? TREES[0]
  return [tree, `${tree}/soc`, `${tree}/soc@0`].flatMap((folder) =>
    (reader.list(folder, TREE_NODE) ?? []).flatMap((name) => {
      const read = (/** @type {string} */ file) => reader.text(`${folder}/${name}/${file}`)?.split('\0')[0].trim()
      const [, address] = /** @type {RegExpExecArray} */ (TREE_NODE.exec(name))
      const iommu = name.startsWith('iommu')
      if (iommu && !isNpuAddress(address)) return []
      return [{ name, iommu, enabled: /^(?:okay|ok|)$/.test(read('status') ?? ''), compatible: read('compatible') }]
    }),
  )
}

const DRIVERS = [
  { name: 'rknpu', platform: 'RKNPU' },
  { name: 'rocket', platform: 'rocket' },
]

/**
 * Returns the NPU drivers of this kernel: whether each runs (loaded, or built in), and whether it could be loaded.
 * `listed` is whether the kernel's modules could be read at all.
 *
 * @param {Reader} reader
 * @param {string | undefined} kernel
 */
function driversOf(reader, kernel) {
  const loaded = reader.only('/proc/modules', /^(?:rknpu|rocket)(?= |$)/gm) ?? []
  const folder = `/lib/modules/${kernel}`
  const pattern = /(?:^|\/)(?:rknpu|rocket)\.ko(?:\.\w+)?(?=:|$)/gm
  const listed = kernel !== undefined && reader.has(`${folder}/modules.dep`)
  const [modules, builtin] = ['modules.dep', 'modules.builtin'].map((file) =>
    kernel === undefined ? [] : (reader.only(`${folder}/${file}`, pattern) ?? []),
  )
  const has = (/** @type {string[]} */ files, /** @type {string} */ name) => files.some((file) => file.includes(name))
  return {
    listed,
    all: DRIVERS.map(({ name, platform }) => ({
      name,
      builtin: has(builtin, name),
      available: has(modules, name),
      running:
        loaded.includes(name) ||
        has(builtin, name) ||
        reader.has(`/sys/module/${name}`) ||
        reader.has(`/sys/bus/platform/drivers/${platform}`),
    })),
  }
}

/** @type {(reader: Reader, path: string) => string | undefined} */
const driverAt = (reader, path) => fields(reader.text(`${path}/device/uevent`) ?? '', '=').DRIVER?.toLowerCase()

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function nodesOf(reader) {
  return [...drmNodes(reader), ...heapDriverNodes(reader), ...rocketNodes(reader)]
}

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function drmNodes(reader) {
  const folder = '/sys/class/drm'
  const names = reader.list(folder, /^(card|renderD)\d+$/) ?? []
  return names
    .filter((name) => driverAt(reader, `${folder}/${name}`) === 'rknpu')
    .map((name) => {
      const role = name.startsWith('card') ? 'card' : 'render'
      return { path: `/dev/dri/${name}`, backend: 'rknpu', role, ...reader.node(`/dev/dri/${name}`) }
    })
}

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function heapDriverNodes(reader) {
  if (!reader.has('/sys/class/misc/rknpu')) return []
  return [{ path: '/dev/rknpu', backend: 'rknpu-heap', role: 'only', ...reader.node('/dev/rknpu') }]
}

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function rocketNodes(reader) {
  const folder = '/sys/class/accel'
  // rocket's node belongs to a facade device without a driver (docs/design/rknpu.md §5).
  const facade = /^(?:MODALIAS=platform:rknn|DRIVER=(?:rknn|rocket))$/m
  const nodes = reader.list(folder, /^accel\d+$/) ?? []
  return nodes
    .filter((name) => facade.test(reader.text(`${folder}/${name}/device/uevent`) ?? ''))
    .map((name) => {
      return { path: `/dev/accel/${name}`, backend: 'rocket', role: 'only', ...reader.node(`/dev/accel/${name}`) }
    })
}

/**
 * Whether there is a /dev/rknpu that the rknpu driver did not make: a link, a mount, or a file.
 *
 * @param {Reader} reader
 */
const strayOf = (reader) =>
  !reader.has('/sys/class/misc/rknpu') && (reader.has('/dev/rknpu') || reader.node('/dev/rknpu') !== undefined)

/**
 * @param {Reader} reader
 * @param {Npu[]} npus
 */
function driverOf(reader, npus) {
  const name = npus.map(({ driver }) => driver?.toLowerCase()).find(Boolean)
  const places = ['/proc/rknpu/version', '/sys/kernel/debug/rknpu/version', '/sys/module/rknpu/version']
  const texts = places.map((path) => reader.text(path))
  const version = texts.map((text) => /(\d+\.\d+\.\d+)/.exec(text ?? '')?.[1]).find(Boolean)
  return { name, version }
}

module.exports = { driverOf, driversOf, fields, nodesOf, platformDevices, strayOf, treeNodes }
