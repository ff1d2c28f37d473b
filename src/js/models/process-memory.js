'use strict'

// Reads the memory of a process and its children: resident bytes by kind, dma-bufs, mapped objects of the NPU.

const { memoryOf } = require('../devices/doctor/facts.js')
const { NPU_NODE, holder } = require('../devices/npu-holders.js')

/** @typedef {import('../devices/doctor/reader.js').Reader} Reader */

/**
 * @typedef {object} Sample
 * @property {number} processes
 * @property {number} resident bytes of all processes; shared pages count once
 * @property {number} anonymous
 * @property {number} file
 * @property {number} shmem
 * @property {number} dmaBufs bytes of the dma-bufs that are open, each once
 * @property {number} npu bytes of the NPU's objects that are mapped
 * @property {number} unreadable processes of which this user may not see the NPU's memory
 * @property {number} footprint `resident`, and the NPU's bytes that it does not have
 */

const KIB = 1024

/**
 * Returns a process and all its descendants.
 *
 * @param {Reader} reader
 * @param {number} root
 */
function treeOf(reader, root) {
  /** @type {Map<number, number[]>} */
  const children = new Map()
  for (const name of reader.list('/proc', /^\d+$/) ?? []) {
    const [, parent] = /^PPid:\s+(\d+)$/m.exec(reader.text(`/proc/${name}/status`) ?? '') ?? []
    if (parent !== undefined) children.set(+parent, [...(children.get(+parent) ?? []), +name])
  }
  const found = [root]
  for (const pid of found) found.push(...(children.get(pid) ?? []).filter((child) => !found.includes(child)))
  return found
}

/** @type {(text: string, name: string) => number} */
const bytesOf = (text, name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * KIB

/**
 * Samples a process tree. Null once the process is gone.
 *
 * @param {Reader} reader
 * @param {number} root
 * @param {string[]} nodes the NPU's device nodes
 * @param {number[]} [tree] the processes, if not all descendants
 * @returns {Sample | null}
 */
function sampleOf(reader, root, nodes, tree = treeOf(reader, root)) {
  const each = tree.flatMap((pid) => memoryOfProcess(reader, pid, nodes))
  if (each.length === 0) return null
  // The largest counts whole; of the others a page that several processes share counts for its part.
  each.sort((a, b) => b.rss - a.rss)
  const [largest, ...others] = each
  const sum = (/** @type {(of: typeof each[number]) => number} */ figure) =>
    each.reduce((total, of) => total + figure(of), 0)
  const resident = largest.rss + others.reduce((total, { pss }) => total + pss, 0)
  const [dmaBufs, npu] = [sum((of) => of.dmaBufs), sum((of) => of.npu)]
  // An object may be mapped and be exported as a dma-buf: the larger figure counts each object once.
  const outside = Math.max(0, Math.max(dmaBufs, npu) - sum((of) => of.npuResident))
  return {
    processes: each.length,
    unreadable: sum((of) => of.unreadable),
    resident,
    anonymous: sum((of) => of.anonymous),
    file: sum((of) => of.file),
    shmem: sum((of) => of.shmem),
    dmaBufs,
    npu,
    footprint: resident + outside,
  }
}

/**
 * @param {Reader} reader
 * @param {number} pid
 * @param {string[]} nodes
 */
function memoryOfProcess(reader, pid, nodes) {
  const status = reader.text(`/proc/${pid}/status`) ?? ''
  const rss = bytesOf(status, 'VmRSS')
  // A process that has ended and waits for its parent has no memory.
  if (rss === 0) return []
  const rollup = reader.text(`/proc/${pid}/smaps_rollup`) ?? ''
  const fds = reader.list(`/proc/${pid}/fd`)
  const [held] = holder(reader, String(pid), nodes, fds ?? [])
  return [
    {
      rss,
      pss: /^Pss:/m.test(rollup) ? bytesOf(rollup, 'Pss') : rss,
      anonymous: bytesOf(status, 'RssAnon'),
      file: bytesOf(status, 'RssFile'),
      shmem: bytesOf(status, 'RssShmem'),
      unreadable: fds === undefined ? 1 : 0,
      dmaBufs: held?.bytes ?? 0,
      npu: held?.mapped ?? 0,
      npuResident: held === undefined ? 0 : npuResidentOf(reader.text(`/proc/${pid}/smaps`) ?? ''),
    },
  ]
}

/**
 * Sums the resident bytes in mappings of the NPU's nodes and of dma-bufs. Kernels that map them by page count them as
 * resident, those that map them by frame number do not.
 *
 * @param {string} smaps
 */
function npuResidentOf(smaps) {
  let ours = false
  let total = 0
  for (const line of smaps.split('\n')) {
    const [, path] = /^[\da-f]+-[\da-f]+ \S+ [\da-f]+ \S+ \d+\s*(.*)$/.exec(line) ?? []
    if (path !== undefined) ours = NPU_NODE.test(path) || path.startsWith('/dmabuf:')
    else if (ours && line.startsWith('Rss:')) total += bytesOf(line, 'Rss')
  }
  return total
}

/**
 * Reads the machine's figures; null where the kernel does not tell.
 *
 * @param {Reader} reader
 */
function machineMemory(reader) {
  const { available, cmaTotal, cmaFree } = memoryOf(reader) ?? {}
  const cmaUsed = cmaTotal === undefined || cmaFree === undefined ? null : cmaTotal - cmaFree
  return { available: available ?? null, cmaUsed }
}

/**
 * Reads the counters of the NPU's drivers (rknpu.md §6.1 and §6.3), which have no figures by process: bytes of SRAM,
 * and of the vendor's heap. Null where a counter cannot be read.
 *
 * @param {Reader} reader
 */
function driverMemory(reader) {
  const mm = reader.text('/proc/rknpu/mm') ?? reader.text('/sys/kernel/debug/rknpu/mm') ?? ''
  const [, sram] = /SRAM total size: \d+, used: (\d+)/.exec(mm) ?? []
  const [, heap] = /^\s*Used: (\d+) KiB/m.exec(reader.text('/proc/rk_dma_heap/alloc_bitmap') ?? '') ?? []
  return {
    sramUsed: sram === undefined ? null : Number(sram),
    heapUsed: heap === undefined ? null : Number(heap) * KIB,
  }
}

module.exports = { driverMemory, machineMemory, sampleOf, treeOf }
