/**
 * Tests the HTML report in a real browser: its figures against the snapshot, and every interaction. Needs Debian's
 * `chromium` (or CHROMIUM=/path/to/it). --shots DIRECTORY saves screenshots.
 */

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

import { diffSnapshots } from '../../index.js'
import report from '../../src/js/report/index.js'
import { openBrowser } from '../support/browser.mjs'
import { nothing, sample, sourceOf } from './sample.mjs'

const MORE = 50_000
const HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="document.title = 1">'
const shots = process.argv.includes('--shots') ? process.argv[process.argv.indexOf('--shots') + 1] : null
if (shots !== null) mkdirSync(shots, { recursive: true })

const directory = mkdtempSync(join(tmpdir(), 'rkllm-report-'))
const browser = await openBrowser()
const heard = []

/** Opens a report, and records its console messages and network requests. */
async function open(name, { width = 1280, colorScheme = 'light' } = {}) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme })
  const url = pathToFileURL(join(directory, name)).href
  page.on('console', (message) => heard.push(`${name}: ${message.text()}`))
  page.on('pageerror', (error) => heard.push(`${name}: ${error.stack}`))
  page.on(
    'request',
    (request) =>
      request.url() !== url && !request.url().startsWith('data:') && heard.push(`${name}: asked for ${request.url()}`),
  )
  await page.goto(url)
  await page.waitForSelector('html[data-ready]')
  return page
}

const check = async (what, run) => {
  const started = performance.now()
  await run()
  console.log(`ok - ${what} (${Math.round(performance.now() - started)} ms)`)
}

