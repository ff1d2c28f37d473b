// Opens Chromium without a window: Debian's package `chromium`, or CHROMIUM=/path/to/it.

import { existsSync } from 'node:fs'

import { chromium } from 'playwright-core'

const QUIET = [
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** Returns the browser. Ends the process with a message if there is none. */
export async function openBrowser() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  if (!existsSync(executablePath)) {
    console.error(`${executablePath} is missing: apt-get install chromium, or set CHROMIUM to a Chromium's path`)
    process.exit(1)
  }
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', ...QUIET] })
}
