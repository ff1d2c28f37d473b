// Builds the parts of the machine from packages alone: kernels, headers, a root for the tests, Node.
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))

/** Folder of downloads and of the parts built from them. Kept between runs, never committed. */
export const cache = process.env.XDG_CACHE_HOME
  ? join(process.env.XDG_CACHE_HOME, 'rkllmjs-memory-kernel')
  : join(here, '.cache')

export const arches = {
  x64: {
    debian: 'amd64',
    triplet: 'x86_64-linux-gnu',
    gcc: 'gcc',
    make: [],
    qemu: ['qemu-system-x86_64', '-M', 'q35', '-cpu', 'max'],
    console: 'ttyS0',
    packages: { 'qemu-system-x86_64': ['qemu-system-x86', 'seabios', 'ipxe-qemu'] },
  },
  arm64: {
    debian: 'arm64',
    triplet: 'aarch64-linux-gnu',
    gcc: 'aarch64-linux-gnu-gcc',
    make: ['ARCH=arm64', 'CROSS_COMPILE=aarch64-linux-gnu-'],
    qemu: ['qemu-system-aarch64', '-M', 'virt', '-cpu', 'cortex-a72'],
    console: 'ttyAMA0',
    packages: {
      'qemu-system-aarch64': ['qemu-system-arm', 'ipxe-qemu'],
      'aarch64-linux-gnu-gcc': ['gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross'],
    },
  },
}

const tools = {
  gcc: ['gcc', 'libc6-dev'],
  make: ['make'],
  cpio: ['cpio'],
  xz: ['xz-utils'],
  modinfo: ['kmod'],
  bc: ['bc'],
}

