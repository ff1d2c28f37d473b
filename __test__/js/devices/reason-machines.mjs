/**
 * Machines whose NPU cannot be used, or not well, by the reason: what `doctor` finds and what helps.
 *
 * Compiled from kernels' sources and reports in public trackers; none is a copy of one machine.
 */

import {
  board,
  drm,
  drmNodes,
  heaps,
  kernel,
  limits,
  memory,
  npu,
  psi,
  rock5b,
  root,
  user,
  version,
  without,
} from './machines.mjs'

const GiB = 1024 * 1024
/** A board without heaps. */
const rock = without(rock5b, '/dev/')

const tree = (nodes, base = '/proc/device-tree') =>
  Object.fromEntries(Object.entries(nodes).map(([name, status]) => [`${base}/${name}/status`, `${status}\0`]))
const modules = (release, text, builtin = '') => ({
  [`/lib/modules/${release}/modules.dep`]: text,
  [`/lib/modules/${release}/modules.builtin`]: builtin,
})
const rest = { ...limits(), ...psi(), ...memory({ total: 7.7 * GiB }) }
const alice = user('alice', 1000, [44, 104, 1000])
/** Her machine, with nothing unusual about it. */
const usual = { ...alice, ...rest }
const docker = { '/.dockerenv': '' }
const dockerRoot = {
  ...root,
  '/proc/self/status': root['/proc/self/status'].replace('000001ffffffffff', '00000000a80425fb'),
}
const noCaps = { ...root, '/proc/self/status': root['/proc/self/status'].replace('000001ffffffffff', '0'.repeat(16)) }
const rk3588 = board('Radxa ROCK 5B', 'radxa,rock-5b', 'rockchip,rk3588')
const rk3568 = board('Some RK3568 box', 'some,box', 'rockchip,rk3568')
const MAINLINE = '6.18.2-arm64'
const rocketCores = (driver) =>
  Object.assign(
    {},
    ...['fdab0000', 'fdac0000', 'fdad0000'].map((at) =>
      npu(`${at}.npu`, driver, 'rockchip,rk3588-rknn-core', { iommu: true }),
    ),
  )
const facade = { '/sys/class/accel/accel0/device/uevent': 'MODALIAS=platform:rknn\n' }

