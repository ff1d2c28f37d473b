// RAM: the OOM killer in its wordings, limits of containers, page allocations, kernel addresses, CMA, swiotlb.

const RAM = 'ERR_OUT_OF_MEMORY'

export const ram = [
  {
    kind: 'process-ram',
    code: RAM,
    remedy: /MemAvailable/,
    not: /MPP/,
    logs: [
      'numpy.core._exceptions._ArrayMemoryError: Unable to allocate 1.16 GiB for an array with shape (151936, 2048) ' +
        'and data type float32',
      'numpy._core._exceptions._ArrayMemoryError: Unable to allocate 594. MiB for an array',
      'memory allocation of 4294967296 bytes failed',
      'RangeError: Array buffer allocation failed',
      'Error: spawn ENOMEM',
      'mmap: Cannot allocate memory',
      'DMA_HEAP_IOCTL_ALLOC: Cannot allocate memory',
      'ioctl(4, DMA_HEAP_IOCTL_ALLOC, 0x7fd) = -1 ENOMEM (Cannot allocate memory)',
    ],
  },
  {
    kind: 'oom',
    code: RAM,
    cause: /user\.slice/,
    logs: [
      'systemd-oomd[512]: Killed /user.slice/user-1000.slice due to memory pressure for /user.slice being 60.00% > ' +
        '50.00% for > 20s with reclaim activity',
      'systemd-oomd[512]: Killed /user.slice/user-1000.slice/session-2.scope due to swap used (15.8G) / total (16.0G)',
    ],
  },
  {
    kind: 'swap',
    code: RAM,
    cause: /254:0/,
    logs: ['Write-error on swap-device (254:0:1234)'],
  },
  {
    kind: 'cgroup',
    code: RAM,
    cause: [/container/, /not the board's RAM/],
    remedy: /--memory/,
    logs: [
      'Memory cgroup out of memory: Killed process 901 (python3) total-vm:7340032kB, anon-rss:2097152kB, ' +
        'file-rss:0kB, shmem-rss:81920kB, UID:0 pgtables:9216kB oom_score_adj:0',
      'Memory cgroup out of memory: Kill process 901 (node) score 1012 or sacrifice child',
      'Memory cgroup out of memory: Killed process 31 (frigate.process) total-vm:1823112kB, anon-rss:402112kB',
      'Memory cgroup out of memory: Killed process 4127 (llm_dem',
      'Memory cgroup out of memory: OOM victim 77 (ollama) is already exiting. Skip killing the task',
      'node invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n' +
        'memory: usage 2097152kB, limit 2097152kB, failcnt 118\n' +
        'Memory cgroup out of memory: Killed process 12 (node) total-vm:9000000kB, anon-rss:2000000kB',
    ],
  },
  {
    kind: 'cgroup',
    code: RAM,
    cause: [/limit/, /2 GiB/],
    remedy: /MemoryMax/,
    logs: [
      'memory: usage 2097152kB, limit 2097152kB, failcnt 118\nMemory cgroup out of memory: Killed process 12 (node)',
      'memory: usage 2097148kB, limit 2097152kB, failcnt 7',
    ],
  },
  {
    kind: 'cgroup',
    code: RAM,
    cause: /container or service/,
    remedy: /--memory/,
    logs: [
      'oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=docker-ab12.scope,mems_allowed=0,' +
        'oom_memcg=/system.slice/docker-ab12.scope,task_memcg=/system.slice/docker-ab12.scope,' +
        'task=python3,pid=901,uid=0',
      'Task in /docker/0123abcd killed as a result of limit of /docker/0123abcd',
      'node invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=999\n' +
        'oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/kubepods/besteffort/pod1/x,task=node,pid=7,uid=0',
      'Container llm exceeded its memory limit of 2Gi',
      'Last State: Terminated  Reason: OOMKilled  Exit Code: 137',
      'llm.service: A process of this unit has been killed by the OOM killer.',
      "llm.service: Failed with result 'oom-kill'.",
    ],
  },
  {
    kind: 'oom',
    code: RAM,
    cause: /held 96 MiB and 7 GiB of shared memory, where NPU buffers count/,
    logs: [
      'Out of memory: Killed process 5555 (rkllm_server) total-vm:12000000kB, anon-rss:98304kB, file-rss:0kB, ' +
        'shmem-rss:7340032kB, UID:0',
    ],
  },
  {
    kind: 'oom',
    code: RAM,
    cause: [/lack of RAM/, /1234 \(llm_demo\)/, /5 GiB/],
    remedy: /ramAvailable/,
    not: /container/,
    logs: [
      'Out of memory: Killed process 1234 (llm_demo) total-vm:9000000kB, anon-rss:5242880kB, file-rss:0kB',
      'Out of memory: Killed process 1234 (llm_demo), UID 1000, total-vm:9000000kB, anon-rss:5242880kB, file-rss:0kB',
      'llm_demo invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0, ' +
        'oom_score_adj=0\noom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,' +
        'global_oom,task_memcg=/user.slice,task=llm_demo,pid=1234,uid=1000\nOut ' +
        'of memory: Killed process 1234 (llm_demo) total-vm:9000000kB, anon-rss:5242880kB',
    ],
  },
  {
    kind: 'oom',
    code: RAM,
    cause: /RAM/,
    remedy: /4-bit/,
    not: /container/,
    logs: [
      'Out of memory: Kill process 2000 (rkllm_server) score 871 or sacrifice child',
      'kswapd0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0',
      'flexi_logger-fl invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, ' +
        'oom_score_adj=0',
      'python3.11 invoked oom-killer: gfp_mask=0x100cca',
      'oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task=node,pid=55,uid=0',
      'oom_reaper: reaped process 2000 (rkllm_server), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB',
      "lowmemorykiller: Killing 'llm_demo' (4321), adj 0",
      "I lowmemorykiller: Kill 'com.example.chat' (10280), uid 10028, oom_score_adj 935 to free 45088kB rss, 33516kB " +
        'swap; reason: min watermark is breached and swap is low',
      "lmkd: Kill 'com.example.chat' (10280), uid 10028, oom_score_adj 935",
      'systemd-oomd[512]: Killed /user.slice/user-1000.slice/session-3.scope due to memory pressure for /user.slice',
      'earlyoom[300]: sending SIGTERM to process 2000 uid 1000 "llm_demo": oom_score 950, VmRSS 6000 MiB',
      'Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled',
      'Out of memory and no killable processes...',
      'Kernel panic - not syncing: System is deadlocked on memory',
    ],
  },
  {
    kind: 'js-heap',
    code: RAM,
    cause: /V8/,
    remedy: /max-old-space-size/,
    logs: ['FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory'],
  },
  {
    kind: 'process-ram',
    code: RAM,
    cause: /RAM/,
    remedy: /MemAvailable/,
    logs: [
      'MemoryError: Unable to allocate 1.19 GiB for an array with shape (151936, 2048)',
      "terminate called after throwing an instance of 'std::bad_alloc'",
      'onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of ' +
        'size 26216448',
      "RuntimeError: [enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory: you tried to " +
        'allocate 4 bytes',
      'SLUB: Unable to allocate memory on node -1, gfp=0xcc0(GFP_KERNEL)',
      'Error: ENOMEM: not enough memory, read',
      'OSError: [Errno 12] Cannot allocate memory',
      'OSError: [Errno 12] 无法分配内存',
      'llama_mmap: mmap failed: Cannot allocate memory',
      'fork/exec ./llm_demo: cannot allocate memory',
      'fatal error: runtime: out of memory',
      '__vm_enough_memory: pid: 2343, comm: ollama, bytes: 4294967296 not enough memory for the allocation',
      '__vm_enough_memory: pid: 2343, comm: ollama, not enough memory for the allocation',
      'bash: fork: Cannot allocate memory',
    ],
  },
  {
    kind: 'killed',
    code: RAM,
    cause: /SIGKILL/,
    remedy: /dmesg/,
    logs: [
      'rkllm init start\nKilled',
      './run.sh: line 7:  4711 Killed                  ./llm_demo qwen.rkllm 512 4096',
      'llm-server-1 exited with code 137',
      'llm.service: Main process exited, code=killed, status=9/KILL',
    ],
  },
  {
    kind: 'pages',
    code: RAM,
    cause: [/NPU buffers/, /rknpu_gem_/],
    remedy: /4-bit/,
    logs: [
      'llm_demo: page allocation failure: order:0, mode:0x40cd0(GFP_KERNEL|__GFP_COMP), nodemask=(null)\n' +
        'Call trace:\n dump_backtrace+0x0/0x1ac\n drm_gem_get_pages+0x9c/0x1e0\n rknpu_gem_object_create+0x180/0x620\n',
      'rkllm_server: page allocation failure: order:0, mode:0x6000c0(GFP_KERNEL)\n' +
        ' [<ffffff80086b1234>] rknpu_gem_alloc_buf+0x48/0x400',
    ],
  },
  {
    kind: 'pages',
    code: RAM,
    cause: /rtw_pci_init.*not the NPU/,
    remedy: /trace/,
    logs: [
      'kworker/u16:2: page allocation failure: order:4, mode:0x40dc0(GFP_KERNEL|__GFP_COMP|__GFP_ZERO)\n' +
        'Call trace:\n warn_alloc+0x10/0x1a8\n rtw_pci_init+0x2c/0x80\n',
    ],
  },
  {
    kind: 'pages',
    code: RAM,
    cause: /no (?:4|64) KiB in one piece/,
    not: /NPU buffers/,
    logs: [
      'node: page allocation failure: order:0, mode:0x40cd0(GFP_KERNEL)',
      'swapper/0: page allocation failure: order:4, mode:0xa20(GFP_ATOMIC), nodemask=(null),cpuset=/,mems_allowed=0',
      'python3: page allocation stalls for 10020ms, order:0, mode:0x14200ca(GFP_HIGHUSER_MOVABLE)',
    ],
  },
  {
    kind: 'kernel-addresses',
    code: RAM,
    cause: /address space \(vmalloc\)/,
    not: /NPU/,
    logs: [
      'vmalloc: allocation failure: 2214858752 bytes, mode:0xcc0(GFP_KERNEL), nodemask=(null)',
      'vmalloc: allocation failure, allocated 12288 of 4202496 bytes',
      'insmod: vmalloc error: size 1073741824, exceeds total pages, mode:0xdc0(GFP_KERNEL|__GFP_ZERO)',
      'vmalloc size 4202496 allocation failure: page order: 9',
      'vmap allocation for size 536875008 failed: use vmalloc=<size> to increase size',
    ],
  },
  {
    kind: 'cma',
    code: RAM,
    cause: /7\.9 MiB.*(?:fragmented|pinned)/,
    remedy: /cma=/,
    logs: [
      'cma: cma_alloc: alloc failed, req-size: 2025 pages, ret: -12',
      'cma: cma_alloc: linux,cma: alloc failed, req-size: 2025 pages, ret: -12',
      'cma: __cma_alloc: default_cma_region: alloc failed, req-size: 2025 pages, ret: -16',
      'cma: cma_alloc: reserved: alloc failed, req-size: 2025 pages, ret: -16',
      'cma_alloc: alloc failed, req-size: 2025 pages, ret: -12',
    ],
  },
  {
    kind: 'cma',
    code: RAM,
    cause: /could not move it away/,
    remedy: /cma=/,
    logs: [
      'alloc_contig_range: [f0000, f0800) PFNs busy',
      'cma: cma_alloc(): memory range at 00000000a5b2c3d4 is busy, retrying',
      'rk-dma-heap-cma: cma heap alloc failed',
    ],
  },
  {
    kind: 'cma',
    code: RAM,
    cause: /CmaFree 1 MiB/,
    remedy: /cma=/,
    logs: [
      'CmaTotal:          65536 kB\nCmaFree:            1024 kB\ncma: cma_alloc: alloc failed, req-size: 1024 pages, ' +
        'ret: -12',
    ],
  },
  {
    kind: 'cma-missing',
    code: RAM,
    cause: /no CMA at all/,
    remedy: /smaller/,
    logs: [
      "OF: reserved mem: failed to allocate memory for node 'linux,cma'",
      "OF: reserved mem: failed to allocate memory for node 'linux,cma': size 2048 MiB",
      'cma: Failed to reserve 2048 MiB',
      'cma: Failed to reserve 512 MiB on node -1',
      "Reserved memory: failed to reserve memory for node 'linux,cma': base 0x0, size 1024 MiB",
    ],
  },
  {
    kind: 'swiotlb',
    code: RAM,
    cause: [/swiotlb/, /6\.1 MiB/],
    remedy: /IOMMU/,
    logs: [
      'RKNPU fde40000.npu: swiotlb buffer is full (sz: 6422528 bytes)',
      'RKNPU fde40000.npu: swiotlb buffer is full (sz: 6422528 bytes), total 32768 (slots), used 12 (slots)',
      'RKNPU fde40000.npu: swiotlb: coherent allocation failed, size=6422528',
      '01-01 04:02:47.025     0     0 W RKNPU fde40000.npu: swiotlb buffer is full (sz: 6422528 bytes)',
    ],
  },
  {
    kind: 'swiotlb',
    code: RAM,
    cause: /swiotlb/,
    remedy: /IOMMU/,
    logs: [
      'DMA: Out of SW-IOMMU space for 65536 bytes at device fde40000.npu',
      'RKNPU fde40000.npu: overflow 0x0000000180000000+65536 of DMA mask ffffffff bus mask 0',
    ],
  },
  {
    kind: 'no-iommu',
    code: null,
    cause: /contiguous/,
    remedy: /device tree/,
    logs: [
      'RKNPU fde40000.npu: RKNPU: rknpu iommu is disabled, using non-iommu mode',
      'RKNPU ff660000.npu: RKNPU: rknpu iommu device-tree entry not found!, using non-iommu mode',
    ],
  },
]
