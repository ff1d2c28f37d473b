'use strict'

// RAM: the kernel's OOM killer in its wordings, failed page allocations, the limits of containers, kernel addresses.

/** @typedef {import('../explain.js').Rule} Rule */

const SMALLER =
  'Use 4-bit weights, a smaller context or fewer models; planModels() with ramAvailable finds models that fit.'
const RAISE =
  "Raise the container's limit (docker run --memory, compose mem_limit, Kubernetes resources.limits.memory, systemd " +
  'MemoryMax=), or load less in it: NPU buffers behind an IOMMU count there.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'cgroup',
    patterns: [
      new RegExp(
        String.raw`Memory cgroup out of memory: (?:Killed|Kill) process (?<pid>\d+) \((?<name>[^)]*)\)?` +
          String.raw`(?:.*?anon-rss:(?<kib>\d+)kB)?`,
        'i',
      ),
      /Memory cgroup out of memory/i,
    ],
    weight: 4,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The memory limit of a container or service (its cgroup, memory.max[: {memcgLimit|kib}]) was hit, not the ' +
      "board's RAM: the kernel ended [process {pid} ][({name}) ]inside it[, which held {kib|kib}].",
    remedy: RAISE,
    source: 'blakeblackshear/frigate#6560',
  },
  {
    kind: 'cgroup',
    patterns: [
      new RegExp(
        String.raw`oom-kill:constraint=CONSTRAINT_MEMCG.*?(?:task_memcg=(?<group>[^,\s]+))?` +
          String.raw`(?:,task=(?<name>[^,]+),pid=(?<pid>\d+).*)?$`,
      ),
      /memory: usage (?<used>\d+)kB, limit (?<limit>\d+)kB, failcnt [1-9]/,
      /Task in (?<group>\/\S+) killed as a result of limit of/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'A container or service reached the memory limit of its cgroup[ {group}][ ({used|kib} of {limit|kib})]; the ' +
      "board's RAM may be free.",
    remedy: RAISE,
    source: 'blakeblackshear/frigate#6560',
  },
  {
    kind: 'cgroup',
    patterns: [
      /\bOOMKilled\b(?!"?: ?false)/,
      /[Cc]ontainer .*(?:exceeded|exceeds) (?:its )?memory limit/,
      /A process of this unit has been killed by the OOM killer/,
      /Failed with result 'oom-kill'/,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The container or service was ended for want of memory: most often by its own limit (memory.max), else by the ' +
      "board's RAM.",
    remedy:
      'dmesg tells which: "Memory cgroup out of memory" is the limit of the container (docker run --memory, ' +
      'MemoryMax=), "Out of memory" is the RAM.',
    source: 'blakeblackshear/frigate#6560',
  },
  {
    kind: 'oom',
    patterns: [
      new RegExp(
        String.raw`(?<!cgroup )Out of memory(?: \(oom_kill_allocating_task\))?: (?:Killed|Kill) process ` +
          String.raw`(?<pid>\d+),? \(?(?<name>[^),]*)\)?(?:.*?anon-rss:(?<kib>\d+)kB)?` +
          String.raw`(?:.*?shmem-rss:(?<shmem>[1-9]\d*)kB)?`,
        'i',
      ),
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The kernel ended process {pid} ({name}) for lack of RAM[; it held {kib|kib}][ and {shmem|kib} of shared ' +
      'memory, where NPU buffers count]. NPU memory that is not mapped comes on top of such figures.',
    remedy: SMALLER,
    variants: [
      {
        when: (_, { memcg, oom }) => memcg !== undefined && oom === undefined,
        kind: 'cgroup',
        weight: 4,
        cause:
          'The memory limit of a container or service was hit ({memcg}), not the RAM of the board: the kernel ended ' +
          'process {pid} ({name})[, which held {kib|kib}].',
        remedy: RAISE,
      },
    ],
    source: 'airockchip/rknn-llm#249',
  },
  {
    kind: 'oom',
    patterns: [
      /(?<name>[\w./:+-]{1,40}) invoked oom-killer: gfp_mask=(?<mask>\w+)(?:.*?order=(?<order>\d+))?/,
      /oom-kill:constraint=CONSTRAINT_(?:NONE|CPUSET|MEMORY_POLICY)(?:.*?task=(?<name>[^,]+),pid=(?<pid>\d+))?/,
      /oom_reaper: reaped process (?<pid>\d+) \((?<name>[^)]*)\)/,
      /Killed process (?<pid>\d+) \((?<name>[^)]*)\)(?:.*?anon-rss:(?<kib>\d+)kB)?/,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'RAM is used up: the kernel started its OOM killer[ for process {pid}][ ({name})], which ends the process that ' +
      'holds most.',
    remedy: SMALLER,
    variants: [
      {
        when: (_, { memcg }) => memcg !== undefined,
        kind: 'cgroup',
        cause:
          'The memory limit of a container or service was hit, not the board\'s RAM (the log says "{memcg}"): the ' +
          'kernel ended a process inside it.',
        remedy: RAISE,
      },
    ],
    source: 'distributed-llama#59',
  },
  {
    kind: 'oom',
    patterns: [
      /Kernel panic - not syncing: (?:System is deadlocked on memory|Out of memory)/i,
      /Out of memory and no killable processes/i,
    ],
    weight: 4,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'RAM was used up and no process was left to end: the kernel stopped. NPU buffers cannot be swapped out.',
    remedy: SMALLER,
    source: 'Linux, mm/oom_kill.c',
  },
  {
    kind: 'oom',
    patterns: [
      /lowmemorykiller: Kill(?:ing)? '(?<name>[^']+)' \((?<pid>\d+)\)/i,
      /lmkd?\b.*Kill(?:ing)? '(?<name>[^']+)' \((?<pid>\d+)\)/i,
      /systemd-oomd.*Killed (?<name>\S+) due to (?:memory|swap)/,
      /sending SIG(?:TERM|KILL) to process (?<pid>\d+).*?"(?<name>[^"]+)": .*(?:oom_score|badness)/,
      /Killed (?<name>\/\S+\.(?:service|scope|slice)) due to (?:memory|swap) (?:used|pressure)/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'A daemon that guards RAM (lowmemorykiller, systemd-oomd, earlyoom) ended {name}[ (process {pid})].',
    remedy: SMALLER,
    source: 'airockchip/rknn-llm#249',
  },
  {
    kind: 'pages',
    patterns: [/(?<name>[\w./:+-]{1,40}): page allocation (?:failure|stalls for \d+ms)[:.,] ?order:(?<order>\d+)/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'The kernel found no {order|order} in one piece for {name}: RAM is used up, or too fragmented for that.',
    remedy:
      'The call trace below the line names the driver that asked. Free RAM (rkllm-memory top), or allocate large ' +
      'buffers early.',
    variants: [
      {
        when: (_, { npuCall }) => npuCall !== undefined,
        cause:
          'RAM is used up by NPU buffers: the driver ({npuCall} in the trace) asked for {order|order} for {name}, ' +
          'and the kernel had none left.',
        remedy: SMALLER,
      },
      {
        when: (_, { otherCall }) => otherCall !== undefined,
        cause:
          'The kernel found no {order|order} in one piece for {name}; {otherCall} of another driver asked for it, ' +
          'not the NPU.',
      },
      {
        when: ({ order }) => Number(order) >= 4,
        cause: 'The kernel found no {order|order} in one piece for {name}: RAM is fragmented, though some may be free.',
      },
    ],
    source: 'airockchip/rknn-llm#229',
  },
  {
    kind: 'kernel-addresses',
    patterns: [
      /vmalloc: allocation failure[:,]? (?:allocated \d+ of )?(?<size>\d+) bytes/,
      /vmalloc error: size (?<size>\d+), (?:exceeds total pages|failed to allocate|vm_struct allocation failed)/,
      /vmap allocation for size (?<size>\d+) failed/,
      /vmalloc size (?<size>\d+) allocation failure/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      "The kernel's own address space (vmalloc) or the RAM behind it has no {size|bytes}: a driver asked to map so " +
      'much into the kernel.',
    remedy:
      'Use smaller buffers, or such without a kernel mapping; on 32-bit kernels vmalloc= on the command line ' +
      'enlarges the area.',
    source: 'Linux, mm/vmalloc.c',
  },
  {
    kind: 'swap',
    patterns: [/Write-error on swap-device \((?<swap>\d+:\d+):\d+\)/],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The kernel could not write to its swap device ({swap}): RAM is used up, and swap on zram needs RAM itself.',
    remedy: `Give zram less, or use swap on a disk. NPU buffers cannot be swapped out. ${SMALLER}`,
    source: 'Linux, mm/page_io.c',
  },
  {
    kind: 'js-heap',
    patterns: [
      /FATAL ERROR: .*(?:JavaScript heap out of memory|Reached heap limit)/,
      /Allocation failed - JavaScript heap/,
    ],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      "V8's heap of JavaScript objects reached its limit, not the RAM of the board: NPU memory is not in that heap.",
    remedy:
      'Raise it (node --max-old-space-size=4096), and look for objects that are kept: ArrayBuffers do not count ' +
      'there.',
    source: 'nodejs/node',
  },
  {
    kind: 'process-ram',
    patterns: [
      /SLUB: Unable to allocate memory on node/,
      /fork: (?:retry: )?(?:Resource temporarily unavailable|Cannot allocate memory)/,
      /\bENOMEM: not enough memory/,
      /\[Errno 12\] (?:Cannot allocate memory|无法分配内存|Nicht genügend Hauptspeicher verfügbar)/,
      /\bmmap(?: failed)?: Cannot allocate memory/,
      /\bspawn ENOMEM\b/,
      /\bmemory allocation of (?<size>\d+) bytes failed/,
      /RangeError: Array buffer allocation failed/,
      /^(?:ioctl\(\d+, )?DMA_HEAP_IOCTL_ALLOC\b.*(?:ENOMEM|Cannot allocate memory)/,
      /fork\/exec .*cannot allocate memory|\bruntime: out of memory/,
      /__vm_enough_memory: pid: (?<pid>\d+), comm: (?<name>[^,]+),(?: bytes: (?<size>\d+))? not enough memory/,
      /(?:^|\s)(?:[\w.]+\._Array)?MemoryError(?:: Unable to allocate .*)?$/,
      /std::bad_alloc|terminate called after throwing an instance of 'std::bad_alloc'/,
      /AllocateRawInternal.*Failed to allocate memory for requested buffer of size (?<size>\d+)/,
      /RuntimeError: .*(?:DefaultCPUAllocator: can't allocate memory|not enough memory)/,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: 'A process[ ({name})] got no memory[ ({size|bytes})]: RAM, or what its limits leave of it, is used up.',
    remedy: 'Compare MemAvailable in /proc/meminfo with the limit of the container (memory.max). ' + SMALLER,
    variants: [
      {
        when: (_, { memcg }) => memcg !== undefined,
        cause: 'A process got no memory: the limit of its container or service was hit (the log says "{memcg}").',
        remedy: RAISE,
      },
    ],
    source: 'Linux, mm/slub.c; Node, Python, Rust, libstdc++',
  },
  {
    kind: 'killed',
    patterns: [
      /^(?:\S+: line \d+: +\d+ )?(?:Killed|Getötet|已杀死|已終止)(?: {2,}\S.*)?$/,
      /exited with code 137\b|exit (?:code|status) 137\b|signal: 9\b|code=killed, status=9\/KILL/,
    ],
    weight: 1,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The process was ended by SIGKILL: most often by the OOM killer, for want of RAM or at the limit of a ' +
      'container.',
    remedy:
      'dmesg | rkllm-memory explain tells which: "Memory cgroup out of memory" is the limit of the container, "Out ' +
      'of memory" the RAM of the board.',
    source: 'airockchip/rknn-llm#249',
  },
]
