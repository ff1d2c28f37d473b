'use strict'

// Reads what a process holds of the NPU's memory: dma-bufs from fdinfo, and mapped objects from maps.

const NPU_NODE = /^\/dev\/(?:dri\/(?:card|renderD)\d+|rknpu|accel\/accel\d+)$/

/**
 * @typedef {import('./doctor/reader.js').Reader} Reader
 * @typedef {{ pid: number, name: string, buffers: number, bytes: number, exporters: string[], mapped: number }} Holder
 */

/**
 * @param {Reader} reader
 * @param {string} pid
 * @param {string[]} nodes
 * @param {string[]} [fds] its descriptors, if they are listed already
 * @returns {Holder[]} empty if the process holds none
 */
function holder(reader, pid, nodes, fds = reader.list(`/proc/${pid}/fd`) ?? []) {
  const folder = `/proc/${pid}`
  const links = fds.map((fd) => [fd, reader.link(`${folder}/fd/${fd}`) ?? ''])
  const buffers = new Map()
  for (const [fd] of links.filter(([, target]) => target.startsWith('/dmabuf:'))) {
    const info = reader.text(`${folder}/fdinfo/${fd}`) ?? ''
    const field = (/** @type {string} */ name) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(info)?.[1]
    if (field('size') === undefined) continue
    // Kernels before 5.14 do not show the inode: every descriptor counts there.
    buffers.set(field('ino') ?? `fd ${fd}`, { size: Number(field('size')), exporter: field('exp_name') ?? '?' })
  }
  const usesNpu = links.some(([, target]) => NPU_NODE.test(target) && nodes.includes(target))
  if (buffers.size === 0 && !usesNpu) return []
  const all = [...buffers.values()]
  return [
    {
      pid: Number(pid),
      name: reader.text(`${folder}/comm`)?.trim() ?? '?',
      buffers: all.length,
      bytes: all.reduce((sum, { size }) => sum + size, 0),
      exporters: [...new Set(all.map(({ exporter }) => exporter))].sort(),
      mapped: usesNpu ? mappedBytes(reader.text(`${folder}/maps`) ?? '', nodes) : 0,
    },
  ]
}

/**
 * Sums the NPU memory in a process's mappings, each object once.
 *
 * @param {string} maps
 * @param {string[]} nodes
 */
function mappedBytes(maps, nodes) {
  const objects = new Map()
  for (const [, start, end, offset, node] of maps.matchAll(
    /^([\da-f]+)-([\da-f]+) \S+ ([\da-f]+) \S+ \d+ +(\/dev\/\S+)$/gm,
  )) {
    if (!nodes.includes(node)) continue
    const size = Number(BigInt(`0x${end}`) - BigInt(`0x${start}`))
    objects.set(offset, Math.max(size, objects.get(offset) ?? 0))
  }
  return [...objects.values()].reduce((sum, size) => sum + size, 0)
}

module.exports = { NPU_NODE, holder }
