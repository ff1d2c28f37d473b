// Scenarios that need no driver, by QEMU's user-mode emulation: this machine's kernel, the other architecture's
// programs. About twice as fast as an emulated machine, and as many at once as there are processors.
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { install } from './packages.mjs'

const BINFMT = '/proc/sys/fs/binfmt_misc'
/** Of this process: another run takes only its own away. */
const NAME = `rkllm-test-arm64-${process.pid}`
const INTERPRETER = '/usr/bin/qemu-aarch64-static'
/**
 * 64-bit little-endian ELF for AArch64, executables and shared ones; F: opened now, so that a chroot need not have it.
 */
const MAGIC = '\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00'
const MASK = '\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff'

/** What a chroot needs; in a mount namespace of its own, so that nothing is left of it. */
const mounts = (root, repo) => [
  'mount --make-rprivate /',
  ...['proc', 'sys', 'dev'].map(name => `mount --rbind /${name} '${root}/${name}'`),
  `mount --bind '${repo}' '${root}/repo'`,
  `mount -o remount,bind,ro '${root}/repo'`,
  `mount -t tmpfs tmp '${root}/tmp'`,
  `chmod 1777 '${root}/tmp'`,
].join(' && ')

/**
 * Tells the kernel how programs of arm64 are run, until this process ends. Returns why that cannot be done here, or
 * null.
 */
export function prepare(root, repo) {
  if (process.arch === 'arm64') return 'this is an arm64 machine'
  try {
    install({ 'qemu-aarch64-static': ['qemu-user-static'] })
    if (!existsSync(join(BINFMT, 'register'))) {
      spawnSync('mount', ['-t', 'binfmt_misc', 'none', BINFMT])
      process.once('exit', () => spawnSync('umount', [BINFMT]))
    }
    if (!existsSync(join(BINFMT, NAME))) {
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
 * Runs each scenario's one step, and leaves in `out` what guest/lib.sh would. `commandOf` gives a step's words; `judge`
 * is told of each end.
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
  // A group of its own: what outlives its limit is killed with its children.
  const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  child.stdout.pipe(file, { end: false })
  child.stderr.pipe(file, { end: false })
  const end = () => {
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch {
      // It has ended.
    }
  }
  const patience = setTimeout(end, seconds * 1000)
  process.once('exit', end)
  return new Promise(resolve => {
    child.on('error', error => file.write(String(error)))
    child.on('close', (status, signal) => {
      clearTimeout(patience)
      process.off('exit', end)
      file.end(() => resolve(status ?? (signal === 'SIGKILL' ? 137 : 1)))
    })
  })
}
