/**
 * Six boards and four broken set-ups, as the files that `doctor` reads. `machines/<name>.txt` has the expected output.
 *
 * Compiled from published boot logs, device trees and reports in public trackers; none is a copy of one machine.
 */

const GiB = 1024 * 1024 // in the KiB of /proc/meminfo

export const user = (name, uid, groups) => ({
  '/proc/self/status':
    `Name:\tnode\nUid:\t${uid}\t${uid}\t${uid}\t${uid}\n` +
    `Gid:\t${uid}\t${uid}\t${uid}\t${uid}\n` +
    `Groups:\t${groups.join(' ')} \nCapEff:\t0000000000000000\n`,
  '/etc/passwd': `root:x:0:0:root:/root:/bin/bash\n${name}:x:${uid}:${uid}::/home/${name}:/bin/bash\n`,
  '/etc/group': `root:x:0:\nvideo:x:44:\nrender:x:104:\n${name}:x:${uid}:\n`,
})

export const root = {
  '/proc/self/status': 'Name:\tnode\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0 \nCapEff:\t000001ffffffffff\n',
  '/etc/passwd': 'root:x:0:0:root:/root:/bin/bash\n',
  '/etc/group': 'root:x:0:\nvideo:x:44:\nrender:x:104:\n',
}

export const board = (model, ...compatible) => ({
  '/proc/device-tree/model': `${model}\0`,
  '/proc/device-tree/compatible': compatible.map((entry) => `${entry}\0`).join(''),
})

export const kernel = (release, commandLine) => ({
  '/proc/sys/kernel/osrelease': `${release}\n`,
  '/proc/cmdline': `${commandLine}\n`,
})

export const npu = (name, driver, compatible, { iommu }) => ({
  [`/sys/bus/platform/devices/${name}/uevent`]:
    `${driver ? `DRIVER=${driver}\n` : ''}` +
    `OF_NAME=npu\nOF_COMPATIBLE_0=${compatible}\nOF_COMPATIBLE_N=1\n`,
  ...(iommu ? { [`/sys/bus/platform/devices/${name}/iommu_group/type`]: 'DMA\n' } : {}),
})

/** The display at number 0, the NPU at number 1. */
export const drm = {
  '/sys/class/drm/card0/device/uevent': 'DRIVER=rockchip-drm\n',
  '/sys/class/drm/renderD128/device/uevent': 'DRIVER=rockchip-drm\n',
  '/sys/class/drm/card1/device/uevent': 'DRIVER=RKNPU\n',
  '/sys/class/drm/renderD129/device/uevent': 'DRIVER=RKNPU\n',
}
export const drmNodes = ['crw-rw---- 0 44 /dev/dri/card1', 'crw-rw---- 0 104 /dev/dri/renderD129']

export const version = (number) => ({ '/proc/rknpu/version': `RKNPU driver: v${number}\n` })

export const heaps = (...paths) => Object.fromEntries(paths.map((path) => [path, '']))

export function memory({ total, available = total * 0.8, swap = 0, swapFree = swap, cma, cmaFree }) {
  const line = (name, kib) => `${`${name}:`.padEnd(16)}${String(Math.floor(kib)).padStart(8)} kB\n`
  return {
    '/proc/meminfo':
      line('MemTotal', total) +
      line('MemFree', available / 2) +
      line('MemAvailable', available) +
      line('SwapTotal', swap) +
      line('SwapFree', swapFree) +
      'HugePages_Total:       0\n' +
      (cma === undefined ? '' : line('CmaTotal', cma) + line('CmaFree', cmaFree)),
  }
}

export const limits = ({
  soft = 1048576,
  hard = 1048576,
  locked = 8388608,
  maps = 65530,
  files = '3104\t0\t9223372036854775807',
} = {}) => ({
  '/proc/self/limits':
    'Limit                     Soft Limit           Hard Limit           Units     \n' +
    `Max open files            ${String(soft).padEnd(20)} ${String(hard).padEnd(20)} files     \n` +
    `Max locked memory         ${String(locked).padEnd(20)} ${String(locked).padEnd(20)} bytes     \n`,
  '/proc/sys/vm/max_map_count': `${maps}\n`,
  '/proc/sys/fs/file-nr': `${files}\n`,
})

export const psi = (some = '0.00', full = '0.00') => ({
  '/proc/pressure/memory':
    `some avg10=${some} avg60=0.00 avg300=0.00 total=0\n` +
    `full avg10=${full} avg60=0.00 avg300=0.00 total=0\n`,
})

const hugePages = (setting) => ({
  '/sys/kernel/mm/transparent_hugepage/enabled':
    ['always', 'madvise', 'never'].map((word) => (word === setting ? `[${word}]` : word)).join(' ') + '\n',
})

