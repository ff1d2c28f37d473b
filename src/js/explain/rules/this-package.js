'use strict'

// This package's messages, to explain a line of a server's log without the error object.

/** @typedef {import('../explain.js').Rule} Rule */

/** @type {(code: Rule['code'], patterns: RegExp | RegExp[], cause: string, remedy: string) => Rule} */
const own = (code, patterns, cause, remedy) => ({
  kind: 'own',
  patterns: [patterns].flat(),
  weight: 3,
  code,
  cause,
  remedy,
  source: 'this package',
})

/** @type {Rule[]} */
module.exports = [
  own(
    'ERR_IOVA_EXHAUSTED',
    [
      /no (?<size>.+?) are left in one piece in the (?<space>.+?) that IOMMU domain (?<domain>\d+) addresses/,
      /IOMMU domain (?<domain>\d+) \((?<space>.+?)\) has no (?<size>.+?) left in one piece/,
    ],
    'IOMMU domain {domain} ({space}) has no {size} in one piece.',
    'Free buffers, use smaller ones or another iommuDomain; buffers that were dropped are freed when the event loop ' +
      'turns.',
  ),
  own(
    'ERR_IOVA_EXHAUSTED',
    /IOMMU domain (?<domain>\d+) holds (?<used>.{1,40}?) of its (?<total>.{1,40}?): (?<more>.{1,40}?) more do not fit/,
    'IOMMU domain {domain} holds {used} of {total}, and {more} more were asked for.',
    'Free buffers or end reservations, or use another iommuDomain; buffers that were dropped are freed when the ' +
      'event loop turns.',
  ),
  own(
    'ERR_OUT_OF_MEMORY',
    new RegExp(
      String.raw`(?<more>[\d.]{1,20}(?: \w+)?) more would promise more memory.*: ` +
        '(?<held>.{1,40}?) of (?<total>.{1,40}?) are held already',
    ),
    '{more} were asked for, and this process holds {held} of {total} already.',
    'Free memory, or ask for less.',
  ),
  own(
    'ERR_OUT_OF_MEMORY',
    [
      /no (?<size>.+?) of contiguous memory are left in one piece/,
      /the CMA area \(.+?\) has no (?<size>.+?) left in one piece/,
    ],
    'CMA has no {size} in one piece.',
    'Free buffers, use smaller ones, or give the kernel a larger CMA area (cma= on its command line).',
  ),
  own(
    'ERR_MEMORY_LIMIT',
    new RegExp(
      'the limit of (?<scope>.+?) is (?<max>.{1,40}?), of which (?<used>.{1,40}?) are in use: ' +
        '(?<more>.{1,40}?) more do not fit',
    ),
    'The limit of {scope} ({max}) has {used} in use, and {more} more were asked for.',
    'Free unused memory, or raise the limit with setMemoryLimits.',
  ),
  own(
    'ERR_OUT_OF_MEMORY',
    /(?<asked>[\d.]{1,20}(?: \w+)?) were asked for and only (?<left>.+?) of (?<scope>\S+) are available/,
    '{asked} were asked for; {scope} has {left}.',
    "Free memory, use smaller buffers, or raise the container's limit where it is the cgroup's.",
  ),
  own(
    'ERR_TOO_MANY_FDS',
    /this process has (?<used>\d+) file descriptors and may have (?<max>\d+)/,
    '{used} of {max} file descriptors are in use.',
    'Raise RLIMIT_NOFILE (ulimit -n), or leave small buffers to slabs and pools.',
  ),
  own(
    'ERR_TOO_MANY_MAPS',
    /this process has (?<used>\d+) mappings and may have (?<max>\d+)/,
    '{used} of {max} mappings are in use.',
    'Raise vm.max_map_count (sysctl), or leave small buffers to slabs and pools.',
  ),
  own(
    'ERR_DOMAIN_BUSY',
    /could not switch to IOMMU domain (?<domain>\d+)/,
    'A job of another domain held the NPU for 6 s, so that nothing could be done in domain {domain}.',
    'Try again when that job has ended, or use its domain; do not use different domains from several processes at ' +
      'once.',
  ),
  own(
    'ERR_DEVICE_PERMISSION',
    /(?<path>\S{1,200}) exists, but this user may not open it/,
    '{path} exists and this user may not open it.',
    'Add the user to the group that owns it (ls -l) and log in again; nodes of root need a udev rule.',
  ),
  own(
    'ERR_BUFFER_FREED',
    /this (?:buffer|block) was freed already/,
    'A buffer was freed twice, or used after it was freed.',
    'Look for the first free: a buffer that is freed has length 0.',
  ),
  own(
    'ERR_BUFFER_TRANSFERRED',
    /bytes of this buffer were moved to another ArrayBuffer/,
    'transfer(), structuredClone or postMessage moved the bytes to another ArrayBuffer.',
    'Use and free that one.',
  ),
  own(
    'ERR_BUFFER_BUSY',
    /this block is pinned (?<pins>\d+) times/,
    'The block is pinned {pins} times.',
    'Unpin it as often as it was pinned, after the job that uses it.',
  ),
  own(
    'ERR_POOL_BUSY',
    /ERR_POOL_BUSY/,
    'Allocations of the pool are still live.',
    'Free them, or destroy the pool with { force: true }, which detaches their buffers.',
  ),
  own(
    'ERR_MANAGER_DISPOSED',
    /this MemoryManager was disposed/,
    'The manager was disposed, which freed all its memory.',
    'Make a new one, or dispose later.',
  ),
]
