// Makes the pictures of docs/images from the simulated device: the report of the demo, and a frame of `top`. Needs
// Debian's package `chromium` (or CHROMIUM=/path/to/it).
//   npm run docs:pictures

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

import { openBrowser } from '../../__test__/support/browser.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const images = join(root, 'docs/images')
const scratch = mkdtempSync(join(tmpdir(), 'rkllm-pictures-'))
/** The socket of the server is this program's own, and `top` finds no other. */
const env = { ...process.env, XDG_RUNTIME_DIR: scratch, FORCE_COLOR: '1', NODE_NO_WARNINGS: '1' }
const node = (...args) => execFileSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' })

const CLASSES = { 1: 'bold', 2: 'dim', 7: 'inverse', 31: 'red', 32: 'green', 33: 'yellow', 36: 'cyan' }

/** Makes HTML of a terminal's text: each escape that begins a style opens an element, each other one closes it. */
const htmlOf = (text) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replace(/\x1b\[(\d+)m/g, (_, code) => (code in CLASSES ? `<b class="${CLASSES[code]}">` : '</b>'))

const terminalPage = (text) => `<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; background: #14171c }
  pre { display: inline-block; margin: 0; padding: 14px 18px; color: #d5dae1; background: #14171c;
        font: 14px/1.35 "DejaVu Sans Mono", monospace }
  b { font-weight: normal } .bold { font-weight: bold; color: #fff } .dim { color: #8b95a3 }
  .red { color: #ff7b72 } .green { color: #57c96b } .yellow { color: #e3b341 } .cyan { color: #56d4dd }
  .inverse { color: #14171c; background: #d5dae1 }
</style><pre>${htmlOf(text.trimEnd())}</pre>`

/** Runs the server, and returns the frame that `top` prints beside it. */
async function topFrame() {
  const server = spawn(process.execPath, [join(root, '.ci/site/server.mjs')], { cwd: root, env })
  try {
    await once(server.stdout, 'data')
    return node('src/js/cli/main.js', 'top', '--once')
  } finally {
    server.kill()
  }
}

const browser = await openBrowser()
try {
  const report = join(scratch, 'memory.html')
  node('examples/demo/main.mjs', '--requests', '600', '--report', report)
  const page = await browser.newPage({ viewport: { width: 1120, height: 860 }, colorScheme: 'light' })
  await page.goto(pathToFileURL(report).href)
  await page.waitForSelector('html[data-ready]')
  await page.screenshot({ path: join(images, 'report.png') })

  const terminal = await browser.newPage()
  await terminal.setContent(terminalPage(await topFrame()))
  await terminal.locator('pre').screenshot({ path: join(images, 'top.png') })
} finally {
  await browser.close()
  rmSync(scratch, { recursive: true })
}
