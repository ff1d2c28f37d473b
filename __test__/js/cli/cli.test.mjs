/** `rkllm-memory`: arguments, exit statuses, and output. */

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import memory from '../../../index.js'
import { command, NAMES, STATUS, visibleWidth } from '../../support/command.mjs'
import { MiB, needsCommand } from '../../support/helpers.mjs'
import { shell } from '../../support/terminal.mjs'

const { version, bin } = createRequire(import.meta.url)('../../../package.json')
const root = fileURLToPath(new URL('../../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'rkllm-cli-'))
process.env.XDG_RUNTIME_DIR = folder
after(() => rmSync(folder, { recursive: true }))

const file = (name, text) => (writeFileSync(join(folder, name), text), join(folder, name))
const model = file('qwen.rkllm', 'weights')
const colored = (text) => /\x1b\[/.test(text)
const narrow = (text, width = 80) =>
  text.split('\n').forEach((line) => assert.ok(visibleWidth(line) <= width, `${visibleWidth(line)} columns: ${line}`))

/** Replaces the package's functions with `fakes` for one test, and records their arguments. */
function instead(t, fakes) {
  const calls = []
  for (const [name, answer] of Object.entries(fakes)) {
    const before = memory[name]
    memory[name] = (...args) => (calls.push(args), answer(...args))
    t.after(() => (before === undefined ? delete memory[name] : (memory[name] = before)))
  }
  return calls
}

// ── arguments

test('the manifest names an executable script', () => {
  const path = join(root, bin['rkllm-memory'])
  assert.match(readFileSync(path, 'utf8'), /^#!\/usr\/bin\/env node\n/)
  assert.ok(statSync(path).mode & 0o100)
})

test('--version, --help, and nothing at all', async () => {
  for (const words of [['--version'], ['-V']])
    assert.deepEqual(await command(words), { status: 0, stdout: `${version}\n`, stderr: '' })
  const { stdout } = await command([])
  for (const words of [['--help'], ['-h'], ['help']])
    assert.deepEqual(await command(words), { status: 0, stdout, stderr: '' })
  for (const name of NAMES) assert.match(stdout, new RegExp(`^  ${name} `, 'm'))
  narrow(stdout)
})

for (const name of NAMES) {
  test(`${name} --help: usage, every option, 80 columns; narrower where the terminal is`, async () => {
    const { status, stdout, stderr } = await command([name, '--help'])
    assert.deepEqual([status, stderr], [0, ''])
    assert.match(stdout, new RegExp(`^Usage  rkllm-memory ${name}`, 'm'))
    assert.match(stdout, /--help/)
    narrow(stdout)
    assert.equal((await command(['help', name])).stdout, stdout)
    narrow((await command([name, '-h'], { columns: 60 })).stdout, 70)
  })

  test(`${name}: an option that does not exist is named, with the nearest one`, async () => {
    const { status, stdout, stderr } = await command([name, '--hepl'])
    assert.deepEqual([status, stdout], [STATUS.usage, ''])
    assert.match(stderr, /there is no option --hepl/)
    assert.match(stderr, /did you mean --help\?/)
  })
}

test('a usage error: status 2, and the right usage', async () => {
  const wrong = [
    [['docter'], /no command docter[^]*did you mean doctor\?/],
    [['--versoin'], /no option --versoin[^]*--version/],
    [['qqqqqq'], /no command qqqqqq[^]*--help/],
    [['doctor', 'now'], /one word too many: "now"/],
    [['doctor', '--root'], /--root needs a value: --root DIR/],
    [['doctor', '--root', '--json'], /--root needs a value/],
    [['doctor', '--json=yes'], /--json takes no value/],
    [['doctor', '--root', '/nonexistent'], /\/nonexistent is not a readable folder/],
    [['snapshot'], /PID is missing/],
    [['snapshot', 'me'], /PID is "me"/],
    [['report', '1'], /FILE is missing/],
    [['plan'], /MODEL is missing/],
    [['plan', model, '--soc', 'rk3558'], /"rk3558"[^]*did you mean rk3588\?/],
    [['plan', `${model}@0`], /at least 1/],
    [['estimate'], /MODEL is missing/],
    [['estimate', model, '--context', '1.5'], /--context is "1.5"/],
    [['estimate', '--weights', '2GB'], /"2GB"[^]*did you mean 2GiB\?/],
    [['replay'], /LOG.csv is missing/],
    [['replay', 'x', '--capacity', 'lots'], /"lots"/],
    [['replay', 'x', '--capacity', '0'], /"0"/],
    [['bench', '--rounds', '1'], /at least 3/],
    [['bench', '--backend', 'rknpuu'], /did you mean rknpu\?/],
    [['top', '--sort', 'nput'], /did you mean npu\?/],
  ]
  for (const [words, pattern] of wrong) {
    const { status, stdout, stderr } = await command(words)
    assert.deepEqual([status, stdout], [STATUS.usage, ''], words.join(' '))
    assert.match(stderr.replace(/\n +/g, ' '), pattern, words.join(' '))
    narrow(stderr)
  }
})

test('sizes: bytes, and binary units with and without a blank or a point', async (t) => {
  const result = {
    fits: true,
    capacity: null,
    smallestCapacity: null,
    allocations: 0,
    frees: 0,
    peakLive: 0,
    peakAllocated: 0,
    peakReserved: 0,
    fragmentationAtPeak: 0,
  }
  const calls = instead(t, { replayEventLog: () => result })
  const log = file('log.csv', 'Thread,Time,Action,Pointer,Size,Stream\n')
  for (const word of ['512MiB', '2GiB', '1.5 gib', '4096', '64KiB']) await command(['replay', log, '--capacity', word])
  assert.deepEqual(
    calls.map(([, { capacity }]) => capacity),
    [512 * MiB, 2048 * MiB, 1536 * MiB, 4096, 65536],
  )
})

// ── output

test('colour: only on a terminal, not with NO_COLOR, with FORCE_COLOR always', async () => {
  const help = async (terminal) => colored((await command(['--help'], terminal)).stdout)
  assert.equal(await help({}), false)
  assert.equal(await help({ isTTY: true }), true)
  assert.equal(await help({ isTTY: true, env: { NO_COLOR: '1' } }), false)
  assert.equal(await help({ isTTY: true, env: { NO_COLOR: '' } }), true)
  assert.equal(await help({ isTTY: true, env: { TERM: 'dumb' } }), false)
  assert.equal(await help({ env: { FORCE_COLOR: '1' } }), true)
  assert.equal(await help({ env: { FORCE_COLOR: '1', NO_COLOR: '1' } }), true)
  assert.equal(await help({ isTTY: true, env: { FORCE_COLOR: '0' } }), false)
  assert.equal(colored((await command(['nothing'], { isTTY: true, env: { NO_COLOR: '1' } })).stderr), false)
})

// ── commands over functions of the package

const ESTIMATE = {
  weights: 1600 * MiB,
  kvCache: 224 * MiB,
  activations: 64 * MiB,
  hostBuffers: 32 * MiB,
  npuTotal: 1888 * MiB,
  total: 1920 * MiB,
  uncertainty: 0.08,
}

test('estimate passes its options on, and shows the result', async (t) => {
  const calls = instead(t, { estimateModelMemory: () => ESTIMATE })
  const { status, stdout } = await command(['estimate', `${model}:chat@8192`, '--layers', '28', '--kv-heads', '2'])
  assert.equal(status, 0)
  assert.deepEqual(calls[0], [{ contextLength: 8192, layers: 28, kvHeads: 2, path: model }])
  assert.match(stdout, /^chat, 8192 tokens/)
  assert.match(stdout, /weights +1\.5 GiB\n/)
  assert.match(stdout, /± 8 %/)
  narrow(stdout)
  const { stdout: json } = await command(['estimate', '--weights', '2GiB', '--json'])
  assert.deepEqual(JSON.parse(json), { spec: { contextLength: 4096, weightBytes: 2048 * MiB }, ...ESTIMATE })
})

const CONFIG = {
  model_type: 'qwen3', num_hidden_layers: 28, hidden_size: 1024, intermediate_size: 3072, num_attention_heads: 16,
  num_key_value_heads: 8, head_dim: 128, vocab_size: 151936,
}

test('estimate: type, runtime, chip and embeddings; bands and warnings are shown', async () => {
  const config = file('config.json', JSON.stringify(CONFIG))
  const words = ['estimate', '--config', config, '--context', '16384', '--runtime', '1.2.1', '--soc', 'rk3576']
  const { status, stdout, stderr } = await command([...words, '--dtype', 'w4a16_g64'])
  assert.deepEqual([status, stderr], [0, ''])
  narrow(stdout)
  assert.match(stdout, /^the model, 16384 tokens of context, w4a16_g64, runtime 1\.2\.1$/m)
  assert.match(stdout, /once loaded .*MiB\n +with a full context .*GiB\n/)
  assert.match(stdout, /In an NPU domain: .*, at most /)
  assert.match(stdout, /! there are no measurements of w4a16_g64/)
  const json = async (...more) => JSON.parse((await command([...words, '--json', ...more])).stdout)
  const [flash, ram] = [await json('--embed-flash'), await json('--no-embed-flash')]
  assert.equal(ram.loaded - flash.loaded, 151936 * 1024 * 4)
  for (const [wrong, pattern] of [
    [['--dtype', 'w8a9'], /"w8a9"[^]*did you mean w8a8/],
    [['--runtime', 'new'], /must be a version/],
    [['--soc', 'rk3566'], /must be one of/],
    [['--embed-flash', '--no-embed-flash'], /exclude each other/],
  ]) {
    const refused = await command([...words, ...wrong])
    assert.equal(refused.status, STATUS.usage)
    assert.match(refused.stderr, pattern)
  }
})

test('plan: configuration by model, RAM, driver, spread; warnings are shown', async () => {
  const config = file('config.json', JSON.stringify(CONFIG))
  const large = file('large.rkllm', 'weights')
  truncateSync(large, 907_000_000)
  const words = ['plan', `${large}:a`, `${large}:b`, '--soc', 'rk3588']
  const known = await command([...words, '--config', config, '--ram', '4GiB'])
  assert.deepEqual([known.status, known.stderr], [0, ''])
  assert.match(known.stdout, /! a: .* is taken for w8a8, by its size/)
  assert.match((await command([...words, '--config', config])).stdout, /RAM was not looked at/)
  const one = JSON.parse((await command([...words, '--config', `b=${config}`, '--json'])).stdout)
  assert.deepEqual([one.estimates.a.basis, one.estimates.b.basis], ['arithmetic', 'calibrated'])
  const little = await command([...words, '--config', config, '--ram', '1GiB', '--keep-free', '512MiB'])
  assert.equal(little.status, STATUS.finding)
  assert.match(little.stdout, /of RAM; 1 GiB is available, of which 512\s+MiB\s+stays/)
  truncateSync(large, 6_000_000_000)
  for (const [more, status] of [
    [[], STATUS.ok],
    [['--spread'], STATUS.ok],
    [['--no-spread'], STATUS.finding],
    [['--driver', '0.9.6'], STATUS.finding],
    [['--config', 'c=x'], STATUS.usage],
    [['--config', config, '--config', config], STATUS.usage],
    [['--driver', 'new'], STATUS.usage],
    [['--ram', 'lots'], STATUS.usage],
  ])
    assert.equal((await command(['plan', large, '--soc', 'rk3588', ...more])).status, status, more.join(' '))
})

const PLAN = {
  fits: true,
  placements: [
    { model: 'chat', domain: 0, bytes: 1888 * MiB },
    { model: 'vision', domain: 1, bytes: 300 * MiB },
  ],
  domains: [
    { id: 0, total: 4096 * MiB, used: 1888 * MiB, reservedForOthers: 0 },
    { id: 1, total: 4096 * MiB, used: 0, reservedForOthers: 300 * MiB },
  ],
  reason: null,
}

test('plan: names and contexts, the board, and status 1 where it does not fit', async (t) => {
  const vision = file('vision:2@5.rknn', 'weights')
  const calls = instead(t, { planModels: () => PLAN })
  const { status, stdout } = await command([
    'plan',
    `${model}:chat@8192`,
    vision,
    '--soc',
    'rk3576',
    '--context',
    '512',
  ])
  assert.equal(status, 0)
  const [models, device] = calls[0]
  assert.deepEqual(models, [
    { path: model, name: 'chat', contextLength: 8192 },
    { path: vision, name: 'vision:2@5', contextLength: 512 },
  ])
  assert.deepEqual([device.soc, device.iommuDomains], ['rk3576', 16])
  assert.match(stdout, /^They fit on rk3576, 16 domain/)
  assert.match(stdout, /chat +0 +1\.8 GiB\n/)
  narrow(stdout)

  instead(t, {
    planModels: () => ({
      ...PLAN,
      fits: false,
      reason: 'chat needs 5 GiB in one domain, which has 4; a context of 2048 would fit',
    }),
  })
  const refused = await command(['plan', model, '--soc', 'rk3588'])
  assert.equal(refused.status, STATUS.finding)
  assert.match(refused.stdout, /^They do not fit[^]*context of 2048/)
  assert.equal((await command(['plan', model, '--soc', 'rk3588', '--json'])).status, STATUS.finding)
})

const LOG = [
  'I rkllm: rkllm-runtime version: 1.1.4, rknpu driver version: 0.9.6, platform: RK3588',
  'E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address',
  'E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address',
  'E rkllm: rkllm_init failed',
].join('\n')

test('explain: the root of a log, or with --all every finding', async (t) => {
  const { status, stdout } = await command(['explain', LOG])
  assert.equal(status, STATUS.ok)
  assert.match(stdout, /^2: E RKNN: failed to allocate.*× 2\n[^]*rknpu\s+0\.9\.6[^]*ERR_IOVA_EXHAUSTED[^]*→ Update/)
  assert.match(stdout, /because of line 1: I rkllm[^]*\n1 more finding: --all\n$/)
  narrow(stdout)
  const all = await command(['explain', LOG, '--all'])
  assert.match(all.stdout, /\n4: E rkllm: rkllm_init failed\n/)
  assert.doesNotMatch(all.stdout, /more finding/)
  narrow(all.stdout)
  const unknown = await command(['explain', 'all is well'])
  assert.deepEqual([unknown.status, unknown.stdout], [STATUS.finding, 'No match in the table of known errors.\n'])
  const json = async (...words) => JSON.parse((await command(['explain', LOG, '--json', ...words])).stdout)
  assert.deepEqual((await json()).map(({ kind, line, count }) => [kind, line, count]), [['runtime-addresses', 2, 2]])
  assert.equal((await json('--all')).length, 2)
  assert.equal((await command(['explain'], { stdin: { isTTY: true } })).status, STATUS.usage)
  // Standard input is read as a whole.
  const fd = openSync(file('llm.log', LOG))
  t.after(() => closeSync(fd))
  assert.equal((await command(['explain'], { stdin: { fd } })).stdout, stdout)
})

test('replay: the options it knows, the first failure, and status 1', async (t) => {
  const failed = {
    fits: false,
    capacity: 64 * MiB,
    smallestCapacity: 96 * MiB,
    operations: 12345,
    allocations: 8000,
    frees: 4000,
    failures: 1345,
    failedBytes: 9 * MiB,
    firstFailure: { line: 77, size: MiB, live: 60 * MiB, reserved: 64 * MiB, free: 3 * MiB, largestFree: 65536 },
    peakLive: 61 * MiB,
    peakAllocated: 62 * MiB,
    peakReserved: 64 * MiB,
    fragmentationAtPeak: 0.42,
  }
  const calls = instead(t, { replayEventLog: () => failed })
  const log = file('log.csv', 'Thread,Time,Action,Pointer,Size,Stream\n')
  const { status, stdout } = await command(['replay', log, '--capacity', '64MiB', '--chunk-size', '4MiB', '--smallest'])
  assert.equal(status, STATUS.finding)
  assert.deepEqual(calls[0], [
    readFileSync(log, 'utf8'),
    { capacity: 64 * MiB, chunkSize: 4 * MiB, smallestCapacity: true },
  ])
  assert.match(stdout, /^1,345 allocations do not fit in 64 MiB \(9 MiB\)\nThe first is line 77: 1 MiB/)
  narrow(stdout)
  assert.deepEqual(JSON.parse((await command(['replay', log, '--json'])).stdout), failed)
})

test('an unreadable file: status 4 and the reason', async () => {
  for (const [words, reason] of [
    [['replay', join(folder, 'nowhere.csv')], /ENOENT/],
    [['plan', 'nowhere.rkllm'], /no file nowhere\.rkllm/],
    [['estimate', 'nowhere.rkllm'], /no file nowhere\.rkllm/],
  ]) {
    const { status, stderr } = await command(words)
    assert.equal(status, STATUS.broken)
    assert.match(stderr, reason)
  }
})

test('bench: medians and ratios to new ArrayBuffer in the same run', async () => {
  const words = ['bench', '--backend', 'simulated', '--rounds', '3']
  const { rounds, results } = JSON.parse((await command([...words, '--json'])).stdout)
  assert.equal(rounds, 3)
  assert.equal(results.length, 18)
  for (const { name, minNs, medianNs, maxNs, ratio, size } of results) {
    assert.ok(minNs > 0 && minNs <= medianNs && medianNs <= maxNs, name)
    const yardstick = results.find((result) => result.name === 'new ArrayBuffer' && result.size === size)
    assert.equal(ratio, medianNs / yardstick.medianNs)
  }
  const { stdout, stderr } = await command(words, { isTTY: true, env: { NO_COLOR: '1' } })
  narrow(stdout)
  // A progress bar during the run; the bar's line is cleared at the end.
  assert.match(stderr, /█+░*/)
  assert.ok(stderr.endsWith('\r\x1b[K'))
  assert.equal((await command(words)).stderr, '')
})

// ── the functions themselves, if this checkout has them

const has = (name) => (name in memory ? false : `needs ${name}`)

test('estimate and plan, for real', { skip: has('planModels') }, async () => {
  const shape = ['--layers', '24', '--hidden', '896', '--kv-heads', '2', '--head-dim', '64', '--vocab', '151936']
  const { status, stdout, stderr } = await command(['estimate', '--weights', '600MiB', ...shape, '--json'])
  assert.equal(status, 0, stderr)
  assert.ok(JSON.parse(stdout).total >= 600 * MiB)
})

test('replay, for real', { skip: has('replayEventLog') }, async () => {
  const log = file(
    'real.csv',
    'Thread,Time,Action,Pointer,Size,Stream\n1,0.1,allocate,0x10,1048576,0\n' +
      '1,0.2,allocate,0x20,1048576,0\n1,0.3,free,0x10,1048576,0\n',
  )
  assert.equal((await command(['replay', log, '--capacity', '4MiB'])).status, 0)
  const { status, stdout } = await command(['replay', log, '--capacity', '1MiB'])
  assert.equal(status, STATUS.finding)
  assert.match(stdout, /The first is line 3: 1 MiB/)
})

// ── attached

async function inspected(t, ...words) {
  const child = spawn(process.execPath, [join(root, '__test__/support/child/inspected.mjs'), ...words], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.after(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}

test('snapshot: as JSON, to a file, of the chosen manager', async (t) => {
  const { pid } = await inspected(t, '2')
  const ambiguous = await command(['snapshot', String(pid)])
  assert.equal(ambiguous.status, STATUS.usage)
  assert.match(ambiguous.stderr, /2 managers[^]*--manager 0 or --manager 1/)
  const { status, stdout, stderr } = await command(['snapshot', String(pid), '--manager', '1'])
  assert.equal(status, 0, stderr)
  const snapshot = JSON.parse(stdout)
  assert.equal(snapshot.version, 1)
  assert.match(snapshot.buffers[0].address, /^0x[\da-f]+$/)
  const out = join(folder, 'snapshot.json')
  assert.deepEqual(await command(['snapshot', String(pid), '--manager', '0', '--out', out]), {
    status: 0,
    stdout: '',
    stderr: `wrote ${out}\n`,
  })
  assert.equal(JSON.parse(readFileSync(out, 'utf8')).version, 1)
  assert.equal((await command(['snapshot', String(pid), '--manager', '2'])).status, STATUS.usage)
})

const needsReports = existsSync(join(root, 'src/js/report/index.js')) ? false : 'needs src/js/report'
test('report: rendered here, in the format that the extension names', { skip: needsReports }, async (t) => {
  const { pid } = await inspected(t)
  for (const name of ['report.html', 'report.json', 'report.prom']) {
    const out = join(folder, name)
    const { status, stderr } = await command(['report', String(pid), out])
    assert.equal(status, 0, stderr)
    assert.ok(statSync(out).size > 0, name)
  }
  const text = readFileSync(join(folder, 'report.prom'), 'utf8')
  assert.match(text, /^# TYPE rkllm_memory_allocations_total counter$/m, 'the format that promtool reads')
  assert.equal((await command(['report', String(pid), join(folder, 'report.docx')])).status, STATUS.broken)
})

test('report: of a .json report, and of two', { skip: needsReports }, async () => {
  const manager = new memory.MemoryManager({ backend: 'simulated', profiling: true })
  const [before, after] = ['before.json', 'after.json'].map((name) => join(folder, name))
  await manager.writeReport(before)
  const kept = manager.allocateNPUMemory(3 << 20, { tag: '\x1b[31mkv' })
  await manager.writeReport(after)
  manager.dispose()
  assert.equal(kept.byteLength, 0)
  assert.equal((await command(['report', after, join(folder, 'after.html')])).status, 0)
  const printed = await command(['report', before, '--diff', after])
  assert.deepEqual([printed.status, printed.stderr], [0, ''])
  assert.match(printed.stdout, /NPU \+3 MiB/)
  assert.match(printed.stdout, /By tag\n {2}kv +\+3 MiB +0 B to 3 MiB/)
  const { byTag } = JSON.parse((await command(['report', before, '--diff', after, '--json'])).stdout)
  assert.equal(byTag[0].growth, 3 << 20)
  const page = join(folder, 'diff.html')
  assert.equal((await command(['report', before, '--diff', after, page])).status, 0)
  assert.match(readFileSync(page, 'utf8'), /<title>Memory diff/)
  const bad = join(folder, 'bad.json')
  writeFileSync(bad, '{}')
  for (const words of [
    ['report', before], ['report', before, '--diff', '4711'], ['report', bad, page], ['report', after, page, '--json'],
    ['report', before, '--diff', bad], ['report', after, join(folder, 'r.prom')],
  ])
    assert.equal((await command(words)).status, STATUS.usage, words.join(' '))
  assert.equal((await command(['report', before, '--diff', after, join(folder, 'diff.csv')])).status, STATUS.broken)
})

test('no process to attach to: status 3, and the reason', async () => {
  for (const [pid, why] of [
    ['4194303', /no process 4194303/],
    [String(process.pid), /inspect: true/],
  ]) {
    const { status, stdout, stderr } = await command(['snapshot', pid])
    assert.deepEqual([status, stdout], [STATUS.attach, ''])
    assert.match(stderr.replace(/\n +/g, ' '), why)
  }
})

// ── as a process

test('as a process: status, streams, a pipe that closes early', { skip: needsCommand('sh') }, () => {
  const run = (script, input) =>
    spawnSync('sh', ['-c', script], { encoding: 'utf8', input, env: { ...process.env, NODE_OPTIONS: '' } })
  assert.deepEqual([run(shell('--version')).stdout, run(shell('nothing')).status], [`${version}\n`, STATUS.usage])
  const piped = run(`${shell('doctor')} | head -n 1`)
  assert.deepEqual([piped.status, piped.stderr, piped.stdout.split('\n').length], [0, '', 2])
})

test('no escape of a log line or of an argument reaches the terminal', async () => {
  const escape = '\x1b]0;gone\x07\x9b31m\x1b[2J\ufdd0\ufdd4\ufde0\ufdd4'
  const words = [
    ['explain', `E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address ${escape}`],
    ['explain', escape], ['estimate', `${escape}/config.json`], [escape], ['top', `--${escape}`], ['replay', escape],
    ['doctor', '--root', escape],
  ]
  for (const FORCE_COLOR of ['0', '1']) {
    for (const each of words) {
      const { stdout, stderr } = await command(each, { env: { FORCE_COLOR } })
      const own = FORCE_COLOR === '1' ? /\x1b\[(?:1|2|7|22|27|3[1236]|39)m/g : /$^/
      const rest = `${stdout}${stderr}`.replace(own, '')
      assert.doesNotMatch(rest, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/, JSON.stringify(each))
    }
  }
})

test('a size may have a fraction of its unit, and a suggestion is near', async () => {
  assert.equal((await command(['estimate', '--weights', '1.6GiB', '--layers', '24'])).status, 0)
  assert.equal((await command(['estimate', '--weights', '1.5', '--layers', '24'])).status, 2)
  for (const [word, hint] of [['stop', /did you mean top/], ['tpo', /did you mean top/], ['foo', /--help lists/]])
    assert.match((await command([word])).stderr, hint)
  assert.doesNotMatch((await command(['foo'])).stderr, /did you mean/)
})

test('replay: a log of which nothing is understood is an error, status 4', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-replay-'))
  try {
    const log = join(folder, 'log.csv')
    writeFileSync(log, 'Thread,Time,Action,Pointer,Size,Stream\n1,1,acquire,0x1,64,0\n')
    const { status, stderr, stdout } = await command(['replay', log])
    assert.deepEqual([status, stdout], [4, ''])
    assert.match(stderr, /none of the log's 1 entries was understood/)

    writeFileSync(log, 'Thread,Time,Action,Pointer,Size,Stream\n')
    const empty = await command(['replay', log])
    assert.deepEqual([empty.status, empty.stdout], [4, ''])
    assert.match(empty.stderr, /has no allocation/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
