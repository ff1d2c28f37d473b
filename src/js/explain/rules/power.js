'use strict'

// Power, clocks, probing, and IOMMUs: the NPU's own, and such that have no power.

const { isNpuAddress } = require('../../core/npu-addresses.js')

/** @typedef {import('../explain.js').Rule} Rule */

/** @param {string | undefined} iommu "fdab9000.iommu" */
const isNpu = (iommu = '') => isNpuAddress(iommu.split('.')[0])

const SUPPLY =
  "Check the NPU's supply and power domain in the device tree (rknpu-supply or npu-supply, domain-supply of the " +
  "power domain); use the board vendor's device tree or a newer image."
const DRV = 'rknpu 0.9.8, rknpu_drv.c'

/** @type {Rule[]} */
module.exports = [
  {
    kind: 'npu-power',
    on: 'npu',
    patterns: [/failed to get (?<rail>vdd|mem) regulator for rknpu: (?<errno>-\d+)/],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: "The driver's probe failed: the {rail} regulator of the NPU cannot be had ({errno}).",
    remedy: SUPPLY,
    variants: [
      // The driver came later, and the supply with it.
      { when: ({ errno }, { initialized }) => errno === '-517' && initialized !== undefined, not: true },
      {
        when: ({ errno }) => errno === '-517',
        weight: 2,
        cause:
          'The {rail} regulator of the NPU was not there yet (-517): the kernel tries again later. If no ' +
          '"Initialized rknpu" follows, its driver never came, and the NPU has no supply.',
      },
    ],
    source: DRV,
  },
  {
    kind: 'npu-power',
    on: 'npu',
    patterns: [
      /failed to enable (?<rail>vdd|mem) reg for rknpu, ret: (?<errno>-\d+)/,
      /failed to get pm runtime for (?<rail>npu\d|rknpu), ret: (?<errno>-\d+)/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: 'The NPU got no power: {rail} could not be switched on ({errno}). Jobs and allocations fail or hang.',
    remedy: `${SUPPLY} A weak power supply shows so too.`,
    source: DRV,
  },
  {
    kind: 'npu-power',
    on: 'npu',
    patterns: [
      /failed to enable clk for rknpu, ret: (?<errno>-\d+)/,
      /failed to get clk source for rknpu/,
      /failed to enable \((?<errno>-?\d+)\) clocks for core/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause: "The NPU's clocks could not be had or switched on[ ({errno})].",
    remedy:
      'The device tree or the clock driver of this kernel does not fit the SoC: use the image of the board vendor.',
    source: DRV,
  },
  {
    kind: 'npu-power',
    patterns: [/\b(?<rail>vdd_npu\w*): disabling\b/],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: "The kernel switched off the NPU's supply ({rail}), because no driver had claimed it when the boot ended.",
    remedy:
      'Load the driver earlier: build it in (CONFIG_DRM_ACCEL_ROCKET=y), mark the supply always-on in the device ' +
      'tree, or boot with regulator_ignore_unused.',
    source: 'flipperdevices/flipperone-linux-build-scripts#159',
  },
  {
    kind: 'npu-power',
    on: 'npu',
    patterns: [/\biommu still enabled/],
    weight: 2,
    code: 'ERR_DEVICE_IO',
    cause: 'The driver did not switch the NPU off, because its IOMMU was still at work.',
    remedy: 'Harmless once; if it repeats, a job hangs: look for "job timeout" before it.',
    source: DRV,
  },
  {
    kind: 'npu-module',
    patterns: [
      /modprobe: .*Module rknpu not found in directory \/lib\/modules\/(?<kernel>\S+)/,
      /modprobe: module rknpu not found/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause:
      'This kernel[ ({kernel})] has no module rknpu: the driver is built in (then nothing is to be loaded), or absent.',
    remedy:
      'dmesg | grep -i rknpu shows a built-in driver. Without one, install a kernel of the vendor (Armbian: the ' +
      'branch "vendor"); a mainline kernel has the driver "rocket" instead, which RKLLM does not use.',
    source: 'rkllm-memory doctor',
  },
  {
    kind: 'npu-module',
    patterns: [
      /(?:insmod|modprobe): .*rknpu.*(?<what>Invalid module format|Unknown symbol in module)/,
      /\brknpu: (?<what>disagrees about version of symbol|Unknown symbol|version magic)/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause: 'The module rknpu was built for another kernel than the one that runs ("{what}").',
    remedy: "Build it against the running kernel's headers (uname -r), or install the kernel that it belongs to.",
    source: 'Linux, kernel/module',
  },
  {
    kind: 'npu-probe',
    on: 'npu',
    patterns: [
      /failed to (?:get memory resource|remap register|probe device|find cma heap)(?: for rknpu)?/,
      /rknpu device-tree (?:data|entry) is missing/,
      /no npu \S*(?: ?irq)? in dts/,
      /rknpu core invalid, invalid core mask/,
      /cannot register miscdev/,
      /request (?:\w*irq) failed: (?<errno>-\d+)/,
      /failed to get rknpu \S*(?:rst|reset)\S*:? ?(?<errno>-\d+)?/,
      /deferred probe (?:pending|timeout)(?:[:,] (?<what>.+))?/,
      /error (?<errno>-\w+): IRQ (?<what>\S+) not found/,
      /probe (?:of \S+ )?(?:failed with error|with driver \S+ failed with error) (?<errno>-\d+)/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_NOT_FOUND',
    cause:
      "The NPU driver's probe failed[ ({errno})][ ({what})]: there is no device node, and no program can use the NPU.",
    remedy:
      'The device tree and this kernel do not fit together (registers, interrupts, supplies, the heap ' +
      'rk-dma-heap-cma): use an image whose kernel and device tree are of one release.',
    source: DRV,
  },
  {
    kind: 'power-domain',
    patterns: [
      /failed to (?:get ack|set idle|power) (?:on|off).* domain '?(?<name>(?:pd_)?npu\w*)(?:.*?val=(?<value>\w+))?/,
      /failed to power (?:on|off) domain '?(?<name>(?:pd_)?npu\w*)(?:.*?val=(?<value>\w+))?/,
      /failed to (?:set domain|get mem status|get chain status) '(?<name>(?:pd_)?npu\w*)'(?:.*?val=(?<value>\w+))?/,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      "The NPU's power domain ({name}) did not answer[ (val={value})]: its supply or its power domain is missing or " +
      'wrong in the device tree.',
    remedy: SUPPLY,
    source: 'ophub/fnnas#514, armbian/linux-rockchip#297',
  },
  {
    kind: 'iommu-power',
    patterns: [
      /rk_iommu (?<iommu>[0-9a-f]+\.\w+): (?<what>Error during raw reset\. MMU_DTE_ADDR is not functioning)/,
      /rk_iommu (?<iommu>[0-9a-f]+\.\w+): (?<what>(?:Enable|Disable) (?:stall|paging) request timed out)/,
      /rk_iommu (?<iommu>[0-9a-f]+\.\w+): (?<what>FORCE_RESET command timed out)/,
      /rk_iommu (?<iommu>[0-9a-f]+\.\w+): (?<what>(?:Failed|Unable) to \w[^\n]{2,60})/i,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'The IOMMU {iommu} does not answer ("{what}"): it has no power or no clock. It is not one of the NPU\'s, as ' +
      'far as its address tells.',
    remedy:
      'Check the power domain and the clocks of that IOMMU in the device tree; the devices behind it do not work ' +
      'until then.',
    variants: [
      {
        when: ({ iommu }) => isNpu(iommu),
        cause: 'The IOMMU of the NPU ({iommu}) does not answer ("{what}"): it has no power or no clock.',
        remedy:
          "Check the power domain and the clocks of the NPU and its IOMMU in the device tree; use the board vendor's " +
          'kernel, or a newer one.',
      },
    ],
    source: 'Linux, drivers/iommu/rockchip-iommu.c; flipperdevices/flipperone-linux-build-scripts#55',
  },
  {
    kind: 'iommu-fault',
    patterns: [
      /rk_iommu (?<iommu>\S+): Page fault at (?<address>0x[0-9a-f]+) of type (?<type>read|write)/i,
      /rk_iommu (?<iommu>\S+): BUS_ERROR occurred at (?<address>0x[0-9a-f]+)/i,
    ],
    weight: 3,
    code: 'ERR_DEVICE_IO',
    cause:
      'A device behind {iommu} tried to [{type} ]{address}, where nothing is mapped: a buffer was freed or is ' +
      'smaller than the job assumes.',
    remedy:
      'Keep buffers until their job has ended, and check strides and sizes. By its address this IOMMU is not the ' +
      "NPU's.",
    variants: [
      {
        when: ({ iommu }) => isNpu(iommu),
        cause:
          'The NPU (behind {iommu}) tried to [{type} ]{address}, where nothing is mapped: a buffer was freed, is ' +
          'smaller than the job assumes, or is of another domain.',
        remedy: 'Keep buffers until their job has ended, check sizes, and that buffer and job are of one domain.',
      },
    ],
    source: 'rockchip-linux/mpp#736',
  },
  {
    kind: 'iommu-stale',
    patterns: [/iova:? (?<address>\S+) already mapped to \S+,? cannot remap/i, /already mapped.*cannot remap/i],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause:
      'The address that the driver picked[ ({address})] is still mapped: an earlier mapping was not released (a ' +
      'stale mapping).',
    remedy: 'End the processes that used the NPU; if it stays, reboot: the mapping is lost to the kernel.',
    source: 'airockchip/rknn3-toolkit#16',
  },
  {
    kind: 'display-addresses',
    patterns: [/out of I\/O virtual memory: -28/],
    weight: 3,
    code: 'ERR_IOVA_EXHAUSTED',
    cause: "The display or video driver's address space is full: buffers are made faster than they are released.",
    remedy: 'Reuse buffers (a pool) instead of allocating one for each frame, and close their descriptors.',
    source: 'rockchip-linux/mpp#560',
  },
]
