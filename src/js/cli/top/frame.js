'use strict'

// Renders one frame of `top` as lines of text for a width and a height. Reads no data and writes to no terminal.

const { basename } = require('node:path')
const { bar, bytes, clip, columns, pad, padLeft, plain, visible, wrap } = require('../style.js')

/**
 * @typedef {import('../../types/stats.js').MemoryUsage} MemoryUsage
 * @typedef {import('../style.js').Paint} Paint
 * @typedef {ReturnType<typeof import('./machine.js').machineOf>} Machine
 * @typedef {import('./machine.js').Holder} Holder
 *
 * @typedef {{ about: any, usage: MemoryUsage }} Manager the response of an inspect socket
 * @typedef {{ machine: Machine, managers: any[], silent: number, holders: Holder[], pid?: number }} Data
 *
 * @typedef {object} View
 * @property {string} sort
 * @property {number} chosen
 * @property {number} width
 * @property {number} height
 * @property {Paint} paint
 * @property {boolean} interactive
 * @property {string} time
 * @property {number[]} [history] the chosen manager's NPU bytes at the last refreshes, the newest last
 * @property {boolean} [help] shows the keys in place of the figures
 */

/** @type {Record<string, (a: Manager, b: Manager) => number>} */
const SORTS = {
  npu: (a, b) => b.usage.npu.used - a.usage.npu.used,
  system: (a, b) => b.usage.system.used - a.usage.system.used,
  live: (a, b) => liveOf(b) - liveOf(a),
  pid: (a, b) => a.about.pid - b.about.pid,
}
const ORDER = Object.keys(SORTS)
const BAR = 30
const NAME = 24
const KEYS = 'q quit   ↑↓ select   s sort   ? help'
const HELP = [
  ['q', 'quit; so does Ctrl-C'],
  ['↑ ↓', 'select a manager: the list scrolls, and its details are below'],
  ['s', 'change the order of the list'],
  ['?', 'show or hide this text'],
  ['Ctrl-Z', 'suspend'],
]
/** The fewest rows of the list of managers when it scrolls. */
const MIN_LIST = 3
/** The rows that a scrolling list leaves for the details. */
const DETAIL_ROWS = 8
/** Columns of the list of managers that a narrow terminal leaves out, the least wanted first. */
const OPTIONAL = ['FDS', 'POOLS', 'PEAK', 'live', 'system', 'npu']
/** The most rows of a table; further rows are only counted. */
const MAX_ROWS = 8

/** @param {Pick<Manager, 'usage'>} manager */
const liveOf = ({ usage }) => usage.npu.liveAllocations + usage.system.liveAllocations

/**
 * Returns the managers in the order of the list.
 *
 * @type {(managers: Manager[], sort: string) => Manager[]}
 */
const sorted = (managers, sort) =>
  [...managers].sort((a, b) => SORTS[sort](a, b) || a.about.pid - b.about.pid || a.about.manager - b.about.manager)

/**
 * @param {Data} data
 * @param {View} view
 */
function frame(data, view) {
  const lines = view.help ? helpLines(data, view) : figureLines(data, view)
  const room = roomOf(view)
  const fitting =
    lines.length > room
      ? [...lines.slice(0, room - 1), view.paint.dim(`… ${lines.length - room + 1} more lines: enlarge the window`)]
      : lines
  const all = view.interactive
    ? [...fitting, ...Array(Math.max(0, room - fitting.length)).fill(''), view.paint.dim(KEYS)]
    : fitting
  return all.map((line) => clip(plain(line), view.width))
}

/**
 * The lines for figures: all but the last, which has the keys.
 *
 * @param {View} view
 */
const roomOf = (view) => (view.interactive ? view.height - 1 : Infinity)

/**
 * @param {Data} data
 * @param {View} view
 */
function helpLines(data, view) {
  const rows = HELP.map(([key, text]) => `  ${key.padEnd(8)}${wrap(text, view.width - 10).join(`\n${' '.repeat(10)}`)}`)
  return [...title(data, view), '', ...rows.flatMap((row) => row.split('\n'))]
}

/**
 * @param {Data} data
 * @param {View} view
 */