try {
  const source = sample({ more: MORE, tag: HOSTILE })
  const { snapshot, profile } = source
  await report.writeReport(join(directory, 'full.html'), sourceOf(source))
  await report.writeReport(join(directory, 'empty.html'), sourceOf(nothing()))
  const blocks = snapshot.pools.flatMap(({ name, kind, chunkMaps }) =>
    chunkMaps.flatMap(({ blocks }) =>
      blocks.filter(({ id }) => id !== null).map((block) => ({ ...block, pool: name, kind })),
    ),
  )
  const holders = [...snapshot.buffers, ...blocks]
  const sum = (list) => list.reduce((total, { size }) => total + size, 0)

  let page
  await check(`opens with ${holders.length} holders`, async () => {
    page = await open('full.html')
  })

  await check('its figures are those of the snapshot', async () => {
    for (const stat of ['npuUsed', 'systemUsed', 'poolReserved', 'liveAllocations']) {
      assert.equal(Number(await page.getAttribute(`[data-stat="${stat}"]`, 'data-value')), snapshot.stats[stat], stat)
    }
    assert.equal(await page.isVisible('#simulated'), true)
    const tags = new Map(holders.map(({ tag }) => [tag, 0]))
    for (const { tag, size } of holders) tags.set(tag, tags.get(tag) + size)
    const bars = await page.$$eval('#tag-bars .row', (rows) =>
      rows.map(({ dataset }) => [dataset.tag, Number(dataset.value)]),
    )
    assert.deepEqual(new Map(bars), new Map([...tags].map(([tag, total]) => [tag ?? '(no tag)', total])))
    const fragmentation = await page.$$eval('[data-fragmentation]', (all) =>
      all.map(({ dataset }) => Number(dataset.fragmentation)),
    )
    assert.deepEqual(
      fragmentation,
      snapshot.pools.map((pool) => pool.fragmentation),
    )
    assert.equal(await page.getAttribute('#holders-note', 'data-bytes'), String(sum(holders)))
    const roots = await page.$$eval('#flame button', ([root]) => Number(root.dataset.value))
    assert.equal(
      roots,
      profile.callSites.reduce((total, { liveBytes }) => total + liveBytes, 0),
    )
  })

  await check('a hostile tag is only a name', async () => {
    assert.match(await page.title(), /^Memory report/)
    assert.equal(await page.locator('#tag-bars').getByText(HOSTILE).count(), 1)
    assert.equal(await page.locator('img').count(), 0)
  })

  const first = (key) => page.textContent(`#holder-table .tr[data-at="0"] [data-key="${key}"]`)
  await check('the table sorts by every column, both ways', async () => {
    const least = (key) => holders.reduce((a, b) => (b[key] < a[key] ? b : a))
    const greatest = (key) => holders.reduce((a, b) => (b[key] > a[key] ? b : a))
    assert.equal(await first('id'), String(greatest('size').id))
    await page.click('#holder-table [data-sort="size"]')
    assert.equal(await page.getAttribute('#holder-table .th:has([data-sort="size"])', 'aria-sort'), 'ascending')
    assert.equal(await first('size'), `${least('size').size} B`)
    await page.click('#holder-table [data-sort="id"]')
    assert.equal(await first('id'), String(greatest('id').id))
    await page.click('#holder-table [data-sort="id"]')
    assert.equal(await first('id'), String(least('id').id))
    await page.click('#holder-table [data-sort="tag"]')
    assert.equal((await first('tag')).trim(), HOSTILE)
    await page.click('#holder-table [data-sort="age"]')
    const aged = snapshot.buffers.reduce((a, b) => (b.allocatedAt < a.allocatedAt ? b : a))
    assert.equal(await first('id'), String(aged.id))
    await page.click('#holder-table [data-sort="pool"]')
    assert.equal(await first('pool'), 'kv-cache')
    await page.click('#holder-table [data-sort="kind"]')
    assert.equal(await first('kind'), 'npu')
    await page.click('#holder-table [data-sort="size"]')
    assert.ok((await page.locator('#holder-table .body .tr').count()) < 60, 'only what is in sight is drawn')
  })

  await check('the filter, and what a row tells', async () => {
    await page.fill('#holder-filter', 'kv-cache system')
    const words = ({ tag, pool, kind, stack }) => [tag, pool, kind, stack].join('\n').toLowerCase()
    const found = holders.filter((holder) => words(holder).includes('kv-cache') && words(holder).includes('system'))
    assert.ok(found.length > 0 && found.length < holders.length)
    assert.equal(await page.getAttribute('#holders-note', 'data-count'), String(found.length))
    assert.equal(await page.getAttribute('#holders-note', 'data-bytes'), String(sum(found)))
    const { id, address, stack } = snapshot.buffers[2]
    await page.fill('#holder-filter', String(id))
    assert.equal(await page.getAttribute('#holders-note', 'data-count'), '1', 'an id is found as a whole')
    await page.click('#holder-table .tr[data-at="0"]')
    const detail = await page.textContent('#holder-detail')
    for (const part of [String(id), `0x${address.toString(16)}`, stack]) assert.ok(detail.includes(part), part)
    await page.fill('#holder-filter', 'nothing has this')
    assert.equal(await page.getAttribute('#holders-note', 'data-count'), '0')
    await page.fill('#holder-filter', '')
  })

  await check('the keyboard goes through the table', async () => {
    await page.focus('#holder-table .scroll')
    await page.keyboard.press('End')
    assert.equal(
      await page.getAttribute('#holder-table .tr[aria-selected="true"]', 'aria-rowindex'),
      String(holders.length + 1),
    )
    await page.keyboard.press('Home')
    await page.keyboard.press('ArrowDown')
    assert.equal(await page.getAttribute('#holder-table .tr[aria-selected="true"]', 'data-at'), '1')
  })

  await check('a block tells its size, id, tag and stack, to the pointer and to the keyboard', async () => {
    const map = page.locator('[data-pool="scratch"] canvas')
    const { size, blocks } = snapshot.pools[1].chunkMaps[0]
    const known = blocks.findIndex(({ id, size: bytes }) => id !== null && bytes > 8000)
    const { offset, size: bytes, id, stack } = blocks[known]
    await map.scrollIntoViewIfNeeded()
    const { x, y, width, height } = await map.boundingBox()
    assert.ok(height < 20, 'one line')
    await page.mouse.move(x + ((offset + bytes / 2) / size) * width, y + height / 2)
    const told = await page.textContent('#tip')
    for (const part of [String(id), bytes.toLocaleString('en-US'), stack])
      assert.ok(told.includes(part), `${part} in ${told}`)
    if (shots !== null) await page.screenshot({ path: join(shots, 'block.png') })
    await page.mouse.move(0, 0)
    assert.equal(await page.isVisible('#tip'), false)
    await map.focus()
    await page.keyboard.press('Home')
    assert.ok((await page.textContent('#tip')).includes(blocks[0].size.toLocaleString('en-US')))
    await page.keyboard.press('Escape')
  })

  await check('the flame graph zooms, measures and finds', async () => {
    const bar = (name) => page.locator(`#flame button[data-name^="${name} "]`)
    const live = (name) =>
      profile.callSites
        .filter(({ stack }) => stack.includes(`at ${name} `))
        .reduce((total, { liveBytes }) => total + liveBytes, 0)
    assert.equal(Number(await bar('Decoder.step').getAttribute('data-value')), live('Decoder.step'))
    await bar('Session.open').click()
    assert.equal(await bar('Decoder.step').count(), 0)
    await page.keyboard.press('Escape')
    assert.equal(await bar('Decoder.step').count(), 1)
    await page.click('[data-metric="totalCount"]')
    const total = profile.callSites.reduce((all, { totalCount }) => all + totalCount, 0)
    assert.equal(Number(await page.locator('#flame button').first().getAttribute('data-value')), total)
    await page.fill('#flame-search', 'vision')
    assert.equal(await page.locator('#flame button:not(.dim)').count(), 3, 'two functions and the tag')
    await page.fill('#flame-search', '')
  })

  await check('events by type and words', async () => {
    const shown = async () => Number(await page.getAttribute('#events-note', 'data-count'))
    assert.equal(await shown(), profile.events.length)
    await page.click('[data-type="allocate"]')
    assert.equal(await shown(), profile.events.filter(({ type }) => type !== 'allocate').length)
    await page.fill('#event-filter', 'logits')
    assert.equal(
      await shown(),
      profile.events.filter(({ type, tag }) => type !== 'allocate' && tag === 'logits').length,
    )
  })

  await check('the timeline tells its points', async () => {
    await page.focus('#timeline-chart canvas')
    await page.keyboard.press('ArrowRight')
    const MiB = 1024 * 1024
    const { npuUsed } = profile.timeline[0]
    assert.ok((await page.textContent('#tip')).includes(String(Math.floor(npuUsed / MiB))))
    await page.keyboard.press('Escape')
  })

  await check('what was alive tells each tag, and the allocations at the peak', async () => {
    const { alive } = JSON.parse(await page.textContent('#data'))
    assert.equal(await page.getAttribute('#alive-note', 'data-peak'), String(alive.peak.bytes))
    assert.equal(alive.peak.bytes, Math.max(...alive.total))
    await page.focus('#alive-chart canvas')
    await page.keyboard.press('p')
    const told = await page.textContent('#tip')
    assert.match(told, /the peak/)
    for (const tag of ['kv-cache', 'weights', '(no tag)']) assert.ok(told.includes(tag), told)
    await page.keyboard.press('Home')
    assert.doesNotMatch(await page.textContent('#tip'), /the peak/)
    await page.keyboard.press('Escape')
    assert.equal(await page.isVisible('#tip'), false)
    const chart = page.locator('#alive-chart canvas')
    const { width } = await chart.boundingBox()
    // Scrolls to the chart: the mouse reaches only what is in view.
    await chart.hover({ position: { x: width / 2, y: 100 } })
    await page.waitForSelector('#tip', { state: 'visible' })
    await page.mouse.move(0, 0)
    const largest = Number(await page.getAttribute('#alive-peak [role="grid"]', 'aria-rowcount')) - 1
    assert.equal(largest, Math.min(1000, alive.peak.count))
  })

  await check('limits, refusals, reservations, domains, descriptors, waits and pins', async () => {
    const { usage } = source
    const row = (table, name) => page.locator(`${table} tr`, { hasText: name }).first().textContent()
    assert.match(await row('#limit-table', 'tag logits'), /40 MiB.*\d %.*1$/)
    assert.match(await row('#limit-table', 'NPU memory'), /300 MiB.*\d %.*1$/)
    assert.match(await row('#limit-table', 'pool scratch'), /16 MiB16 MiB100 %/)
    assert.equal(await page.getAttribute('#limits-note', 'data-refused'), '1')
    assert.match(await row('#reservation-table', 'weights of librkllmrt'), /npu128 MiB/)
    assert.match(await row('#domain-table', '4 GiB'), /^0.*128 MiB4 GiB/)
    const figures = await page.textContent('#process-list')
    const { openFds, maxFds } = usage.process
    for (const part of [`${openFds} of ${maxFds.toLocaleString('en-US')}`, 'pinned blocks1, 4 KiB', 'that wait'])
      assert.ok(figures.includes(part), `${part} in ${figures}`)
    assert.equal(await page.locator('#process-list dt', { hasText: 'dropped by JavaScript' }).count(), 1)
  })

  await check('two snapshots: what grew, what was added and what is gone', async () => {
    const { snapshot: before } = sample()
    const diff = diffSnapshots(before, snapshot)
    await report.writeDiff(join(directory, 'diff.html'), before, sourceOf(source))
    for (const options of [{}, { width: 400, colorScheme: 'dark' }]) {
      const compared = await open('diff.html', options)
      const growths = await compared.$$eval('#tag-growth [data-growth]', (all) =>
        all.map(({ dataset }) => Number(dataset.growth)),
      )
      assert.deepEqual(growths, diff.byTag.map(({ growth }) => growth))
      assert.equal(await compared.getAttribute('#added-note', 'data-count'), String(diff.added.length))
      assert.equal(await compared.getAttribute('#gone-note', 'data-count'), String(diff.gone.length))
      assert.equal(Number(await compared.getAttribute('[data-stat="npuUsed"]', 'data-value')), diff.npuUsed)
      await compared.fill('#added-filter', 'kv-cache')
      await compared.focus('#added-table .scroll')
      await compared.keyboard.press('Home')
      assert.match(await compared.textContent('#added-detail'), /kv-cache/)
      assert.equal(await compared.evaluate(() => document.documentElement.scrollWidth), options.width ?? 1280)
      if (shots !== null)
        await compared.screenshot({ path: join(shots, `diff-${options.width ?? 1280}.png`), fullPage: true })
      await compared.close()
    }
  })

  await check('the theme: what the system wants, then what the user does', async () => {
    const background = (of) => of.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const light = await background(page)
    await page.click('#theme')
    const dark = await background(page)
    assert.notEqual(light, dark)
    const night = await open('full.html', { colorScheme: 'dark' })
    assert.equal(await background(night), dark)
    if (shots !== null) await night.screenshot({ path: join(shots, 'dark.png'), fullPage: true })
    await night.click('#theme')
    assert.equal(await background(night), light)
    if (shots !== null) await night.screenshot({ path: join(shots, 'light.png'), fullPage: true })
    await night.close()
  })

  await check('400 px, and every other width, without overflow', async () => {
    const narrow = await open('full.html', { width: 400 })
    for (const width of [320, 400, 640, 900, 1280, 1920]) {
      await narrow.setViewportSize({ width, height: 900 })
      assert.equal(await narrow.evaluate(() => document.documentElement.scrollWidth), width)
    }
    await narrow.setViewportSize({ width: 400, height: 900 })
    const beyond = await narrow.$$eval('main *, header *', (all) =>
      all
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('#flame, .skip'))
        .map((one) => one.outerHTML.slice(0, 120)),
    )
    assert.deepEqual(beyond, [])
    if (shots !== null) await narrow.screenshot({ path: join(shots, '400px.png'), fullPage: true })
    await narrow.close()
  })

  await check('nothing to report: it says so, and what to call', async () => {
    const bare = await open('empty.html')
    assert.equal(await bare.locator('.empty').count(), 10)
    assert.ok((await bare.locator('.empty', { hasText: 'manager.enableMemoryProfiling()' }).count()) >= 4)
    if (shots !== null) await bare.screenshot({ path: join(shots, 'empty.png'), fullPage: true })
    await bare.close()
  })

  await check('it asked for nothing, and its console is silent', async () => assert.deepEqual(heard, []))
} finally {
  await browser.close()
  rmSync(directory, { recursive: true })
}
