'use strict'

// Parses the machine's files into facts, once. A fact that the files do not hold is undefined.

const { versionOf } = require('../../core/versions.js')
const { cgroupOf } = require('./cgroup.js')

const SOCS = ['rk3588', 'rk3588s', 'rk3583', 'rk3576', 'rk3566', 'rk3568', 'rk3562', 'rv1126b', 'rv1103', 'rv1106']
const KiB = 1024
/** Kernel arguments that change memory, as patterns. */
const ARGUMENT_NAMES = [
  ...['cma', 'coherent_pool', 'mem', 'psi', 'swiotlb'],
  ...['iommu', 'iommu\\.\\w+', 'arm-smmu\\.\\w+'],
  ...['hugepages', 'default_hugepagesz', 'transparent_hugepage'],
  ...['cgroup_disable', 'cgroup_enable'],
]
const ARGUMENTS = new RegExp(`(?<=^|\\s)(?:(?:${ARGUMENT_NAMES.join('|')})=\\S+)`, 'g')

/**
 * @typedef {import('./reader.js').Reader} Reader
 * @typedef {import('./reader.js').DeviceNode} DeviceNode
 * @typedef {import('../../types/devices.js').Backend} Backend
 * @typedef {{ path: string, backend: Backend, role: string } & Partial<DeviceNode>} Node
 * @typedef {ReturnType<typeof platformDevices>[number]} Npu
 */

/** @param {Reader} reader */
function factsOf(reader) {
  const npus = platformDevices(reader)
  const nodes = [...drmNodes(reader), ...heapDriverNodes(reader), ...rocketNodes(reader)]
  const kernel = reader.text('/proc/sys/kernel/osrelease')?.trim()
  return {
    board: reader.text('/proc/device-tree/model')?.replaceAll('\0', '').trim(),
    soc: socOf(reader, npus),
    deviceTree: reader.text('/proc/device-tree/compatible') !== undefined,
    kernel,
    kernelVersion: kernel === undefined ? undefined : versionOf(kernel),
    commandLine: reader.only('/proc/cmdline', ARGUMENTS),
    npus,
    nodes,
    driver: driverOf(reader, npus),
    memory: memoryOf(reader),
    user: userOf(reader),
    groups: groupsOf(reader),
    limits: limitsOf(reader),
    cgroup: cgroupOf(reader),
    pressure: pressureOf(reader),
    load: loadOf(reader),
    container: containerOf(reader),
  }
}

/** @type {(text: string, separator: string) => Record<string, string | undefined>} */
const fields = (text, separator) =>
  Object.fromEntries(
    text
      .split('\n')
      .flatMap((line) => (line.includes(separator) ? [line.split(separator, 2).map((part) => part.trim())] : [])),
  )

/**
 * @param {Reader} reader
 * @param {Npu[]} npus
 */
function socOf(reader, npus) {
  const entries = reader.text('/proc/device-tree/compatible')?.split('\0') ?? []
  const named = entries.map((entry) => entry.replace(/^rockchip,/, '')).find((name) => SOCS.includes(name))
  // Containers hide the device tree. They do not hide sysfs, which has the NPU's entry.
  return named ?? npus.map(({ compatible }) => /^rockchip,(rk\w+|rv\w+)-rkn/.exec(compatible ?? '')?.[1]).find(Boolean)
}

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

/** @type {(reader: Reader, folder: string, pattern: RegExp, driver: string) => string[]} */
const nodesIn = (reader, folder, pattern, driver) =>
  (reader.list(folder, pattern) ?? []).filter((name) => driverAt(reader, `${folder}/${name}`) === driver)

/** @type {(reader: Reader, path: string) => string | undefined} */
const driverAt = (reader, path) => fields(reader.text(`${path}/device/uevent`) ?? '', '=').DRIVER?.toLowerCase()

/**
 * @param {Reader} reader
 * @returns {Node[]}
 */
