/** `rkllm-memory top`: a frame, the figures of other processes, and the terminal. */

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { MemoryManager } from '../../../index.js'
import reading from '../../../src/js/devices/doctor/reader.js'
import attach from '../../../src/js/cli/attach.js'
import styling from '../../../src/js/cli/style.js'
import framing from '../../../src/js/cli/top/frame.js'
import machines from '../../../src/js/cli/top/machine.js'
import { command, visibleWidth } from '../../support/command.mjs'
import { MiB } from '../../support/helpers.mjs'
import { needsTerminal, terminal } from '../../support/terminal.mjs'

const { frame } = framing
const runtime = mkdtempSync(join(tmpdir(), 'rkllm-top-'))
process.env.XDG_RUNTIME_DIR = runtime
after(() => rmSync(runtime, { recursive: true }))

const ENTER = '\x1b[?1049h'
const LEAVE = '\x1b[?25h\x1b[?1049l'
const view = (options = {}) => ({
  sort: 'npu',
  chosen: 0,
  width: 80,
  height: 24,
  paint: styling.painter(false),
  interactive: true,
  time: '12:34:56',
  ...options,
})

const machine = {
  board: 'Radxa ROCK 5B',
  soc: 'rk3588',
  driver: 'rknpu 0.9.8',
  nodes: ['/dev/dri/card1', '/dev/dri/renderD129'],
  memory: {
    total: 16384 * MiB,
    available: 4096 * MiB,
    swapTotal: 2048 * MiB,
    swapFree: 1024 * MiB,
    cmaTotal: 64 * MiB,
    cmaFree: 60 * MiB,
  },
  pressure: { some: 1.5, full: 0 },
  load: [82, 0, 100],
}

/** Returns the inspection answers of a real manager with these contents. */
function manager(t, pid, { buffers = 1, tags = 0, pools = 0, program = '/srv/app/server.mjs' } = {}) {
  const made = new MemoryManager({ backend: 'simulated' })
  t.after(() => made.dispose())
  for (let i = 0; i < buffers; i++) made.allocateNPUMemory(2 * MiB, { iommuDomain: i % 16 })
  for (let i = 0; i < tags; i++) made.allocateSystemMemory(4096, { tag: `tag ${i}` })
  for (let i = 0; i < pools; i++)
    made.createMemoryPool({ name: `pool ${i}`, kind: 'system', initialSize: 4096 * (i + 1) })
  made.reserve(64 * MiB, { tag: 'qwen', iommuDomain: 3 })
  return {
    about: { pid, thread: 0, manager: 0, program, device: made.device },
    usage: JSON.parse(JSON.stringify(made.getMemoryUsage())),
  }
}

test('a frame fits the window, with any contents', (t) => {
  const managers = [
    manager(t, 100, { buffers: 20, tags: 30, pools: 12 }),
    manager(t, 4194304, { program: `/${'x'.repeat(200)}` }),
  ]
  const holders = [
    { pid: 77, name: 'rkllm_server', buffers: 3, bytes: 3 * MiB, mapped: 512 * MiB, exporters: ['drm', 'system'] },
  ]
  for (const [width, height] of [
    [80, 24],
    [80, 60],
    [60, 24],
    [120, 10],
  ]) {
    const lines = frame({ machine, managers, holders, silent: 1 }, view({ width, height }))
    assert.equal(lines.length, height)
    if (width >= 80)
      for (const line of lines) assert.ok(visibleWidth(line) <= width, `${visibleWidth(line)} of ${width}: ${line}`)
    assert.match(lines.at(-1), /q quit/)
  }
})

