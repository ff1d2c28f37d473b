#!/usr/bin/env node
// npm run test:kernel [x64|arm64] [scenario...] [--all] [--steps smoke,js,...] [--machines N] [--user-mode] [--console]
// Boots a stock Debian kernel in QEMU, simulates the boards of scenarios.mjs, and checks each scenario.
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll } from '../runtime/build.mjs'
import { addonPath, conformancePath } from './cross.mjs'
import { boot, buildInitramfs, buildModule, buildProgram } from './machine.mjs'
import { arches, cache, installTools, kernel as fetchKernel, root as fetchRoot } from './packages.mjs'
import { scenarios } from './scenarios.mjs'
import * as user from './user.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const repo = resolve(here, '../..')

/** Matches console and dmesg lines that fail a scenario. */
const ALARM = new RegExp(
  [
    'VIOLATION|Oops|BUG:|WARNING:|Call [Tt]race|general protection|Unable to handle|Kernel panic',
    'refcount_t|use-after-free|soft lockup|hung task|rcu: INFO',
  ].join('|'),
)

/** Matches raw lines of dmesg at the level of a warning or above (KERN_WARNING is 4). */
const WARNING = /^<[0-4]>/
/** Matches warnings of slow emulation, and of a module that is not the kernel's own. */
const NOISE = /out-of-tree module|hrtimer: interrupt took|clocksource: |perf: interrupt took|sched: |workqueue: /

/**
 * Counters of what the library never does: misuse; a call while the device was in another domain than the call's; a
 * contiguous object larger than the free CMA area, for which the kernel warns with a trace.
 */
const NEVER = ['violations', 'elsewhere', 'beyond_cma']

/** Boots of a machine that stops before its first scenario. */
const BOOTS = 3

/** Machines at once. Each has two emulated processors; more machines than that are slower in parallel than in turn. */
const MACHINES = Math.min(4, Math.max(1, availableParallelism() >> 1))

function usage(message) {
  console.error(
    `${message}\nusage: test:kernel [x64|arm64] [scenario...] [--all] [--steps NAME,...] [--machines N] ` +
      `[--user-mode] [--console]\nscenarios: ${scenarios.map(s => s.name).join(' ')}`,
  )
  process.exit(2)
}

const whole = word => (/^[1-9]\d?$/.test(word) ? Number(word) : undefined)

function parse(argv) {
  const options = {
    arch: null,
    names: [],
    steps: null,
    console: false,
    userMode: false,
    all: false,
    machines: MACHINES,
  }
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i]
    if (arg === 'x64' || arg === 'arm64') options.arch = arg
    else if (arg === '--console') options.console = true
    else if (arg === '--user-mode') options.userMode = true
    else if (arg === '--all') options.all = true
    else if (arg === '--machines') options.machines = whole(argv[++i]) ?? usage('--machines wants a number')
    else if (arg === '--steps') options.steps = (argv[++i] ?? usage('--steps wants names')).split(',')
    else if (scenarios.some(s => s.name === arg)) options.names.push(arg)
    else usage(`unknown: ${arg}`)
  }
  options.arch ??= 'x64'
  return options
}

/** Returns the named scenarios; by default those of every run, or with `all` those of the architecture. */
function choose({ arch, names, steps, all }) {
  return scenarios
    .filter(s => !s.arches || s.arches.includes(arch))
    .filter(s => (names.length > 0 ? names.includes(s.name) : all || s.always.includes(arch)))
    .map(s => ({ ...s, steps: s.steps.filter(step => !steps || steps.includes(step.name)) }))
    .filter(s => s.steps.length > 0)
}

const quote = word => `'${String(word).replaceAll("'", "'\\''")}'`

// Without `--test`, which would start a second Node for each file: under emulation a start takes seconds.
const runners = { node: '/bin/node --test-reporter=spec', bun: '/bin/bun test --timeout 120000' }

/** Returns the command line of a step, relative to the root. */
function commandOf(scenario, step, ...variables) {
  const env = [
    '/bin/env',
    '-i',
    'PATH=/bin',
    'HOME=/tmp',
    'TMPDIR=/tmp',
    'RUST_BACKTRACE=1',
    `RKLLM_TEST_BACKEND=${scenario.backend}`,
    `RKLLM_TEST_SCENARIO=${scenario.name}`,
    `RKLLM_TEST_PIECE=${scenario.piece ?? '1/1'}`,
    ...variables,
  ]
  return [
    ...env,
    ...(step.js ? ['/bin/sh', '-c', `cd /repo && exec ${runners[step.runtime]} ${step.js.join(' ')}`] : step.run),
  ]
}

