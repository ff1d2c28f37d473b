/**
 * `doctor` tells apart why an NPU cannot be used, and what helps: machines of each kind, by their reasons.
 *
 * Compiled from kernels' sources and reports in public trackers; none is a copy of one machine.
 */

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'

import doctor from '../../../src/js/devices/doctor/examine.js'
import reading from '../../../src/js/devices/doctor/reader.js'
import { command, visibleWidth } from '../../support/command.mjs'
import { kernel, limits, psi, rock5b, user, without } from './machines.mjs'
import { MACHINES } from './reason-machines.mjs'

const { examine } = doctor
const { makeReader } = reading
/** Writes a machine below a temporary folder, and examines it. */
function diagnosed(t, { files, nodes = [], models }) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-reasons-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const write = (path, text) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  for (const [path, text] of Object.entries(files)) if (text !== undefined) write(path, text)
  write('nodes', nodes.map((line) => `${line}\n`).join(''))
  return { folder, ...examine(makeReader(folder), undefined, models) }
}

for (const [name, { id, reason, message, remedy, not, ...machine }] of Object.entries(MACHINES)) {
  test(name, async (t) => {
    const { folder, findings } = diagnosed(t, machine)
    const found = findings.filter((finding) => finding.id === id)
    const finding = found.find((one) => one.reason === reason)
    assert.ok(finding, `${id}: ${JSON.stringify(found)}`)
    for (const pattern of [message].flat().filter(Boolean)) assert.match(finding.message, pattern)
    for (const pattern of [remedy].flat().filter(Boolean)) assert.match(finding.remedy, pattern)
    const texts = findings.filter(({ area }) => area === 'npu').map((one) => `${one.message} ${one.remedy}`)
    if (not !== undefined) for (const text of texts) assert.doesNotMatch(text, not)
    assert.doesNotMatch(JSON.stringify(findings), /undefined|NaN/)
    const { stdout } = await command(['doctor', '--root', folder])
    for (const line of stdout.split('\n')) assert.ok(visibleWidth(line) <= 80, line)
  })
}

test('another vendor’s accelerator is no NPU of Rockchip', (t) => {
  const { findings } = diagnosed(t, {
    files: {
      ...kernel('6.14.1', 'ro'),
      '/sys/class/accel/accel0/device/uevent': 'DRIVER=amdxdna\n',
      ...user('alice', 1000, [104]),
      ...limits(),
      ...psi(),
    },
    nodes: ['crw-rw---- 0 104 /dev/accel/accel0'],
  })
  assert.deepEqual(
    findings.filter(({ area, status }) => area === 'npu' && status !== 'ok').map(({ id }) => id),
    ['board'],
  )
})

test('a misc device of the driver is not stray', (t) => {
  const files = { ...without(rock5b, '/sys/class/drm'), '/sys/class/misc/rknpu/dev': '10:60\n', '/dev/rknpu': '' }
  const { findings } = diagnosed(t, { files, nodes: ['crw------- 0 0 /dev/rknpu'] })
  assert.ok(!findings.some(({ id }) => id === 'stray'))
})

test('a support bundle of each machine gives the same findings', async (t) => {
  for (const { files, nodes } of Object.values(MACHINES)) {
    const { folder } = diagnosed(t, { files, nodes })
    const bundle = join(folder, 'bundle')
    const { stdout } = await command(['doctor', '--root', folder, '--save', bundle])
    assert.equal((await command(['doctor', '--root', bundle])).stdout, stdout)
  }
})

test('every reason is documented, and of the form a-b', (t) => {
  const text = readFileSync(new URL('../../../docs/command-line.md', import.meta.url), 'utf8')
  const reasons = Object.values(MACHINES).flatMap((machine) =>
    diagnosed(t, machine).findings.map(({ reason }) => reason),
  )
  for (const reason of new Set(reasons.filter((one) => one !== null))) {
    assert.match(reason, /^[a-z0-9]+(?:-[a-z0-9]+)*$/)
    assert.ok(text.includes(`\`${reason}\``), reason)
  }
})

/** Block devices, by name: the read-ahead in KiB, the number, and numbers of partitions. */
const block = (devices) =>
  Object.fromEntries(
    Object.entries(devices).flatMap(([name, [kib, number, parts = {}]]) => [
      [`/sys/block/${name}/queue/read_ahead_kb`, `${kib}\n`],
      [`/sys/block/${name}/dev`, `${number}\n`],
      ...Object.entries(parts).map(([part, own]) => [`/sys/block/${name}/${part}/dev`, `${own}\n`]),
    ]),
  )
const BLOCKS = block({
  mmcblk0: [128, '179:0', { mmcblk0p1: '179:1', mmcblk0p2: '179:2' }],
  mmcblk0boot0: [128, '179:32'],
  nvme0n1: [4096, '259:0', { nvme0n1p1: '259:1', nvme0n1p2: '259:2' }],
  sda: [64, '8:0', { sda1: '8:1' }],
  'dm-0': [96, '254:0'],
  loop3: [128, '7:3'],
  md127: [32, '9:127'],
})
const mounts = (...lines) => lines.map((line, at) => `${at + 20} 1 ${line}\n`).join('')
const ROOT = '179:2 / / rw,relatime shared:1 - ext4 /dev/root rw'

