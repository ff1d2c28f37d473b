/** Checks of the machine: the findings of `rkllm-memory doctor` as data. */

/** Result of one check of {@link diagnose}. */
export interface Finding {
  area: 'npu' | 'machine'
  /** Name of the check: "driver", "permission", "cma", "fds", ...; docs/command-line.md lists them all. */
  id: string
  status: 'ok' | 'warn' | 'fail'
  /**
   * A stable name of what is wrong, for programs: "disabled", "module-not-loaded", "probe-failed", "device-cgroup".
   * Null where the check passed. docs/command-line.md lists them. Of `opened` and `package` it is the error's code.
   */
  reason: string | null
  /** The finding, with its figures. */
  message: string
  /** The suggested fix, in lines; null where the check passed. */
  remedy: string | null
}

/** Result of {@link diagnose}. */
export interface Diagnosis {
  machine: { board: string | null; soc: string | null; kernel: string | null; container: string | null }
  findings: Finding[]
  counts: { ok: number; warn: number; fail: number }
}

/**
 * Checks whether devices, permissions, the driver, IOMMU, CMA, limits, cgroup, kernel arguments and container are fit
 * for RKLLM. Returns as data what `npx rkllm-memory doctor` prints.
 *
 * Reads /proc and /sys, and opens each device for a moment. With `root` it reads a support bundle (`doctor --save`)
 * in place of the machine, and opens nothing.
 *
 * `models` names the folder or a file of the models: the read-ahead of its disk is checked, not that of all disks.
 *
 * @throws ERR_OUT_OF_RANGE: `root` or `models` does not exist, or `models` is not absolute with `root`.
 */
export function diagnose(options?: { root?: string; models?: string }): Diagnosis
