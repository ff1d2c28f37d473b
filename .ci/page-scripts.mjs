// Writes the scripts of the report's page into one JSON file of the package, src/js/report/page/scripts.json. A bundle
// has no files beside it, and so takes the scripts from there.
//   node .ci/page-scripts.mjs [ROOT]

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [, , root = fileURLToPath(new URL('..', import.meta.url))] = process.argv
const folder = join(root, 'src/js/report/page')
const names = readdirSync(folder).filter((name) => name.endsWith('.client.js'))
const scripts = names.map((name) => [name.replace('.client.js', ''), readFileSync(join(folder, name), 'utf8')])
writeFileSync(join(folder, 'scripts.json'), `${JSON.stringify(Object.fromEntries(scripts))}\n`)
