'use strict'

// The vendor driver's messages about jobs, resets and fences.

/** @typedef {import('../explain.js').Rule} Rule */

const JOB = 'rknpu 0.9.8, rknpu_job.c'
const FENCE_CONFIG =
  'Use a kernel with CONFIG_ROCKCHIP_RKNPU_FENCE (and CONFIG_SYNC_FILE), or do not ask for fences (rknn_init without ' +
  'fence flags).'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'npu-job',
    patterns: [/RKNPU: failed to wait job, task counter: (?<counter>\w+).*ret = (?<ret>-?\d+)/i],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'A job did not end (after {counter} tasks, {ret}).',
    remedy: 'Bring driver and runtime to one release; check that buffers are synced and outlive their job.',
    variants: [
      {
        when: ({ ret }) => ret === '-512',
        cause: 'The process was interrupted or killed while its job ran (after {counter} tasks).',
        remedy:
          'Find out why the process ended: the OOM killer, a signal, a crash elsewhere; the NPU is not the cause.',
      },
    ],
    source: 'airockchip/rknn-toolkit2#536',
  },
  {
    kind: 'npu-job',
    patterns: [
      /RKNPU: job: \S+,(?: mask: \w+,)?(?: job)? iommu domain id: (?<domain>\d+), .*timeout: (?<us>\d+)us/i,
      /RKNPU: job: \S+,.*wait_count.*timeout(?: time)?: (?<us>\d+)us/i,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'A job[ in IOMMU domain {domain}] did not end within {us|seconds}.',
    remedy: "Wrong addresses or commands hang the NPU; with the vendor's runtime, update it and the driver together.",
    source: 'mtx512/rk3588-npu#3',
  },
  {
    kind: 'npu-job',
    on: 'npu',
    patterns: [/(?:job timeout|job abort|job commit failed)/i, /core \d+ irq status: \w+, raw status/],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver aborted a job and resets the NPU.',
    remedy:
      'The next job starts afresh. If it happens again, update driver and runtime together, and check cooling and ' +
      'power supply.',
    source: 'airockchip/rknn-toolkit2#536',
  },
  {
    kind: 'npu-crash',
    patterns: [
      /^pc : (?<call>rknpu_\w+)\+0x/,
      /PC is at (?<call>rknpu_\w+)\+0x/,
      /kernel BUG at .*(?<call>rknpu_\w+)\.c/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_LOST',
    cause:
      'The rknpu driver crashed in the kernel ({call}): an error of the driver, often a buffer used after its end.',
    remedy:
      'Reboot; update the kernel to one with rknpu 0.9.8. Do not free buffers or models while a job runs, and keep ' +
      'each context in one process.',
    source: 'airockchip/rknn-toolkit2#533',
  },
  {
    kind: 'npu-reset',
    on: 'npu',
    patterns: [/failed to soft reset for rknpu: (?<errno>-\d+)/, /failed to (?:de)?assert rknpu reset: (?<errno>-\d+)/],
    weight: 3,
    code: 'ERR_DEVICE_LOST',
    cause: 'The reset of the NPU failed ({errno}): it may accept no further job until the next boot.',
    remedy: 'Reboot. If it happens again, look for missing power or clocks of the NPU in dmesg, and check the supply.',
    source: 'rknpu 0.9.8, rknpu_reset.c',
  },
  {
    kind: 'npu-job',
    on: 'npu',
    patterns: [/\bsoft reset\b(?! active)/i],
    weight: 1,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver resets the NPU after a job that hung.',
    remedy: 'The lines before it name the job. The next job starts afresh.',
    source: 'airockchip/rknn-toolkit2#536',
  },
  {
    kind: 'npu-job',
    on: 'npu',
    patterns: [/invalid irq status(?:: (?<status>\w+))?(?:.*require mask: (?<mask>\w+))?/],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause:
      'The NPU reported an end of work that the job does not expect[ (status {status})][ (mask {mask})]: commands or ' +
      'addresses of the job are wrong, or its memory was changed.',
    remedy:
      'Update runtime and driver together; check that buffers are synced, outlive their job, and are of its domain.',
    source: JOB,
  },
  {
    kind: 'npu-job',
    on: 'npu',
    patterns: [
      /(?:failed to allocate rknpu job)/,
      /invalid rknpu (?:task number|core mask)(?:: (?<mask>\w+))?/,
      /[Uu]nknown core mask: (?<mask>\w+)/,
      /[Uu]nknown use core num/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver refused a job: its number of tasks or its core mask[ ({mask})] does not fit this NPU.',
    remedy:
      'Choose cores that the SoC has (RK3588 three, RK3576 two, RK356x and RK3562 one), or leave the choice to it.',
    source: JOB,
  },
  {
    kind: 'npu-fence',
    on: 'npu',
    patterns: [/Error \((?<errno>-?\d+)\) waiting for fence/],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'A job waited in vain for the fence of another device or job ({errno}): what it depends on did not end in time.',
    remedy: 'Look for the job before it: a decoder, RGA, or another NPU job that hangs; dmesg names it.',
    source: JOB,
  },
  {
    kind: 'npu-fence',
    on: 'npu',
    patterns: [/invalid fence in fd, fd: (?<fd>-?\d+)/],
    weight: 3,
    code: 'ERR_UNKNOWN_BUFFER',
    cause: 'A job was given descriptor {fd} as a fence, and that is no fence of this process.',
    remedy: `Keep the fence's descriptor open until the job was submitted. ${FENCE_CONFIG}`,
    source: JOB,
  },
  {
    kind: 'npu-fence',
    patterns: [
      /failed to use rknpu fence, please enable rknpu fence config/,
      /rknn_wait fence fd ?= ?(?<fd>-?\d+) is invalid/,
      /failed to allocate fence context for rknpu/,
      /RKNN: .{0,160}(?:fail|error).{0,160}fence/,
    ],
    weight: 3,
    code: 'ERR_UNSUPPORTED',
    cause:
      "The driver gave no fence[ (fence fd {fd})]: fences are probably not configured in this kernel's rknpu driver.",
    remedy: FENCE_CONFIG,
    source: JOB,
  },
]
