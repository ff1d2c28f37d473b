// Makes the packages' bills of materials: CycloneDX 1.6, without a time and a random serial number, so that the same
// sources give the same bytes.

import { linkedCrates } from './crates.mjs'

const npmUrl = (name, version) => `pkg:npm/${name.replace('@', '%40')}@${version}`
/** CycloneDX has an expression for "A OR B", and an identifier for one licence. */
const licences = (text) => (/ /.test(text) ? [{ expression: text }] : [{ license: { id: text } }])

function bill({ name, version, description, license }, components, dependencies) {
  const reference = npmUrl(name, version)
  const [group, own] = name.split('/')
  return {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      component: {
        type: 'library', 'bom-ref': reference, group, name: own, version, description, licenses: licences(license),
        purl: reference,
      },
    },
    components,
    dependencies: [{ ref: reference, dependsOn: components.map((one) => one['bom-ref']) }, ...dependencies],
  }
}

/** The bill of a platform's package: the crates that are linked into its binary. */
export function platformBill(manifest, target) {
  const crates = linkedCrates(target)
  const components = crates.map(({ name, version, license, reference, repository, sha256 }) => ({
    type: 'library', 'bom-ref': reference, name, version,
    hashes: [{ alg: 'SHA-256', content: sha256 }],
    licenses: licences(license),
    purl: reference,
    ...(repository === null ? {} : { externalReferences: [{ type: 'vcs', url: repository }] }),
  }))
  return bill(
    manifest,
    components,
    crates.map(({ reference, dependencies }) => ({ ref: reference, dependsOn: dependencies })),
  )
}

/** The bill of the main package: the packages of the binaries. */
export function mainBill(manifest, platforms) {
  const components = platforms.map(({ name, version, license }) => {
    const reference = npmUrl(name, version)
    const [group, own] = name.split('/')
    const licenses = licences(license)
    return {
      type: 'library', 'bom-ref': reference, group, name: own, version, scope: 'optional', licenses, purl: reference,
    }
  })
  return bill(manifest, components, [])
}