function drmNodes(reader) {
  return nodesIn(reader, '/sys/class/drm', /^(card|renderD)\d+$/, 'rknpu').map((name) => {
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
  return nodes.filter((name) => facade.test(reader.text(`${folder}/${name}/device/uevent`) ?? '')).map((name) => {
    return { path: `/dev/accel/${name}`, backend: 'rocket', role: 'only', ...reader.node(`/dev/accel/${name}`) }
  })
}

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

/** @param {Reader} reader */
function memoryOf(reader) {
  const text = reader.text('/proc/meminfo')
  if (text === undefined) return undefined
  const of = fields(text, ':')
  const bytes = (/** @type {string} */ name) => {
    const figure = of[name] ?? ''
    return /^\d+ kB$/.test(figure) ? parseInt(figure, 10) * KiB : undefined
  }
  return {
    total: bytes('MemTotal'),
    available: bytes('MemAvailable'),
    swapTotal: bytes('SwapTotal'),
    swapFree: bytes('SwapFree'),
    cmaTotal: bytes('CmaTotal'),
    cmaFree: cmaFreeOf(bytes),
  }
}

/**
 * The page cache borrows from CMA and gives back: the vendor's kernels tell by CmaAllocated what is really taken.
 *
 * @param {(name: string) => number | undefined} bytes
 */
function cmaFreeOf(bytes) {
  const [total, allocated] = [bytes('CmaTotal'), bytes('CmaAllocated')]
  return total === undefined || allocated === undefined ? bytes('CmaFree') : Math.max(0, total - allocated)
}

/**
 * Reads this process's user, groups and capabilities.
 *
 * @param {Reader} reader
 */
function userOf(reader) {
  const status = fields(reader.text('/proc/self/status') ?? '', ':')
  if (status.Uid === undefined) return undefined
  const numbers = (text = '') => text.split(/\s+/).filter(Boolean).map(Number)
  const [, uid] = numbers(status.Uid)
  const [, gid] = numbers(status.Gid)
  const capabilities = BigInt(`0x${status.CapEff ?? '0'}`)
  const has = (/** @type {number} */ bit) => (capabilities >> BigInt(bit)) & 1n
  const name = reader.only('/etc/passwd', new RegExp(`^[^:\\n]+:[^:\\n]*:${uid}:`, 'gm'))?.[0]?.split(':')[0]
  return {
    uid,
    name,
    groups: [...new Set([gid, ...numbers(status.Groups)])],
    overrides: has(1) === 1n,
    resources: has(24) === 1n,
  }
}

/**
 * Maps gid → name and name → gid.
 *
 * @param {Reader} reader
 */
function groupsOf(reader) {
  const lines = (reader.only('/etc/group', /^[^:\n]+:[^:\n]*:\d+:/gm) ?? []).map((line) => line.split(':'))
  return {
    names: new Map(lines.map(([name, , gid]) => [Number(gid), name])),
    ids: new Map(lines.map(([name, , gid]) => [name, Number(gid)])),
  }
}

/** @param {Reader} reader */
function limitsOf(reader) {
  const text = reader.text('/proc/self/limits') ?? ''
  const number = (/** @type {string} */ word) => (word === 'unlimited' ? Infinity : Number(word))
  const limit = (/** @type {string} */ name) => {
    const [, soft, hard] = new RegExp(`^${name} +(\\w+) +(\\w+)`, 'm').exec(text) ?? []
    return soft === undefined ? undefined : { soft: number(soft), hard: number(hard) }
  }
  const [openFiles, , maxFiles] = (reader.text('/proc/sys/fs/file-nr') ?? '').trim().split(/\s+/).map(Number)
  return {
    fds: limit('Max open files'),
    locked: limit('Max locked memory'),
    maps: reader.number('/proc/sys/vm/max_map_count'),
    files: maxFiles > 0 ? { open: openFiles, max: maxFiles } : undefined,
  }
}

/**
 * Returns the shares of the last 10 s in which tasks waited for memory, in per cent; undefined without PSI.
 *
 * @param {Reader} reader
 */
function pressureOf(reader) {
  const text = reader.text('/proc/pressure/memory') ?? ''
  const [some, full] = ['some', 'full'].map((kind) => new RegExp(`^${kind} avg10=([\\d.]+)`, 'm').exec(text)?.[1])
  return some === undefined || full === undefined ? undefined : { some: Number(some), full: Number(full) }
}

/**
 * Returns the load of each NPU core in per cent, if this user may read it.
 *
 * @param {Reader} reader
 */
function loadOf(reader) {
  const text = reader.text('/proc/rknpu/load') ?? reader.text('/sys/kernel/debug/rknpu/load')
  const figures = /^NPU load:(.*)/.exec(text ?? '')?.[1]
  return figures?.match(/\d+(?=%)/g)?.map(Number)
}

/** @param {Reader} reader */
function containerOf(reader) {
  const manager = reader.only('/proc/1/environ', /(?<=^|\0)container=[\w-]+/g)?.[0]?.slice('container='.length)
  const groups = reader.text('/proc/1/cgroup') ?? ''
  if (groups.includes('kubepods') || reader.has('/var/run/secrets/kubernetes.io')) return 'kubernetes'
  if (reader.has('/run/.containerenv') || manager === 'podman') return 'podman'
  if (reader.has('/.dockerenv') || /\/docker[/-]/.test(groups)) return 'docker'
  return manager
}

module.exports = { factsOf }