export function run(command, args, options = {}) {
  const { status, signal, error, stdout } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
    ...options,
  })
  if (error) throw error
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${signal ?? `status ${status}`}`)
  return stdout
}

const found = tool =>
  [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'].some(dir => existsSync(join(dir, tool)))

/** Runs apt-get under a lock. Without it, apt-get fails while another run holds its lists. */
const aptGet = (args, options) => run('flock', [APT_LOCK, 'apt-get', '-qq', ...args], options)
const APT_LOCK = join(tmpdir(), 'rkllmjs-memory-apt.lock')

let updated = false
function aptUpdate({ again = false } = {}) {
  if ((again || !updated) && process.getuid() === 0) aptGet(['update'])
  updated = true
}

/** Installs the missing packages as root. For other users, throws an error that names them. */
export function install(wanted) {
  const missing = Object.entries(wanted)
    .filter(([tool]) => !found(tool))
    .flatMap(([, names]) => names)
  if (missing.length === 0) return
  if (process.getuid() !== 0) throw new Error(`please install: apt-get install ${missing.join(' ')}`)
  console.log(`installing ${missing.join(' ')}`)
  aptUpdate()
  aptGet(['-y', 'install', '--no-install-recommends', ...missing], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
}

export function installTools(arch) {
  install({ ...tools, ...arches[arch].packages })
}

/** Registers a foreign architecture with dpkg: apt lists only packages of registered ones. */
export function addArchitecture(debian) {
  const own = run('dpkg', ['--print-architecture']).trim()
  const known = run('dpkg', ['--print-foreign-architectures']).split('\n')
  if (own === debian || known.includes(debian)) return
  if (process.getuid() !== 0) throw new Error(`please run: dpkg --add-architecture ${debian} && apt-get update`)
  run('dpkg', ['--add-architecture', debian])
  // Lists that an earlier install fetched do not cover the new architecture.
  aptUpdate({ again: true })
}

/** Returns the newest 6.12 that the index offers for this architecture, e.g. "6.12.117+deb12". */
function kernelVersion(debian) {
  const pattern = new RegExp(`^linux-image-(6\\.12\\.(\\d+)\\+deb12)-${debian}-unsigned `)
  for (let again = false; ; again = true) {
    const list = run('apt-cache', [
      'search',
      '--names-only',
      `^linux-image-6\\.12\\.[0-9]+\\+deb12-${debian}-unsigned$`,
    ])
    const best = list
      .split('\n')
      .map(line => pattern.exec(line))
      .filter(Boolean)
      .sort((a, b) => b[2] - a[2])[0]
    if (best) return best[1]
    if (again)
      throw new Error(
        `the package index has no linux-image-6.12.*+deb12-${debian}-unsigned: Debian 12 with its security suite has`,
      )
    aptUpdate({ again: true })
  }
}

/** Fills `dir` once. An interrupted run leaves no `dir`; of two concurrent runs, the first to finish creates it. */
export function once(dir, fill) {
  if (existsSync(dir)) return dir
  mkdirSync(dirname(dir), { recursive: true })
  const partial = mkdtempSync(`${dir}.partial-`)
  try {
    fill(partial)
    renameSync(partial, dir)
  } catch (error) {
    // A concurrent run may have filled the folder.
    if (!existsSync(dir)) throw error
  } finally {
    rmSync(partial, { recursive: true, force: true })
  }
  return dir
}

function unpack(into, names) {
  const debs = join(into, 'debs')
  mkdirSync(debs, { recursive: true })
  // apt's sandbox user cannot write here; as root apt would only warn.
  aptGet(['-o', 'APT::Sandbox::User=root', 'download', ...names], { cwd: debs })
  for (const deb of readdirSync(debs)) run('dpkg-deb', ['-x', join(debs, deb), into])
  rmSync(debs, { recursive: true })
}

/** Unpacks the kernel, modules and headers of one architecture, without installing them. */
export function kernel(arch) {
  const { debian } = arches[arch]
  addArchitecture(debian)
  const version = kernelVersion(debian)
  const foreign = debian === 'amd64' ? '' : `:${debian}`
  const dir = once(join(cache, `linux-${version}-${arch}`), into => {
    console.log(`fetching Linux ${version} for ${arch}`)
    unpack(into, [
      `linux-image-${version}-${debian}-unsigned${foreign}`,
      `linux-headers-${version}-${debian}${foreign}`,
      `linux-headers-${version}-common`,
      `linux-kbuild-${version}`,
    ])
    // Without vmlinux no build step needs pahole.
    rmSync(join(into, `usr/src/linux-headers-${version}-${debian}/vmlinux`), { force: true })
  })
  const sources = join(dir, 'usr/src')
  const headers = join(sources, `linux-headers-${version}-${debian}`)
  // Unpacked headers include the common ones by an absolute path, and the cache may have moved.
  const makefile = join(headers, 'Makefile')
  writeFileSync(
    makefile,
    readFileSync(makefile, 'utf8').replace(
      /^include .*-common\/Makefile$/m,
      `include ${join(sources, `linux-headers-${version}-common`)}/Makefile`,
    ),
  )
  const boot = join(dir, 'boot')
  return {
    version,
    headers,
    image: join(
      boot,
      readdirSync(boot).find(name => name.startsWith('vmlinuz')),
    ),
    modules: join(
      dir,
      existsSync(join(dir, 'lib/modules')) ? 'lib/modules' : 'usr/lib/modules',
      `${version}-${debian}`,
    ),
  }
}

const NODE = 22
const BUN = '1.4'

/** Builds a root for chroot: libc, libstdc++, busybox, Node, and on arm64 Bun. */
export function root(arch) {
  const { debian } = arches[arch]
  addArchitecture(debian)
  const withBun = arch === 'arm64'
  const dir = once(join(cache, `root-node${NODE}${withBun ? `-bun${BUN}` : ''}-${arch}`), into => {
    console.log(`fetching Node ${NODE}${withBun ? `, Bun ${BUN}` : ''} and libraries for ${arch}`)
    unpack(
      into,
      ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1', 'busybox-static'].map(name => `${name}:${debian}`),
    )
    mkdirSync(join(into, 'bin'), { recursive: true })
    const binary = (name, spec) => {
      const tarball = run('npm', ['pack', '--silent', spec], { cwd: into }).trim().split('\n').at(-1)
      run('tar', ['-xf', tarball, '--strip-components=2', `package/bin/${name}`], { cwd: into })
      rmSync(join(into, tarball))
      renameSync(join(into, name), join(into, 'bin', name))
    }
    binary('node', `node-linux-${arch}@${NODE}`)
    if (withBun) binary('bun', `@oven/bun-linux-aarch64@${BUN}`)
    for (const name of ['proc', 'sys', 'dev', 'tmp', 'host', 'repo', 'etc'])
      mkdirSync(join(into, name), { recursive: true })
    writeFileSync(join(into, 'etc/passwd'), 'root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n')
    writeFileSync(join(into, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n')
  })
  // The commands that the tests and their children call by name.
  for (const applet of [
    'sh',
    'env',
    'cat',
    'ls',
    'sleep',
    'mknod',
    'mkfifo',
    'id',
    'ps',
    'kill',
    'dd',
    'stat',
    'rm',
    'true',
  ])
    run('ln', ['-sf', 'busybox', join(dir, 'bin', applet)])
  return dir
}
