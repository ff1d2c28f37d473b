'use strict'

// Checks of the NPU: its driver, its nodes and their permissions, and its memory.
//
// A check maps facts to findings: { id, status: 'ok' | 'warn' | 'fail', message, remedy }. It reads no files and prints
// nothing.

const { formatBytes } = require('../../core/format-bytes.js')
const { compareVersions, versionOf } = require('../../core/versions.js')
const { showMode } = require('./reader.js')

const MiB = 2 ** 20

/**
 * @typedef {import('./examine.js').Facts} Facts
 * @typedef {import('./facts.js').Node} Node
 * @typedef {import('./reader.js').DeviceNode} DeviceNode
 * @typedef {Omit<import('../../types/doctor.js').Finding, 'area'>} Finding
 * @typedef {Finding | Finding[]} Result
 */

/** @type {(id: string, message: string) => Finding} */
const ok = (id, message) => ({ id, status: 'ok', message, remedy: null })
/** @type {(id: string, message: string, remedy: string | null) => Finding} */
const warn = (id, message, remedy) => ({ id, status: 'warn', message, remedy })
/** @type {(id: string, message: string, remedy: string | null) => Finding} */
const fail = (id, message, remedy) => ({ id, status: 'fail', message, remedy })

/** The driver versions that RKLLM 1.3.0's guide, its runtime, and older runtimes ask for. */
const GUIDE = [0, 9, 8]
const RUNTIME = [0, 9, 7]
const OLDER_RUNTIMES = [0, 9, 6]
/** The first Linux with the mainline driver. */
const ROCKET_KERNEL = [6, 18]
/** SoCs whose vendor kernels enable the IOMMU. */
/** SoCs with 32-bit CPUs, for which this package does not compile. */
const UNSUPPORTED = ['rv1103', 'rv1106']
const WITH_IOMMU = ['rk3588', 'rk3588s', 'rk3583', 'rk3576', 'rk3562']

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function board({ board: model, soc, deviceTree, container }) {
  if (soc === undefined) {
    return warn(
      'board',
      'this is not a Rockchip board with a known NPU',
      "nothing to do: backend 'auto' uses a simulated NPU here",
    )
  }
  const name = [model, soc].filter(Boolean).join(', ')
  if (UNSUPPORTED.includes(soc)) {
    return fail(
      'board',
      `${name}: RV1103 and RV1106 are not supported, because their CPUs have 32 bits`,
      "use the vendor's C interface of RKNN there; this package needs a 64-bit SoC (RK3588, RK3576, RK356x)",
    )
  }
  if (deviceTree || container === undefined) return ok('board', name)
  // This package also finds the SoC in sysfs; the RKNN runtime reads the device tree only.
  const hidden = 'the device tree is hidden in this container, and the RKNN runtime may not recognise its board'
  return warn('board', `${name}; ${hidden}`, UNMASK[container] ?? 'show the container /sys/firmware')
}

/**
 * How to show a container /sys/firmware, which holds the device tree.
 *
 * @type {Record<string, string>}
 */
