'use strict'

// Finds the disks that models are read from, and how far the kernel reads ahead of a sequential reader.
//
// The file system of a path is the last mount of the longest mount point above it. Its device is a disk, a partition of
// one, or a device of /dev/mapper, a RAID, or a loop, each with a queue of its own. Several file systems (btrfs) show a
// number that is no disk's, and name the partition; an overlay names the folders below it; of a network file system the
// kernel shows the read-ahead by its number.

const { basename } = require('node:path')

const KiB = 1024
/** Disks, without the boot areas of eMMC. */
const DISK = /^(?:mmcblk\d+|nvme\d+n\d+|sd[a-z]+|vd[a-z]+|xvd[a-z]+)$/
/** Devices made of disks. A path may lie on one; without a path they are not looked at. */
const LAYER = /^(?:dm-\d+|md\d+|loop\d+|bcache\d+)$/
/** File systems without a disk. */
const IN_RAM = ['tmpfs', 'ramfs', 'devtmpfs', 'rootfs']

/**
 * @typedef {import('./reader.js').Reader} Reader
 *
 * @typedef {{ name: string, file: string, readAhead: number }} Disk `file` is where the kernel takes another value
 *
 * @typedef {object} Disks
 * @property {string | null} models the path that was asked about
 * @property {Disk[]} disks its disks, or all of the machine
 * @property {'known' | 'in RAM' | 'unknown'} place whether the disks are those of the path
 *
 * @typedef {{ device: string, point: string, type: string, source: string, options: string }} Mount
 */

/**
 * @param {Reader} reader
 * @param {string} [models] an absolute path without symbolic links
 * @returns {Disks}
 */
function disksOf(reader, models) {
  if (models === undefined) return { models: null, disks: allDisks(reader), place: 'unknown' }
  const found = disksBelow(reader, [models])
  if (found === 'in RAM') return { models, disks: [], place: found }
  return found.length > 0
    ? { models, disks: found, place: 'known' }
    : { models, disks: allDisks(reader), place: 'unknown' }
}

/** @param {Reader} reader */
const allDisks = (reader) =>
  blockDevices(reader)
    .filter((name) => DISK.test(name))
    .flatMap((name) => diskOf(reader, name))

/** @param {Reader} reader */
const blockDevices = (reader) => reader.list('/sys/block', new RegExp(`${DISK.source}|${LAYER.source}`)) ?? []

/**
 * @param {Reader} reader
 * @param {string} name
 * @returns {Disk[]}
 */
function diskOf(reader, name) {
  const file = `/sys/block/${name}/queue/read_ahead_kb`
  const kib = reader.number(file)
  return kib === undefined ? [] : [{ name, file, readAhead: kib * KiB }]
}

/**
 * @param {Reader} reader
 * @param {string[]} paths the last one is looked for; a bundle keeps the mounts of all
 * @returns {Disk[] | 'in RAM'}
 */
function disksBelow(reader, paths) {
  const path = /** @type {string} */ (paths.at(-1))
  const mount = mountOf(reader, paths, path)
  if (mount === undefined) return []
  if (IN_RAM.includes(mount.type)) return 'in RAM'
  if (mount.type === 'overlay') {
    const below = layersOf(mount.options).filter((folder) => !paths.includes(folder))
    // An overlay in a container names folders of the host, whose mounts the container does not have.
    if (reader.live && !below.some((folder) => reader.has(folder))) return []
    const found = below.flatMap((folder) => {
      const disks = disksBelow(reader, [...paths, ...below.filter((other) => other !== folder), folder])
      return disks === 'in RAM' ? [] : disks
    })
    return found.filter(({ name }, at) => found.findIndex((other) => other.name === name) === at)
  }
  const name = blockName(reader, mount)
  if (name !== undefined) return diskOf(reader, name)
  const file = `/sys/class/bdi/${mount.device}/read_ahead_kb`
  const kib = reader.number(file)
  return kib === undefined ? [] : [{ name: mount.source, file, readAhead: kib * KiB }]
}

/**
 * Returns the folders of an overlay, the writable one first.
 *
 * @param {string} options
 */
function layersOf(options) {
  const folders = (/** @type {string} */ key) =>
    (new RegExp(`(?:^|,)${key}=([^,]+)`).exec(options)?.[1] ?? '').split(':').filter((folder) => folder.startsWith('/'))
  return [...folders('upperdir'), ...folders('lowerdir')].map(unescaped)
}

/**
 * @param {Reader} reader
 * @param {string[]} paths
 * @param {string} path
 * @returns {Mount | undefined}
 */
function mountOf(reader, paths, path) {
  const points = new Set(paths.flatMap(pointsAbove).map(escaped))
  const any = [...points].map((point) => point.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')
  const lines = reader.only('/proc/self/mountinfo', new RegExp(`^\\d+ \\d+ \\S+ \\S+ (?:${any}) .*$`, 'gm')) ?? []
  const above = pointsAbove(path)
  return lines
    .map((line) => {
      const [, device, point, type, source, options] =
        /^\d+ \d+ (\d+:\d+) \S+ (\S+) .*? - (\S+) (\S+) ?(.*)$/.exec(line) ?? []
      return { device, point: unescaped(point ?? ''), type, source: unescaped(source ?? ''), options }
    })
    .filter(({ point, device }) => device !== undefined && above.includes(point))
    .reduce((/** @type {Mount | undefined} */ best, mount) => {
      return best === undefined || mount.point.length >= best.point.length ? mount : best
    }, undefined)
}

/**
 * Lists a path and the folders above it.
 *
 * @param {string} path
 */
function pointsAbove(path) {
  const words = path.split('/').filter(Boolean)
  return ['/', ...words.map((_, at) => `/${words.slice(0, at + 1).join('/')}`)]
}

/** @type {(text: string) => string} The kernel writes blanks and backslashes in octal. */
const unescaped = (text) => text.replace(/\\([0-7]{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8)))
/** @type {(text: string) => string} */
const escaped = (text) =>
  text.replace(/[ \t\n\\]/g, (letter) => `\\${letter.charCodeAt(0).toString(8).padStart(3, '0')}`)

/**
 * Returns the name in /sys/block of the disk below a mount, by the device's number, else by the source's name.
 *
 * @param {Reader} reader
 * @param {Mount} mount
 */
function blockName(reader, { device, source }) {
  const own = source.startsWith('/dev/') ? basename(source) : undefined
  for (const name of blockDevices(reader)) {
    if (name === own || reader.text(`/sys/block/${name}/dev`)?.trim() === device) return name
    // The vendor's kernels name partitions mmcblk0p8, nvme0n1p1, sda1.
    const parts = reader.list(`/sys/block/${name}`, new RegExp(`^${name}p?\\d+$`)) ?? []
    for (const part of parts)
      if (part === own || reader.text(`/sys/block/${name}/${part}/dev`)?.trim() === device) return name
  }
  return undefined
}

module.exports = { disksOf }
