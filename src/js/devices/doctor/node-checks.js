'use strict'

// Checks of the NPU's nodes: whether they are there, and whether this user may open them.

const { fail, ok, warn } = require('./findings.js')
const { showMode } = require('./reader.js')

/**
 * @typedef {import('./examine.js').Facts} Facts
 * @typedef {import('./npu-facts.js').Node} Node
 * @typedef {import('./reader.js').DeviceNode} DeviceNode
 * @typedef {import('./findings.js').Finding} Finding
 * @typedef {import('./findings.js').Result} Result
 */

/** The id that ids of the host without a mapping show as: nobody, nogroup. */
const UNMAPPED = 65534
const HEAP_FLAVOUR = 'the DMA-heap flavour of rknpu: its only node is /dev/rknpu (with /dev/rk_dma_heap)'

/**
 * Checks that the kernel's device nodes exist and that this user may open them.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function nodes(facts) {
  const { nodes: all, container } = facts
  if (all.length === 0) return []
  const heap = all.some(({ backend }) => backend === 'rknpu-heap')
  const missing = all.filter(({ mode }) => mode === undefined)
  if (missing.length === all.length) {
    const names = missing.map(({ path }) => path).join(', ')
    const message = `the kernel has ${names}, but ${container === undefined ? '/dev' : 'this container'} has not`
    const flavour = heap ? `; ${HEAP_FLAVOUR}, and /dev/dri does not reach it` : ''
    return fail('nodes', 'node-missing', message + flavour, deviceFlags(facts) ?? 'sudo udevadm trigger')
  }
  const opened = all.filter(({ mode }) => mode !== undefined).map((node) => permission(node, facts))
  return heap ? [ok('nodes', `${HEAP_FLAVOUR}; /dev/dri does not reach it`), ...opened] : opened
}

/**
 * A /dev/rknpu that is no node of the driver: the vendor's runtime opens it before any other.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function stray({ stray: found, nodes: all, npus, container }) {
  if (!found || (all.length === 0 && npus.length === 0)) return []
  const where = all.map(({ path }) => path).find((path) => path.includes('render')) ?? all[0]?.path ?? 'another node'
  return warn(
    'stray',
    'stray-node',
    `/dev/rknpu is no node of the rknpu driver here: the NPU is ${where}. The runtime takes /dev/rknpu first, and ` +
      'fails (hw_version -1, target type 0xffffffff)',
    container === undefined
      ? 'sudo rm /dev/rknpu, and remove what makes it: a udev rule with SYMLINK+="rknpu", a start script'
      : 'remove the mount, link or device entry for /dev/rknpu from the container',
  )
}

/**
 * @param {Node} node
 * @param {Pick<Facts, 'user' | 'groups' | 'container' | 'nodes'>} facts
 * @returns {Finding}
 */
function permission(node, facts) {
  const { user, groups } = facts
  const { path, mode = 0, uid = 0, gid = 0, role } = node
  const group = groups.names.get(gid) ?? (gid === UNMAPPED ? 'nogroup' : String(gid))
  const owner = uid === 0 ? 'root' : uid === UNMAPPED ? 'nobody' : uid
  const owners = `${owner}:${group} ${showMode(mode)}`
  if (mayOpen(node, user)) return ok('permission', `${path} (${owners}) may be opened`)
  const { reason, because, remedy } = refusal(node, facts)
  const message = `${path} (${owners}) may not be opened by ${user?.name ?? `user ${user?.uid}`}${because}`
  // This package needs the render node only; librknnrt was observed to open the card.
  if (role === 'card') return warn('permission', reason, `${message}; librknnrt may need it`, remedy)
  return fail('permission', reason, message, remedy)
}

/**
 * The reason why a node may not be opened, and the remedy. Joining a group helps only some users.
 *
 * @param {Node} node
 * @param {Pick<Facts, 'user' | 'groups' | 'container' | 'nodes'>} facts
 * @returns {{ reason: string, because: string, remedy: string }}
 */
