/** Explanation of error messages. */

import type { MemoryErrorCode } from './errors.js'

/**
 * Reads a line (or several: the most telling one counts) of a log of the RKNN / RKLLM runtime, the kernel, RGA, MPP or this package.
 * null where it knows nothing.
 *
 * Errors: `ERR_INVALID_ARG_TYPE` (not a string).
 */
export function explainError(line: string): { cause: string; remedy: string; code: MemoryErrorCode | null } | null
