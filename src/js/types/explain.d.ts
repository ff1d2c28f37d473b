/** Explanations of error messages. */

import type { MemoryErrorCode } from './errors.js'

/** Result of {@link explainError}. */
export interface Explanation {
  /**
   * A stable name of the kind of error, for programs: "cgroup", "oom", "runtime-addresses", "npu-power", ...
   * docs/planning.md lists them.
   */
  kind: string
  cause: string
  remedy: string
  /** The code of the same failure in this package; null where it has none. */
  code: MemoryErrorCode | null
  /** The first line that tells it: its number, from 1, and its text without time stamps and colours. */
  line: number
  text: string
  /** The number of lines with this cause. */
  count: number
  /** The facts from other lines that decided: versions, sizes, domains, limits. */
  facts: Array<{ name: string; value: string; line: number; text: string }>
}

/**
 * Explains a log of the RKNN / RKLLM runtime, the kernel, RGA, MPP, ggml, Python, strace or this package.
 *
 * The log is read as a whole: the driver's version in one line decides what an error in another means. Of several
 * findings the one that names the root counts, or with `all` every finding is returned, ranked. A line that names
 * another device is not taken for the NPU's. Returns null without a match in the table of known errors.
 *
 * @throws ERR_INVALID_ARG_TYPE: `log` is not a string.
 *
 * @example
 * const log = [
 *   'I rkllm: rkllm-runtime version: 1.1.4, rknpu driver version: 0.9.6, platform: RK3588',
 *   'E RKNN: failed to allocate handle, ret: -1, errno: 14, errstr: Bad address',
 * ].join('\n')
 * const { kind, code, line, facts } = explainError(log)
 * kind // => 'runtime-addresses'
 * code // => 'ERR_IOVA_EXHAUSTED'
 * line // => 2
 * facts[0].value // => '0.9.6'
 * explainError('hello') // => null
 */
export function explainError(log: string, options?: { all?: false }): Explanation | null
export function explainError(log: string, options: { all: true }): Explanation[]
export function explainError(log: string, options?: { all?: boolean }): Explanation | Explanation[] | null

/**
 * Explains every known line of a log, as `explainError(log, { all: true })` does.
 *
 * @throws ERR_INVALID_ARG_TYPE: `log` is not a string.
 */
export function explainAll(log: string): Explanation[]