/** A cgroup v2 in systemd's layout, with or without a limit. */
function cgroup(path, { max = 'max', current, file = 0, mountRoot = '/' }) {
  const folder = `/sys/fs/cgroup${mountRoot === '/' ? path : ''}`
  return {
    '/proc/self/cgroup': `0::${path}\n`,
    '/proc/self/mountinfo': `30 25 0:26 ${mountRoot} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n`,
    [`${folder}/memory.max`]: `${max}\n`,
    [`${folder}/memory.current`]: `${current}\n`,
    [`${folder}/memory.stat`]: `anon ${current - file}\nfile ${file}\ninactive_file ${file}\nactive_file 0\n`,
  }
}

const SESSION = '/user.slice/user-1000.slice/session-3.scope'
const session = cgroup(SESSION, { current: 220 << 20 })

const sram = (total, free) => ({
  '/proc/rknpu/mm':
    `SRAM bitmap: "*" - used, "." - free (1bit = 4KB)\n[000] [................................]\n` +
    `SRAM total size: ${total}, used: ${total - free}, free: ${free}\n`,
})

export const rock5b = {
  ...board('Radxa ROCK 5B', 'radxa,rock-5b', 'rockchip,rk3588'),
  ...kernel(
    '6.1.84-8-rk2410',
    'root=UUID=1234 console=ttyFIQ0,1500000n8 coherent_pool=2M irqchip.gicv3_pseudo_nmi=0 ' +
      'cgroup_enable=cpuset cgroup_enable=memory',
  ),
  ...npu('fdab0000.npu', 'RKNPU', 'rockchip,rk3588-rknpu', { iommu: true }),
  ...drm,
  ...version('0.9.8'),
  ...sram(978944, 978944),
  '/proc/rknpu/load': 'NPU load:  Core0: 12%, Core1:  0%, Core2:  0%,\n',
  ...heaps('/dev/dma_heap/system', '/dev/dma_heap/cma'),
  ...user('radxa', 1000, [44, 104, 1000]),
  ...memory({ total: 15.6 * GiB, swap: 7.8 * GiB, cma: 64 * 1024, cmaFree: 60 * 1024 }),
  ...limits({ soft: 1024 }),
  ...psi(),
  ...hugePages('madvise'),
  ...session,
}
export const rock5bNodes = [...drmNodes, 'crw-rw---- 0 44 /dev/dma_heap/system', 'crw-rw---- 0 44 /dev/dma_heap/cma']

export const without = (files, ...patterns) =>
  Object.fromEntries(Object.entries(files).filter(([path]) => !patterns.some((pattern) => path.startsWith(pattern))))