test('a frame lists managers, pools and tags', (t) => {
  const lines = frame(
    { machine, managers: [manager(t, 100, { pools: 1, tags: 1 })], holders: [], silent: 1 },
    view({ height: 60 }),
  )
  const text = lines.join('\n')
  assert.match(lines[0], /^rkllm-memory top +Radxa ROCK 5B · rk3588 · rknpu 0\.9\.8 +12:34:56$/)
  for (const pattern of [
    /^RAM +█+░+ +12 GiB of 16 GiB +swap 1 GiB of 2 GiB$/m,
    /^CMA +█+░+ +4 MiB of 64 MiB$/m,
    /^NPU +0 █+░ +82 % +1 ░+ +0 % +2 █+ 100 %$/m,
    /^PSI +some 1\.5 %, full 0 %/m,
    /^100 +server\.mjs +2 MiB +2 MiB/m,
    /^1 more does not respond/m,
    /^ +pool 0 +4 KiB +0 B/m,
    /^ +tag 0 +4 KiB/m,
    /^ +0 +░+ +2 MiB of 4 GiB$/m,
    /^ +3 +░+ +64 MiB of 4 GiB, 64 MiB for others$/m,
    /^ +qwen +npu +64 MiB$/m,
  ])
    assert.match(text, pattern)
})

test('no tag reaches the terminal as an escape sequence', (t) => {
  const one = manager(t, 100)
  one.usage.tags = { '\x1b]0;gone\x07\x9b31m': { used: 1, peak: 1, liveAllocations: 1, failedAllocations: 0 } }
  const holders = [{ pid: 7, name: '\x1b[2J', buffers: 1, bytes: 1, mapped: 0, exporters: ['\x1b[H'] }]
  const text = frame({ machine, managers: [one], holders, silent: 0 }, view({ height: 60 })).join('\n')
  assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/)
})

test('a column sorts the rows, and the chosen row has its details below', (t) => {
  const managers = [
    manager(t, 30, { buffers: 1, tags: 9 }),
    manager(t, 20, { buffers: 3 }),
    manager(t, 10, { buffers: 2 }),
  ]
  const order = (sort, chosen = 0) => {
    const text = frame({ machine, managers, holders: [], silent: 0 }, view({ sort, chosen, height: 99 })).join('\n')
    return {
      pids: [...text.matchAll(/^(\d+) +server/gm)].map(([, pid]) => Number(pid)).slice(0, 3),
      below: Number(/^(\d+) server\.mjs {2}on/m.exec(text)[1]),
    }
  }
  assert.deepEqual(order('npu'), { pids: [20, 10, 30], below: 20 })
  assert.deepEqual(order('system'), { pids: [30, 10, 20], below: 30 })
  assert.deepEqual(order('live', 1), { pids: [30, 20, 10], below: 20 })
  assert.deepEqual(order('pid', 99), { pids: [10, 20, 30], below: 30 })
})

test('the holders of dma-bufs and NPU memory, from /proc', (t) => {
  const root = mkdtempSync(join(tmpdir(), 'rkllm-proc-'))
  t.after(() => rmSync(root, { recursive: true }))
  const path = (name) => (mkdirSync(dirname(join(root, name)), { recursive: true }), join(root, name))
  const write = (name, text) => writeFileSync(path(name), text)
  const link = (name, target) => symlinkSync(target, path(name))
  const dmabuf = (pid, fd, size, ino, exporter) => {
    link(`proc/${pid}/fd/${fd}`, '/dmabuf:')
    write(
      `proc/${pid}/fdinfo/${fd}`,
      `pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t${ino}\nsize:\t${size}\ncount:\t2\nexp_name:\t${exporter}\n`,
    )
  }
  write('proc/100/comm', 'rkllm_server\n')
  dmabuf(100, 5, MiB, 11, 'drm')
  dmabuf(100, 6, MiB, 11, 'drm') // The same buffer.
  dmabuf(100, 7, 2 * MiB, 12, 'system')
  link('proc/100/fd/8', '/dev/dri/card1')
  write(
    'proc/100/maps',
    '7f0000000000-7f0000100000 rw-s 100000000 00:05 300 /dev/dri/card1\n' +
      '7f0000200000-7f0000300000 rw-s 100000000 00:05 300 /dev/dri/card1\n' +
      '7f0000400000-7f0000800000 rw-s 100100000 00:05 300                 /dev/dri/card1\n' +
      '7f0001000000-7f0002000000 r-xp 00000000 08:01 9 /usr/lib/librkllmrt.so\n',
  )
  write('proc/200/comm', 'cat\n')
  link('proc/200/fd/3', '/dev/null')
  link('proc/200/fd/4', '/dev/dri/card0')
  write('proc/300/comm', 'secret\n') // A process without a readable fd folder.
  write('proc/meminfo', '')
  assert.deepEqual(machines.holders(reading.makeReader(root), machine.nodes), [
    { pid: 100, name: 'rkllm_server', buffers: 2, bytes: 3 * MiB, exporters: ['drm', 'system'], mapped: 5 * MiB },
  ])
})

