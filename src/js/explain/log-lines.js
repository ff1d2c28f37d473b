'use strict'

// Cleans lines of logs, and finds the device that a line names.

const { isNpuAddress } = require('../core/npu-addresses.js')

/** Colours and other escapes of terminals. */
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\|$)|[@-Z\\-_])/g

/** Prefixes of log lines: quotes, containers' names, levels, times, hosts and processes, in this order. */
const PREFIXES = [
  /^(?:>\s?)+/,
  /^[\w.-]+\s+\| /,
  /^<\d+>/,
  /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?\s+(?:std(?:out|err) [FP] )?/,
  /^\p{Lu}\p{L}{2,3}\.? {1,2}\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)? /u,
  /^\[?\s*\d+\.\d+\]? /,
  /^(?:\S+ )?(?:kernel|[\w./@-]+\[\d+\]): /,
  /^\[(?:\s*\d+\.\d+|\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ?/,
  /^\[\s*[CT]\d+\] ?/,
]

/** Removes escapes and what cannot be printed. */
const clean = (/** @type {string} */ line) =>
  line
    .replace(ESCAPES, '')
    .replace(/[\0\r]/g, '')
    .trim()

/** Removes the prefixes of logs. */
const bare = (/** @type {string} */ line) => PREFIXES.reduce((text, prefix) => text.replace(prefix, ''), line)

/** A line of another generation's driver, whose messages are its own. */
const OTHER_GENERATION = /\bRKN(?:PU|N)3\b|\brknn3_\w+/i
const NPU_ADDRESS = /\b[0-9a-f]{6,16}\.npu\b/
/** A line of the vendor's driver, of rocket, or of the NPU's device. */
const NPU = /\bRKNPU\b|\brknpu\b|\brknpu_\w+|\b[0-9a-f]{6,16}\.npu\b|\brocket\b/i

/** Devices by address, on PCI and USB, and drivers of other devices, as kernel lines begin. */
const OTHERS = [
  /\b([0-9a-f]{6,16}\.[a-z][\w-]*)\b/,
  /\b([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\b/,
  /\b(usb \d+-[\d.]+|\d+-[\d.]+:\d+\.\d+)\b/,
  new RegExp(
    '^(?:\\[drm:)?((?:' +
      [
        ...['v4l2', 'videobuf', 'vb2', 'uvcvideo', 'rkisp', 'rkcif', 'rkvdec', 'rkvenc', 'hantro', 'vop', 'vpu'],
        ...['dwmmc', 'mmc', 'sdhci', 'nvme', 'ata\\d', 'ahci', 'panfrost', 'panthor', 'mali', 'bifrost', 'lima'],
        ...['etnaviv', 'amdgpu', 'i915', 'nouveau', 'brcmfmac', 'ath\\d', 'iwlwifi', 'rtw', 'rtl', 'r81', 'xhci'],
        ...['snd', 'hdmi', 'dw-hdmi', 'dw_hdmi', 'ext4', 'btrfs', 'zram', 'nvidia', 'edgetpu', 'apex', 'hailo'],
      ].join('|') +
      ')[\\w-]*)\\b',
    'i',
  ),
]

/**
 * Returns the device that a kernel line names: `npu` tells whether it is the NPU or its IOMMU. Undefined if it names
 * none.
 *
 * @param {string} text a line without its prefixes
 * @returns {{ name: string, npu: boolean } | undefined}
 */
function deviceOf(text) {
  const generation = OTHER_GENERATION.exec(text)?.[0]
  if (generation !== undefined) return { name: generation, npu: false }
  const named = (NPU_ADDRESS.exec(text) ?? NPU.exec(text))?.[0]
  if (named !== undefined) return { name: named, npu: true }
  const other = OTHERS.map((pattern) => pattern.exec(text)?.[1]).find(Boolean)
  if (other === undefined) return undefined
  const address = /^([0-9a-f]{6,16})\./.exec(other)?.[1]
  return { name: other, npu: address !== undefined && isNpuAddress(address) }
}

module.exports = { bare, clean, deviceOf }
