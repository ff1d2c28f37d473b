'use strict'

// Parses the machine's files into facts, once. A fact that the files do not hold is undefined.

const { versionOf } = require('../../core/versions.js')
const { cgroupOf } = require('./cgroup.js')
const { disksOf } = require('./disks.js')
const { driverOf, driversOf, fields, nodesOf, platformDevices, strayOf, treeNodes } = require('./npu-facts.js')
const { OTHER_GENERATIONS, SOCS } = require('./socs.js')

const KiB = 1024
/** Kernel arguments that change memory, as patterns. */
const ARGUMENT_NAMES = [
  ...['cma', 'rk_dma_heap_cma', 'coherent_pool', 'mem', 'psi', 'swiotlb'],
  ...['iommu', 'iommu\\.\\w+', 'arm-smmu\\.\\w+'],
  ...['hugepages', 'default_hugepagesz', 'transparent_hugepage'],
  ...['cgroup_disable', 'cgroup_enable'],
]
const ARGUMENTS = new RegExp(`(?<=^|\\s)(?:(?:${ARGUMENT_NAMES.join('|')})=\\S+)`, 'g')

/**
 * @typedef {import('./reader.js').Reader} Reader
 * @typedef {import('./npu-facts.js').Node} Node
 * @typedef {import('./npu-facts.js').Npu} Npu
 */

/**
 * @param {Reader} reader
 * @param {string} [models] where the models lie
 */
function factsOf(reader, models) {
  const npus = platformDevices(reader)
  const kernel = reader.text('/proc/sys/kernel/osrelease')?.trim()
  return {
    board: reader.text('/proc/device-tree/model')?.replaceAll('\0', '').trim(),
    soc: socOf(reader, npus),
    deviceTree: reader.text('/proc/device-tree/compatible') !== undefined,
    kernel,
    kernelVersion: kernel === undefined ? undefined : versionOf(kernel),
    commandLine: reader.only('/proc/cmdline', ARGUMENTS),
    npus,
    platform: reader.list('/sys/bus/platform/devices', /\.npu$/) !== undefined,
    nodes: nodesOf(reader),
    tree: treeNodes(reader),
    drivers: driversOf(reader, kernel),
    stray: strayOf(reader),
    driver: driverOf(reader, npus),
    memory: memoryOf(reader),
    swaps: swapsOf(reader),
    disks: disksOf(reader, models),
    user: userOf(reader),
    groups: groupsOf(reader),
    limits: limitsOf(reader),
    cgroup: cgroupOf(reader),
    pressure: pressureOf(reader),
    load: loadOf(reader),
    container: containerOf(reader),
  }
}

/**
 * @param {Reader} reader
 * @param {Npu[]} npus
 */
function socOf(reader, npus) {
  const entries = (reader.text('/proc/device-tree/compatible') ?? '').split('\0')
  const names = entries.map((entry) => entry.replace(/^rockchip,/, ''))
  const known = names.find((name) => SOCS.includes(name) || OTHER_GENERATIONS.has(name))
  // The last entry is the SoC's, also of one that this package does not know.
  const other = entries.map((entry) => /^rockchip,((?:rk|rv|px)\d{2,}\w*)$/.exec(entry)?.[1]).filter(Boolean)
  // Containers hide the device tree. They do not hide sysfs, which has the NPU's entry.
  return (
    known ??
    other.at(-1) ??
    npus.map(({ compatible }) => /^rockchip,(rk\w+|rv\w+)-rkn/.exec(compatible ?? '')?.[1]).find(Boolean)
  )
}

/**
 * Reads /proc/meminfo, in bytes.
 *
 * @param {Reader} reader
 */
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
 * Lists the swap areas of which part lies in RAM (zram), in bytes.
 *
 * @param {Reader} reader
 */
function swapsOf(reader) {
  const lines = reader.only('/proc/swaps', /^\/dev\/zram\d+\s+\w+\s+\d+\s+\d+/gm) ?? []
  return lines.map((line) => {
    const [name, , size, used] = line.split(/\s+/)
    return { name, size: Number(size) * KiB, used: Number(used) * KiB }
  })
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
    // In a user namespace ids of the host that are not mapped show as 65534.
    namespaced: !/^\s*0\s+0\s/.test(reader.text('/proc/self/uid_map') ?? '0 0 '),
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

module.exports = { factsOf, memoryOf }
