// Runs scenarios without a driver by QEMU's user-mode emulation: the other architecture's programs on this machine's
// kernel. About twice as fast as an emulated machine, with one scenario a processor.
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { install } from './packages.mjs'

const BINFMT = '/proc/sys/fs/binfmt_misc'
/** Name of the registration. It has this process's ID, so that a run removes only its own. */
const NAME = `rkllm-test-arm64-${process.pid}`
const INTERPRETER = '/usr/bin/qemu-aarch64-static'
/** Matches 64-bit little-endian ELF for AArch64, executables and shared objects. */
const MAGIC = '\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00'
const MASK = '\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff'

/** Returns the mounts of a chroot. They live in a mount namespace of their own and end with it. */
const mounts = (root, repo) => [
  'mount --make-rprivate /',
  ...['proc', 'sys', 'dev'].map(name => `mount --rbind /${name} '${root}/${name}'`),
  `mount --bind '${repo}' '${root}/repo'`,
  `mount -o remount,bind,ro '${root}/repo'`,
  `mount -t tmpfs tmp '${root}/tmp'`,
  `chmod 1777 '${root}/tmp'`,
].join(' && ')

/** Registers QEMU with the kernel for arm64 programs until this process ends. Returns a failure's reason, or null. */
export function prepare(root, repo) {
  if (process.arch === 'arm64') return 'this is an arm64 machine'
  try {
    install({ 'qemu-aarch64-static': ['qemu-user-static'] })
    if (!existsSync(join(BINFMT, 'register'))) {
      spawnSync('mount', ['-t', 'binfmt_misc', 'none', BINFMT])
      process.once('exit', () => spawnSync('umount', [BINFMT]))
    }
    if (!existsSync(join(BINFMT, NAME))) {
      // F: the kernel opens the interpreter now, so that a chroot needs no copy.
      writeFileSync(join(BINFMT, 'register'), `:${NAME}:M::${MAGIC}:${MASK}:${INTERPRETER}:F`)
      process.prependOnceListener('exit', () => writeFileSync(join(BINFMT, NAME), '-1'))
      for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))
    }
  } catch (error) {
    return String(error)
  }
  const { status, stderr } = spawnSync('unshare', inside(root, repo, ['/bin/node', '--version']), { encoding: 'utf8' })
  return status === 0 ? null : `node --version: ${stderr.trim() || `status ${status}`}`
}

const inside = (root, repo, command) =>
  ['-m', 'sh', '-c', `${mounts(root, repo)} && exec chroot '${root}' "$@"`, 'sh', ...command]

/**
 * Runs each scenario's only step, and writes to `out` the files that guest/lib.sh would. `commandOf` returns a step's
 * command line. Calls `judge` after each scenario.
 */
export async function runAll(scenarios, { root, repo, out, commandOf, judge }) {
  const waiting = [...scenarios]
  const worker = async () => {
    for (let scenario; (scenario = waiting.shift()) !== undefined; ) {
      const dir = join(out, scenario.name)
      mkdirSync(dir, { recursive: true })
      const [step] = scenario.steps
      const now = () => `${performance.now() / 1000}\n`
      const began = now()
      const status = await finished(
        inside(root, repo, commandOf(scenario, step)),
        step.seconds,
        join(dir, `${step.name}.log`),
      )
      writeFileSync(join(dir, 'started'), began)
      writeFileSync(join(dir, `${step.name}.times`), began + now())
      writeFileSync(join(dir, `${step.name}.status`), `${status}\n`)
      writeFileSync(join(dir, 'finished'), now())
      judge(scenario.name)
    }
  }
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), scenarios.length) }, worker))
}

function finished(args, seconds, log) {
  const file = createWriteStream(log)
  // A process group of its own, so that the time limit kills its children too.
  const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  child.stdout.pipe(file, { end: false })
  child.stderr.pipe(file, { end: false })
  const end = () => {
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch {
      // The group has ended.
    }
  }
  const timer = setTimeout(end, seconds * 1000)
  process.once('exit', end)
  return new Promise(resolve => {
    child.on('error', error => file.write(String(error)))
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      process.off('exit', end)
      file.end(() => resolve(status ?? (signal === 'SIGKILL' ? 137 : 1)))
    })
  })
}
