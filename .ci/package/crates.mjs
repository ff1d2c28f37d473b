// The crates that are linked into the binaries, with their licences, from `cargo metadata`.

import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** Both platforms link the same crates; notices.mjs checks it. */
export const TARGETS = ['aarch64-unknown-linux-gnu', 'x86_64-unknown-linux-gnu']

function metadata(target) {
  const args = ['metadata', '--locked', '--format-version', '1', '--filter-platform', target]
  return JSON.parse(execFileSync('cargo', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 }))
}

/** Checksums of the crates' archives, by "name version", from Cargo.lock. */
function checksums() {
  const lock = readFileSync(join(root, 'Cargo.lock'), 'utf8')
  const pattern = /name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"/g
  return new Map([...lock.matchAll(pattern)].map(([, name, version, sum]) => [`${name} ${version}`, sum]))
}

/**
 * Returns the linked crates in the order of their names, without this package's own: those that normal dependencies
 * reach. Procedural macros run in the compiler, and are not linked.
 */
export function linkedCrates(target) {
  const { packages, resolve } = metadata(target)
  const byId = new Map(packages.map((one) => [one.id, one]))
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]))
  const isMacro = (id) => byId.get(id).targets.some(({ kind }) => kind.includes('proc-macro'))
  const linked = (id) =>
    nodes
      .get(id)
      .deps.filter(({ pkg, dep_kinds: kinds }) => kinds.some(({ kind }) => kind === null) && !isMacro(pkg))
      .map(({ pkg }) => pkg)
  const found = new Set()
  const queue = [resolve.root]
  for (let id; (id = queue.pop()) !== undefined;) {
    if (found.has(id)) continue
    found.add(id)
    queue.push(...linked(id))
  }
  found.delete(resolve.root)
  const sums = checksums()
  return [...found]
    .map((id) => {
      const { name, version, license, repository, authors, manifest_path: manifest } = byId.get(id)
      const reference = `pkg:cargo/${name}@${version}`
      return {
        // "MIT/Apache-2.0" is the older way to write it.
        name, version, license: (license ?? '').replace('/', ' OR '), repository, authors, reference,
        sha256: sums.get(`${name} ${version}`),
        folder: dirname(manifest),
        dependencies: linked(id).map((other) => `pkg:cargo/${byId.get(other).name}@${byId.get(other).version}`).sort(),
      }
    })
    .sort((a, b) => (a.reference < b.reference ? -1 : 1))
}

/** All crates of Cargo.lock, those for building and testing too: name, version, licence. */
export function allCrates() {
  const { packages } = metadata(TARGETS[0])
  return packages.map(({ name, version, license, source }) => ({ name, version, license, source }))
}

/** Returns the text of a crate's licence under MIT or ISC; undefined where the crate's archive has none. */
export function licenceText({ folder }) {
  const names = readdirSync(folder)
  const name = ['LICENSE-MIT', 'LICENSE'].find((one) => names.includes(one))
  return name === undefined ? undefined : readFileSync(join(folder, name), 'utf8')
}
