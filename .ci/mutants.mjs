// Mutation tests of the core's pure rooms: cargo-mutants changes one function body or operator at a time, and the tests
// of the room must fail. Needs `cargo install --locked cargo-mutants`. A room takes up to an hour: not in CI.
//   node .ci/mutants.mjs [room ...] [-- options of cargo mutants]
// Example: `node .ci/mutants.mjs suballoc -- --re Fixed`. `-- --iterate` tries only the last survivors.
//
// Each room gets a package in target/mutants: its modules, their imports, and its tests as one binary. The package
// builds in one second, the whole crate in ten.

import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Each room's modules, below `src`, and its integration tests, in `__test__/rust`. */
const rooms = {
  suballoc: { modules: ['suballoc'], suites: ['suballoc'] },
  accounting: { modules: ['accounting'], suites: ['accounting'] },
  profile: { modules: ['profile'], suites: ['profile'] },
  pool: { modules: ['pool'], suites: ['pool', 'pool_limits', 'pool_profile', 'compaction', 'replay'] },
}
/** Address space of a test process: a mutant that allocates without end fails before the machine runs out of RAM. */
const ADDRESS_SPACE_KIB = 8 << 20
/** Ends the process at the first failed test: one failure kills the mutant. */
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
  console.error(`no such room: ${unknown.join(', ')} (the rooms are ${Object.keys(rooms).join(', ')})`)
  process.exit(2)
}

let survived = 0
for (const name of named.length > 0 ? named : Object.keys(rooms)) survived += tryRoom(name)
process.exit(survived === 0 ? 0 : 1)

/** Runs the mutants of one room, prints its figures, and returns how many survived. */
function tryRoom(name) {
  const { modules, suites } = rooms[name]
  const tree = join(root, 'target', 'mutants', name)
  const imported = writePackage(name, tree)
  const glob = (module) => (statSync(pathOf(module)).isFile() ? `src/${module}.rs` : `src/${module}/**`)
  const filters = [...modules.map((module) => `${module}::`), ...suites.map((suite) => `${suite}_suite::`)]
  // Filters match parts of paths: `pool::` would also run the tests of `sys::thread_pool::`, which panic by design.
  filters.push(...imported.filter((module) => !modules.includes(module)).flatMap((module) => ['--skip', `${module}::`]))
  filters.push('--skip', 'sys::')
  const command = ['mutants', '--in-place', '--no-shuffle', '--colors', 'never']
  command.push(...modules.flatMap((module) => ['--file', glob(module)]), ...options, '--', '--', ...filters)
  // One job at the lowest priority.
  const shell = `ulimit -v ${ADDRESS_SPACE_KIB}; exec nice -n 19 cargo "$@"`
  const { status } = spawnSync('sh', ['-c', shell, 'cargo', ...command], { cwd: tree, stdio: 'inherit' })
  const results = join(tree, 'mutants.out', 'outcomes.json')
  // 2: mutants survived; 3: mutants hung. Any other status means that the run itself failed.
  if (![0, 2, 3].includes(status) || !existsSync(results)) throw new Error(`cargo mutants ended with ${status}`)
  const known = join(tree, 'mutants.out', 'previously_caught.txt')
  const iterates = options.includes('--iterate') && existsSync(known)
  const before = iterates ? readFileSync(known, 'utf8').trim().split('\n') : []
  return report(name, JSON.parse(readFileSync(results, 'utf8')).outcomes, before.length)
}

function report(name, outcomes, killedBefore) {
  const mutants = outcomes.filter(({ scenario }) => scenario !== 'Baseline')
  const are = (...summaries) => mutants.filter(({ summary }) => summaries.includes(summary))
  const missed = are('MissedMutant')
  const killed = killedBefore + are('CaughtMutant', 'Timeout').length
  const viable = killed + missed.length
  const share = ((100 * killed) / Math.max(viable, 1)).toFixed(1)
  console.log(`${name}: ${killed} of ${viable} viable mutants killed (${share} %)`)
  for (const { scenario } of missed) console.log(`  survived: ${scenario.Mutant.name}`)
  return missed.length
}

/** Writes a package with the room's modules, their imports and its tests. Returns the modules. */
function writePackage(name, tree) {
  const { modules, suites } = rooms[name]
  for (const part of ['src', 'tests']) {
    rmSync(join(tree, part), { recursive: true, force: true })
    mkdirSync(join(tree, part), { recursive: true })
  }
  for (const suite of suites) {
    for (const part of [`${suite}.rs`, suite, 'support']) {
      copy(join(root, '__test__/rust', part), join(tree, 'tests', part))
    }
  }
  const imported = importsOf([...modules, ...sources(join(tree, 'tests')).flatMap(modulesIn)])
  for (const module of imported) copy(pathOf(module), join(tree, 'src', pathOf(module).slice(join(root, 'src').length)))
  // The suites import the crate by its public name.
  const library = ['#![allow(warnings)]', '#[cfg(test)]\nextern crate self as rkllmjs_memory;', FAIL_FAST]
  library.push(...imported.map((module) => `pub mod ${module};`))
  library.push(...suites.map((suite) => `#[cfg(test)]\n#[path = "../tests/${suite}.rs"]\nmod ${suite}_suite;`))
  writeFileSync(join(tree, 'src', 'lib.rs'), `${library.join('\n')}\n`)
  writeFileSync(join(tree, 'Cargo.toml'), manifest())
  copy(join(root, 'Cargo.lock'), join(tree, 'Cargo.lock'))
  return imported
}

/** Returns the crate's manifest without the binding: one library with all tests in it, which builds fast. */
function manifest() {
  const sections = readFileSync(join(root, 'Cargo.toml'), 'utf8').split(/^(?=\[)/m)
  const section = (header) => sections.find((text) => text.startsWith(`[${header}]`)) ?? ''
  const alone = ['bins', 'tests', 'benches', 'examples'].map((kind) => `auto${kind} = false\n`).join('')
  return [
    section('package').replace(/^exclude.*\n/m, `build = false\n${alone}`),
    '[lib]\nname = "rkllmjs_memory"\ndoctest = false\n',
    section('dependencies').replace(/^.*optional = true.*\n/gm, ''),
    section('dev-dependencies'),
    ...['dev', 'test'].map((profile) => `[profile.${profile}]\nopt-level = 1\ndebug = false\nincremental = true\n`),
    '[workspace]\n',
  ].join('\n')
}

/** Returns `modules` and their imports within the crate, direct and indirect. */
function importsOf(modules) {
  const all = new Set(modules)
  for (const module of all) {
    for (const other of sources(pathOf(module)).flatMap(modulesIn)) all.add(other)
  }
  return [...all].sort()
}

/** Returns the crate's modules that a file names. */
function modulesIn(file) {
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

function copy(from, to) {
  if (existsSync(from)) cpSync(from, to, { recursive: true })
}
