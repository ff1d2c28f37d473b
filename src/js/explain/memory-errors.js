'use strict'

// This package's messages, to explain a line of a server's log without the error object. The format is that of
// runtime-errors.js.

const { anyOf } = require('./any-of.js')

/** @typedef {import('./explain.js').Entry} Entry */

/** @type {(code: Entry['code'], pattern: RegExp, cause: Entry['cause'], remedy: Entry['remedy']) => Entry} */
const entry = (code, pattern, cause, remedy) => ({ code, pattern, cause, remedy, weight: 3, source: 'this package' })

module.exports = [
  entry(
    'ERR_IOVA_EXHAUSTED',
    anyOf(
      /no (.+?) are left in one piece in the (.+?) that IOMMU domain (\d+) addresses/,
      /IOMMU domain (\d+) \((.+?)\) has no (.+?) left in one piece/,
    ),
    (m) => `IOMMU domain ${m[3] ?? m[4]} (${m[2] ?? m[5]}) has no ${m[1] ?? m[6]} in one piece.`,
    'Free buffers, use smaller ones or another iommuDomain; buffers that were dropped are freed when the event ' +
      'loop turns.',
  ),
  entry(
    'ERR_IOVA_EXHAUSTED',
    /IOMMU domain (\d+) holds (.+?) of its (.+?): (.+?) more do not fit/,
    ([, domain, used, total, more]) =>
      `IOMMU domain ${domain} holds ${used} of ${total}, and ${more} more were asked for.`,
    'Free buffers or end reservations, or use another iommuDomain; buffers that were dropped are freed when the ' +
      'event loop turns.',
  ),
  entry(
    'ERR_OUT_OF_MEMORY',
    /(.+?) more would promise more memory than this (?:machine has|process may have): (.+?) of (.+?) are held already/,
    ([, more, held, total]) => `${more.trim()} were asked for, and this process holds ${held} of ${total} already.`,
    'Free memory, or ask for less.',
  ),
  entry(
    'ERR_OUT_OF_MEMORY',
    /(?:no (.+?) of contiguous memory are left in one piece|the CMA area \((.+?)\) has no (.+?) left in one piece)/,
    (m) => `CMA has no ${m[1] ?? m[3]} in one piece.`,
    'Free buffers, use smaller ones, or give the kernel a larger CMA area (cma= on its command line).',
  ),
  entry(
    'ERR_MEMORY_LIMIT',
    /the limit of (.+?) is (.+?), of which (.+?) are in use: (.+?) more do not fit/,
    ([, scope, max, used, more]) =>
      `The limit of ${scope} (${max}) has ${used} in use, and ${more} more were asked for.`,
    'Free unused memory, or raise the limit with setMemoryLimits.',
  ),
  entry(
    'ERR_OUT_OF_MEMORY',
    /(.+?) were asked for and only (.+?) of (\S+) are available/,
    ([, asked, left, scope]) => `${asked.trim()} were asked for; ${scope} has ${left}.`,
    "Free memory, use smaller buffers, or raise the container's limit where it is the cgroup's.",
  ),
  entry(
    'ERR_TOO_MANY_FDS',
    /this process has (\d+) file descriptors and may have (\d+)/,
    ([, used, max]) => `${used} of ${max} file descriptors are in use.`,
    'Raise RLIMIT_NOFILE (ulimit -n), or leave small buffers to slabs and pools.',
  ),
  entry(
    'ERR_TOO_MANY_MAPS',
    /this process has (\d+) mappings and may have (\d+)/,
    ([, used, max]) => `${used} of ${max} mappings are in use.`,
    'Raise vm.max_map_count (sysctl), or leave small buffers to slabs and pools.',
  ),
  entry(
    'ERR_DOMAIN_BUSY',
    /could not switch to IOMMU domain (\d+)/,
    ([, domain]) => `A job of another domain held the NPU for 6 s, so that nothing could be done in domain ${domain}.`,
    'Try again when that job has ended, or use its domain; do not use different domains from several processes at ' +
      'once.',
  ),
  entry(
    'ERR_DEVICE_PERMISSION',
    /(\S+) exists, but this user may not open it/,
    ([, path]) => `${path} exists and this user may not open it.`,
    'Add the user to the group that owns it (ls -l) and log in again; nodes of root need a udev rule.',
  ),
  entry(
    'ERR_BUFFER_FREED',
    /this (?:buffer|block) was freed already/,
    () => 'A buffer was freed twice, or used after it was freed.',
    'Look for the first free: a buffer that is freed has length 0.',
  ),
  entry(
    'ERR_BUFFER_TRANSFERRED',
    /bytes of this buffer were moved to another ArrayBuffer/,
    () => 'transfer(), structuredClone or postMessage moved the bytes to another ArrayBuffer.',
    'Use and free that one.',
  ),
  entry(
    'ERR_BUFFER_BUSY',
    /this block is pinned (\d+) times/,
    ([, pins]) => `The block is pinned ${pins} times.`,
    'Unpin it as often as it was pinned, after the job that uses it.',
  ),
  entry(
    'ERR_POOL_BUSY',
    /ERR_POOL_BUSY/,
    () => 'Allocations of the pool are still live.',
    'Free them, or destroy the pool with { force: true }, which detaches their buffers.',
  ),
  entry(
    'ERR_MANAGER_DISPOSED',
    /this MemoryManager was disposed/,
    () => 'The manager was disposed, which freed all its memory.',
    'Make a new one, or dispose later.',
  ),
]