const UNMASK = {
  docker: 'docker run --security-opt systempaths=unconfined --security-opt apparmor=unconfined …',
  podman: 'podman run --security-opt unmask=/sys/firmware …',
  kubernetes: 'securityContext.procMount: Unmasked',
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function driver({ driver: { name, version }, npus, nodes, soc, kernelVersion, container }) {
  if (name === undefined && nodes.length === 0) {
    if (npus.length === 0 && soc === undefined) return []
    if (npus.length === 0 && container !== undefined) return []
    const mainline = kernelVersion !== undefined && compareVersions(kernelVersion, ROCKET_KERNEL) >= 0
    const remedy = mainline
      ? 'load it: sudo modprobe rocket (RK3588 only), or boot a vendor kernel with rknpu for RKLLM'
      : "boot the board vendor's kernel (5.10 or 6.1), or Linux 6.18 and later for rocket (RK3588 only)"
    return fail('driver', npus.length === 0 ? 'the kernel has no NPU device' : 'no driver is bound to the NPU', remedy)
  }
  if (name === 'rocket') {
    return warn(
      'driver',
      'rocket, the mainline driver: this package works with it, the RKNN and RKLLM runtimes do not',
      'for RKLLM boot a vendor kernel with rknpu 0.9.8',
    )
  }
  if (version === undefined)
    return warn('driver', 'rknpu; its version cannot be read here', 'sudo cat /sys/kernel/debug/rknpu/version')
  const parts = /** @type {number[]} */ (versionOf(version))
  const wanted = `RKLLM 1.3.0's guide asks for ${GUIDE.join('.')}, its runtime for ${RUNTIME.join('.')}`
  const update = `update the board's kernel to one with rknpu ${GUIDE.join('.')}`
  if (compareVersions(parts, OLDER_RUNTIMES) < 0) {
    return fail('driver', `rknpu ${version}: ${wanted}, older ones for ${OLDER_RUNTIMES.join('.')}; RKNN works`, update)
  }
  if (compareVersions(parts, GUIDE) < 0) return warn('driver', `rknpu ${version}: ${wanted}`, update)
  return ok('driver', `rknpu ${version}, as RKLLM asks for`)
}

/**
 * Checks that the kernel's device nodes exist and that this user may open them.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function nodes(facts) {
  const { nodes: all, user, container } = facts
  if (all.length === 0) return []
  const missing = all.filter(({ mode }) => mode === undefined)
  if (missing.length === all.length) {
    const names = missing.map(({ path }) => path).join(', ')
    const message = `the kernel has ${names}, but ${container === undefined ? '/dev' : 'this container'} has not`
    return fail('nodes', message, deviceFlags(facts) ?? 'sudo udevadm trigger')
  }
  return all.filter(({ mode }) => mode !== undefined).map((node) => permission(node, user, facts.groups))
}

/**
 * @param {Node} node
 * @param {Facts['user']} user
 * @param {Facts['groups']} groups
 * @returns {Finding}
 */
function permission(node, user, groups) {
  const { path, mode = 0, uid = 0, gid = 0, role } = node
  const group = groups.names.get(gid) ?? String(gid)
  const owners = `${uid === 0 ? 'root' : uid}:${group} ${showMode(mode)}`
  if (mayOpen(node, user)) return ok('permission', `${path} (${owners}) may be opened`)
  const who = user?.name ?? '$USER'
  // Joining a group helps if the group may open the node. Joining root's is no remedy.
  const remedy =
    gid !== 0 && (mode & 0o060) === 0o060 ? `sudo usermod -aG ${group} ${who}, then log in again` : udevRule(node, who)
  const message = `${path} (${owners}) may not be opened by ${user?.name ?? `user ${user?.uid}`}`
  // This package needs the render node only; librknnrt was observed to open the card.
  if (role === 'card') return warn('permission', `${message}; librknnrt may need it`, remedy)
  return fail('permission', message, remedy)
}

/**
 * @param {Partial<DeviceNode>} node
 * @param {Facts['user']} user
 */
function mayOpen({ mode = 0, uid, gid = 0, access }, user) {
  if (access !== undefined) return access
  if (user === undefined || user.overrides) return true
  const shift = user.uid === uid ? 6 : user.groups.includes(gid) ? 3 : 0
  return ((mode >> shift) & 0o6) === 0o6
}

/** @type {Partial<Record<import('../../types/devices.js').Backend, string>>} */
const UDEV = {
  rknpu: 'KERNEL=="renderD*", SUBSYSTEM=="drm", GROUP="render", MODE="0660"',
  'rknpu-heap': 'KERNEL=="rknpu", SUBSYSTEM=="misc", GROUP="render", MODE="0660"',
  rocket: 'SUBSYSTEM=="accel", GROUP="render", MODE="0660"',
  'dma-heap': 'SUBSYSTEM=="dma_heap", GROUP="video", MODE="0660"',
}

/**
 * @param {Node} node
 * @param {string} who
 */
function udevRule({ backend }, who) {
  const rule = UDEV[backend] ?? ''
  const group = /GROUP="(\w+)"/.exec(rule)?.[1]
  return [
    'put this line into /etc/udev/rules.d/99-npu.rules:',
    rule,
    'sudo udevadm control --reload; sudo udevadm trigger',
    `sudo usermod -aG ${group} ${who}, then log in again`,
  ].join('\n')
}

/**
 * Returns the options that give this container its NPU; undefined outside a container.
 *
 * @param {Pick<Facts, 'container' | 'nodes' | 'groups'>} facts
 */
const deviceFlags = ({ container, nodes: all, groups }) =>
  container === undefined ? undefined : containerFlags(container, all, groups)

/**
 * @param {string} container
 * @param {Node[]} all
 * @param {Facts['groups']} groups
 */
function containerFlags(container, all, groups) {
  const folders = [...new Set(all.map(({ path }) => path.replace(/^(\/dev\/\w+)\/.*/, '$1')))]
  if (container === 'kubernetes') {
    const allow = 'allow the devices (a device plugin, or securityContext.privileged: true)'
    return `mount hostPath ${folders.join(', ')} and ${allow}; supplementalGroups: the node's render group`
  }
  const devices = folders.map((path) => `--device ${path}`).join(' ')
  if (container === 'podman') return `podman run ${devices} --group-add keep-groups …`
  if (container === 'docker') {
    const group = groups.ids.get('render') ?? '"$(getent group render | cut -d: -f3)"'
    return `docker run ${devices} --group-add ${group} …`
  }
  return `give the container ${folders.join(', ')}`
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function iommu({ npus, soc, driver: { name, version } }) {
  const driven = npus.filter(({ driver: of }) => of !== undefined)
  if (driven.length === 0) return []
  if (driven.some((npu) => npu.iommu)) {
    if (name === 'rocket') return ok('iommu', 'on: every open file has 4 GiB of NPU addresses of its own')
    const parts = version === undefined ? undefined : versionOf(version)
    if (parts === undefined) return ok('iommu', 'on: 4 GiB of NPU addresses in each domain')
    if (compareVersions(parts, GUIDE) >= 0) return ok('iommu', 'on: up to 16 domains of 4 GiB of NPU addresses')
    const why =
      compareVersions(parts, OLDER_RUNTIMES) < 0
        ? 'supports no others'
        : 'does not hold a domain during a call, so this package uses no others'
    return warn(
      'iommu',
      `on, with one domain of 4 GiB: rknpu ${version} ${why}`,
      'rknpu 0.9.8 and later have 16: with them several large models fit',
    )
  }
  const remedy =
    'enable the rknpu_mmu node in the device tree (the vendor kernel does), or make the CMA area larger: cma=512M'
  if (soc !== undefined && WITH_IOMMU.includes(soc))
    return warn('iommu', `off on ${soc}, which has one: NPU memory must be contiguous, from the CMA area`, remedy)
  return ok('iommu', 'off: NPU memory is contiguous, from the CMA area')
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function cma({ memory, npus, nodes: all }) {
  if (memory === undefined || (all.length === 0 && npus.length === 0)) return []
  const { cmaTotal, cmaFree = NaN } = memory
  const needed =
    all.some(({ backend }) => backend === 'rknpu-heap') || (npus.length > 0 && npus.every((npu) => !npu.iommu))
  if (cmaTotal === undefined || cmaTotal === 0) {
    if (!needed) return ok('cma', 'none, and none needed with an IOMMU')
    return fail(
      'cma',
      'there is no CMA area, and without an IOMMU all NPU memory comes from it',
      kernelArgument('cma=512M'),
    )
  }
  const figures = `${formatBytes(cmaFree)} of ${formatBytes(cmaTotal)} free`
  if (!needed) return ok('cma', `${figures}; not needed with an IOMMU`)
  if (cmaTotal < 64 * MiB && cmaFree > cmaTotal / 2)
    return fail('cma', `too small: ${figures}`, kernelArgument('cma=512M'))
  if (cmaFree < 16 * MiB) {
    return fail(
      'cma',
      `used up: ${figures}`,
      'stop what holds it (sudo cat /sys/kernel/debug/dma_buf/bufinfo), or make it larger: ' +
        `${kernelArgument('cma=512M')}`,
    )
  }
  if (cmaTotal < 256 * MiB) return warn('cma', `${figures}: enough for small models only`, kernelArgument('cma=512M'))
  return ok('cma', figures)
}

/** @type {(argument: string) => string} */
const kernelArgument = (argument) =>
  `add ${argument} to the kernel command line (extlinux.conf, armbianEnv.txt) and reboot`

/**
 * Checks the heaps from which MPP, RGA and backend 'dma-heap' allocate.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function heaps({ heaps: all = [], user, groups, npus }) {
  if (all.length === 0)
    return npus.length === 0 ? [] : ok('heaps', 'no DMA-BUF heaps; MPP and RGA may need them, this package does not')
  const names = all.map(({ path }) => path.split('/').at(-1)).join(', ')
  const closed = all.filter((heap) => !mayOpen(heap, user))
  if (closed.length === 0) return ok('heaps', `${names}: all may be opened`)
  const which =
    closed.length === all.length
      ? `${names}: none may be opened`
      : `${names}: not ${closed.map(({ path }) => path.split('/').at(-1)).join(', ')}`
  return warn('heaps', which, permission(closed[0], user, groups).remedy)
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function sram({ sram: found, npus }) {
  if (npus.length === 0 || found === undefined) return []
  return ok(
    'sram',
    found.total === 0
      ? 'none is assigned to the NPU'
      : `${formatBytes(found.free)} of ${formatBytes(found.total)} free`,
  )
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function load({ load: cores, npus }) {
  if (npus.length === 0) return []
  if (cores === undefined) return ok('load', "not readable by this user (/sys/kernel/debug is root's)")
  return ok('load', cores.map((share, core) => `core ${core}: ${share} %`).join(', '))
}

module.exports = {
  checks: [board, driver, nodes, iommu, cma, sram, heaps, load],
  deviceFlags,
  fail,
  kernelArgument,
  mayOpen,
  ok,
  warn,
}
