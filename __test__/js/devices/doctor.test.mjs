/** `rkllm-memory doctor` on six boards, four broken set-ups, and this machine. */

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'

import { diagnose } from '../../../index.js'
import doctor from '../../../src/js/devices/doctor/examine.js'
import reading from '../../../src/js/devices/doctor/reader.js'
import { command, visibleWidth } from '../../support/command.mjs'
import { machines } from './machines.mjs'
import { backend, device, refuses, simulated } from '../../support/helpers.mjs'

const { examine } = doctor
const { makeReader } = reading
const expected = (name) => new URL(`./machines/${name}.txt`, import.meta.url)

function folder(t) {
  const made = mkdtempSync(join(tmpdir(), 'rkllm-doctor-'))
  t.after(() => rmSync(made, { recursive: true }))
  return made
}

/** Writes the machine's files below a temporary folder. */
function materialise(t, { files, nodes }) {
  const root = folder(t)
  const write = (path, text) => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  for (const [path, text] of Object.entries(files)) if (text !== undefined) write(path, text)
  write('nodes', nodes.map((line) => `${line}\n`).join(''))
  return root
}

for (const [name, machine] of Object.entries(machines)) {
  test(`${name}: every finding, its remedy, and the exit status`, async (t) => {
    const root = materialise(t, machine)
    const { status, stdout, stderr } = await command(['doctor', '--root', root])
    // RKLLM_TEST_UPDATE=1 writes the current output; review it before the commit.
    if (process.env.RKLLM_TEST_UPDATE) writeFileSync(expected(name), stdout)
    assert.equal(stdout, readFileSync(expected(name), 'utf8'))
    assert.equal(stderr, '')
    assert.ok(
      stdout.split('\n').every((line) => visibleWidth(line) <= 80),
      stdout,
    )

    const { counts, findings } = JSON.parse((await command(['doctor', '--root', root, '--json'])).stdout)
    assert.equal(status, counts.fail > 0 ? 1 : 0)
    assert.equal(status, name.startsWith('broken') || ['orangepi5-5.10', 'rk3568-heap'].includes(name) ? 1 : 0)
    for (const { id, status: level, message, remedy } of findings) {
      assert.ok(['ok', 'warn', 'fail'].includes(level) && message.length > 0, id)
      assert.equal(remedy === null, level === 'ok', `${id}: what is not well has a remedy`)
    }
  })
}

const levels = ({ findings }) => Object.fromEntries(findings.map(({ id, status }) => [id, status]))

test('each broken set-up fails for its own fault', (t) => {
  const failing = (name) =>
    Object.entries(levels(examine(makeReader(materialise(t, machines[name])))))
      .filter(([, status]) => status === 'fail')
      .map(([id]) => id)
  assert.deepEqual(failing('broken-permission'), ['permission'])
  assert.deepEqual(failing('broken-container'), ['nodes'])
  assert.deepEqual(failing('broken-old'), ['driver', 'fds', 'files'])
  assert.deepEqual(failing('broken-cma'), ['cma', 'ram'])
})

test('a driver below 0.9.8 has one domain, and a 32-bit SoC is not supported', (t) => {
  const { files, nodes } = machines['rk3576-6.1']
  const finding = (id, extra) =>
    examine(makeReader(materialise(t, { files: { ...files, ...extra }, nodes }))).findings.find((one) => one.id === id)
  for (const version of ['0.9.2', '0.9.6', '0.9.7']) {
    const { status, message } = finding('iommu', { '/proc/rknpu/version': `RKNPU driver: v${version}\n` })
    assert.equal(status, 'warn')
    assert.match(message, new RegExp(`one domain of 4 GiB: rknpu ${version.replaceAll('.', '\\.')}`))
  }
  for (const version of ['0.9.8', '0.9.10'])
    assert.equal(finding('iommu', { '/proc/rknpu/version': `RKNPU driver: v${version}\n` }).status, 'ok')
  for (const soc of ['rv1103', 'rv1106']) {
    const { status, message } = finding('board', { '/proc/device-tree/compatible': `luckfox,pico\0rockchip,${soc}\0` })
    assert.equal(status, 'fail')
    assert.match(message, /RV1103 and RV1106 are not supported/)
  }
})

test('CMA that the page cache borrowed is not used up', (t) => {
  const { files, nodes } = machines['rk3566-cma']
  const findingWith = (text) => {
    const root = materialise(t, { files: { ...files, '/proc/meminfo': files['/proc/meminfo'] + text }, nodes })
    return examine(makeReader(root)).findings.find(({ id }) => id === 'cma')
  }
  const [borrowed, taken] = ['CmaAllocated: 1024 kB\nCmaFree: 0 kB\n', 'CmaAllocated: 520000 kB\nCmaFree: 0 kB\n']
  assert.deepEqual([findingWith(borrowed).status, findingWith(taken).status], ['ok', 'fail'])
  assert.match(findingWith(borrowed).message, /^511 MiB of 512 MiB free/)
})