function figureLines(data, view) {
  const { managers, holders, silent } = data
  const listed = sorted(managers, view.sort)
  const at = Math.min(view.chosen, listed.length - 1)
  const chosen = listed[at]
  const above = [...title(data, view), ...machineLines(data.machine, view), '']
  const below = [
    ...(chosen === undefined ? [] : detail(chosen, view)),
    ...(holders.length === 0 ? [] : ['', ...holderLines(holders, view)]),
  ]
  const taken = above.length + 1 + (silent > 0 ? 1 : 0) + Math.min(below.length, DETAIL_ROWS)
  const rows = Math.max(MIN_LIST, roomOf(view) - taken)
  const first = Math.max(0, Math.min(at - Math.floor(rows / 2), listed.length - rows))
  return [...above, ...managerLines(listed, chosen, silent, view, { first, rows, pid: data.pid }), ...below]
}

/**
 * @param {Data} data
 * @param {View} view
 */
function title({ machine }, { paint, width, time }) {
  const what = [machine.board, machine.soc, machine.driver].filter(Boolean).join(' · ') || 'no NPU on this machine'
  const left = `rkllm-memory top   ${clip(plain(what), Math.max(0, width - 20 - time.length - 2))}`
  return [paint.bold(left) + padLeft(time, width - visible(left))]
}

/** @type {Record<'total' | 'available' | 'swapTotal' | 'swapFree' | 'cmaTotal' | 'cmaFree', number | null>} */
const UNKNOWN_MEMORY = {
  total: null,
  available: null,
  swapTotal: null,
  swapFree: null,
  cmaTotal: null,
  cmaFree: null,
}

/**
 * @param {Machine} machine
 * @param {View} view
 */
function machineLines({ memory, pressure, load }, { paint, width: columns }) {
  const lines = []
  const long = Math.max(8, Math.min(BAR, columns - 50))
  const { total, available, swapTotal, swapFree, cmaTotal, cmaFree } = { ...UNKNOWN_MEMORY, ...memory }
  if (total !== null && available !== null) {
    const used = total - available
    const room = columns >= 60
    const hasSwap = swapTotal !== null && swapFree !== null && swapTotal > 0
    const swap = hasSwap && room ? `   swap ${bytes(swapTotal - swapFree)} of ${bytes(swapTotal)}` : ''
    lines.push(`RAM  ${gauge(used / total, long, paint)}  ${bytes(used)} of ${bytes(total)}${swap}`)
  }
  if (cmaTotal !== null && cmaFree !== null && cmaTotal > 0) {
    const used = cmaTotal - cmaFree
    lines.push(`CMA  ${gauge(used / cmaTotal, long, paint)}  ${bytes(used)} of ${bytes(cmaTotal)}`)
  }
  if (load !== null) {
    const width = load.length === 1 ? long : 8
    const cores = load.map((share, core) => {
      const name = load.length === 1 ? '' : `${core} `
      const figure = `${String(share).padStart(3)} %`
      return columns < 60 && load.length > 1 ? name + figure : `${name}${gauge(share / 100, width, paint)} ${figure}`
    })
    lines.push(`NPU  ${cores.join('   ')}`)
  }
  if (pressure !== null)
    lines.push(`PSI  some ${pressure.some} %, full ${pressure.full} % of the last 10 s waited for memory`)
  return lines
}

/**
 * Draws a bar that turns yellow above 80 % and red above 95 %.
 *
 * @param {number} share
 * @param {number} width
 * @param {Paint} paint
 */
function gauge(share, width, paint) {
  const color = share > 0.95 ? paint.red : share > 0.8 ? paint.yellow : paint.green
  return color(bar(share, width))
}

/**
 * @param {Manager[]} listed
 * @param {Manager | undefined} chosen
 * @param {number} silent
 * @param {View} view
 * @param {{ first: number, rows: number, pid: number | undefined }} part the rows that fit, and the only process
 */
