'use strict'

// Nodes that may not be opened or are not there, missing libraries, descriptors: as C, Python, Node and strace tell.

/** @typedef {import('../explain.js').Rule} Rule */

/** The nodes that NPU, MPP and RGA use. */
const NODE = String.raw`(?<path>\/dev\/(?:dri|rknpu|dma_heap|rk_dma_heap|accel|rga|mpp_service|udmabuf)[^\s'",:)\]]*)`
/** Errnos by name, and in languages of the C library. */
const TEXTS = {
  eperm: 'EPERM|Operation not permitted|不允许的操作|Die Operation ist nicht erlaubt|Vorgang nicht zulässig',
  eacces: 'EACCES|Permission denied|权限不够|Keine Berechtigung',
  enoent: 'ENOENT|No such file or directory|没有那个文件或目录|Datei oder Verzeichnis nicht gefunden',
}
/** @type {(text: string, flags?: string) => RegExp} */
const withNode = (text, flags) =>
  new RegExp(
    Object.entries(TEXTS)
      .reduce((pattern, [name, words]) => pattern.replace(`%${name}`, words), text)
      .replace('%node', () => NODE),
    flags,
  )

const LIBRARY =
  '(?<library>lib(?:rknnrt|rkllmrt|rknn_api|rknn3_api|rga|rockchip_mpp)' + String.raw`[\w.]{0,40}\.so[\w.]{0,40})`
/** @type {(text: string) => RegExp} */
const withLibrary = (text) =>
  new RegExp(
    text.replace('%library', () => LIBRARY),
    'i',
  )

const JOIN =
  'Add the user to the group that owns it (ls -l), mostly "render" or "video" (usermod -aG render,video USER), and ' +
  'log in again; nodes of root need a udev rule. In containers --group-add that group.'
