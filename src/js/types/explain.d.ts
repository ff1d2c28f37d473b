/** Explanations of error messages. */

import type { MemoryErrorCode } from './errors.js'

/**
 * Explains a line from a log of the RKNN / RKLLM runtime, the kernel, RGA, MPP or this package. Of several lines, the
 * most specific match counts. Returns null without a match in the table of known errors.
 *
 * @throws ERR_INVALID_ARG_TYPE: `line` is not a string.
 */
export function explainError(line: string): { cause: string; remedy: string; code: MemoryErrorCode | null } | null
