'use strict'

// Other drivers and generations of Rockchip's NPUs: rocket (mainline), RKNPU3 with RKNN3, galcore (RK1808, RV1126).

/** @typedef {import('../explain.js').Rule} Rule */

const STALE =
  'End the process and wait a moment before the next start; if it stays, reboot, and update the RKNPU3 driver and ' +
  'the RKNN3 runtime together.'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'rocket-job',
    patterns: [/(?<core>[0-9a-f]{6,16}\.npu): NPU job timed out/, /rocket.*job timed out/],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'A job of the mainline driver (rocket) hung[ on core {core}]: it did not end within 500 ms, and the driver ' +
      'resets that core.',
    remedy:
      'Update the kernel and Mesa (Teflon) together; a job that is too large for 500 ms has to be split. If every ' +
      'job hangs, the NPU has no power or clock.',
    source: 'Linux, drivers/accel/rocket/rocket_job.c',
  },
  {
    kind: 'rocket-probe',
    patterns: [
      /rocket .*?(?<what>failed to (?:initialize rocket device|get (?:resets?|clocks?)|request job irq))/i,
      /rocket (?<core>[0-9a-f]{6,16}\.npu): (?<what>(?:error|failed|Failed)[^\n]{3,80})/,
      /rocket.*?(?<what>Failed to create scheduler: -?\d+)/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The mainline driver (rocket) could not start the NPU: {what}.',
    remedy:
      'The NPU may have no power: its supply is cut when a module loads late. Build the driver in ' +
      '(CONFIG_DRM_ACCEL_ROCKET=y), or mark the supply always-on in the device tree.',
    variants: [{ when: ({ what }) => /invoked|oom|region for resource/i.test(what ?? ''), not: true }],
    source: 'flipperdevices/flipperone-linux-build-scripts#159',
  },
  {
    kind: 'rknpu3',
    patterns: [
      /RKNPU3: dma_map_sgtable failed: (?<errno>-\d+)/,
      /RKNPU3:? .*?[Ff]ailed to allocate memory: size=(?<bytes>\d+)/,
      /RKNN heap allocate failed, size: (?<bytes>\d+)/,
      /ioctl mem create failed, size: (?<bytes>\d+)/,
      /rknn3_create_mem(?:_\w+)? failed/,
    ],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'An NPU of another generation (RKNPU3, RKNN3) could not map a buffer[ of {bytes|bytes}][ ({errno})]: with RAM ' +
      'free, a stale address mapping of an earlier run is in the way.',
    remedy: STALE,
    source: 'airockchip/rknn3-toolkit#16',
  },
  {
    kind: 'rknpu3',
    patterns: [/\bRKNPU3\b.*(?:fail|error|timeout|invalid)/i, /\brknn3(?:_\w+|\b).*(?:fail|error)/i],
    weight: 2,
    code: 'ERR_UNSUPPORTED',
    cause:
      'The line is of the driver or runtime of another generation of NPUs (RKNPU3, RKNN3), which this package, RKNN ' +
      'and RKLLM do not support.',
    remedy: "Ask in airockchip/rknn3-toolkit, and bring the RKNPU3 driver and RKNN3's runtime to one release.",
    source: 'airockchip/rknn3-toolkit#16',
  },
  {
    kind: 'npu-generation',
    patterns: [
      /\bgalcore\b.*(?:out of memory|fail|error)/i,
      /rknn_server.*transfer.*fail/i,
      /npu_transfer_proxy.*(?:fail|denied)/i,
    ],
    weight: 2,
    code: 'ERR_UNSUPPORTED',
    cause:
      "The line is of an earlier generation of Rockchip's NPUs (galcore, rknn_server: RK1808, RV1109, RV1126, " +
      'RK3399Pro), which has other drivers and runtimes.',
    remedy: 'Use rockchip-linux/rknn-toolkit (version 1) for it.',
    source: 'rockchip-linux/rknn-toolkit#281',
  },
]
