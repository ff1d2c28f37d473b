'use strict'

// The memory controllers over this process, as src/sys/cgroup.rs reads them: every group on the way to the root, of
// cgroups v2 and v1. The group with the fewest bytes left binds, not the one with the smallest limit.

/** @typedef {import('./reader.js').Reader} Reader */

/** v1 writes "no limit" as the largest whole number of pages. */
const NO_LIMIT = 2 ** 60

const VERSIONS = [
  {
    mount: /^\d+ \d+ \S+ \S+ \S+ .* - cgroup2 .*$/gm,
    group: /^0::(.*)$/m,
    current: 'memory.current',
    limits: ['memory.max', 'memory.high'],
    cache: [['active_file'], ['inactive_file']],
  },
  {
    mount: /^\d+ \d+ \S+ \S+ \S+ .* - cgroup \S+ \S*\bmemory\b.*$/gm,
    group: /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m,
    current: 'memory.usage_in_bytes',
    limits: ['memory.limit_in_bytes'],
    cache: [
      ['total_active_file', 'active_file'],
      ['total_inactive_file', 'inactive_file'],
    ],
  },
]

/**
 * Returns the group with the fewest bytes left, or without any limit this process's own: the file of its limit, and
 * its figures in bytes. Undefined outside a memory controller.
 *
 * @param {Reader} reader
 */
function cgroupOf(reader) {
  const groups = VERSIONS.flatMap((version) =>
    foldersOf(reader, version).flatMap((folder) => groupAt(reader, version, folder)),
  )
  const left = (/** @type {typeof groups[number]} */ { limit, current, cache }) => limit - Math.max(0, current - cache)
  return groups.sort((a, b) => (left(a) === left(b) ? 0 : left(a) - left(b)))[0]
}

/**
 * @param {Reader} reader
 * @param {typeof VERSIONS[number]} version
 * @param {string} folder
 */
function groupAt(reader, version, folder) {
  const current = reader.number(`${folder}/${version.current}`)
  if (current === undefined) return []
  const limits = version.limits.map((file) => ({ file, limit: reader.number(`${folder}/${file}`) ?? Infinity }))
  const { file, limit } = limits.sort((a, b) => (a.limit === b.limit ? 0 : a.limit - b.limit))[0]
  const stat = reader.text(`${folder}/memory.stat`) ?? ''
  const counted = (/** @type {string[]} */ names) =>
    names.map((name) => new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1]).find((text) => text !== undefined) ?? 0
  const cache = version.cache.reduce((sum, names) => sum + Number(counted(names)), 0)
  return [{ file, limit: limit < NO_LIMIT ? limit : Infinity, current, cache }]
}

/**
 * Returns the visible folders from this process's group up to the root, its own first.
 *
 * @param {Reader} reader
 * @param {typeof VERSIONS[number]} version
 */
function foldersOf(reader, version) {
  const path = version.group.exec(reader.text('/proc/self/cgroup') ?? '')?.[1]
  // A later mount hides an earlier one at the same place.
  const mounts = reader.only('/proc/self/mountinfo', /^\d+ \d+ \S+ \S+ \S+ .* - cgroup2? .*$/gm) ?? []
  const mount = mounts.filter((line) => line.match(version.mount)).at(-1)
  if (path === undefined || mount === undefined) return []
  const [, , , root, at] = mount.split(' ')
  const [own, top] = [path, root].map((text) => text.split('/').filter(Boolean))
  // Outside of what is mounted, the mount's root is the closest group that is visible.
  const below = top.every((name, at) => own[at] === name) ? own.slice(top.length) : []
  const names = below.includes('..') ? [] : below
  return Array.from({ length: names.length + 1 }, (_, up) => [at, ...names.slice(0, names.length - up)].join('/'))
}

module.exports = { cgroupOf }
