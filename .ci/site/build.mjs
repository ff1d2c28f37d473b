// Builds the site of the documentation into the folder `site`: README, the pages that docs/README.md lists in their
// order, the design pages, and a reference of the types.
//   npm run docs

import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'

import { Application, Converter } from 'typedoc'

import { linksOf, pages } from '../../__test__/support/docs.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const out = join(root, 'site')

/** The pages that a page of docs links to, in order, as paths from the root. */
const listedIn = (page) => {
  const files = linksOf(page).map(({ target }) => target.split('#')[0])
  const paths = files.map((file) => posix.normalize(posix.join(posix.dirname(page), file)))
  return [...new Set(paths)].filter((path) => path.endsWith('.md'))
}

/** The group of a page in the navigation. */
function groupOf(path) {
  if (path.startsWith('docs/design/')) return 'Design'
  return path.startsWith('docs/') ? 'Guides' : 'Project'
}

const guides = listedIn('docs/README.md').filter((path) => path !== 'README.md' && path !== 'docs/design/README.md')
const design = ['docs/design/README.md', ...listedIn('docs/design/README.md')]
const documents = [...new Set(['docs/README.md', ...guides, ...design, 'CHANGELOG.md'])]
const missing = pages.filter((page) => page !== 'README.md' && !documents.includes(page))
if (missing.length > 0) throw new Error(`no index lists ${missing.join(', ')}`)

/** The first heading of each document. No two are equal. */
const titles = new Map(documents.map((path) => [path, /^# (.+)$/m.exec(readFileSync(join(root, path), 'utf8'))[1]]))
if (new Set(titles.values()).size < titles.size) throw new Error(`two pages have one title: ${[...titles.values()]}`)

const app = await Application.bootstrapWithPlugins({
  name: '@rkllmjs/memory',
  entryPoints: [join(root, 'index.d.ts')],
  tsconfig: join(root, 'tsconfig.json'),
  skipErrorChecking: true, // `npm run lint` checks them
  readme: join(root, 'README.md'),
  projectDocuments: documents.map((path) => join(root, path)),
  includeVersion: true,
  disableGit: true,
  disableSources: true,
  excludeExternals: true,
  excludePrivate: true,
  hideGenerator: true,
  githubPages: false,
  customCss: fileURLToPath(new URL('site.css', import.meta.url)),
  navigation: { includeGroups: true, includeCategories: false },
  groupOrder: ['Guides', 'Project', 'Design', '*'],
  sort: ['documents-first', 'alphabetical'],
  sortEntryPoints: false,
  highlightLanguages: ['console', 'csv', 'ini', 'javascript', 'json', 'rust', 'sh', 'typescript', 'yaml'],
  validation: { notExported: false, invalidLink: true, notDocumented: false },
  blockTags: ['@example', '@param', '@returns', '@throws', '@default', '@deprecated', '@see'],
})

/** Names a page by its first heading. */
app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_, document) => {
  const [, title] = /^# (.+)$/m.exec(document.content[0].text)
  document.name = title.replaceAll('`', '')
  document.frontmatter = { group: groupOf(documents.find((path) => titles.get(path) === title)) }
})

const project = await app.convert()
if (project === undefined) process.exit(1)
project.children.find(({ name }) => name === 'index').name = 'Reference'
// The page has the package's name as its heading already.
project.readme[0].text = project.readme[0].text.replace(/^# .+\n/, '')
app.validate(project)
await app.generateDocs(project, out)

// README is the first page, and a link to it is no download.
for (const name of readdirSync(out, { recursive: true }).filter((path) => path.endsWith('.html'))) {
  const file = join(out, name)
  const text = readFileSync(file, 'utf8')
  if (text.includes('media/README.md"')) writeFileSync(file, text.replaceAll('media/README.md"', 'index.html"'))
}
rmSync(join(out, 'media/README.md'), { force: true })

if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1)
console.log(`open ${join(out, 'index.html')}`)