test('--once and --json: one frame of this machine', async () => {
  for (const words of [['top', '--once'], ['top']]) {
    const { status, stdout } = await command(words)
    assert.equal(status, 0)
    assert.match(stdout, /^rkllm-memory top[^\n]*\nRAM /)
    for (const line of stdout.split('\n')) assert.ok(visibleWidth(line) <= 80, line)
  }
  const { managers, machine: here, silent } = JSON.parse((await command(['top', '--json'])).stdout)
  // Another process of this user may have managers that can be inspected.
  assert.deepEqual(
    managers.filter(({ pid }) => pid === process.pid),
    [],
  )
  assert.equal(typeof silent, 'number')
  assert.ok(here.memory.total > here.memory.available)
})

async function inspected(t, ...words) {
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('../../support/child/inspected.mjs', import.meta.url)), ...words],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  )
  t.after(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}

test(
  'on a terminal: attaches, follows the keys, sees a process go, and leaves everything as it was',
  { skip: needsTerminal },
  async (t) => {
    const { pid } = await inspected(t, '2')
    const other = await inspected(t)
    const top = terminal(t, ['top'])
    let at = await top.shows(new RegExp(`${pid} .*inspected\\.mjs 1[^]*${other.pid} .*inspected`))
    assert.ok(top.screen().includes(ENTER))
    top.press('s')
    at = await top.shows(/▾SYSTEM/, at)
    top.press('ss')
    at = await top.shows(/PID▾/, at)
    top.press('\x1b[B')
    // The second, in the order of pids.
    const [, second] = attach.sockets()
    at = await top.shows(new RegExp(`\\x1b\\[7m${second.pid} `), at)
    other.kill('SIGKILL')
    await once(other, 'close')
    // A whole frame without the other process.
    await top.shows(new RegExp(`\\x1b\\[H(?:(?!${other.pid} |\\x1b\\[H)[^])*\\x1b\\[J(?:(?!${other.pid} )[^])*$`), at)
    top.press('q')
    await top.closed
    assert.match(top.screen(), /status=0\r\nrestored/)
    assert.equal(top.screen().split(LEAVE).length, 2)
    assert.ok(top.screen().indexOf(LEAVE) < top.screen().indexOf('status='))
  },
)

for (const [name, status] of [
  ['SIGTERM', 143],
  ['SIGHUP', 129],
  ['SIGINT', 130],
]) {
  test(`on a terminal: ${name} restores it`, { skip: needsTerminal }, async (t) => {
    const top = terminal(t, ['top'])
    await top.shows(/q quit/)
    top.signal(name)
    await top.closed
    assert.ok(top.screen().includes(LEAVE))
    assert.match(top.screen(), new RegExp(`status=${status}\\r\\nrestored`))
  })
}