/** Translates a scenario into calls of guest/lib.sh. */
function plan(scenario) {
  const parameters = scenario.module ? Object.entries(scenario.module).map(([k, v]) => `${k}=${v}`) : ['-']
  const lines = [
    `if claim ${quote(scenario.name)}; then`,
    ['scenario', scenario.name, ...parameters].map(quote).join(' '),
  ]
  for (const step of scenario.steps) {
    const words = [step.name, step.seconds, step.user ?? 'root', ...commandOf(scenario, step)]
    lines.push([step.kill ? 'killed' : 'step', ...words.map(quote)].join(' '))
    if (step.misuse) lines.push('misused')
    if (step.clears) lines.push('cleared')
  }
  lines.push('finish', 'fi')
  return lines
}

const text = path => (existsSync(path) ? readFileSync(path, 'utf8') : '')

/** Returns the summary line of a log, for the table. */
function summary(log, step) {
  const lines = log.trim().split('\n')
  if (step.js) {
    const figure = name => {
      const found = new RegExp(`^ℹ ${name}(?:ped)? (\\d+)$|^ *(\\d+) ${name}$`, 'm').exec(log)
      return Number(found?.slice(1).find(Boolean) ?? 0)
    }
    return `${figure('pass')} passed, ${figure('fail')} failed, ${figure('skip')} skipped`
  }
  return (lines.findLast(line => /passed|failed|ok|ratio/.test(line)) ?? lines.at(-1) ?? '').slice(0, 160)
}

function verdictOf(status, idle, seconds) {
  if (status === '0') return idle ? 'NOTHING RUN' : 'ok'
  if (status === '') return 'NOT RUN'
  return status === '137' ? `KILLED (limit ${seconds} s)` : `FAILED (${status})`
}

/** Reads and prints a scenario's results from the share. Returns whether it passed. */
function judge(scenario, out) {
  const dir = join(out, scenario.name)
  const problems = text(join(dir, 'failures')).split('\n').filter(Boolean)
  const seconds = Math.round(Number(text(join(dir, 'finished'))) - Number(text(join(dir, 'started'))))
  console.log(`\n${scenario.name}: ${scenario.about}`)
  for (const step of scenario.steps) {
    const status = text(join(dir, `${step.name}.status`)).trim()
    const log = text(join(dir, `${step.name}.log`))
    const idle = (step.js || step.needs === 'conformance') && !/[1-9]\d* passed/.test(summary(log, step))
    const verdict = verdictOf(status, idle, step.seconds)
    const [from, to] = text(join(dir, `${step.name}.times`))
      .trim()
      .split('\n')
    const took = to ? `${Math.round(to - from)} s` : ''
    console.log(`  ${step.name.padEnd(12)} ${verdict.padEnd(8)} ${took.padStart(5)}  ${summary(log, step)}`)
    const lines = log.trim().split('\n').slice(-60)
    if (verdict !== 'ok' || step.prints) console.log(lines.map(line => `    | ${line}`).join('\n'))
    if (verdict !== 'ok') problems.push(`${step.name}: ${verdict}`)
  }
  if (!existsSync(join(dir, 'finished'))) {
    problems.push('not finished')
  } else {
    problems.push(
      ...text(join(dir, 'dmesg'))
        .split('\n')
        .filter(line => ALARM.test(line) || (WARNING.test(line) && !NOISE.test(line)))
        .slice(0, 10),
    )
    const counters = Object.fromEntries(
      text(join(dir, 'counters'))
        .split('\n')
        .filter(Boolean)
        .map(line => line.split(' ')),
    )
    for (const [name, value] of Object.entries(counters))
      if ((name.startsWith('live_') || NEVER.includes(name)) && value !== '0')
        problems.push(`${name} is ${value} at the end`)
    const totals = ['creates', 'destroys', 'syncs', 'exports', 'imports', 'maps'].map(
      name => `${counters[`total_${name}`]} ${name}`,
    )
    if (scenario.module) console.log(`  driver       ${totals.join(', ')}; undestroyed ${counters.undestroyed}`)
    const long = seconds > 120 ? '  more than two minutes: split it, unless other work loads this computer' : ''
    console.log(`  in all       ${' '.repeat(9)}${String(seconds).padStart(3)} s${long}`)
  }
  for (const problem of problems) console.log(`  FAILED: ${problem}`)
  return problems.length === 0
}