function refusal(node, facts) {
  const { user, groups, container } = facts
  const { path, mode = 0, uid, gid = 0, access } = node
  const name = user?.name ?? '$USER'
  if (access === false && mayOpen({ ...node, access: undefined }, user)) {
    return {
      reason: 'device-cgroup',
      because: ': its mode allows it, and the device cgroup refuses (EPERM)',
      remedy: allowDevice(path, container),
    }
  }
  if (uid === UNMAPPED || gid === UNMAPPED) {
    return {
      reason: 'id-mapping',
      because: ': its owner is not mapped into this user namespace (nobody:nogroup)',
      remedy: mapIds(path, container),
    }
  }
  const forGroup = (mode & 0o060) === 0o060
  const root = user?.uid === 0
  if (root || (container !== undefined && container !== 'lxc' && gid !== 0 && forGroup)) {
    return {
      reason: 'permission',
      because: root ? ': this root has no CAP_DAC_OVERRIDE' : '',
      remedy: joinInContainer(gid, container),
    }
  }
  // Joining a group helps if the group may open the node. Joining root's is no remedy.
  const group = groups.names.get(gid) ?? String(gid)
  const remedy =
    gid !== 0 && forGroup ? `sudo usermod -aG ${group} ${name}, then log in again` : udevRule(node, name, container)
  return { reason: 'permission', because: '', remedy }
}

/** @type {(path: string, container: string | undefined) => string} */
function allowDevice(path, container) {
  if (container === undefined) {
    return (
      `in a systemd unit: DeviceAllow=${path} rw (or drop DevicePolicy= and PrivateDevices=); else look for refusals ` +
      'of SELinux or AppArmor in the log'
    )
  }
  if (container === 'kubernetes') {
    return 'allow the device (a device plugin, or securityContext.privileged: true): a hostPath mount is not enough'
  }
  if (container === 'lxc') return `on the host: dev0: ${path} (Proxmox), or lxc.cgroup2.devices.allow with its numbers`
  return `${container} run --device ${path} … in place of -v ${path}:${path}: a mount shows a node, and allows nothing`
}

/** @type {(path: string, container: string | undefined) => string} */
function mapIds(path, container) {
  if (container === 'podman') return 'podman run --group-add keep-groups …, by a user of the group that owns the node'
  if (container === 'docker') {
    return 'run it outside of the user namespace: docker run --userns=host …, or give the node to the mapped group'
  }
  return (
    `on the host: map the group into the container (Proxmox: dev0: ${path},gid=104,mode=0660 in its .conf; LXC: ` +
    'lxc.idmap and /etc/subgid). usermod inside the container does not help'
  )
}

/** @type {(gid: number, container: string | undefined) => string} */
function joinInContainer(gid, container) {
  if (container === 'podman') return 'podman run --group-add keep-groups …'
  if (container === 'kubernetes') return `securityContext.supplementalGroups: [${gid}]`
  if (container === 'docker') return `docker run --group-add ${gid} …`
  return `start it with the group ${gid} (SupplementaryGroups=${gid} in a systemd unit), or with CAP_DAC_OVERRIDE`
}

/**
 * @param {Partial<DeviceNode>} node
 * @param {Facts['user']} user
 */
function mayOpen({ mode = 0, uid, gid = 0, access }, user) {
  if (access !== undefined) return access
  if (user === undefined || (user.overrides && uid !== UNMAPPED)) return true
  const shift = user.uid === uid ? 6 : user.groups.includes(gid) && gid !== UNMAPPED ? 3 : 0
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
 * @param {string | undefined} container
 */
function udevRule({ backend }, who, container) {
  const rule = UDEV[backend] ?? ''
  const group = /GROUP="(\w+)"/.exec(rule)?.[1]
  return [
    `${container === undefined ? '' : 'on the host, '}put this line into /etc/udev/rules.d/99-npu.rules:`,
    rule,
    'sudo udevadm control --reload; sudo udevadm trigger',
    container === undefined
      ? `sudo usermod -aG ${group} ${who}, then log in again`
      : `and start the container with the host's group ${group} (--group-add)`,
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
  const heap = all.some(({ backend }) => backend === 'rknpu-heap') ? ['/dev/rk_dma_heap'] : []
  const folders = [...new Set([...all.map(({ path }) => path.replace(/^(\/dev\/\w+)\/.*/, '$1')), ...heap])]
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

module.exports = { checks: [nodes, stray], deviceFlags, mayOpen, permission }