/** Where models lie → the mounts besides the root, and what the finding says: disks, or null for all. */
const PLACES = {
  'the root': ['/srv/models', [], /^\/srv\/models lies on mmcblk0 128 KiB: a model/, 'mmcblk0'],
  'a partition of an NVMe disk': [
    '/srv/models', ['259:2 / /srv rw - ext4 /dev/nvme0n1p2 rw'],
    /^\S+ lies on nvme0n1 4 MiB$/,
  ],
  'a mount point whose name another begins with': [
    '/srv-a/m', ['259:2 / /srv rw - ext4 /dev/nvme0n1p2 rw'],
    /on mmcblk0 128 KiB/, 'mmcblk0',
  ],
  'a later mount over the same point': [
    '/srv/a.rkllm',
    ['8:1 / /srv rw - vfat /dev/sda1 rw', '259:1 / /srv rw shared:9 master:2 - xfs /dev/nvme0n1p1 rw'],
    /on nvme0n1 4 MiB$/,
  ],
  'a USB disk': ['/media/disk/a.rkllm', ['8:1 / /media/disk rw - exfat /dev/sda1 rw'], /on sda 64 KiB/, 'sda'],
  'a name with a blank': [
    '/media/my disk', ['8:1 / /media/my\\040disk rw - ntfs3 /dev/sda1 rw'],
    /on sda 64 KiB/, 'sda',
  ],
  'an encrypted disk': ['/srv', ['254:0 / /srv rw - ext4 /dev/mapper/crypt rw'], /on dm-0 96 KiB/, 'dm-0'],
  'an image in a loop': ['/snap/a', ['7:3 / /snap/a ro - squashfs /dev/loop3 ro'], /on loop3 128 KiB/, 'loop3'],
  'a RAID': ['/srv', ['9:127 / /srv rw - ext4 /dev/md127 rw'], /on md127 32 KiB/, 'md127'],
  'btrfs, whose number is no disk': [
    '/srv/x', ['0:33 /@ /srv rw - btrfs /dev/nvme0n1p1 rw,subvol=/@'],
    /on nvme0n1 4 MiB$/,
  ],
  'a bind mount of a folder': [
    '/models', ['259:2 /data/models /models rw - ext4 /dev/nvme0n1p2 rw'],
    /on nvme0n1 4 MiB$/,
  ],
}

for (const [name, [models, lines, message, disk]] of Object.entries(PLACES)) {
  test(`read-ahead where the models lie: ${name}`, (t) => {
    const files = { ...rock5b, ...BLOCKS, '/proc/self/mountinfo': mounts(ROOT, ...lines) }
    const { folder, findings } = diagnosed(t, { files, models })
    const finding = findings.find(({ id }) => id === 'readahead')
    assert.match(finding.message, message)
    assert.equal(finding.status, disk === undefined ? 'ok' : 'warn')
    const tee = `echo 1024 | sudo tee /sys/block/${disk}/queue/read_ahead_kb`
    assert.equal(finding.remedy, disk === undefined ? null : tee)
    // A bundle of it gives the same.
    const reader = makeReader(folder)
    examine(reader, undefined, models)
    const bundle = mkdtempSync(join(tmpdir(), 'rkllm-bundle-'))
    t.after(() => rmSync(bundle, { recursive: true }))
    reading.save(reader, bundle)
    const again = examine(makeReader(bundle), undefined, models).findings
    assert.deepEqual(again.find(({ id }) => id === 'readahead'), finding)
  })
}

test('read-ahead of an overlay, a network file system, RAM, and a place that is not known', (t) => {
  const found = (models, lines, more = {}) => {
    const files = { ...rock5b, ...BLOCKS, ...more, '/proc/self/mountinfo': mounts(...lines) }
    return diagnosed(t, { files, models }).findings.find(({ id }) => id === 'readahead')
  }
  const overlay = '0:50 / / rw - overlay overlay rw,lowerdir=/rom:/rom2,upperdir=/data/upper,workdir=/data/work'
  const layers = ['179:1 / /rom ro - squashfs /dev/mmcblk0p1 ro', '259:1 / /data rw - ext4 /dev/nvme0n1p1 rw']
  assert.match(found('/models', [overlay, ...layers]).message, /lies on nvme0n1 4 MiB, mmcblk0 128 KiB: /)
  const nfs = '0:61 / /nas rw - nfs4 10.0.0.2:/models rw'
  const bdi = { '/sys/class/bdi/0:61/read_ahead_kb': '128\n' }
  assert.match(found('/nas/a', [ROOT, nfs], bdi).remedy, /tee \/sys\/class\/bdi\/0:61\/read_ahead_kb$/)
  assert.equal(found('/tmp/a', [ROOT, '0:40 / /tmp rw - tmpfs tmpfs rw']).message, '/tmp/a lies in RAM')
  const unknown = found('/nas/a', [ROOT, nfs])
  assert.match(unknown.message, /the disk of \/nas\/a is not known: mmcblk0 128 KiB, nvme0n1 4 MiB, sda 64 KiB/)
  assert.doesNotMatch(unknown.message, /boot0|dm-0|loop/)
})
