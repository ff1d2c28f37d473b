'use strict'

// Checks of the board and of the NPU's driver: which of them is there, and why none is.

const { compareVersions, versionOf } = require('../../core/versions.js')
const { fail, ok, warn } = require('./findings.js')
const { OTHER_DRIVERS, OTHER_GENERATIONS, RKLLM, ROCKET, SOCS, TOOLKITS, UNSUPPORTED } = require('./socs.js')

/**
 * @typedef {import('./examine.js').Facts} Facts
 * @typedef {import('./findings.js').Finding} Finding
 * @typedef {import('./findings.js').Result} Result
 */

/** The driver versions that RKLLM 1.3.0's guide, its runtime, and older runtimes ask for. */
const GUIDE = [0, 9, 8]
const RUNTIME = [0, 9, 7]
const OLDER_RUNTIMES = [0, 9, 6]
/** The first Linux with the mainline driver. */
const ROCKET_KERNEL = [6, 18]
const DMESG = 'sudo dmesg | rkllm-memory explain --all'

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function board({ board: model, soc, deviceTree, container, npus }) {
  if (soc === undefined || (!SOCS.includes(soc) && !OTHER_GENERATIONS.has(soc) && npus.length === 0)) {
    return warn(
      'board',
      'unknown-board',
      soc === undefined
        ? 'this is not a Rockchip board with a known NPU'
        : `${[model, soc].filter(Boolean).join(', ')}: no NPU of this SoC is known`,
      "nothing to do: backend 'auto' uses a simulated NPU here",
    )
  }
  const name = [model, soc].filter(Boolean).join(', ')
  if (UNSUPPORTED.includes(soc)) {
    return fail(
      'board',
      '32-bit',
      `${name}: RV1103 and RV1106 are not supported, because their CPUs have 32 bits`,
      "use the vendor's C interface of RKNN there; this package needs a 64-bit SoC (RK3588, RK3576, RK356x)",
    )
  }
  if (deviceTree || container === undefined) return ok('board', name)
  // This package also finds the SoC in sysfs; the RKNN runtime reads the device tree only.
  const hidden = 'the device tree is hidden in this container, and the RKNN runtime may not recognise its board'
  return warn(
    'board',
    'device-tree-hidden',
    `${name}; ${hidden}`,
    UNMASK[container] ?? 'show the container /sys/firmware',
  )
}

/**
 * How to show a container /sys/firmware, which holds the device tree.
 *
 * @type {Record<string, string>}
 */
const UNMASK = {
  docker: 'docker run --security-opt systempaths=unconfined --security-opt apparmor=unconfined …',
  podman: 'podman run --security-opt unmask=/sys/firmware …',
  kubernetes: 'securityContext.procMount: Unmasked',
}

/**
 * @param {Facts} facts
 * @returns {Result}
 */
function driver(facts) {
  const { driver: found, npus, nodes, soc, container } = facts
  const { name, version } = found
  const generation = OTHER_DRIVERS.get(name ?? '') ?? OTHER_GENERATIONS.get(soc ?? '')
  if (generation !== undefined) return otherGeneration(generation, facts)
  if (name === undefined && nodes.length === 0) return npus.length > 0 ? unbound(facts) : absent(facts)
  if (name === 'rocket' || (name === undefined && nodes.every(({ backend }) => backend === 'rocket'))) {
    return warn(
      'driver',
      'rocket',
      'rocket, the mainline driver: this package works with it, the RKNN and RKLLM runtimes do not',
      'for RKLLM boot a vendor kernel with rknpu 0.9.8',
    )
  }
  if (version === undefined) {
    return warn(
      'driver',
      'version-unknown',
      'rknpu; its version cannot be read here',
      `${container === undefined ? '' : 'on the host: '}sudo cat /sys/kernel/debug/rknpu/version`,
    )
  }
  return versionOfDriver(version, soc)
}

/**
 * @param {string} version
 * @param {string | undefined} soc
 */
function versionOfDriver(version, soc) {
  const parts = /** @type {number[]} */ (versionOf(version))
  if (soc !== undefined && !RKLLM.includes(soc)) {
    return ok('driver', `rknpu ${version}; RKNN supports ${soc}, RKLLM does not`)
  }
  const wanted = `RKLLM 1.3.0's guide asks for ${GUIDE.join('.')}, its runtime for ${RUNTIME.join('.')}`
  const update = `update the board's kernel to one with rknpu ${GUIDE.join('.')}`
  if (compareVersions(parts, OLDER_RUNTIMES) < 0) {
    const older = `older ones for ${OLDER_RUNTIMES.join('.')}; RKNN works`
    return fail('driver', 'driver-too-old', `rknpu ${version}: ${wanted}, ${older}`, update)
  }
  if (compareVersions(parts, GUIDE) < 0) return warn('driver', 'driver-old', `rknpu ${version}: ${wanted}`, update)
  return ok('driver', `rknpu ${version}, as RKLLM asks for`)
}

/**
 * @param {string} generation
 * @param {Facts} facts
 */
function otherGeneration(generation, { soc, npus }) {
  const of = [soc, npus[0]?.name].filter(Boolean).join(', ')
  return fail(
    'driver',
    'other-generation',
    `an NPU of another generation (${generation}${of === '' ? '' : `; ${of}`}): this package, RKNN (toolkit 2) and ` +
      'RKLLM do not support it',
    TOOLKITS.get(generation) ?? null,
  )
}

/**
 * A device of the NPU exists, and no driver is bound to it.
 *
 * @param {Facts} facts
 */
