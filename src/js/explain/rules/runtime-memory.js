'use strict'

// Memory in the RKNN and RKLLM runtimes. The driver's version in the same log decides between causes.

const { driverBelow } = require('../log-facts.js')

/** @typedef {import('../explain.js').Rule} Rule */

const COUNT_FDS = "Count the process's descriptors (ls /proc/PID/fd | wc -l) and raise ulimit -n."
const UPDATE =
  "Update the driver (the board's kernel) to one with rknpu 0.9.8, which loads models of more than 4 GiB; until then " +
  'use 4-bit weights or a smaller model.'
const RAM =
  'Load fewer models or contexts at once, use 4-bit weights or a smaller context, and look at MemAvailable ' +
  '(rkllm-memory top).'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'fds',
    patterns: [/failed to convert handle\((?<handle>\d+)\) to fd.*errno: 24\b/],
    weight: 3,
    code: 'ERR_TOO_MANY_FDS',
    cause:
      'The process ran out of file descriptors at handle {handle}: the runtime takes one for each NPU buffer, and ' +
      'the usual limit is 1024.',
    remedy:
      'Raise the limit in the shell or service that starts the process (ulimit -n 65536, LimitNOFILE=65536), or load ' +
      'fewer models in one process; rkllm-runtime 1.1 and later need far fewer.',
    source: 'airockchip/rknn-llm#62',
  },
  {
    kind: 'fds',
    patterns: [/failed to convert handle\((?<handle>\d+)\) to fd.*errno: 23\b/],
    weight: 3,
    code: 'ERR_TOO_MANY_FDS',
    cause:
      'The whole system has no free entry for open files (at handle {handle}): every NPU buffer is one. Root is ' +
      'exempt, so it works for root.',
    remedy: 'Raise fs.file-max (sysctl -w fs.file-max=1000000); /proc/sys/fs/file-nr shows how many are used.',
    source: 'Pelochus/ezrknpu#3',
  },
  {
    kind: 'runtime-ram',
    patterns: [/failed to convert fd\((?<fd>\d+)\) to handle.*errno: 12\b/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The dma-buf behind descriptor {fd} was not imported: the kernel had no memory, or the IOMMU domain no ' +
      'addresses, for one more import.',
    remedy: 'Import each buffer once and keep the handle; every import takes NPU addresses until it is released.',
    source: 'rk-llama.cpp#6',
  },
  {
    kind: 'runtime-addresses',
    patterns: [/failed to allocate handle.*errno: 14\b/],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'The NPU\'s address space is full, although the error says "Bad address": one IOMMU domain addresses 4 GiB, ' +
      'whatever RAM the board has, and no piece of the size asked for[ ({size|bytes})] is left in it.',
    remedy:
      'Put the model into another domain (RKLLMExtendParam.base_domain_id = 1; rknpu 0.9.8 and later), use 4-bit ' +
      'weights or a smaller context, or unload other models; planModels() finds a place for each.',
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.8'),
        cause:
          "The NPU's address space has no piece of the size asked for[ ({size|bytes})], although the error says " +
          '"Bad address". The driver is rknpu {driver} (from the log): with it another domain (base_domain_id) ' +
          'changes nothing, and large models fail on boards with any RAM.',
        remedy: UPDATE,
      },
      {
        when: (_, facts) => facts.driver !== undefined && Number(facts.domain?.value ?? 0) > 0,
        cause:
          'IOMMU domain {domain} (base_domain_id in the log) has no piece of the size asked for[ ({size|bytes})], ' +
          'although the error says "Bad address": a domain addresses 4 GiB, and the driver is rknpu {driver} already.',
        remedy:
          'Choose a domain that no other model uses, use 4-bit weights or a smaller context, or unload other models; ' +
          'planModels() finds a place for each.',
      },
      {
        when: (_, { driver }) => driver !== undefined,
        cause:
          'The NPU\'s address space is full, although the error says "Bad address": one IOMMU domain addresses 4 ' +
          'GiB, whatever RAM the board has, and no piece of the size asked for[ ({size|bytes})] is left in it. The ' +
          'driver is rknpu {driver} (from the log), which has 16 domains.',
        remedy:
          'Put the model into another domain (RKLLMExtendParam.base_domain_id = 1), use 4-bit weights or a smaller ' +
          'context, or unload other models; planModels() finds a place for each.',
      },
    ],
    source: 'airockchip/rknn-llm#195, #232, #335, #444',
  },
  {
    kind: 'runtime-ram',
    patterns: [/failed to allocate handle.*errno: 12\b/, /errno: 12, errstr: Cannot allocate memory/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The kernel had no pages for the NPU: RAM is used up[ (by a buffer of {size|bytes})]. Drivers before 0.9 only ' +
      'take RAM below 4 GiB, which can be full while RAM is free, and have no further domains.',
    remedy: `${RAM} Update the rknpu driver to 0.9.8 if it is older, and the runtime with it.`,
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.0'),
        cause:
          'The kernel had no pages for the NPU. The driver is rknpu {driver} (from the log): drivers before 0.9 only ' +
          'take RAM below 4 GiB, which can be full while RAM is free, and have no further domains.',
        remedy: 'Update the rknpu driver to 0.9.8 and the runtime with it, or free memory.',
      },
      {
        when: (_, { driver }) => driver !== undefined,
        cause:
          'RAM is used up, by several contexts or models at once: the kernel had no pages for the NPU[ ' +
          '({size|bytes})]. The driver is rknpu {driver} (from the log), so it is not the cause.',
        remedy: RAM,
      },
    ],
    source: 'airockchip/rknn-llm#62, immich-app/immich#15241',
  },
  {
    kind: 'runtime-refused',
    patterns: [/failed to allocate handle.*errno: 22\b/],
    weight: 3,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The driver refused the buffer[ ({size|bytes})]. Without an IOMMU this means that contiguous memory (CMA) is ' +
      'used up; with one, that the domain could not be used.',
    remedy:
      "Check CmaFree in /proc/meminfo and enlarge it (cma=256M on the kernel command line), or enable the NPU's " +
      'IOMMU in the device tree; with an IOMMU use domain 0.',
    variants: [
      {
        when: (_, { iommuOff, iommuOn }) => iommuOff !== undefined && iommuOn === undefined,
        cause:
          'Contiguous memory (CMA) is used up[: no {size|bytes} in one piece]. The log says "{iommuOff}", so all NPU ' +
          'memory comes from it.',
        remedy: "Enlarge CMA (cma=256M on the kernel command line), or enable the NPU's IOMMU in the device tree.",
      },
      {
        when: (_, { iommuOn, iommuOff }) => iommuOn !== undefined && iommuOff === undefined,
        code: 'ERR_DOMAIN_BUSY',
        cause:
          'The driver refused the buffer[ ({size|bytes})]. The log says "{iommuOn}", so it could not use the IOMMU ' +
          'domain [({domain}) ]that was asked for: it has none of that number, or a job held another one for 6 s.',
        remedy: 'Use domain 0 (base_domain_id), or let jobs of other processes end first.',
      },
    ],
    source: 'rockchip-linux/rknn-toolkit2#218',
  },
  {
    kind: 'device-tree',
    patterns: [/failed to (?:allocate|convert) .*errno: 25\b/],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause: "The node that the runtime opened is not the NPU's: its driver does not know the call (errno 25).",
    remedy:
      'Remove a link or mount at /dev/rknpu that leads to another device; the vendor runtime does not work with ' +
      'rocket.',
    source: 'invisiofficial/rk-llama.cpp#19',
  },
  {
    kind: 'runtime-refused',
    patterns: [
      /failed to (?:allocate handle|convert (?:handle|fd)\S*).*errno: (?<errno>\d+), errstr: (?<errstr>[^,]+)/,
    ],
    weight: 1,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver refused an NPU buffer: {errstr} (errno {errno}).',
    remedy: 'dmesg | grep -i rknpu has the reason.',
    source: 'airockchip/rknn-llm',
  },
  {
    kind: 'runtime-refused',
    patterns: [/failed to allocate handle, ret: -?\d+(?!.*errno: \d)/],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause:
      'The driver made no buffer; this old runtime does not report why. On RK356x the common cause is an NPU without ' +
      'IOMMU and without reserved memory.',
    remedy:
      'Look at the kernel\'s log (dmesg | grep -i rknpu): "using non-iommu mode" means that all NPU memory comes ' +
      'from CMA.',
    variants: [
      {
        when: (_, { iommuOff }) => iommuOff !== undefined,
        cause:
          'The driver made no buffer: the log says "{iommuOff}", so all NPU memory comes from CMA or reserved ' +
          'memory, which is used up.',
        remedy: "Use an image whose device tree enables the NPU's IOMMU, or enlarge CMA (cma=256M).",
      },
    ],
    source: 'rockchip-linux/rknn-toolkit2#44',
  },
  {
    kind: 'runtime-addresses',
    patterns: [/(?:can not|cannot) create weight memory for domain\s*(?<number>\d+)/i],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      "IOMMU domain {number} has no room for the model's weights, or the driver[, rknpu {driver},] does not offer " +
      'that domain.',
    remedy:
      'Update the driver to 0.9.8 and the runtime to the newest; use 4-bit weights, or unload other models in that ' +
      'domain.',
    variants: [
      {
        when: (_, facts) => driverBelow(facts, '0.9.8') === false,
        cause:
          "IOMMU domain {number} has no room for the model's weights; the driver is rknpu {driver} (from the log) " +
          'already.',
        remedy: 'Use 4-bit weights, unload other models in that domain, or choose another one (planModels()).',
      },
    ],
    source: 'airockchip/rknn-llm#68',
  },
  {
    kind: 'runtime-addresses',
    patterns: [/iommu_context->weight_memory is NULL/],
    weight: 2,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'The weights found no NPU addresses in any domain; the crash that follows is the runtime using memory it did ' +
      'not get.',
    remedy: 'Update runtime and driver (0.9.8), use 4-bit weights, or unload other models.',
    source: 'airockchip/rknn-llm#68',
  },
  {
    kind: 'runtime-addresses',
    patterns: [/failed to malloc npu memory!?, size: (?<bytes>\d+)(?:, flags: 0x[0-9a-f]+)?/i],
    weight: 2,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'NPU memory of {bytes|bytes} could not be allocated; the line before names the errno. With an IOMMU the domain ' +
      'has no such piece left; without one, CMA has none.',
    remedy:
      'Use another domain (base_domain_id), 4-bit weights or a smaller context, or free NPU memory; without an IOMMU ' +
      'enlarge CMA.',
    variants: [
      {
        when: ({ bytes }) => Number(bytes) <= 2 ** 20,
        kind: 'fds',
        code: null,
        cause:
          'NPU memory of {bytes|bytes} could not be allocated; the line before names the errno. With so small a ' +
          'buffer, file descriptors have probably run out.',
        remedy: COUNT_FDS,
      },
      {
        when: ({ bytes }, facts) => Number(bytes) > 2 ** 30 && driverBelow(facts, '0.9.8'),
        cause:
          'NPU memory of {bytes|bytes} could not be allocated with rknpu {driver} (from the log), whatever the domain.',
        remedy: UPDATE,
      },
      {
        when: ({ bytes }) => Number(bytes) > 2 ** 31,
        cause:
          'NPU memory of {bytes|bytes} could not be allocated; the line before names the errno. One buffer of more ' +
          'than 2 GiB fits only into an almost empty domain, and not at all with drivers before 0.9.8.',
      },
    ],
    source: 'airockchip/rknn-llm#335',
  },
  {
    kind: 'permission',
    patterns: [/failed to (?:map memory|mmap)\S* (?:Operation not permitted|Permission denied)/i],
    weight: 3,
    code: 'ERR_DEVICE_PERMISSION',
    cause:
      'The process may not map that memory: the node was opened without the right to it, or a container or policy ' +
      'refuses.',
    remedy:
      'Open the node for reading and writing; in containers pass the device with --device, and look for seccomp, ' +
      'AppArmor or SELinux refusals in the log.',
    source: 'this package',
  },
  {
    kind: 'maps',
    patterns: [/(?:rknn|rkllm|npu|mmap).*failed to map memory/i, /^failed to map memory/i],
    weight: 3,
    code: 'ERR_TOO_MANY_MAPS',
    cause: 'The process could map no more memory: near 65,530 mappings (vm.max_map_count) the kernel refuses.',
    remedy:
      'Raise it (sysctl -w vm.max_map_count=262144), and reuse buffers: rknn_create_mem2 without a context leaks one ' +
      'mapping and descriptor each.',
    source: 'airockchip/rknn-toolkit2#532',
  },
  {
    kind: 'runtime-ram',
    patterns: [
      /RKNN_ERR_MALLOC_FAIL/,
      /rknn_init fail!? ret=-4\b/,
      /rknn_create_mem\w*\(?\)? *(?:fail|error)/i,
      /rkllm.*fail\w{0,3} to (?:malloc|alloc)/i,
    ],
    weight: 2,
    code: 'ERR_OUT_OF_MEMORY',
    cause: "The NPU's driver or the system gave the runtime no memory.",
    remedy: 'The lines before it name which; check CmaFree and MemAvailable in /proc/meminfo, and ulimit -n.',
    source: 'rockchip-linux/rknn-toolkit2#226',
  },
]