test('a support bundle gives the findings of the machine it was saved on', async (t) => {
  for (const name of ['rock5b-6.1', 'rk3568-heap', 'broken-container']) {
    const [root, bundle] = [materialise(t, machines[name]), join(folder(t), 'bundle')]
    const { stdout, stderr } = await command(['doctor', '--root', root, '--save', bundle])
    assert.equal(stderr, `saved to ${bundle}\n`)
    assert.equal((await command(['doctor', '--root', bundle])).stdout, stdout)
  }
})

test('a support bundle carries no secrets', async (t) => {
  const secret = {
    '/proc/1/environ': 'API_KEY=hunter2\0container=podman\0TOKEN=hunter2\0',
    '/proc/cmdline': 'root=/dev/mapper/x cryptkey=hunter2 cma=64M',
    '/etc/passwd': 'bob:hunter2:1001:1001:hunter2:/home/bob:/bin/sh\nradxa:x:1000:1000::/home/radxa:/bin/sh\n',
    '/etc/group': 'render:x:104:hunter2\n',
  }
  const { files, nodes } = machines['rock5b-6.1']
  const [root, bundle] = [materialise(t, { files: { ...files, ...secret }, nodes }), join(folder(t), 'bundle')]
  const { stdout } = await command(['doctor', '--root', root, '--save', bundle])
  assert.match(stdout, /inside podman/)
  assert.equal((await command(['doctor', '--root', bundle])).stdout, stdout)
  const saved = readdirSync(bundle, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  assert.ok(saved.length > 20)
  for (const { parentPath, path, name } of saved)
    assert.doesNotMatch(readFileSync(join(parentPath ?? path, name), 'utf8'), /hunter2/, name)
})

test('diagnose returns the same findings to programs', async (t) => {
  const root = materialise(t, machines['broken-cma'])
  assert.deepEqual(diagnose({ root }), JSON.parse((await command(['doctor', '--root', root, '--json'])).stdout))
  const { findings, counts } = diagnose()
  assert.equal(counts.fail, findings.filter(({ status }) => status === 'fail').length)
  refuses(() => diagnose({ root: join(root, 'nowhere') }), 'ERR_OUT_OF_RANGE')
  refuses(() => diagnose({ rot: root }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => diagnose({ root: 7 }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => diagnose({ root, models: 'relative' }), 'ERR_OUT_OF_RANGE')
  refuses(() => diagnose({ models: join(root, 'nowhere') }), 'ERR_OUT_OF_RANGE')
  refuses(() => diagnose({ models: 7 }), 'ERR_INVALID_ARG_TYPE')
  const wrong = await command(['doctor', '--models', join(root, 'nowhere')])
  assert.match(wrong.stderr, /--models: .*nowhere/)
  assert.ok(diagnose({ models: root }).findings.length > 0)
})

test('remedies in a container depend on its runtime', (t) => {
  const { files, nodes } = machines['broken-container']
  const advice = (extra) => {
    const { findings, machine } = examine(
      makeReader(materialise(t, { files: { ...files, '/.dockerenv': undefined, ...extra }, nodes })),
    )
    return [machine.container, ...['board', 'nodes'].map((id) => findings.find((finding) => finding.id === id).remedy)]
  }
  assert.deepEqual(advice({ '/run/.containerenv': '' }), [
    'podman',
    'podman run --security-opt unmask=/sys/firmware …',
    'podman run --device /dev/dri --group-add keep-groups …',
  ])
  const [kind, board, allow] = advice({ '/proc/1/cgroup': '0::/kubepods/besteffort/pod1\n' })
  assert.deepEqual([kind, board], ['kubernetes', 'securityContext.procMount: Unmasked'])
  assert.match(allow, /^mount hostPath \/dev\/dri /)
  assert.deepEqual(advice({ '/proc/1/environ': 'container=lxc\0' }), [
    'lxc',
    'show the container /sys/firmware',
    'give the container /dev/dri',
  ])
  assert.deepEqual(advice({}), [null, null, 'sudo udevadm trigger'])
})

test('the cgroup with the fewest bytes left is judged, of v2, v1 and hybrid systems', (t) => {
  const MiB = 2 ** 20
  const v2 = '30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n'
  const v1 = '31 25 0:27 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n'
  const verdict = (membership, mounts, files) => {
    const all = { '/proc/self/cgroup': membership, '/proc/self/mountinfo': mounts, ...files }
    const { findings } = examine(makeReader(materialise(t, { files: all, nodes: [] })))
    const { status, message } = findings.find(({ id }) => id === 'cgroup')
    return [status, message]
  }
  const group = (folder, files) =>
    Object.fromEntries(Object.entries(files).map(([name, value]) => [`/sys/fs/cgroup${folder}/${name}`, `${value}\n`]))
  const nested = {
    ...group('/slice/app', { 'memory.max': 4096 * MiB, 'memory.current': 1024 * MiB }),
    ...group('/slice', { 'memory.max': 5120 * MiB, 'memory.high': 'max', 'memory.current': 5056 * MiB }),
  }
  assert.deepEqual(verdict('0::/slice/app\n', v2, nested), ['fail', 'memory.max is 5 GiB, 4.9 GiB held (98 %)'])
  const high = group('/app', { 'memory.max': 4096 * MiB, 'memory.high': 2048 * MiB, 'memory.current': MiB })
  assert.deepEqual(verdict('0::/app\n', v2, high), ['ok', 'memory.high is 2 GiB, 1 MiB held (0 %)'])
  const old = group('/memory', { 'memory.limit_in_bytes': 512 * MiB, 'memory.usage_in_bytes': 500 * MiB })
  assert.deepEqual(verdict('9:memory:/docker/x\n0::/docker/x\n', v1, old), [
    'fail',
    'memory.limit_in_bytes is 512 MiB, 500 MiB held (97 %)',
  ])
  const none = group('/memory', { 'memory.limit_in_bytes': '9223372036854771712', 'memory.usage_in_bytes': MiB })
  assert.deepEqual(verdict('9:cpu,memory:/docker/x\n', v1, none), ['ok', 'no limit; 1 MiB used'])
  const space = group('', { 'memory.max': 2048 * MiB, 'memory.current': MiB })
  assert.equal(verdict('0::/../..\n', v2, space)[1], 'memory.max is 2 GiB, 1 MiB held (0 %)')
})

test('an empty tree does not crash it, and gives no claim without evidence', (t) => {
  const { findings, machine } = examine(makeReader(folder(t)))
  assert.deepEqual(machine, { board: null, soc: null, kernel: null, container: null })
  assert.deepEqual(
    findings.filter(({ status }) => status === 'fail'),
    [],
  )
  assert.ok(!JSON.stringify(findings).match(/undefined|NaN/))
})

test('garbage in the files does not crash it', (t) => {
  const { files, nodes } = machines['rock5b-6.1']
  for (const text of ['', '\0\xff', 'Max open files', '::::\n= =\n', '9'.repeat(400)]) {
    const root = materialise(t, { files: Object.fromEntries(Object.keys(files).map((path) => [path, text])), nodes })
    assert.ok(!JSON.stringify(examine(makeReader(root))).match(/undefined|NaN/), JSON.stringify(text))
  }
})

test('the findings include the errors of opening devices', (t) => {
  const reader = makeReader(
    materialise(t, {
      ...machines['rock5b-6.1'],
      files: { ...machines['rock5b-6.1'].files, '/proc/rknpu/version': undefined },
    }),
  )
  const opened = {
    backend: 'rknpu',
    path: '/dev/dri/renderD129',
    driverVersion: '0.9.8',
    npuCores: 3,
    iommuDomains: 16,
  }
  const refused = {
    backend: 'rocket',
    path: '/dev/accel/accel0',
    error: Object.assign(new Error('it is lost'), { code: 'ERR_DEVICE_LOST', hint: 'reboot' }),
  }
  const { findings } = examine(reader, () => [opened, refused])
  const of = (id) => findings.filter((finding) => finding.id === id)
  assert.equal(of('driver')[0].status, 'ok', 'the version that only opening tells')
  assert.deepEqual(
    of('opened').map(({ status, message, remedy }) => [status, message, remedy]),
    [
      ['ok', '/dev/dri/renderD129: 3 cores, 16 IOMMU domains', null],
      ['fail', '/dev/accel/accel0: it is lost', 'reboot'],
    ],
  )
  const denied = {
    backend: 'rknpu',
    path: opened.path,
    error: Object.assign(new Error('EPERM'), { code: 'ERR_DEVICE_PERMISSION', hint: 'join a group' }),
  }
  const saysOf = (name, extra = {}) => {
    const { files, nodes } = machines[name]
    const { findings } = examine(makeReader(materialise(t, { files: { ...files, ...extra }, nodes })), () => [denied])
    return findings.filter(({ id }) => id === 'opened').map(({ status, remedy, path }) => [status, remedy, path])
  }
  assert.deepEqual(saysOf('broken-permission'), [], 'its mode has been told of already')
  assert.deepEqual(saysOf('rock5b-6.1'), [['fail', 'join a group', undefined]])
  assert.deepEqual(saysOf('rock5b-6.1', { '/.dockerenv': '' }), [
    ['fail', 'docker run --device /dev/dri --group-add 104 …', undefined],
  ])
  const broken = examine(reader, () => {
    throw Object.assign(new Error('no binary for linux-riscv64'), {
      code: 'ERR_UNSUPPORTED',
      hint: 'use another machine',
    })
  })
  assert.deepEqual(
    broken.findings.filter(({ id }) => id === 'package').map(({ status, remedy }) => [status, remedy]),
    [['fail', 'use another machine']],
  )
})

test('this machine: every finding is well formed, and the status is that of the failures', async () => {
  const { status, stdout } = await command(['doctor', '--json'])
  const { findings, counts } = JSON.parse(stdout)
  assert.equal(status, counts.fail > 0 ? 1 : 0)
  assert.equal(findings.length, counts.ok + counts.warn + counts.fail)
  assert.ok(findings.some(({ id }) => id === 'ram'))
  if (simulated || backend === 'dma-heap') return
  const opened = findings.filter(({ id, status: level }) => id === 'opened' && level === 'ok')
  assert.ok(
    opened.some(({ message }) => message.startsWith(device ?? '/dev/')),
    stdout,
  )
})