function managerLines(listed, chosen, silent, { paint, sort, interactive, width }, { first, rows, pid }) {
  if (listed.length === 0 && silent === 0) {
    const whose = pid === undefined ? 'None of your managers' : `No manager of process ${pid}`
    const text = `${whose} can be inspected. Create one with new MemoryManager({ inspect: true }).`
    return wrap(text, width).map((line) => paint.dim(line))
  }
  const shown = listed.slice(first, first + rows)
  const count = shown.length < listed.length ? ` ${first + 1}–${first + shown.length} of ${listed.length}` : ''
  const cells = managerColumns(shown, count, (name) => (name === sort && interactive ? '▾' : ' '))
  const left = [...OPTIONAL.filter((name) => name !== sort)]
  const aligned = () => columns(cells[0].cells.map((_, row) => cells.map((column) => column.cells[row])), { left: 2 })
  let table = aligned()
  while (visible(table[0]) > width && left.length > 0) {
    const least = left.shift()
    const index = cells.findIndex(({ name }) => name === least)
    cells.splice(index, 1)
    table = aligned()
  }
  const over = Math.max(...table.map(visible)) - width
  if (over > 0) {
    const names = cells[1].cells
    const room = Math.max(8, Math.max(...names.map(visible)) - over)
    cells[1].cells = names.map((name) => clip(name.trimEnd(), room))
    table = aligned()
  }
  const lines = table.map((row, at) => {
    if (at === 0) return paint.dim(row)
    return shown[at - 1] === chosen && interactive
      ? paint.inverse(row + ' '.repeat(Math.max(0, width - visible(row))))
      : row
  })
  if (silent > 0)
    lines.push(paint.yellow(`${silent} more ${silent === 1 ? 'does' : 'do'} not respond: the event loop is busy`))
  return lines
}

/**
 * The columns of the list of managers, each with its head.
 *
 * @param {Manager[]} shown
 * @param {string} count of managers, where not all are shown
 * @param {(name: string) => string} mark of the column that sorts
 */
function managerColumns(shown, count, mark) {
  /** @type {Array<[name: string, head: string, cell: (manager: Manager) => string]>} */
  const all = [
    ['pid', `PID${mark('pid')}`, ({ about }) => String(about.pid)],
    ['MANAGER', `MANAGER${count}`, ({ about }) => pad(clip(plain(nameOf(about)), NAME), NAME)],
    ['npu', `${mark('npu')}NPU`, ({ usage }) => bytes(usage.npu.used)],
    ['PEAK', 'PEAK', ({ usage }) => bytes(usage.npu.peak)],
    ['system', `${mark('system')}SYSTEM`, ({ usage }) => bytes(usage.system.used)],
    ['POOLS', 'POOLS', ({ usage }) => bytes(usage.pools.reduce((sum, { reserved }) => sum + reserved, 0))],
    ['live', `${mark('live')}LIVE`, ({ usage }) => String(liveOf({ usage }))],
    ['FDS', 'FDS', ({ usage }) => (usage.process.openFds === null ? '–' : String(usage.process.openFds))],
  ]
  return all.map(([name, head, cell]) => ({ name, cells: [head, ...shown.map(cell)] }))
}

/**
 * Names a manager: "server.mjs", and "server.mjs 1" for the second one of a process.
 *
 * @param {{ program: string | null, manager: number }} about
 */
const nameOf = ({ program, manager }) =>
  (program === null ? '?' : basename(program)) + (manager > 0 ? ` ${manager}` : '')

/**
 * @param {Manager} manager
 * @param {View} view
 */
function detail({ about, usage }, { paint, width, history = [] }) {
  const { npu } = usage
  const device = [about.device.backend, about.device.soc, about.device.driverVersion].filter(Boolean).join(' ')
  const facts = [
    ...(about.thread > 0 ? [`thread ${about.thread}`] : []),
    `${npu.objects} kernel objects`,
    ...(npu.pendingFree > 0 ? [`${bytes(npu.pendingFree)} being freed`] : []),
    ...(npu.sramTotal > 0 ? [`SRAM ${bytes(npu.sramTotal - npu.sramFree)} of ${bytes(npu.sramTotal)}`] : []),
    ...(npu.limit === null ? [] : [`limit ${bytes(npu.limit)}`]),
  ]
  const shown = history.slice(-Math.max(2, width - 30))
  const sections = [
    modelLines(usage),
    poolLines(usage),
    tagLines(usage),
    domainLines(usage, paint),
    reservationLines(usage),
  ].filter((lines) => lines.length > 0)
  return [
    '',
    paint.bold(clip(`${about.pid} ${nameOf(about)}`, Math.max(12, width - visible(device) - 5))) + `  on ${device}`,
    clip(`  ${facts.join(', ')}`, width),
    ...(history.length < 2 ? [] : [`  NPU  ${spark(shown)}  up to ${bytes(Math.max(...shown))}`]),
    ...sections.flatMap(([head, ...rows]) => [paint.dim(head), ...rows]),
  ]
}

const STEPS = '▁▂▃▄▅▆▇█'

/**
 * Draws one character for each figure, as high as its share of the largest.
 *
 * @param {number[]} figures
 */
function spark(figures) {
  const most = Math.max(...figures, 1)
  return figures.map((figure) => STEPS[Math.round((figure / most) * (STEPS.length - 1))]).join('')
}