test(
  'on a terminal: NO_COLOR has no colours, and a manager that does not answer is told of',
  { skip: needsTerminal },
  async (t) => {
    await inspected(t, '1', 'busy')
    const top = terminal(t, ['top'], { NO_COLOR: '1' })
    await top.shows(/1 more does not respond/)
    top.press('\x03')
    await top.closed
    assert.match(top.screen(), /status=0\r\nrestored/)
    assert.doesNotMatch(top.screen(), /\x1b\[[0-9;]*m/)
  },
)

test('a frame fits 40 columns, also with names of two columns a character', (t) => {
  const managers = [
    manager(t, 4194304, { program: '/srv/推論サーバー/モデル推論管理サーバー本番環境用.mjs', pools: 3, tags: 3 }),
    manager(t, 2, {}),
  ]
  const holders = [{ pid: 7, name: '视频编码器', buffers: 1, bytes: 1, mapped: 0, exporters: ['rknpu', 'system'] }]
  for (const width of [40, 50, 60, 79, 80]) {
    const lines = frame({ machine, managers, holders, silent: 1 }, view({ width, height: 40 }))
    for (const line of lines) assert.ok(styling.visible(line) <= width, `${styling.visible(line)} of ${width}: ${line}`)
    assert.match(lines.join('\n'), /^4194304 .*MiB/m, 'the NPU memory stays')
  }
  assert.equal(styling.visible('推論e\u0301🚀'), 7)
  assert.equal(styling.clip('推論サーバー', 6), '推論…')
})

test('thirty managers scroll in 24 rows, and the chosen one has its details', (t) => {
  const managers = Array.from({ length: 30 }, (_, at) => manager(t, 1000 + at, { pools: 2, tags: 2 }))
  for (const chosen of [0, 15, 29]) {
    const lines = frame({ machine, managers, holders: [], silent: 0 }, view({ sort: 'pid', chosen }))
    assert.equal(lines.length, 24)
    const text = lines.join('\n')
    assert.match(text, /MANAGER \d+–\d+ of 30/)
    assert.match(text, new RegExp(`^${1000 + chosen} +server`, 'm'), 'the chosen manager is in the list')
    assert.match(text, new RegExp(`^${1000 + chosen} server\\.mjs  on `, 'm'), 'its details are shown')
  }
})

test('a frame shows the history of the chosen manager, and the help', (t) => {
  const data = { machine, managers: [manager(t, 1)], holders: [], silent: 0 }
  const text = frame(data, view({ history: [0, MiB, 2 * MiB] })).join('\n')
  assert.match(text, /^ {2}NPU {2}▁▅█ {2}up to 2 MiB$/m)
  const help = frame(data, view({ help: true, width: 40 }))
  assert.equal(help.length, 24)
  assert.match(help.join('\n'), /select a manager/)
})

test('no name reaches the terminal as an escape sequence, in any place of a frame', (t) => {
  const escape = '\x1b]0;gone\x07\x9b31m\x1b[2J'
  const one = manager(t, 100, { program: `/srv/${escape}.mjs`, pools: 1 })
  one.usage.pools[0].name = escape
  one.usage.reservations = [{ tag: escape, kind: 'npu', size: 1 }]
  one.about.device = { ...one.about.device, soc: escape, driverVersion: escape }
  const data = { machine: { ...machine, board: escape }, managers: [one], holders: [], silent: 0 }
  const lines = frame(data, view({ height: 60, paint: styling.painter(true) })).map(styling.styled)
  const rest = lines.join('\n').replace(/\x1b\[(?:1|2|7|22|27|3[1236]|39)m/g, '')
  assert.doesNotMatch(rest, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/)
})

test('a name with the ends of lines or with the marks of styles keeps its row, and no style', (t) => {
  const name = 'kv\ncache\n\ufdd4\ufde0\ufdd4'
  const one = manager(t, 100, { pools: 1 })
  one.usage.pools[0].name = name
  one.usage.reservations = [{ tag: name, kind: 'npu', size: 1 }]
  const data = { machine: { ...machine, board: name }, managers: [one], holders: [], silent: 0 }
  const lines = frame(data, view({ height: 60 })).map(styling.styled)
  assert.equal(lines.filter((line) => /^ {2}kv cache /.test(line)).length, 2)
  assert.doesNotMatch(lines.join(''), /[\n\x1b]/)
})

test('of one process without a manager, a frame says so', () => {
  const text = (pid) => frame({ machine, managers: [], holders: [], silent: 0, pid }, view()).join(' ')
  assert.match(text(4711), /No manager of process 4711 can be inspected\./)
  assert.match(text(undefined), /None of your managers can be inspected\./)
})

test('top takes one process, and an interval', async () => {
  for (const [words, pattern] of [
    [['--pid', 'x'], /--pid/], [['--interval', '0'], /--interval is "0"; it must be 0\.1 to 3600 seconds/],
    [['--interval', '-1'], /--interval needs a value/],
  ]) {
    const { status, stderr } = await command(['top', '--once', ...words])
    assert.equal(status, 2)
    assert.match(stderr, pattern)
  }
  const { managers } = JSON.parse((await command(['top', '--json', '--pid', '4194304'])).stdout)
  assert.deepEqual(managers, [])
})