const HEAP_RULE =
  'Add SUBSYSTEM=="dma_heap", GROUP="video", MODE="0660" to /etc/udev/rules.d/99-npu.rules and add the user to that ' +
  'group; in containers pass --device /dev/dma_heap.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'device-cgroup',
    patterns: [
      withNode(String.raw`%node['":,)]*\s.*?(?:= -1 EPERM|%eperm)`, 'i'),
      withNode(String.raw`(?:Errno 1\]|%eperm).*?%node`, 'i'),
    ],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      '{path} is there and its mode is not the reason (EPERM, not EACCES): the device cgroup of the container or ' +
      'service refuses it, as for a node that was mounted with -v.',
    remedy:
      'Pass the node with --device {path} in place of -v (compose: devices:; Kubernetes: a device plugin; LXC: dev0: ' +
      'or lxc.cgroup2.devices.allow; systemd: DeviceAllow=).',
    source: 'blakeblackshear/frigate-hass-addons#145',
  },
  {
    kind: 'permission',
    patterns: [
      withNode(String.raw`%node['":,)]*\s.*?(?:%eacces)`, 'i'),
      withNode(String.raw`(?:PermissionError|%eacces).*?%node`, 'i'),
    ],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause: '{path} exists and this user may not open it: the group or the udev rule is missing.',
    remedy: JOIN,
    variants: [{ when: ({ path }) => /dma_heap/.test(path ?? ''), remedy: HEAP_RULE }],
    source: 'rockchip-linux/mpp#670',
  },
  {
    kind: 'no-node',
    patterns: [
      withNode(String.raw`%node['":,)]*\s.*?(?:%enoent|No such device)`, 'i'),
      withNode(String.raw`(?:FileNotFoundError|No such device|ENODEV|ENXIO|%enoent).*?%node`, 'i'),
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: '{path} does not exist: this kernel has no driver for it, or the container does not show it.',
    remedy:
      'Look on the host (ls -l {path}); pass it into the container with --device {path}; else the kernel or its ' +
      'device tree lacks it: rkllm-memory doctor tells which.',
    variants: [
      {
        when: ({ path }) => path === '/dev/rknpu',
        cause:
          '/dev/rknpu does not exist, which is right with the DRM flavour of rknpu, whose nodes are in /dev/dri: ' +
          'only the DMA-heap flavour has it, or this kernel has no driver at all.',
        remedy:
          'rkllm-memory doctor names the node. Do not make a link; in containers pass --device /dev/dri, or with the ' +
          'DMA-heap flavour --device /dev/rknpu and --device /dev/rk_dma_heap.',
      },
      {
        when: ({ path }) => /dma_heap/.test(path ?? ''),
        cause:
          '{path} does not exist: this kernel has no such DMA heap (mainline ones have no uncached or dma32 heaps), ' +
          'or the container does not show it.',
        remedy:
          'Compare ls /dev/dma_heap on the host; pass --device /dev/dma_heap into the container; newer MPP falls ' +
          'back to DRM.',
      },
    ],
    source: 'rockchip-linux/mpp#556',
  },
  {
    kind: 'node-busy',
    patterns: [
      withNode(String.raw`%node['":,)]*\s.*?(?:= -1 EBUSY|Device or resource busy)`, 'i'),
      withNode('(?:EBUSY|Device or resource busy).*?%node', 'i'),
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: '{path} is held by another process.',
    remedy: 'End it (sudo fuser -v {path}).',
    source: 'this package',
  },
  {
    kind: 'library',
    patterns: [
      new RegExp(
        String.raw`(?<library>lib[^\s/]{1,100}\.so[\w.]{0,40}): version ['"\x60]` +
          String.raw`(?<symbol>(?:GLIBC|GLIBCXX|CXXABI|GOMP)_[\d.]+)['"] not found`,
      ),
      /(?<library>lib(?:rknnrt|rkllmrt)\S*): undefined symbol: (?<symbol>\w+)/,
      /undefined symbol: (?<symbol>(?:rknn|rkllm)_\w+)/,
      /(?<library>lib(?:rknnrt|rkllmrt)\S*): wrong ELF class/,
      /(?:No module named|ModuleNotFoundError).*(?<library>rknnlite|rknn\b|rkllm)/,
    ],
    weight: 3,
    code: null,
    cause: 'A library[ ({library})] does not fit this system or program[: it lacks {symbol}].',
    remedy:
      "Use the release for this system's C library and Python version (arm64; GLIBC of the image), and program and " +
      'runtime of one release.',
    source: 'airockchip/rknn-toolkit2',
  },
  {
    kind: 'library',
    patterns: [
      withLibrary(String.raw`%library['":]* *(?:cannot open shared object file|not found|No such file)`),
      withLibrary('(?:cannot open shared object|No such file|not found|Can not find|Failed to load|dlopen).*?%library'),
      /Can ?not find dynamic library on .*(?<library>librknnrt)/i,
    ],
    weight: 3,
    code: null,
    cause: 'The runtime library {library} is not installed, or not where the program looks for it.',
    remedy:
      'Copy it from the release (airockchip/rknn-toolkit2: rknpu2/runtime; airockchip/rknn-llm: rkllm-runtime) to ' +
      '/usr/lib, run ldconfig; rknn-toolkit-lite2 looks in /usr/lib only. In a container install it in the image.',
    source: 'airockchip/rknn-toolkit2#33',
  },
  {
    kind: 'fds',
    patterns: [/Too many open files in system/, /\bENFILE\b/],
    weight: 2,
    code: 'ERR_TOO_MANY_FDS',
    cause: 'The whole system has no free entry for open files (ENFILE).',
    remedy: 'Raise fs.file-max; /proc/sys/fs/file-nr shows how many are used.',
    source: 'Pelochus/ezrknpu#3',
  },
  {
    kind: 'fds',
    patterns: [/Too many open files|打开的文件过多|Zu viele offene Dateien/, /\bEMFILE\b/],
    weight: 2,
    code: 'ERR_TOO_MANY_FDS',
    cause: 'The process has no free file descriptor (EMFILE).',
    remedy: 'Raise the limit (ulimit -n, LimitNOFILE=), close unused files, share NPU buffers (slabs and pools).',
    source: 'airockchip/rknn-llm#47',
  },
  {
    kind: 'maps',
    patterns: [/\bmmap2?\(.*MAP_SHARED.*= -1 ENOMEM/],
    weight: 3,
    code: 'ERR_TOO_MANY_MAPS',
    cause:
      'The kernel refused a mapping (ENOMEM): the process has too many (vm.max_map_count, usually 65,530), or its ' +
      'address space or RAM is used up.',
    remedy: 'Count the lines of /proc/PID/maps; raise vm.max_map_count (sysctl), and reuse buffers.',
    source: 'airockchip/rknn-toolkit2#532',
  },
  {
    kind: 'permission',
    patterns: [/\bmmap2?\(.*MAP_SHARED.*= -1 (?:EPERM|EACCES)/],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      'The process may not map that memory so: the descriptor was opened without the right to write, or a policy ' +
      'refuses.',
    remedy:
      'Open or export it for reading and writing (O_RDWR, DRM_RDWR); look for seccomp, AppArmor or SELinux refusals.',
    source: 'docs/design/rknpu.md §2.5',
  },
  {
    kind: 'ioctl',
    patterns: [
      /DRM_IOCTL_\w*MEM_CREATE.*= -1 (?<errno>EFAULT|ENOMEM|EINVAL)/,
      new RegExp(
        String.raw`ioctl\(\d+.{0,80}?, (?:_IOC\(_IOC_READ\|_IOC_WRITE, 0x64, 0x42|0xc0(?:20|28|30)6442).*` +
          '= -1 (?<errno>EFAULT|ENOMEM|EINVAL)',
      ),
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'The rknpu driver made no buffer ({errno}): RAM is used up.',
    remedy: 'Free RAM; dmesg | grep -i rknpu has the size and the reason.',
    variants: [
      {
        when: ({ errno }) => errno === 'EFAULT',
        code: 'ERR_IOVA_EXHAUSTED',
        cause:
          'The rknpu driver made no buffer (EFAULT): the IOMMU domain has no such range of addresses left; a domain ' +
          'has 4 GiB.',
        remedy: 'Use another domain (rknpu 0.9.8), smaller buffers, or end other users of the NPU.',
      },
      {
        when: ({ errno }) => errno === 'EINVAL',
        cause:
          'The rknpu driver refused the buffer (EINVAL): without an IOMMU CMA is used up; with one the domain could ' +
          'not be used.',
        remedy: 'Check CmaFree in /proc/meminfo and enlarge CMA (cma=); with an IOMMU use domain 0.',
      },
    ],
    source: 'docs/design/rknpu.md §2.5',
  },
]