function unbound({ npus, tree, drivers, soc, kernel, kernelVersion }) {
  const disabled = tree.filter(({ iommu, enabled }) => !iommu && !enabled)
  const compatible = npus.map((npu) => npu.compatible).find(Boolean) ?? ''
  const wanted = compatible.endsWith('-rknn-core') ? 'rocket' : 'rknpu'
  const of = (/** @type {string} */ name) => drivers.all.find((one) => one.name === name)
  const [fitting, other] = [of(wanted), drivers.all.find((one) => one.name !== wanted && one.running)]
  const devices = `${npus.map(({ name }) => name).join(', ')}`
  if (fitting?.running && wanted === 'rocket' && soc !== undefined && !ROCKET.includes(soc)) {
    const message = `rocket is loaded, and drives the NPU of RK3588 only: ${devices} of ${soc} has no driver`
    return fail('driver', 'no-driver', message, bootAnother(soc, kernelVersion))
  }
  if (fitting?.running) {
    const how = fitting.builtin ? 'is built into this kernel' : 'is loaded'
    const mostly =
      wanted === 'rocket'
        ? 'a module that loads late finds the supply (vdd_npu) cut: build it in (CONFIG_DRM_ACCEL_ROCKET=y), or boot ' +
          'with regulator_ignore_unused'
        : 'mostly a supply, a clock or the IOMMU is missing in the device tree: use one of the release of the kernel'
    return fail(
      'driver',
      'probe-failed',
      `${wanted} ${how}, and is bound to no NPU (${devices}): its probe failed`,
      `${DMESG} tells why; ${mostly}`,
    )
  }
  if (fitting?.available) {
    return fail(
      'driver',
      'module-not-loaded',
      `the module ${wanted} of this kernel is not loaded, and ${devices} has no driver`,
      `sudo modprobe ${wanted}; echo ${wanted} | sudo tee /etc/modules-load.d/npu.conf`,
    )
  }
  if (disabled.length > 0) return disabledIn(disabled, soc)
  if (other !== undefined) {
    return fail(
      'driver',
      'device-tree-mismatch',
      `${other.name} is loaded, and the device tree describes the NPU for ${wanted} (${compatible})`,
      'boot a kernel and a device tree of one release: those of the board vendor for rknpu, of mainline for rocket',
    )
  }
  if (drivers.listed) {
    return fail(
      'driver',
      'no-driver',
      `no driver is bound to the NPU (${devices}), and Linux ${kernel} has no module ${wanted}`,
      bootAnother(soc, kernelVersion),
    )
  }
  return fail(
    'driver',
    'module-not-loaded',
    `no driver is bound to the NPU (${devices}), and ${wanted} is not loaded`,
    `sudo modprobe ${wanted}; if there is no such module, ${bootAnother(soc, kernelVersion)}`,
  )
}

/**
 * The kernel has no device of the NPU.
 *
 * @param {Facts} facts
 * @returns {Result}
 */
function absent({ tree, soc, container, platform, kernelVersion, drivers }) {
  const own = tree.filter(({ iommu }) => !iommu)
  const disabled = own.filter(({ enabled }) => !enabled)
  if (own.length > 0 && disabled.length === own.length) return disabledIn(disabled, soc)
  if (soc === undefined || !SOCS.includes(soc) || (container !== undefined && !platform)) return []
  if (own.length > 0) {
    const running = drivers.all.find((one) => one.running)
    return fail(
      'driver',
      running === undefined ? 'module-not-loaded' : 'probe-failed',
      `the device tree has the NPU (${own.map(({ name }) => name).join(', ')}), and ` +
        `${running === undefined ? 'no driver is loaded' : `${running.name} is bound to no device of it`}`,
      running === undefined ? `sudo modprobe rknpu; else ${bootAnother(soc, kernelVersion)}` : `${DMESG} tells why`,
    )
  }
  return fail(
    'driver',
    'no-npu',
    `${container === undefined ? 'this kernel' : 'the kernel of the host'} has no NPU: its device tree describes ` +
      `none, though the ${soc} has one`,
    bootAnother(soc, kernelVersion),
  )
}

/**
 * @param {Facts['tree']} disabled
 * @param {string | undefined} soc
 */
function disabledIn(disabled, soc = '') {
  const overlay = /^rk356[68]$/.test(soc) ? 'rk3568-npu-enable' : `${soc === '' ? 'rk3588' : soc}-npu-enable`
  return fail(
    'driver',
    'disabled',
    `the NPU is switched off in the device tree: ${disabled.map(({ name }) => name).join(', ')} has status "disabled"`,
    `enable it by an overlay (${overlay}): rsetup or armbian-config, or overlays=… in armbianEnv.txt; or use the ` +
      'device tree of a board that enables it; then reboot',
  )
}

/**
 * @param {string | undefined} soc
 * @param {number[] | undefined} kernelVersion
 */
function bootAnother(soc, kernelVersion) {
  const vendor = "boot the board vendor's kernel (5.10 or 6.1), which has rknpu"
  if (soc !== undefined && !ROCKET.includes(soc))
    return `${vendor}; rocket, of mainline Linux, drives RK3588 only (w568w/rknpu-module builds rknpu for mainline)`
  const mainline = kernelVersion !== undefined && compareVersions(kernelVersion, ROCKET_KERNEL) >= 0
  return mainline
    ? `${vendor}, for RKLLM; or a mainline kernel with CONFIG_DRM_ACCEL_ROCKET and its own device tree`
    : `${vendor}, or Linux 6.18 and later for rocket (RK3588 only)`
}

module.exports = { GUIDE, OLDER_RUNTIMES, checks: [board, driver] }
