/** API keys → tenants. Each has a tag of the memory manager, and a limit of its own. */

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

import { ApiError } from './errors.mjs'

const FIELDS = ['key', 'tag', 'maxBytes', 'admin']
/** The tenant of a server without a file of tenants. */
const EVERY = { tag: 'requests', admin: true }

/** Keys are compared as hashes, so that the time of a look-up tells nothing of them. */
const hashOf = (key) => createHash('sha256').update(key).digest('hex')

export class Tenants {
  #byKey = new Map()

  /**
   * Reads a JSON file: `[{ "key": "sk-…", "tag": "acme", "maxBytes": 1048576, "admin": true }]`. Without one, each
   * request is the same tenant's, who has no limit.
   *
   * @param {string | undefined} path
   */
  static read(path) {
    if (path === undefined) return new Tenants([])
    const list = JSON.parse(readFileSync(path, 'utf8'))
    if (!Array.isArray(list) || list.length === 0) throw new Error(`${path} must have an array of tenants`)
    return new Tenants(list.map((tenant, at) => checked(tenant, `${path}: tenant ${at + 1}`)))
  }

  constructor(list) {
    for (const { key, ...tenant } of list) this.#byKey.set(hashOf(key), tenant)
    if (this.#byKey.size !== list.length) throw new Error('two tenants have the same key')
    if (new Set(list.map(({ tag }) => tag)).size !== list.length) throw new Error('two tenants have the same tag')
  }

  /** The manager's limits by tag. */
  get limits() {
    const limited = [...this.#byKey.values()].filter(({ maxBytes }) => maxBytes !== undefined)
    return { tags: Object.fromEntries(limited.map(({ tag, maxBytes }) => [tag, { max: maxBytes }])) }
  }

  /** @param {Record<string, string>} headers */
  of(headers) {
    if (this.#byKey.size === 0) return EVERY
    const [, key] = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? []
    if (key === undefined) throw new ApiError(401, 'invalid_api_key', 'give an API key: "Authorization: Bearer KEY"')
    const tenant = this.#byKey.get(hashOf(key))
    if (tenant === undefined) throw new ApiError(401, 'invalid_api_key', 'this API key is not known')
    return tenant
  }

  /** @param {Record<string, string>} headers */
  expectAdmin(headers) {
    if (this.of(headers).admin) return
    throw new ApiError(403, 'forbidden', 'this needs the key of a tenant with "admin": true')
  }
}

function checked(tenant, where) {
  const { key, tag, maxBytes, admin = false } = tenant ?? {}
  const unknown = Object.keys(tenant ?? {}).find((name) => !FIELDS.includes(name))
  if (unknown !== undefined) throw new Error(`${where} has "${unknown}"; the fields are ${FIELDS.join(', ')}`)
  for (const [name, value] of Object.entries({ key, tag }))
    if (typeof value !== 'string' || value === '') throw new Error(`${where} needs "${name}", a text`)
  if (maxBytes !== undefined && !(Number.isSafeInteger(maxBytes) && maxBytes > 0))
    throw new Error(`${where}: "maxBytes" must be a whole number of bytes from 1 up`)
  if (typeof admin !== 'boolean') throw new Error(`${where}: "admin" must be true or false`)
  return { key, tag, maxBytes, admin }
}
