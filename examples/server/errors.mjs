/** Errors in the shape of OpenAI's API, and the HTTP status of each MemoryError. */

/** An error for the client: `status`, and the fields of OpenAI's error object. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {{ param?: string, retryAfter?: number, cause?: unknown }} [details] `retryAfter` in seconds
   */
  constructor(status, code, message, { param = null, retryAfter, cause } = {}) {
    super(message, { cause })
    Object.assign(this, { status, code, param, retryAfter })
  }

  get type() {
    if (this.status === 401 || this.status === 403) return 'authentication_error'
    if (this.status === 429) return 'rate_limit_error'
    return this.status < 500 ? 'invalid_request_error' : 'server_error'
  }

  toJSON() {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } }
  }

  toReply() {
    return json(this, this.status, this.retryAfter && { 'retry-after': String(this.retryAfter) })
  }
}

/** The reply that has `value` as JSON. */
export const json = (value, status = 200, headers = {}) => ({
  status, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(value),
})

/** A request that asks for something wrong. */
export const invalid = (param, message, code = 'invalid_value') => new ApiError(400, code, message, { param })

/** Codes of a device or machine that is full now. */
const FULL = new Set([
  'ERR_MEMORY_LIMIT', 'ERR_OUT_OF_MEMORY', 'ERR_IOVA_EXHAUSTED', 'ERR_DOMAIN_BUSY', 'ERR_TOO_MANY_FDS',
  'ERR_TOO_MANY_MAPS', 'ERR_POOL_EXHAUSTED',
])

/**
 * Translates any error. A tenant at its limit is 429, a full server is 503; both say when to come again. A request that
 * exceeds the limit by itself is 413, because to wait does not help.
 *
 * @param {any} error
 * @param {(bytes: number) => number} secondsUntilFree estimates when so many bytes more will be free
 */
export function toApiError(error, secondsUntilFree) {
  if (error instanceof ApiError) return error
  const { code, message, requested, available = 0, limit, scope } = error ?? {}
  const ofTenant = scope?.startsWith('tag:')
  // The session and the device state what they can ever hold.
  if (code === 'ERR_OUT_OF_RANGE' || (ofTenant && requested > limit))
    return new ApiError(413, 'request_too_large', message, { cause: error })
  if (!FULL.has(code)) {
    const said = typeof code === 'string' ? message : 'the server failed: its log says why'
    return new ApiError(500, 'server_error', said, { cause: error })
  }
  const missing = requested === undefined ? 0 : Math.max(0, requested - available)
  const details = { retryAfter: secondsUntilFree(missing), cause: error }
  return ofTenant
    ? new ApiError(429, 'memory_limit_exceeded', message, details)
    : new ApiError(503, 'overloaded', message, details)
}
