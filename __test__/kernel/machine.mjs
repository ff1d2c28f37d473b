// Builds the module and an initramfs, boots QEMU, and watches the console.
import { spawn } from 'node:child_process'
import {
  chmodSync, copyFileSync, cpSync, createWriteStream, mkdirSync, readdirSync, rmSync, writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { arches, run } from './packages.mjs'

const here = dirname(fileURLToPath(import.meta.url))

/** Compiles rknpu_test.ko; returns its path. */
export function buildModule(arch, kernel, work) {
  const dir = join(work, 'module')
  rmSync(dir, { recursive: true, force: true })
  cpSync(join(here, 'rknpu_test'), dir, { recursive: true })
  run('make', ['-s', '-j2', '-C', kernel.headers, ...arches[arch].make, `M=${dir}`, 'KCFLAGS=-Werror', 'modules'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return join(dir, 'rknpu_test.ko')
}

/** Compiles a C program of this folder; static, to run with or without the chroot. */
export function buildProgram(arch, name, work) {
  const out = join(work, name)
  run(arches[arch].gcc, ['-O2', '-Wall', '-Wextra', '-Werror', '-static', join(here, `${name}.c`), '-o', out])
  return out
}

/** Returns the module files in order of insertion. */
function moduleOrder(kernel, wanted) {
  const files = new Map()
  for (const path of readdirSync(kernel.modules, { recursive: true }))
    if (path.endsWith('.ko.xz')) files.set(basename(path, '.ko.xz').replaceAll('-', '_'), join(kernel.modules, path))
  const order = []
  const visit = name => {
    const file = files.get(name)
    if (!file || order.includes(file)) return // Built into the kernel.
    const depends = run('modinfo', ['-F', 'depends', file], {
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    })
    depends.trim().split(',').filter(Boolean).forEach(d => visit(d.replaceAll('-', '_')))
    if (!order.includes(file)) order.push(file)
  }
  wanted.forEach(visit)
  return order
}

const APPLETS = [
  'sh', 'mount', 'insmod', 'rmmod', 'ls', 'cat', 'poweroff', 'mkdir', 'chroot', 'dmesg', 'cut', 'grep', 'tr', 'timeout',
  'kill', 'usleep', 'readlink', 'chmod', 'sync', 'ip', 'su',
]

/** Builds the initramfs: busybox, the modules for the shared folders and for DRM, and guest/init. */
export function buildInitramfs(kernel, root, work) {
  const dir = join(work, 'initramfs')
  rmSync(dir, { recursive: true, force: true })
  for (const d of ['bin', 'dev', 'proc', 'sys', 'mod', 'host', 'root', 'tmp'])
    mkdirSync(join(dir, d), { recursive: true })
  copyFileSync(join(root, 'bin/busybox'), join(dir, 'bin/busybox'))
  for (const applet of APPLETS) run('ln', ['-s', 'busybox', join(dir, 'bin', applet)])
  copyFileSync(join(here, 'guest/init'), join(dir, 'init'))
  chmodSync(join(dir, 'init'), 0o755)
  const order = moduleOrder(kernel, ['9pnet_virtio', '9p', 'drm', 'udmabuf'])
  order.forEach((file, i) => {
    // busybox cannot read xz.
    writeFileSync(join(dir, 'mod', `${i}.ko`), run('xz', ['-dc', file], { encoding: 'buffer' }))
  })
  writeFileSync(join(dir, 'mod/order'), order.map((_, i) => `${i}.ko`).join('\n'))
  const out = join(work, 'initrd')
  run('sh', ['-c', `find . | cpio -o -H newc --quiet | gzip -1 > '${out}'`], { cwd: dir })
  return out
}

/**
 * Boots the machine and waits until it powers off. Passes each console line to `onLine`. Gives up after `quietSeconds`
 * without a console line, or after `seconds`. `problem` is the reason, or null.
 */
export function boot({
  arch,
  kernel,
  initrd,
  shares,
  consoleLog,
  seconds,
  quietSeconds,
  memory = 1024,
  onLine = () => {},
}) {
  const {
    qemu: [qemu, ...machine],
    console: tty,
  } = arches[arch]
  const args = [
    ...machine,
    '-accel',
    'tcg,thread=multi',
    '-smp',
    '2',
    '-m',
    String(memory),
    '-nographic',
    '-no-reboot',
    '-nodefaults',
    '-serial',
    'stdio',
    '-kernel',
    kernel.image,
    '-initrd',
    initrd,
    '-append',
    `console=${tty} loglevel=4 panic=-1`,
    ...shares.flatMap(({ tag, path, readonly }) => [
      '-virtfs',
      `local,path=${path},mount_tag=${tag},security_model=none,id=${tag}${readonly ? ',readonly=on' : ''}`,
    ]),
  ]
  const child = spawn(qemu, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const log = createWriteStream(consoleLog)
  const last = []
  let problem = null
  let ended = false
  let quiet
  const giveUp = (why) => {
    problem ??= why
    child.kill('SIGKILL')
  }
  const heard = () => {
    clearTimeout(quiet)
    quiet = setTimeout(giveUp, quietSeconds * 1000, `the console has been silent for ${quietSeconds} s`)
  }
  const overall = setTimeout(giveUp, seconds * 1000, `not finished after ${seconds} s`)
  heard()
  const hear = (raw) => {
    const line = raw.replace(/\r/g, '')
    heard()
    log.write(line + '\n')
    last.push(line)
    if (last.length > 40) last.shift()
    if (line === '@@ end') ended = true
    onLine(line)
  }
  for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', hear)
  // Kills the machine when this program ends.
  const stop = () => child.kill('SIGKILL')
  const interrupted = () => process.exit(130)
  process.once('exit', stop).once('SIGINT', interrupted).once('SIGTERM', interrupted)
  return new Promise((resolve) => {
    child.on('error', (error) => giveUp(String(error)))
    child.on('close', (status) => {
      clearTimeout(quiet)
      clearTimeout(overall)
      process.off('exit', stop).off('SIGINT', interrupted).off('SIGTERM', interrupted)
      log.end()
      if (!ended) problem ??= `the machine stopped before its work was done (QEMU status ${status})`
      resolve({ problem, last })
    })
  })
}

