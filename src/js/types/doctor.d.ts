/** Checks of the machine: the findings of `rkllm-memory doctor`, as data. */

/** One check of {@link diagnose}: `id` names it ("driver", "permission", "cma", "fds", ...; docs/command-line.md has them all). */
export interface Finding {
  area: 'npu' | 'machine'
  id: string
  status: 'ok' | 'warn' | 'fail'
  /** What was found, with the figures. */
  message: string
  /** What to do about it, in lines; null where all is well. */
  remedy: string | null
}

export interface Diagnosis {
  machine: { board: string | null; soc: string | null; kernel: string | null; container: string | null }
  findings: Finding[]
  counts: { ok: number; warn: number; fail: number }
}

/**
 * What `npx rkllm-memory doctor` shows, as data: whether devices, permissions, the driver, IOMMU, CMA, limits, cgroup, kernel arguments and
 * container are fit for RKLLM. Reads /proc and /sys and opens each device for a moment. With `root` it reads a support bundle (`doctor --save`) instead,
 * and opens nothing.
 *
 * @throws ERR_OUT_OF_RANGE there is no such folder.
 */
export function diagnose(options?: { root?: string }): Diagnosis