/** name → the machine, the finding's id and reason, patterns of its message and remedy, and what is never said. */
export const MACHINES = {
  'RK3566, switched off in the device tree': {
    files: {
      ...board('Radxa ZERO 3', 'radxa,zero3', 'rockchip,rk3566'),
      ...kernel('6.1.84-vendor-rk35xx', 'ro'),
      ...alice,
      ...tree({ 'npu@fde40000': 'disabled', 'iommu@fde4b000': 'disabled' }),
      ...rest,
    },
    id: 'driver',
    reason: 'disabled',
    message: /npu@fde40000/,
    remedy: /rk3568-npu-enable/,
    not: /modprobe|usermod/,
  },
  'RK3576, switched off below soc': {
    files: {
      ...board('Sige5', 'armsom,sige5', 'rockchip,rk3576'),
      ...kernel(MAINLINE, 'ro'),
      ...usual,
      ...tree({ 'npu@27700000': 'disabled', 'npu@27710000': 'disabled' }, '/proc/device-tree/soc'),
    },
    id: 'driver',
    reason: 'disabled',
    message: /npu@27700000, npu@27710000/,
    remedy: /rk3576/,
  },
  'RK3588, vendor module not loaded': {
    files: {
      ...rk3588,
      ...kernel('6.1.115-vendor', 'ro'),
      ...tree({ 'npu@fdab0000': 'okay' }),
      ...usual,
      ...npu('fdab0000.npu', '', 'rockchip,rk3588-rknpu', { iommu: true }),
      ...modules('6.1.115-vendor', 'kernel/drivers/rknpu/rknpu.ko.xz:\nkernel/fs/ext4/ext4.ko.xz:\n'),
    },
    id: 'driver',
    reason: 'module-not-loaded',
    message: /rknpu/,
    remedy: /sudo modprobe rknpu/,
    not: /dmesg/,
  },
  'RK3588, rocket not loaded': {
    files: {
      ...rk3588,
      ...kernel(MAINLINE, 'ro'),
      ...rocketCores(''),
      ...usual,
      ...modules(
        MAINLINE,
        'kernel/drivers/accel/rocket/rocket.ko.zst: kernel/drivers/gpu/drm/scheduler/gpu-sched.ko\n',
      ),
    },
    id: 'driver',
    reason: 'module-not-loaded',
    remedy: /modprobe rocket/,
  },
  'RK3588, modules unknown': {
    files: { ...rk3588, ...kernel(MAINLINE, 'ro'), ...rocketCores(''), ...usual },
    id: 'driver',
    reason: 'module-not-loaded',
    remedy: /modprobe rocket.*if there is no such module/,
  },
  'RK3588, rocket probed too late': {
    files: {
      ...rk3588,
      ...kernel(MAINLINE, 'ro'),
      ...rocketCores(''),
      ...usual,
      '/proc/modules': 'rocket 45056 0 - Live 0x0\n',
      ...tree({ 'npu@fdab0000': 'okay' }),
    },
    id: 'driver',
    reason: 'probe-failed',
    message: /rocket is loaded/,
    remedy: [/dmesg/, /build it in/],
    not: /modprobe/,
  },
  'RK3568, rknpu built in and its probe failed': {
    files: {
      ...rk3568,
      ...kernel('6.1.99', 'ro'),
      ...npu('fde40000.npu', '', 'rockchip,rk3568-rknpu', { iommu: false }),
      ...modules('6.1.99', '', 'kernel/drivers/rknpu/rknpu.ko\n'),
      ...usual,
    },
    id: 'driver',
    reason: 'probe-failed',
    message: /built into/,
    remedy: /supply/,
  },
  'RK3588, driver registered and its probe failed': {
    files: {
      ...rk3588,
      ...kernel('6.1.99', 'ro'),
      ...npu('fdab0000.npu', '', 'rockchip,rk3588-rknpu', { iommu: true }),
      '/sys/bus/platform/drivers/RKNPU/bind': '',
      ...usual,
    },
    id: 'driver',
    reason: 'probe-failed',
    message: /rknpu/,
  },
  'RK3588, mainline kernel with the vendor device tree': {
    files: {
      ...rk3588,
      ...kernel(MAINLINE, 'ro'),
      ...npu('fdab0000.npu', '', 'rockchip,rk3588-rknpu', { iommu: true }),
      '/proc/modules': 'rocket 45056 0 - Live 0x0\n',
      ...modules(MAINLINE, 'kernel/drivers/accel/rocket/rocket.ko:\n'),
      ...usual,
    },
    id: 'driver',
    reason: 'device-tree-mismatch',
    message: /for rknpu/,
    remedy: /one release/,
  },
  'RK3576, rocket does not drive it': {
    files: {
      ...board('Sige5', 'armsom,sige5', 'rockchip,rk3576'),
      ...kernel(MAINLINE, 'ro'),
      ...usual,
      ...npu('27700000.npu', '', 'rockchip,rk3576-rknn-core', { iommu: true }),
      '/sys/module/rocket/refcnt': '0\n',
    },
    id: 'driver',
    reason: 'no-driver',
    message: /RK3588 only/,
    remedy: /vendor/,
    not: /probe/,
  },
  'RK3568, a kernel without the driver': {
    files: {
      ...rk3568,
      ...kernel('6.12.57', 'ro'),
      ...npu('fde40000.npu', '', 'rockchip,rk3568-rknpu', { iommu: false }),
      ...modules('6.12.57', 'kernel/fs/ext4/ext4.ko:\n'),
      ...usual,
    },
    id: 'driver',
    reason: 'no-driver',
    message: /no module rknpu/,
    remedy: /vendor/,
    not: /modprobe/,
  },
  'RK3568, mainline: no NPU in this kernel': {
    files: { ...rk3568, ...kernel('6.12.57', 'ro'), ...usual },
    id: 'driver',
    reason: 'no-npu',
    message: /device tree describes none/,
    remedy: /rocket, of mainline Linux, drives RK3588/,
  },
  'RK3588, a container on a host without NPU': {
    files: {
      ...rk3588,
      ...kernel('6.6.1', 'ro'),
      ...docker,
      ...dockerRoot,
      '/sys/bus/platform/devices/x/uevent': '',
      ...rest,
    },
    id: 'driver',
    reason: 'no-npu',
    message: /of the host/,
  },
  'RK3572, RKNPU3': {
    files: {
      ...board('Forlinx OK3572', 'forlinx,ok3572', 'rockchip,rk3572'),
      ...kernel('6.12.58', 'ro'),
      ...usual,
      ...npu('27700000.npu', 'RKNPU3', 'rockchip,rk3572-rknpu', { iommu: true }),
    },
    id: 'driver',
    reason: 'other-generation',
    message: /another generation \(RKNPU3/,
    remedy: /RKNN3/,
    not: /0\.9\.8|modprobe/,
  },
  'RV1126, galcore': {
    files: {
      ...board('EVB', 'rockchip,rv1126-evb', 'rockchip,rv1126'),
      ...kernel('4.19.111', 'ro'),
      ...usual,
    },
    id: 'driver',
    reason: 'other-generation',
    message: /galcore/,
    remedy: /version 1/,
  },
  'RK3399 has no NPU': {
    files: {
      ...board('RockPro64', 'pine64,rockpro64', 'rockchip,rk3399'),
      ...kernel('6.12.1', 'ro'),
      ...usual,
    },
    id: 'board',
    reason: 'unknown-board',
    message: /rk3399: no NPU/,
  },
  'rocket, node of its facade device': {
    files: { ...rk3588, ...kernel(MAINLINE, 'ro'), ...rocketCores('rocket'), ...facade, ...usual },
    nodes: ['crw-rw---- 0 104 /dev/accel/accel0'],
    id: 'permission',
    reason: null,
    message: /accel0 \(root:render rw-rw----\) may be opened/,
  },
  'rocket, node of root': {
    files: { ...rk3588, ...kernel(MAINLINE, 'ro'), ...rocketCores('rocket'), ...facade, ...usual },
    nodes: ['crw------- 0 0 /dev/accel/accel0'],
    id: 'permission',
    reason: 'permission',
    remedy: /SUBSYSTEM=="accel"/,
  },
  'rocket runs: RKLLM does not': {
    files: { ...rk3588, ...kernel(MAINLINE, 'ro'), ...rocketCores('rocket'), ...facade, ...usual },
    nodes: ['crw-rw-rw- 0 0 /dev/accel/accel0'],
    id: 'driver',
    reason: 'rocket',
    message: /RKLLM runtimes do not/,
  },
  'docker, node mounted with -v': {
    files: { ...rock, ...docker, ...dockerRoot },
    nodes: ['crw-rw----! 0 44 /dev/dri/card1', 'crw-rw----! 0 104 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'device-cgroup',
    message: /EPERM/,
    remedy: [/--device \/dev\/dri/, /-v/],
    not: /usermod/,
  },
  'docker, user in the group, node mounted with -v': {
    files: { ...rock, ...docker },
    nodes: ['crw-rw----! 0 104 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'device-cgroup',
    remedy: /--device/,
    not: /usermod/,
  },
  'a systemd unit with DevicePolicy=closed': {
    files: rock,
    nodes: ['crw-rw----! 0 104 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'device-cgroup',
    remedy: /DeviceAllow=\/dev\/dri\/renderD129/,
    not: /usermod/,
  },
  'kubernetes, hostPath without the right': {
    files: { ...rock, ...dockerRoot, '/proc/1/cgroup': '0::/kubepods/besteffort/pod1\n' },
    nodes: ['crw-rw----! 0 104 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'device-cgroup',
    remedy: /device plugin/,
    not: /usermod/,
  },
  'unprivileged LXC: nobody:nogroup': {
    files: {
      ...rock,
      ...root,
      '/proc/1/environ': 'container=lxc\0',
      '/proc/self/uid_map': '         0     100000      65536\n',
    },
    nodes: ['crw-rw---- 65534 65534 /dev/dri/renderD129', 'crw-rw---- 65534 65534 /dev/dri/card1'],
    id: 'permission',
    reason: 'id-mapping',
    message: /nobody:nogroup/,
    remedy: [/on the host/, /gid=/],
    not: /sudo usermod/,
  },
  'rootless podman: nobody:nogroup': {
    files: { ...rock, ...root, '/run/.containerenv': '' },
    nodes: ['crw-rw---- 65534 65534 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'id-mapping',
    remedy: /keep-groups/,
    not: /usermod/,
  },
  'docker, another user without the group': {
    files: { ...rock, ...docker, ...user('app', 1001, [1001]) },
    nodes: drmNodes,
    id: 'permission',
    reason: 'permission',
    remedy: /--group-add (?:104|44)/,
    not: /usermod/,
  },
  'docker, root without capabilities': {
    files: { ...rock, ...docker, ...noCaps },
    nodes: ['crw-rw---- 1 104 /dev/dri/renderD129'],
    id: 'permission',
    reason: 'permission',
    message: /CAP_DAC_OVERRIDE/,
    remedy: /--group-add 104/,
    not: /usermod/,
  },
  'a user without the group': {
    files: { ...rock, ...user('bob', 1001, [1001]) },
    nodes: drmNodes,
    id: 'permission',
    reason: 'permission',
    remedy: /sudo usermod -aG (?:video|render) bob/,
  },
  'docker, DMA-heap flavour, /dev/dri alone': {
    files: {
      ...rk3568,
      ...kernel('6.1.141', 'ro'),
      ...npu('fde40000.npu', 'RKNPU', 'rockchip,rk3568-rknpu', { iommu: true }),
      '/sys/class/misc/rknpu/dev': '10:60\n',
      ...docker,
      ...dockerRoot,
      ...rest,
    },
    nodes: ['crw-rw---- 0 44 /dev/dri/card0'],
    id: 'nodes',
    reason: 'node-missing',
    message: /\/dev\/dri does not reach it/,
    remedy: /--device \/dev\/rknpu --device \/dev\/rk_dma_heap/,
  },
  'a stray /dev/rknpu': {
    files: { ...rock, '/dev/rknpu': '' },
    nodes: [...drmNodes, 'crw-rw---- 0 104 /dev/rknpu'],
    id: 'stray',
    reason: 'stray-node',
    message: [/renderD129/, /hw_version -1/],
    remedy: /sudo rm \/dev\/rknpu/,
  },
  'a stray /dev/rknpu beside rocket, in a container': {
    files: { ...rk3588, ...kernel(MAINLINE, 'ro'), ...rocketCores('rocket'), ...facade, ...docker, ...root, ...rest },
    nodes: ['crw-rw-rw- 0 0 /dev/accel/accel0', 'crw-rw---- 0 104 /dev/rknpu'],
    id: 'stray',
    reason: 'stray-node',
    remedy: /from the container/,
  },
  'rknpu 0.9.6 and large models': {
    files: { ...rock, ...version('0.9.6') },
    nodes: drmNodes,
    id: 'iommu',
    reason: 'one-domain',
    message: [/0\.9\.6/, /more than 4 GiB fail whichever base_domain_id/],
    remedy: /0\.9\.8/,
  },
  'RK3566 with an old driver: nothing about RKLLM fails': {
    files: {
      ...board('CB2', 'bigtreetech,cb2', 'rockchip,rk3566'),
      ...kernel('5.10.1', 'ro'),
      ...version('0.8.2'),
      ...drm,
      ...npu('fde40000.npu', 'RKNPU', 'rockchip,rk3568-rknpu', { iommu: true }),
      ...usual,
    },
    nodes: drmNodes,
    id: 'driver',
    reason: null,
    message: /RKNN supports rk3566, RKLLM does not/,
  },
  'a board of 1 GiB gets CMA that fits': {
    files: {
      ...board('CB2', 'bigtreetech,cb2', 'rockchip,rk3566'),
      ...kernel('6.1.1', 'cma=64M'),
      ...version('0.9.8'),
      ...drm,
      ...npu('fde40000.npu', 'RKNPU', 'rockchip,rk3568-rknpu', { iommu: false }),
      ...usual,
      ...memory({ total: 0.96 * GiB, cma: 64 * 1024, cmaFree: 50 * 1024 }),
    },
    nodes: drmNodes,
    id: 'cma',
    reason: 'cma-small',
    remedy: /cma=256M/,
    not: /512M/,
  },
  'a board of 128 MiB, with the argument of its heap': {
    files: {
      ...board('Luckfox Pico', 'luckfox,pico', 'rockchip,rv1106'),
      ...kernel('5.10.160', 'rk_dma_heap_cma=24M'),
      ...root,
      ...npu('ff660000.npu', 'RKNPU', 'rockchip,rv1106-rknpu', { iommu: false }),
      '/sys/class/misc/rknpu/dev': '10:60\n',
      ...heaps('/dev/rk_dma_heap/rk-dma-heap-cma'),
      ...version('0.9.2'),
      ...rest,
      ...memory({ total: 110 * 1024, cma: 24 * 1024, cmaFree: 20 * 1024 }),
    },
    nodes: ['crw------- 0 0 /dev/rknpu', 'crw------- 0 0 /dev/rk_dma_heap/rk-dma-heap-cma'],
    id: 'cma',
    reason: 'cma-small',
    remedy: /rk_dma_heap_cma=5\dM/,
    not: /512M/,
  },
  'swap on zram': {
    files: {
      ...rock,
      ...memory({ total: 3.8 * GiB, swap: 1.9 * GiB, swapFree: 0.9 * GiB }),
      '/proc/swaps': `Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition ${(1.9 * GiB) | 0} ${1.0 * GiB} 100\n`,
    },
    nodes: drmNodes,
    id: 'swap',
    reason: 'zram',
    message: /on zram, which lies in RAM/,
    remedy: /swap file/,
  },
  'read-ahead of the disks': {
    files: {
      ...rock,
      '/sys/block/mmcblk0/queue/read_ahead_kb': '128\n',
      '/sys/block/nvme0n1/queue/read_ahead_kb': '4096\n',
      '/sys/block/loop0/queue/read_ahead_kb': '128\n',
      '/sys/block/mmcblk0boot0/queue/read_ahead_kb': '128\n',
    },
    nodes: drmNodes,
    id: 'readahead',
    reason: 'read-ahead-small',
    message: /mmcblk0 128 KiB, nvme0n1 4 MiB/,
    remedy: /tee \/sys\/block\/mmcblk0\/queue\/read_ahead_kb$/,
  },
}
