// Checks the built site. Every link of every page leads to a file and a place in it. In a browser, no guide and no
// class is wider than the window, writes to the console, or asks for anything from elsewhere. Needs Debian's package
// `chromium` (or CHROMIUM=/path/to/it).
//   node .ci/site/check.mjs [--shots DIRECTORY]

import { createServer } from 'node:http'
import { existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { extname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { openBrowser } from '../../__test__/support/browser.mjs'

const site = fileURLToPath(new URL('../../site', import.meta.url))
const { values } = parseArgs({ options: { shots: { type: 'string' } } })
if (values.shots !== undefined) mkdirSync(values.shots, { recursive: true })

const pages = readdirSync(site, { recursive: true }).filter((path) => path.endsWith('.html')).sort()
const texts = new Map(pages.map((page) => [page, readFileSync(join(site, page), 'utf8')]))
const idsOf = (page) => new Set([...texts.get(page).matchAll(/ id="([^"]+)"/g)].map(([, id]) => id))
const ids = new Map(pages.map((page) => [page, idsOf(page)]))
const decoded = (text) => decodeURIComponent(text.replaceAll('&amp;', '&'))

const faults = []
let links = 0
for (const [page, text] of texts) {
  for (const [, target] of text.matchAll(/ (?:href|src)="([^"]+)"/g)) {
    if (/^[a-z]+:/.test(target)) continue
    links += 1
    const [file, anchor] = target.split('#')
    const path = file === '' ? page : posix.normalize(posix.join(posix.dirname(page), decoded(file)))
    if (!existsSync(join(site, path))) faults.push(`${page}: ${target}: no such file`)
    else if (anchor && ids.get(path)?.has(decoded(anchor)) === false) faults.push(`${page}: ${target}: no such place`)
  }
}

const TYPES = { '.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml' }
const server = createServer(({ url }, response) => {
  const path = decodeURIComponent(new URL(url, 'http://localhost').pathname)
  const file = join(site, path === '/' ? 'index.html' : path)
  if (path === '/favicon.ico') return response.writeHead(204).end()
  if (!existsSync(file)) return response.writeHead(404).end()
  response.setHeader('content-type', TYPES[extname(file)] ?? 'application/octet-stream')
  return response.end(readFileSync(file))
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const origin = `http://127.0.0.1:${server.address().port}`

/** Pages of the reference are of few kinds: the classes stand for them. */
const seen = pages.filter((page) => /^(index\.html|documents\/|classes\/)/.test(page))

const browser = await openBrowser()
try {
  const window = await browser.newPage()
  let current = ''
  window.on('console', (message) => faults.push(`${current}: console: ${message.text()}`))
  window.on('pageerror', (error) => faults.push(`${current}: ${error.message}`))
  window.on('request', (request) => {
    const own = request.url().startsWith(origin) || request.url().startsWith('data:')
    if (!own) faults.push(`${current}: asks for ${request.url()}`)
  })
  for (const page of seen) {
    current = page
    await window.goto(`${origin}/${page.split('/').map(encodeURIComponent).join('/')}`)
    for (const width of [400, 1280]) {
      await window.setViewportSize({ width, height: 900 })
      const { wide, empty } = await window.evaluate(() => ({
        wide: document.documentElement.scrollWidth,
        empty: [...document.images].filter(({ naturalWidth }) => naturalWidth === 0).map(({ src }) => src),
      }))
      if (wide > width) faults.push(`${page}: ${wide} px wide in a window of ${width} px`)
      for (const image of empty) faults.push(`${page}: ${image} does not load`)
      if (values.shots !== undefined) {
        await window.screenshot({ path: join(values.shots, `${page.replaceAll('/', '-')}-${width}.png`) })
      }
    }
  }
} finally {
  await browser.close()
  server.close()
}
for (const fault of faults) console.error(fault)
console.log(`${pages.length} pages, ${links} links, ${seen.length} pages seen, ${faults.length} faults`)
if (faults.length > 0 || pages.length < 30) process.exitCode = 1
