'use strict'

// Finds the facts of a log that decide between causes: versions, the IOMMU, domains, sizes, limits.

const { compareVersions, versionOf } = require('../core/versions.js')

/**
 * @typedef {{ value: string, line: number, text: string }} Fact
 * @typedef {Record<string, Fact | undefined>} FactTable
 */

const VERSION = String.raw`v?(\d+\.\d+\.\d+)`
/** @type {(text: string) => RegExp} */
const versioned = (text) => new RegExp(text.replace('VERSION', VERSION), 'i')

/** Name → patterns whose first group is the value; of several lines the last counts. */
const PATTERNS = {
  driver: [
    versioned('(?:rknpu|rknn) driver version:? *VERSION'),
    versioned('RKNN Driver Information,? *version: *VERSION'),
    versioned('\\brknn.*\\b(?:drv|driver)[ _]version: *VERSION'),
    versioned('RKNPU driver: *VERSION'),
    versioned('Initialized rknpu VERSION'),
    versioned('\\brknpu VERSION'),
    /^ *driver version:? *v?(0\.\d+\.\d+)/i,
  ],
  rkllm: [versioned('rkllm(?:-runtime)? version: *VERSION')],
  rknn: [versioned('(?:librknnrt|rknnrt|RKNN Runtime Information, librknnrt) version: *VERSION')],
  platform: [/\bplatform: *((?:RK|RV)\d+\w*)/i],
  initialized: [/(Initialized (?:rknpu|RKNPU driver|rocket))/],
  iommuOn: [/(rknpu iommu is enabled, using iommu mode)/],
  iommuOff: [/(using non-iommu mode)/],
  domain: [/base_domain_id *[=:] *(\d+)/],
  size: [/failed to malloc npu memory!?, size: *(\d+)/, /dma map (\d+) fail/],
  oom: [/(Out of memory: Kill|CONSTRAINT_NONE)/],
  memcg: [/(Memory cgroup out of memory|CONSTRAINT_MEMCG|task_memcg=\/\S*(?:docker|kubepods|libpod|lxc)\S*)/],
  memcgLimit: [/memory: usage \d+kB, limit (\d+)kB/],
  npuCall: [/\b(rknpu_(?:gem|mem|iommu)\w*)/],
  otherCall: [
    /^ *(?:\[<[0-9a-f]+>\] *)?((?:rtw|rtl|mali|kbase|panfrost|panthor|rga|rkvdec|mpp|vb2|usb|xhci|nvme)_\w+)\+0x/,
  ],
  swiotlb: [/(swiotlb)/],
  repack: [/(CPU_REPACK|CPU_AARCH64)/],
  cmaFree: [/\bCmaFree: *(\d+) *kB/],
  cmaTotal: [/\bCmaTotal: *(\d+) *kB/, /cma: Reserved (\d+) MiB/],
  container: [/\b(docker|podman|kubepods|containerd|lxc)\b/i],
}

/**
 * @param {string[]} lines without their prefixes
 * @returns {FactTable}
 */
function factsOf(lines) {
  /** @type {FactTable} */
  const facts = {}
  lines.forEach((text, at) => {
    for (const [name, patterns] of Object.entries(PATTERNS)) {
      const value = patterns.map((pattern) => pattern.exec(text)?.[1]).find((found) => found !== undefined)
      if (value !== undefined) facts[name] = { value, line: at + 1, text }
    }
  })
  return facts
}

/**
 * Whether the log names a driver version below `version`; undefined if it names none.
 *
 * @param {FactTable} facts
 * @param {string} version
 */
function driverBelow(facts, version) {
  const found = versionOf(facts.driver?.value ?? '')
  return found === undefined ? undefined : compareVersions(found, /** @type {number[]} */ (versionOf(version))) < 0
}

module.exports = { driverBelow, factsOf }
