// Mutation tests of the pure rooms of the core: each function and operator is changed, one at a time, and the tests of the
// room have to notice. Needs cargo-mutants (`cargo install --locked cargo-mutants`); takes minutes to hours, so CI does not run it:
//   node .ci/mutants.mjs [room ...] [-- options of cargo mutants]
// For example `node .ci/mutants.mjs suballoc -- --re Fixed`, or `-- --iterate` to try only those that survived the last time.
//
// A room is tried in a package of its own, with the modules that it imports and one test binary, because that builds in a
// second where the whole crate takes ten.

import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What each room consists of below `src`, and the integration tests of it in `__test__/rust`. */
const rooms = {
  suballoc: { modules: ['suballoc'], suites: ['suballoc'] },
  accounting: { modules: ['accounting'], suites: ['accounting'] },
  profile: { modules: ['profile'], suites: ['profile'] },
  pool: { modules: ['pool'], suites: ['pool', 'pool_limits', 'pool_profile', 'compaction'] },
}
/** A mutant that allocates for ever fails instead of taking the machine down. */
const ADDRESS_SPACE_KIB = 8 << 20
/** The first test that fails ends the process: the others would only take time. */
const FAIL_FAST = `
#[cfg(test)]
#[used]
#[link_section = ".init_array"]
static FAIL_FAST: extern "C" fn() = {
    extern "C" fn abort_on_panic() {
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            std::process::abort()
        }));
    }
    abort_on_panic
};`

const root = fileURLToPath(new URL('..', import.meta.url))
const args = process.argv.slice(2)
const split = args.indexOf('--')
const [named, options] = split < 0 ? [args, []] : [args.slice(0, split), args.slice(split + 1)]
const unknown = named.filter((name) => !Object.hasOwn(rooms, name))
if (unknown.length > 0) {
  console.error(`no such room: ${unknown.join(', ')} (there are ${Object.keys(rooms).join(', ')})`)
  process.exit(2)
}

let survived = 0
for (const name of named.length > 0 ? named : Object.keys(rooms)) survived += tryRoom(name)
process.exit(survived === 0 ? 0 : 1)

/** Runs the mutants of one room, prints its figures, and returns how many survived. */
function tryRoom(name) {
  const tree = join(root, 'target', 'mutants', name)
  const files = writePackage(name, tree)
  const command = ['mutants', '--in-place', '--no-shuffle', '--colors', 'never', ...files.flatMap((file) => ['--file', file])]
  const { modules, suites } = rooms[name]
  const filters = [...modules.map((module) => `${module}::`), ...suites.map((suite) => `${suite}_suite::`)]
  command.push(...options, '--', '--', ...filters)
  const shell = `ulimit -v ${ADDRESS_SPACE_KIB}; exec nice -n 19 cargo "$@"`
  const { status } = spawnSync('sh', ['-c', shell, 'cargo', ...command], { cwd: tree, stdio: 'inherit' })
  const results = join(tree, 'mutants.out', 'outcomes.json')
  // 2: some survived; 3: some hung. Anything else was no run.
  if (![0, 2, 3].includes(status) || !existsSync(results)) throw new Error(`cargo mutants ended with ${status}`)
  const { outcomes } = JSON.parse(readFileSync(results, 'utf8'))
  const mutants = outcomes.filter(({ scenario }) => scenario !== 'Baseline')
  const are = (...summaries) => mutants.filter(({ summary }) => summaries.includes(summary))
  const missed = are('MissedMutant')
  const killed = are('CaughtMutant', 'Timeout').length
  const viable = killed + missed.length
  console.log(`${name}: ${killed} of ${viable} viable mutants killed (${((100 * killed) / Math.max(viable, 1)).toFixed(1)} %)`)
  for (const { scenario } of missed) console.log(`  survived: ${scenario.Mutant.name}`)
  return missed.length
}

/** Writes a package of the room, of all that it imports and of its tests; returns the room's files. */
function writePackage(name, tree) {
  const { modules, suites } = rooms[name]
  for (const part of ['src', 'tests']) rmSync(join(tree, part), { recursive: true, force: true })
  for (const part of ['src', 'tests']) mkdirSync(join(tree, part), { recursive: true })
  const present = suites.filter((suite) => existsSync(join(root, '__test__/rust', `${suite}.rs`)))
  for (const suite of present) {
    cpSync(join(root, '__test__/rust', `${suite}.rs`), join(tree, 'tests', `${suite}.rs`))
    const folder = join(root, '__test__/rust', suite)
    if (existsSync(folder)) cpSync(folder, join(tree, 'tests', suite), { recursive: true })
  }
  const closure = importsOf([...modules, ...present.flatMap((suite) => named_in(join(tree, 'tests', `${suite}.rs`)))])
  for (const module of closure) cpSync(pathOf(module), join(tree, 'src', pathOf(module).slice(join(root, 'src').length)), { recursive: true })
  const lines = closure.map((module) => `pub mod ${module};`)
  const tests = present.map((suite) => `#[cfg(test)]\n#[path = "../tests/${suite}.rs"]\nmod ${suite}_suite;`)
  // The suites name the crate as its users do.
  const library = ['#![allow(warnings)]', '#[cfg(test)]\nextern crate self as rkllmjs_memory;', FAIL_FAST, ...lines, ...tests]
  writeFileSync(join(tree, 'src', 'lib.rs'), `${library.join('\n')}\n`)
  writeFileSync(join(tree, 'Cargo.toml'), manifest())
  cpSync(join(root, 'Cargo.lock'), join(tree, 'Cargo.lock'))
  return modules.map((module) => (pathOf(module).endsWith('.rs') ? `src/${module}.rs` : `src/${module}/**`))
}

/** The crate's manifest without the binding: one library, whose tests are all there are, quick to build. */
function manifest() {
  const sections = readFileSync(join(root, 'Cargo.toml'), 'utf8').split(/^(?=\[)/m)
  const section = (header) => sections.find((text) => text.startsWith(`[${header}]`)) ?? ''
  const dependencies = section('dependencies').replace(/^.*optional = true.*\n/gm, '')
  return [
    section('package').replace(/^exclude.*\n/m, 'autobins = false\nautotests = false\nautobenches = false\nautoexamples = false\n'),
    '[lib]\nname = "rkllmjs_memory"\ndoctest = false\n',
    dependencies,
    section('dev-dependencies'),
    '[profile.dev]\nopt-level = 1\ndebug = false\nincremental = true\n',
    '[profile.test]\nopt-level = 1\ndebug = false\nincremental = true\n',
    '[workspace]\n',
  ].join('\n')
}

/** These modules of the crate and all that they import, in one way or another. */
function importsOf(modules) {
  const all = new Set(modules)
  for (const module of all) for (const file of sources(pathOf(module))) named_in(file).forEach((other) => all.add(other))
  return [...all].sort()
}

/** The crate's modules that a file names. */
function named_in(file) {
  const found = readFileSync(file, 'utf8').matchAll(/\b(?:crate|rkllmjs_memory)::(\w+)/g)
  return [...found].map(([, module]) => module).filter((module) => pathOf(module) !== undefined)
}

function pathOf(module) {
  return [join(root, 'src', module), join(root, 'src', `${module}.rs`)].find((path) => existsSync(path))
}

function sources(path) {
  if (!statSync(path).isDirectory()) return [path]
  return readdirSync(path, { recursive: true }).filter((file) => file.endsWith('.rs')).map((file) => join(path, file))
}
