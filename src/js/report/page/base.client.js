// Shared by all parts of the page: the data, elements, number formats, colours, and the tooltip.

const data = JSON.parse(document.getElementById('data').textContent)
const { strings } = data

/** Returns the string at an index of the table; null for -1. */
const text = (at) => (at < 0 ? null : strings[at])
const $ = (id) => document.getElementById(id)

/** Makes an element. Children that are not elements become text, never HTML. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value)
    else if (key === 'style')
      for (const [property, of] of Object.entries(value)) element.style.setProperty(property, of)
    else element.setAttribute(key, value === true ? '' : value)
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

const count = (number) => Math.round(number).toLocaleString('en-US')

/** Formats bytes: "1.5 MiB". page.js defines `formatBytes`, the package's own. */
const bytes = (number) => (number < 0 ? '−' : '') + formatBytes(Math.abs(number)).replace(/ bytes?$/, ' B')

/** Formats a duration: "340 ms", "12.4 s", "3 min 5 s", "2 h 10 min", "3 d 4 h". */
function duration(ms) {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`
  if (ms < 1000) return `${Math.round(ms)} ms`
  const seconds = ms / 1000
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const pair = (large, largeUnit, small, smallUnit) =>
    `${Math.floor(large)} ${largeUnit} ${Math.floor(small)} ${smallUnit}`
  if (seconds < 3600) return pair(seconds / 60, 'min', seconds % 60, 's')
  if (seconds < 86400) return pair(seconds / 3600, 'h', (seconds / 60) % 60, 'min')
  return pair(seconds / 86400, 'd', (seconds / 3600) % 24, 'h')
}

const nanoseconds = (ns) => (ns < 1000 ? `${Math.round(ns)} ns` : duration(ns / 1e6))
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

const PALETTE = ['#5b86e5', '#2fb39c', '#e09f3e', '#b878d6', '#e0708d', '#8fae3f', '#46acd2', '#c98a63', '#8a8fe0']
const OTHERS = '#98a2b3'

/** Totals by tag of all holders, sorted by bytes. The first tags have palette colours. */
const tagTotals = data.held.byTag
const tagColours = new Map(
  tagTotals
    .filter(({ tag }) => tag >= 0)
    .slice(0, PALETTE.length)
    .map(({ tag }, at) => [tag, PALETTE[at]]),
)
/**
 * Returns a tag's colour. Tags beyond the palette get a pale colour by their index, so that neighbours in a map differ.
 */
const tagColour = (at) => tagColours.get(at) ?? (at < 0 ? OTHERS : `hsl(${(at * 47) % 360} 24% 64%)`)
const tagName = (at) => text(at) ?? '(no tag)'
const dot = (background) => el('i', { class: 'dot', style: { background } })

const empty = (...content) => el('p', { class: 'empty' }, ...content)
const code = (source) => el('code', {}, source)
/** Makes the note for a section that needs profiling. */
const profilingOff = (what) =>
  empty(`${what} `, code('manager.enableMemoryProfiling()'), ' starts recording; write the report again after a while.')

const pair = (name, value) => el('div', { class: 'pair' }, el('span', { class: 'soft' }, name), el('span', {}, value))

const tip = {
  show(x, y, ...content) {
    const box = $('tip')
    box.replaceChildren(...content.filter(Boolean))
    box.hidden = false
    const { width, height } = box.getBoundingClientRect()
    const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14
    const top = y + 14 + height > innerHeight - 8 ? y - 14 - height : y + 14
    box.style.transform = `translate(${Math.max(8, Math.min(left, innerWidth - width - 8))}px, ${Math.max(8, top)}px)`
  },
  hide() {
    $('tip').hidden = true
  },
}

/** Makes a canvas that calls `draw(context, width, height)` whenever its size or the theme changes. */
const drawings = new Set()
function drawing(attributes, height, draw) {
  const canvas = el('canvas', attributes)
  const redraw = () => {
    const width = canvas.clientWidth
    if (width === 0) return
    const tall = height(width)
    const ratio = devicePixelRatio
    canvas.style.height = `${tall}px`
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(tall * ratio)
    const context = canvas.getContext('2d')
    context.scale(ratio, ratio)
    draw(context, width, tall)
  }
  new ResizeObserver(redraw).observe(canvas)
  drawings.add(redraw)
  return { canvas, redraw }
}
