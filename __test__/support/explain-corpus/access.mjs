// Nodes, permissions, containers, libraries, descriptors, in the forms of C, Python, Node and strace.

const DENIED = 'ERR_DEVICE_PERMISSION'

export const access = [
  {
    kind: 'permission',
    code: DENIED,
    cause: /\/dev\/(?:dri|rknpu|accel|rga|mpp).*may not open it/,
    remedy: /usermod|udev/,
    logs: [
      'open: /dev/dri/renderD129: Permission denied',
      'open: /dev/dri/renderD129: Keine Berechtigung',
      'open: /dev/rknpu: 权限不够',
      "PermissionError: [Errno 13] Permission denied: '/dev/dri/renderD129'",
      'open("/dev/rknpu", O_RDWR) = -1 EACCES (Permission denied)',
      'openat(AT_FDCWD, "/dev/dri/card1", O_RDWR|O_CLOEXEC) = -1 EACCES (Permission denied)',
      "Error: EACCES: permission denied, open '/dev/dri/renderD129'",
      'cannot open /dev/accel/accel0: Permission denied',
      'ls: cannot access /dev/rga: Permission denied',
      'failed to open /dev/mpp_service (Permission denied)',
    ],
  },
  {
    kind: 'permission',
    code: DENIED,
    cause: /dma_heap\/system/,
    remedy: /SUBSYSTEM=="dma_heap"/,
    logs: [
      'open /dev/dma_heap/system: Permission denied',
      'mpp_dma_heap: dma-heap open /dev/dma_heap/system-uncached Permission denied',
      "Error: EACCES: permission denied, open '/dev/dma_heap/system'",
    ],
  },
  {
    kind: 'permission',
    code: DENIED,
    cause: /may not map/,
    logs: ['mmap: failed to map memory: Operation not permitted', 'E RKNN: failed to mmap: Permission denied'],
  },
  {
    kind: 'device-cgroup',
    code: DENIED,
    cause: [/device cgroup/, /EPERM/],
    remedy: [/--device/, /-v/],
    not: /usermod/,
    logs: [
      'open("/dev/dri/renderD129", O_RDWR) = -1 EPERM (Operation not permitted)',
      'openat(AT_FDCWD, "/dev/rknpu", O_RDWR) = -1 EPERM (Operation not permitted)',
      "PermissionError: [Errno 1] Operation not permitted: '/dev/dri/renderD129'",
      "Error: EPERM: operation not permitted, open '/dev/dri/card1'",
      'open /dev/accel/accel0: Operation not permitted',
    ],
  },
  {
    kind: 'no-node',
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: /does not exist/,
    remedy: /--device/,
    logs: [
      'open("/dev/rknpu", O_RDWR) = -1 ENOENT (No such file or directory)',
      "FileNotFoundError: [Errno 2] No such file or directory: '/dev/dri/renderD129'",
      "Error: ENOENT: no such file or directory, open '/dev/dma_heap/system-dma32'",
      'mpp_dma_heap: dma-heap open /dev/dma_heap/system-uncached No such file or directory',
      "ls: cannot access '/dev/rknpu': No such file or directory",
      'cannot open /dev/accel/accel0: No such device or address',
    ],
  },
  {
    kind: 'no-node',
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: /does not exist/,
    logs: [
      'docker: error gathering device information while adding custom device "/dev/rknpu": no such file or directory',
      'open: /dev/rknpu: 没有那个文件或目录',
    ],
  },
  {
    kind: 'device-cgroup',
    code: DENIED,
    cause: /device cgroup/,
    logs: ['runc create failed: open /dev/dri/renderD129: operation not permitted: unknown'],
  },
  {
    kind: 'maps',
    code: 'ERR_TOO_MANY_MAPS',
    cause: /vm\.max_map_count/,
    logs: ['mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0x100000000) = -1 ENOMEM (Cannot allocate memory)'],
  },
  {
    kind: 'permission',
    code: DENIED,
    cause: /may not map/,
    remedy: /O_RDWR/,
    logs: ['mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0x100000000) = -1 EPERM (Operation not permitted)'],
  },
  {
    kind: 'ioctl',
    code: 'ERR_OUT_OF_MEMORY',
    cause: /RAM is used up|CMA/,
    logs: [
      'ioctl(5</dev/dri/card1<char 226:1>>, _IOC(_IOC_READ|_IOC_WRITE, 0x64, 0x42, 0x28), 0xffffe) = -1 ENOMEM',
      'ioctl(5, _IOC(_IOC_READ|_IOC_WRITE, 0x64, 0x42, 0x30), 0xfff) = -1 EINVAL (Invalid argument)',
    ],
  },
  {
    kind: 'node-busy',
    code: 'ERR_DEVICE_IO',
    cause: /another process/,
    remedy: /fuser/,
    logs: [
      'open("/dev/rknpu", O_RDWR) = -1 EBUSY (Device or resource busy)',
      "OSError: [Errno 16] Device or resource busy: '/dev/rknpu'",
    ],
  },
  {
    kind: 'library',
    code: null,
    cause: [/lib(?:rknnrt|rkllmrt|rga)\.so/, /not installed/],
    remedy: /\/usr\/lib/,
    logs: [
      'OSError: librknnrt.so: cannot open shared object file: No such file or directory',
      './llm_demo: error while loading shared libraries: librkllmrt.so: cannot open shared object file: No such file ' +
        'or directory',
      'Exception: Can not find dynamic library on RK3588! Please download the librknnrt.so and move it to directory ' +
        '/usr/lib/',
      'dlopen failed: library "librkllmrt.so" not found',
      'librga.so: cannot open shared object file',
    ],
  },
  {
    kind: 'library',
    code: null,
    cause: /does not fit/,
    logs: [
      "librkllmrt.so: version `GLIBC_2.38' not found (required by ./llm_demo)",
      "./llm_demo: /lib/aarch64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./librkllmrt.so)",
      "OSError: libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by /usr/lib/librknnrt.so)",
      "ModuleNotFoundError: No module named 'rknnlite'",
      './llm_demo: undefined symbol: rkllm_set_chat_template',
      'librknnrt.so: undefined symbol: rknn_create_mem2',
      'librknnrt.so: wrong ELF class: ELFCLASS32',
    ],
  },
  {
    kind: 'fds',
    code: 'ERR_TOO_MANY_FDS',
    cause: /EMFILE|ENFILE/,
    remedy: /ulimit|file-max/,
    logs: [
      'Error: EMFILE: too many open files',
      'open: 打开的文件过多',
      'open: Zu viele offene Dateien',
      'OSError: [Errno 24] Too many open files',
      'accept4 failed (24: Too many open files)',
      'open: Too many open files in system',
      'Error: ENFILE: file table overflow, open',
    ],
  },
  {
    kind: 'ioctl',
    code: 'ERR_IOVA_EXHAUSTED',
    cause: /EFAULT/,
    remedy: /domain/,
    logs: [
      'ioctl(5</dev/dri/card1>, _IOC(_IOC_READ|_IOC_WRITE, 0x64, 0x42, 0x30), 0x7fe8) = -1 EFAULT (Bad address)',
      'ioctl(5, DRM_IOCTL_RKNPU_MEM_CREATE, 0x7fe8) = -1 EFAULT (Bad address)',
    ],
  },
]
