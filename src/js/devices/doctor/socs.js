'use strict'

// SoCs: their NPUs, and the software that drives them.

/** SoCs whose NPU this package knows. */
const SOCS = [
  ...['rk3588', 'rk3588s', 'rk3582', 'rk3583', 'rk3576', 'rk3566', 'rk3568', 'rk3562'],
  ...['rv1126b', 'rv1103', 'rv1106'],
]
/** SoCs with 32-bit CPUs, for which this package does not compile. */
const UNSUPPORTED = ['rv1103', 'rv1106']
/** SoCs that RKLLM supports. RKNN supports all. */
const RKLLM = ['rk3588', 'rk3588s', 'rk3582', 'rk3583', 'rk3576', 'rk3562', 'rv1126b']
/** SoCs that the mainline driver, rocket, supports. */
const ROCKET = ['rk3588', 'rk3588s', 'rk3582', 'rk3583']
/** SoCs whose vendor kernels enable the IOMMU. */
const WITH_IOMMU = ['rk3588', 'rk3588s', 'rk3582', 'rk3583', 'rk3576', 'rk3562']
/** SoCs whose NPU is of another generation, and what drives it. */
const OTHER_GENERATIONS = new Map([
  ...['rk3572', 'rk3668', 'rk3688', 'rk1820', 'rk1822', 'rk1828'].map((soc) => entry(soc, 'RKNPU3')),
  ...['rk1808', 'rk3399pro', 'rv1109', 'rv1126'].map((soc) => entry(soc, 'galcore')),
])
/** Drivers of such NPUs, as in uevent. */
const OTHER_DRIVERS = new Map([
  ['rknpu3', 'RKNPU3'],
  ['galcore', 'galcore'],
])

/** @type {(soc: string, driver: string) => [string, string]} */
function entry(soc, driver) {
  return [soc, driver]
}

/** The toolkits that support such NPUs. */
const TOOLKITS = new Map([
  ['RKNPU3', 'use RKNN3 (airockchip/rknn3-toolkit) for it'],
  ['galcore', 'use rockchip-linux/rknn-toolkit (version 1) for it'],
])

module.exports = { OTHER_DRIVERS, OTHER_GENERATIONS, RKLLM, ROCKET, SOCS, TOOLKITS, UNSUPPORTED, WITH_IOMMU }