/** name → { files, nodes } */
export const machines = {
  'orangepi5-5.10': {
    files: {
      ...board('Orange Pi 5', 'rockchip,rk3588s-orangepi-5', 'rockchip,rk3588s'),
      ...kernel(
        '5.10.160-rockchip-rk3588',
        'root=UUID=1234 console=ttyS2,1500000 cma=128M cgroup_enable=memory swapaccount=1',
      ),
      ...npu('fdab0000.npu', 'RKNPU', 'rockchip,rk3588-rknpu', { iommu: true }),
      ...drm,
      '/sys/kernel/debug/rknpu/version': 'RKNPU driver: v0.8.2\n',
      '/sys/kernel/debug/rknpu/load': 'NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n',
      ...heaps('/dev/dma_heap/system', '/dev/dma_heap/system-uncached', '/dev/dma_heap/cma'),
      ...root,
      ...memory({ total: 7.7 * GiB, swap: 3.8 * GiB, cma: 128 * 1024, cmaFree: 110 * 1024 }),
      ...limits({ locked: 67108864 }),
      ...hugePages('always'),
    },
    nodes: [...drmNodes, ...['system', 'system-uncached', 'cma'].map((name) => `crw------- 0 0 /dev/dma_heap/${name}`)],
  },

  'rock5b-6.1': { files: rock5b, nodes: rock5bNodes },

  'rk3576-6.1': {
    files: {
      ...board('ArmSoM Sige5', 'armsom,sige5', 'rockchip,rk3576'),
      ...kernel('6.1.75-vendor-rk35xx', 'root=UUID=1234 psi=1'),
      ...npu('27700000.npu', 'RKNPU', 'rockchip,rk3576-rknpu', { iommu: true }),
      ...drm,
      ...version('0.9.7'),
      ...heaps('/dev/dma_heap/system'),
      ...user('armsom', 1000, [44, 104, 1000]),
      ...memory({ total: 7.6 * GiB, swap: 2 * GiB, swapFree: 1.9 * GiB }),
      ...limits(),
      ...psi('0.31'),
      ...hugePages('always'),
      ...session,
    },
    nodes: [...drmNodes, 'crw------- 0 0 /dev/dma_heap/system'],
  },

  'rk3566-cma': {
    files: {
      ...board('BIGTREETECH CB2', 'bigtreetech,cb2', 'rockchip,rk3566'),
      ...kernel('6.1.43-rockchip', 'root=LABEL=root cma=512M'),
      ...npu('fde40000.npu', 'RKNPU', 'rockchip,rk3568-rknpu', { iommu: false }),
      ...drm,
      ...version('0.9.8'),
      ...user('biqu', 1000, [44, 104, 1000]),
      ...memory({ total: 1.9 * GiB, available: 1.2 * GiB, cma: 512 * 1024, cmaFree: 470 * 1024 }),
      ...limits({ soft: 4096, hard: 524288 }),
      ...psi(),
      ...hugePages('always'),
      ...session,
    },
    nodes: drmNodes,
  },

  'rk3568-heap': {
    files: {
      ...board('Rockchip RK3568 EVB1 DDR4 V10 Board', 'rockchip,rk3568-evb1-ddr4-v10', 'rockchip,rk3568'),
      ...kernel('5.10.198', 'storagemedia=emmc root=PARTUUID=614e0000-0000 rootwait'),
      ...npu('fde40000.npu', 'RKNPU', 'rockchip,rk3568-rknpu', { iommu: false }),
      '/sys/class/misc/rknpu/dev': '10:60\n',
      ...version('0.9.8'),
      ...heaps('/dev/rk_dma_heap/rk-dma-heap-cma', '/dev/dma_heap/system'),
      ...root,
      ...memory({ total: 3.8 * GiB, cma: 16 * 1024, cmaFree: 12 * 1024 + 300 }),
      ...limits({ soft: 1024, hard: 4096, locked: 65536 }),
    },
    nodes: [
      'crw------- 0 0 /dev/rknpu',
      'crw------- 0 0 /dev/rk_dma_heap/rk-dma-heap-cma',
      'crw------- 0 0 /dev/dma_heap/system',
    ],
  },

  'rk3588-rocket': {
    files: {
      ...board('FriendlyElec NanoPC-T6', 'friendlyarm,nanopc-t6', 'rockchip,rk3588'),
      ...kernel('6.18.2-arm64', 'root=UUID=1234 ro quiet'),
      ...npu('fdab0000.npu', 'rocket', 'rockchip,rk3588-rknn-core', { iommu: true }),
      ...npu('fdac0000.npu', 'rocket', 'rockchip,rk3588-rknn-core', { iommu: true }),
      ...npu('fdad0000.npu', 'rocket', 'rockchip,rk3588-rknn-core', { iommu: true }),
      '/sys/class/accel/accel0/device/uevent': 'MODALIAS=platform:rknn\n',
      ...heaps('/dev/dma_heap/system', '/dev/dma_heap/default_cma_region'),
      ...user('pi', 1000, [44, 104, 1000]),
      ...memory({ total: 15.6 * GiB, cma: 64 * 1024, cmaFree: 64 * 1024 }),
      ...limits({ soft: 1024, hard: 524288 }),
      ...psi(),
      ...hugePages('madvise'),
      ...session,
    },
    nodes: [
      'crw-rw---- 0 104 /dev/accel/accel0',
      'crw------- 0 0 /dev/dma_heap/system',
      'crw------- 0 0 /dev/dma_heap/default_cma_region',
    ],
  },

  'broken-permission': {
    files: { ...rock5b, ...user('alice', 1001, [1001]), ...limits() },
    nodes: [
      'crw-rw---- 0 44 /dev/dri/card1',
      'crw------- 0 0 /dev/dri/renderD129',
      'crw------- 0 0 /dev/dma_heap/system',
      'crw------- 0 0 /dev/dma_heap/cma',
    ],
  },

  'broken-container': {
    files: {
      ...without(
        rock5b,
        '/proc/device-tree',
        '/proc/rknpu',
        '/dev/',
        '/proc/self/cgroup',
        '/proc/self/mountinfo',
        '/sys/fs/cgroup',
      ),
      ...root,
      '/.dockerenv': '',
      ...cgroup('/', { max: 512 << 20, current: 505 << 20, file: 60 << 20, mountRoot: '/docker/0123abcd' }),
    },
    nodes: [],
  },

  'broken-old': {
    files: {
      ...rock5b,
      ...kernel('5.10.66', 'root=UUID=1234 psi=0'),
      ...version('0.7.2'),
      ...limits({ soft: 256, hard: 1024, maps: 30000, files: '97000\t0\t100000' }),
      '/proc/pressure/memory': undefined,
    },
    nodes: rock5bNodes,
  },

  'broken-cma': {
    files: {
      ...rock5b,
      ...kernel('6.1.84-8-rk2410', 'root=UUID=1234 iommu.passthrough=1 mem=4G'),
      ...npu('fdab0000.npu', 'RKNPU', 'rockchip,rk3588-rknpu', { iommu: false }),
      '/sys/bus/platform/devices/fdab0000.npu/iommu_group/type': undefined,
      ...memory({
        total: 3.6 * GiB, available: 0.15 * GiB, swap: 1.8 * GiB, swapFree: 0.2 * GiB, cma: 8 * 1024, cmaFree: 600,
      }),
      ...psi('38.20', '21.07'),
      ...hugePages('never'),
    },
    nodes: rock5bNodes,
  },
}