async function main() {
  const options = parse(process.argv.slice(2))
  const { arch } = options
  const chosen = choose(options)
  if (chosen.length === 0) usage('nothing to run')
  const began = Date.now()
  const lap = what => console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${what}`)

  installTools(arch)
  const kernel = fetchKernel(arch)
  const root = fetchRoot(arch)
  lap(`Linux ${kernel.version}, ${arch}`)
  // A unique folder: two runs may share a computer.
  const work = mkdtempSync(join(cache, `run-${arch}-`))
  const share = join(work, 'share')
  for (const name of ['out', 'claimed']) mkdirSync(join(share, name), { recursive: true })
  copyFileSync(buildModule(arch, kernel, work), join(share, 'rknpu_test.ko'))
  for (const name of ['smoke', 'bare', 'neighbour']) copyFileSync(buildProgram(arch, name, work), join(share, name))
  const initrd = buildInitramfs(kernel, root, work)
  lap('module and programs built')
  const needs = new Set(chosen.flatMap(s => s.steps.map(step => step.needs)))
  if (needs.has('conformance')) copyFileSync(conformancePath(arch), join(share, 'conformance'))
  if (needs.has('addon')) addonPath(arch)
  if (chosen.some(s => s.steps.some(step => step.compiled))) {
    buildAll({ arch, cc: arches[arch].gcc })
  }
  lap('library built')

  const driverless = options.userMode ? chosen.filter(s => s.module === null && s.steps.every(step => step.js)) : []
  const without = driverless.length === 0 ? 'nothing to run there' : user.prepare(root, repo)
  const inUserMode = without === null ? driverless : []
  if (options.userMode && without !== null) lap(`no user-mode emulation: ${without}`)
  const booted = chosen.filter(s => !inUserMode.includes(s))
  const alarms = []
  const judged = new Map()
  const judgeOne = name => {
    const scenario = chosen.find(s => s.name === name)
    if (!judged.has(name)) judged.set(name, judge(scenario, join(share, 'out')))
  }
  if (inUserMode.length > 0) {
    const inIt = (scenario, step) => commandOf(scenario, step, 'RKLLM_TEST_EMULATION=user')
    await user.runAll(inUserMode, { root, repo, out: join(share, 'out'), commandOf: inIt, judge: judgeOne })
    lap('user-mode emulation done')
  }

  copyFileSync(join(here, 'guest/lib.sh'), join(share, 'lib.sh'))
  writeFileSync(join(share, 'run.sh'), ['. /host/lib.sh', ...booted.flatMap(plan), ''].join('\n'))
  const limit = booted.flatMap(s => s.steps).reduce((sum, step) => sum + step.seconds, 120)
  const machines = Math.min(options.machines, booted.length)
  /** Runs one machine, which takes scenarios from the shared queue. Returns its problem, or null. */
  const machine = async (number, attempt = 1) => {
    let current = 'boot'
    const alarmsBefore = alarms.length
    const who = machines > 1 ? `${number}  ` : ''
    const { problem, last } = await boot({
      arch,
      kernel,
      initrd,
      consoleLog: join(work, `console-${number}.log`),
      seconds: limit,
      quietSeconds: 180,
      shares: [
        { tag: 'host', path: share },
        { tag: 'root', path: root, readonly: true },
        { tag: 'repo', path: repo, readonly: true },
      ],
      onLine(line) {
        if (options.console) console.log(`[${arch} ${number}] ${line}`)
        // SeaBIOS leaves the cursor in the middle of a line, so a mark may not start one.
        const mark = /@@ (.*)/.exec(line)?.[1]
        if (mark?.startsWith('finished ')) judgeOne(mark.slice(9))
        else if (mark) lap(`${who}${(current = mark)}`)
        else if (ALARM.test(line) && !current.endsWith(' misuse')) alarms.push(`${current}: ${line}`)
      },
    })
    if (!problem) return null
    // QEMU now and then breaks the stock kernel's patching of its own code while it boots. No code of this project runs
    // before the first scenario.
    if (current === 'boot' && attempt < BOOTS) {
      for (const alarm of alarms.splice(alarmsBefore)) lap(`${who}${alarm}`)
      lap(`${who}the machine did not boot (${problem}); attempt ${attempt + 1} of ${BOOTS}`)
      return machine(number, attempt + 1)
    }
    return [`FAILED at ${current}: ${problem}. The console's last lines:`, ...last.map(line => `  | ${line}`)].join(
      '\n',
    )
  }
  const problems = (await Promise.all(Array.from({ length: machines }, (_, number) => machine(number)))).filter(Boolean)

  chosen.forEach(s => judgeOne(s.name))
  const failed = chosen.map(s => s.name).filter(name => !judged.get(name))
  for (const problem of problems) console.log(`\n${problem}`)
  for (const alarm of alarms) console.log(`FAILED: console: ${alarm}`)
  console.log('')
  const bad = failed.length + problems.length + alarms.length > 0
  lap(bad ? `${arch}: FAILED: ${failed.join(', ') || 'the machine'}` : `${arch}: all ${chosen.length} scenarios passed`)
  if (bad) console.log(`logs: ${work}`)
  else rmSync(work, { recursive: true })
  process.exitCode = bad ? 1 : 0
}

await main()