/** @param {string[]} rows */
function limited(rows) {
  if (rows.length <= MAX_ROWS) return rows
  return [...rows.slice(0, MAX_ROWS - 1), `  … and ${rows.length - MAX_ROWS + 1} more`]
}

/**
 * @param {string[]} head
 * @param {string[][]} rows
 */
function table(head, rows) {
  if (rows.length === 0) return []
  const [first, ...rest] = columns([head, ...rows])
  return [first, ...limited(rest)]
}

/** @param {MemoryUsage} usage of a manager of this version, or of an older one without models */
function modelLines({ models = [] }) {
  const known = (/** @type {number | null} */ figure) => (figure === null ? '–' : bytes(figure))
  const rows = models.map(({ name, state, domain, bytes: of, leases, waiting, idleMs, loads, evictions }) => [
    `  ${clip(plain(name), 20)}`,
    of.stuck > 0 ? `${state} ${bytes(of.stuck)}` : state,
    bytes(of.estimated),
    bytes(of.reserved),
    known(of.measured),
    domain === null ? '–' : String(domain),
    waiting > 0 ? `${leases} +${waiting}` : String(leases),
    idleMs === null ? '–' : `${Math.round(idleMs / 1000)} s`,
    String(loads),
    String(evictions),
  ])
  const head = ['ESTIMATED', 'RESERVED', 'MEASURED', 'DOMAIN', 'LEASES', 'IDLE', 'LOADS', 'EVICTED']
  return table(['  MODEL', 'STATE', ...head], rows)
}

/** @param {MemoryUsage} usage */
function poolLines({ pools }) {
  const byte = [...pools].sort((a, b) => b.reserved - a.reserved)
  const rows = byte.map((pool) => [
    `  ${clip(plain(pool.name), 20)}`,
    bytes(pool.reserved),
    bytes(pool.allocated),
    bytes(pool.largestFree),
    pool.fragmentation.toFixed(2),
    String(pool.liveAllocations),
  ])
  return table(['  POOL', 'RESERVED', 'ALLOCATED', 'LARGEST FREE', 'FRAGM.', 'LIVE'], rows)
}

/** @param {MemoryUsage} usage */
function tagLines({ tags }) {
  const entries = Object.entries(tags).sort(([, a], [, b]) => b.used - a.used)
  return table(
    ['  TAG', 'USED', 'PEAK', 'LIVE', 'FAILED'],
    entries.map(([tag, of]) => [
      `  ${clip(plain(tag), 30)}`,
      bytes(of.used),
      bytes(of.peak),
      String(of.liveAllocations),
      String(of.failedAllocations),
    ]),
  )
}

/**
 * @param {MemoryUsage} usage
 * @param {Paint} paint
 */
function domainLines({ npu: { domains } }, paint) {
  const used = domains.filter((domain) => domain.used + domain.reservedForOthers > 0)
  if (used.length === 0) return []
  const rows = used.map(({ id, total, used: own, reservedForOthers }) => {
    const taken = own + reservedForOthers
    const others = reservedForOthers > 0 ? `, ${bytes(reservedForOthers)} for others` : ''
    const figures = `${bytes(taken)} of ${bytes(total)}${others}`
    return `  ${String(id).padStart(2)}  ${gauge(taken / total, BAR - 4, paint)}  ${figures}`
  })
  return ['  IOMMU DOMAIN', ...limited(rows)]
}

/** @param {MemoryUsage} usage */
function reservationLines({ reservations }) {
  return table(
    ['  RESERVED FOR', 'KIND', 'SIZE'],
    reservations.map(({ tag, kind, size }) => [`  ${clip(plain(tag ?? 'no tag'), 30)}`, kind, bytes(size)]),
  )
}

/**
 * @param {Holder[]} holders
 * @param {View} view
 */
function holderLines(holders, { paint }) {
  const rows = holders.map(({ pid, name, buffers, bytes: held, mapped, exporters }) => [
    String(pid),
    clip(plain(name), 16),
    clip(plain(exporters.join(', ')), 16),
    String(buffers),
    bytes(held),
    bytes(mapped),
  ])
  const [head, ...lines] = columns([['PID', 'PROCESS', 'EXPORTERS', 'DMA-BUFS', 'BYTES', 'NPU MAPPED'], ...rows], {
    left: 3,
  })
  return [paint.dim(head), ...limited(lines)]
}

module.exports = { ORDER, frame, sorted }
