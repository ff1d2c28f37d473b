'use strict'

// Checks of the machine around the NPU: RAM, limits of the process, containers, the kernel's settings.

const { formatBytes } = require('../../core/format-bytes.js')
const { compareVersions } = require('../../core/versions.js')
const { fail, kernelArgument, ok, warn } = require('./findings.js')

const [MiB, GiB] = [2 ** 20, 2 ** 30]

/** RKNN takes one descriptor for each buffer, and fails at the usual limit of 1024. */
const FDS_ENOUGH = 4096
const FDS_USUAL = 1024
const MAPS_USUAL = 65530
/** The first Linux whose PSI triggers need no CAP_SYS_RESOURCE. */
const UNPRIVILEGED_TRIGGERS = [6, 4]

/**
 * @typedef {import('./examine.js').Facts} Facts
 * @typedef {import('./findings.js').Finding} Finding
 * @typedef {import('./findings.js').Result} Result
 */

/** @type {(share: number) => string} */
const percent = (share) => `${Math.floor(share * 100)} %`

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function ram({ memory }) {
  if (memory?.total === undefined || memory.available === undefined)
    return warn('ram', 'unreadable', '/proc/meminfo cannot be read', 'mount /proc')
  const figures = `${formatBytes(memory.available)} of ${formatBytes(memory.total)} available`
  const share = memory.available / memory.total
  const remedy = 'stop the processes that hold it (rkllm-memory top), or use a smaller or 4-bit model'
  if (share < 0.05) return fail('ram', 'ram-used-up', figures, remedy)
  return share < 0.15 ? warn('ram', 'ram-low', figures, remedy) : ok('ram', figures)
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function swap({ memory, swaps }) {
  if (memory?.swapTotal === undefined) return []
  const { total = NaN, swapTotal, swapFree = NaN } = memory
  if (swapTotal === 0) return ok('swap', 'none')
  const used = 1 - swapFree / swapTotal
  const zram = swaps.reduce((sum, { size }) => sum + size, 0)
  const held = swaps.reduce((sum, area) => sum + area.used, 0)
  const figures =
    `${formatBytes(swapTotal - swapFree)} of ${formatBytes(swapTotal)} used` +
    (zram > 0 ? `, ${zram < swapTotal ? `${formatBytes(zram)} of it ` : ''}on zram, which lies in RAM itself` : '')
  // Compressed pages take about a third to a half of what they hold.
  if (zram > 0 && held > total / 8) {
    return warn(
      'swap',
      'zram',
      `${figures}: swapped pages take the RAM that models need`,
      'free RAM before loading, use a swap file on the disk, or make zram smaller (armbian: ' +
        '/etc/default/armbian-zram-config); NPU memory is never swapped',
    )
  }
  return used > 0.5
    ? warn(
        'swap',
        'swap-used',
        `${figures}: the machine is short of RAM`,
        'NPU memory is never swapped, other memory is: free some RAM',
      )
    : ok('swap', figures)
}

/** The kernel's usual read-ahead, and what suits files of gigabytes. */
const READ_AHEAD = { usual: 128 * 1024, wanted: 1024 * 1024 }

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function readAhead({ disks: { models, disks, place }, npus, nodes }) {
  if (place === 'in RAM') return ok('readahead', `${models} lies in RAM`)
  if (disks.length === 0 || (models === null && npus.length === 0 && nodes.length === 0)) return []
  const which = place === 'known' ? `${models} lies on ` : models === null ? '' : `the disk of ${models} is not known: `
  const figures = which + disks.map(({ name, readAhead: bytes }) => `${name} ${formatBytes(bytes)}`).join(', ')
  const small = disks.filter(({ readAhead: bytes }) => bytes <= READ_AHEAD.usual)
  if (small.length === 0) return ok('readahead', figures)
  const tee = `echo ${READ_AHEAD.wanted / 1024} | sudo tee ${small.map(({ file }) => file).join(' ')}`
  const several = disks.length > 1 && place === 'unknown'
  return warn(
    'readahead',
    'read-ahead-small',
    `${figures}: a model file is read in small pieces, and loads slowly`,
    several ? `for the disk of the models (doctor --models DIR looks at it alone): ${tee}` : tee,
  )
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function pressure({ pressure: psi, kernelVersion, commandLine = [], user }) {
  if (psi === undefined) {
    const off = commandLine.includes('psi=0') ? 'switched off (psi=0)' : 'not in this kernel, or switched off'
    return warn(
      'pressure',
      'no-psi',
      `PSI is ${off}: MemAvailable is read every second instead`,
      `${kernelArgument('psi=1')}, if the kernel has CONFIG_PSI`,
    )
  }
  const figures = `some ${psi.some} %, full ${psi.full} % of the last 10 s`
  if (psi.full > 5 || psi.some > 10)
    return warn(
      'pressure',
      'stalls',
      `tasks wait for memory: ${figures}`,
      'find the processes that hold it: rkllm-memory top',
    )
  const polled =
    kernelVersion !== undefined &&
    compareVersions(kernelVersion, UNPRIVILEGED_TRIGGERS) < 0 &&
    user?.resources === false
  return ok(
    'pressure',
    polled ? `${figures}; read every 2 s (triggers need CAP_SYS_RESOURCE before Linux 6.4)` : figures,
  )
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function cgroup({ cgroup: group, commandLine = [] }) {
  if (group === undefined) {
    const off = commandLine.includes('cgroup_disable=memory') ? ' (cgroup_disable=memory)' : ''
    return ok('cgroup', `no memory controller over this process${off}`)
  }
  const { file, limit, current, cache } = group
  if (limit === Infinity) return ok('cgroup', `no limit; ${formatBytes(current)} used`)
  // The kernel drops page cache before it refuses an allocation.
  const held = Math.max(0, current - cache)
  const figures = `${file} is ${formatBytes(limit)}, ${formatBytes(held)} held (${percent(held / limit)})`
  const remedy =
    'raise it (MemoryMax=, docker run --memory): with an IOMMU NPU memory counts, and the process is killed at the ' +
    'limit'
  if (held / limit > 0.95) return fail('cgroup', 'limit-reached', figures, remedy)
  return held / limit > 0.8 || limit < GiB ? warn('cgroup', 'limit-near', figures, remedy) : ok('cgroup', figures)
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function fds({ limits: { fds: limit, files } }) {
  /** @type {Finding[]} */
  const findings = []
  if (limit !== undefined) {
    const { soft, hard } = limit
    const figures =
      soft === hard
        ? `up to ${limitText(soft)} open files`
        : `up to ${limitText(soft)} open files, ${limitText(hard)} when raised`
    const remedy =
      hard >= FDS_ENOUGH
        ? 'ulimit -n 65536 in the shell that starts it, LimitNOFILE=65536 in a systemd unit'
        : 'LimitNOFILE=65536 in a systemd unit, docker run --ulimit nofile=65536, or "* hard nofile 65536" in ' +
          '/etc/security/limits.conf'
    const why = 'RKNN takes one for each buffer'
    if (soft < FDS_USUAL) findings.push(fail('fds', 'fds-too-few', `${figures}: ${why}`, remedy))
    else if (soft < FDS_ENOUGH)
      findings.push(warn('fds', 'fds-few', `${figures}: ${why}, and fails at about 1020`, remedy))
    else findings.push(ok('fds', figures))
  }
  if (files !== undefined && files.open / files.max > 0.9) {
    findings.push(
      fail(
        'files',
        'file-table-full',
        `${files.open} of ${files.max} open files on this machine: users other than root get ENFILE`,
        `sudo sysctl fs.file-max=${files.max * 4}`,
      ),
    )
  }
  return findings
}

/** @type {(number: number) => string | number} */
const limitText = (number) => (number === Infinity ? 'unlimited' : number)

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function maps({ limits: { maps: most } }) {
  if (most === undefined) return []
  if (most < MAPS_USUAL)
    return warn(
      'maps',
      'maps-few',
      `vm.max_map_count is ${most}, below the usual ${MAPS_USUAL}`,
      `sudo sysctl vm.max_map_count=${4 * (MAPS_USUAL + 6)}`,
    )
  return ok('maps', `up to ${most} mappings`)
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function locked({ limits: { locked: limit } }) {
  if (limit === undefined) return []
  if (limit.soft === Infinity) return ok('locked', 'any amount of memory may be locked')
  if (limit.soft >= MiB)
    return ok('locked', `up to ${formatBytes(limit.soft)} may be locked (allocateSystemMemory with lock: true)`)
  return warn(
    'locked',
    'locked-little',
    `only ${formatBytes(limit.soft)} may be locked (allocateSystemMemory with lock: true)`,
    'ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit',
  )
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function hugePages({ hugePages: setting }) {
  if (setting === undefined) return ok('hugepages', 'this kernel has no transparent huge pages')
  if (setting === 'never')
    return warn(
      'hugepages',
      'off',
      'transparent huge pages are switched off: hugePages: true fails',
      'echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled',
    )
  return ok('hugepages', `transparent huge pages: ${setting}`)
}

/**
 * Harmful kernel arguments, and their effects.
 *
 * @type {[pattern: RegExp, effect: string][]}
 */
const HARMFUL = [
  [/^(?:cma|rk_dma_heap_cma)=0\D?$/, 'removes the CMA area'],
  [/^mem=/, 'hides RAM beyond it'],
  [/^iommu\.passthrough=1$/, "disables the NPU's IOMMU"],
]

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function commandLine({ commandLine: words, npus }) {
  if (words === undefined) return []
  const harmful = words.flatMap((word) =>
    HARMFUL.filter(([pattern]) => pattern.test(word)).map(([, why]) => `${word} ${why}`),
  )
  if (harmful.length > 0 && npus.length > 0)
    return warn(
      'cmdline',
      'harmful',
      harmful.join('; '),
      'remove it from the kernel command line (extlinux.conf, armbianEnv.txt) and reboot',
    )
  return ok('cmdline', words.length === 0 ? 'nothing about memory' : words.join(' '))
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function container({ container: kind }) {
  return ok('container', kind === undefined ? 'none' : `this is inside ${kind}`)
}

module.exports = {
  checks: [ram, swap, readAhead, pressure, cgroup, fds, maps, locked, hugePages, commandLine, container],
}
