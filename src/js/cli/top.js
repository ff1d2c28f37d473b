'use strict'

// `rkllm-memory top`: shows the machine, the user's managers, and other processes with NPU memory, once a second.

const { expectWords, oneOf, seconds, wholeNumber } = require('./args.js')
const { AttachError, ask, sockets } = require('./attach.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { ORDER, frame, sorted } = require('./top/frame.js')
const { holders, machineOf } = require('./top/machine.js')
const { clearTimeout, dateNow, setTimeout } = require('../core/runtime.js')
const { openScreen } = require('./top/screen.js')

/** The figures of a manager's history line. */
const MAX_HISTORY = 240
/** A manager that does not respond within this time is counted as silent in the frame. */
const TIMEOUT_MS = 800

/** @type {import('./args.js').Command} */
const command = {
  name: 'top',
  summary: 'shows NPU and system memory live, by manager and process',
  words: '',
  options: {
    once: { type: 'boolean', text: 'print one frame; the default when stdout is not a terminal' },
    sort: { type: 'string', value: 'BY', text: `${ORDER.join(', ')}; default npu`, parse: oneOf(...ORDER) },
    pid: { type: 'string', value: 'PID', text: 'only this process', parse: wholeNumber(1, 2 ** 31 - 1) },
    interval: { type: 'string', value: 'SECONDS', text: 'between two frames; default 1', parse: seconds(0.1, 3600) },
    json: { type: 'boolean', text: 'one frame as JSON' },
  },
  notes: [
    'Keys: q quits, the arrows select a manager, s changes the order, ? shows them all.',
    'Lists the managers of your processes that were created with { inspect: true }, and the other processes of ' +
      'which you may read /proc/PID/fdinfo. Root may read all.',
  ],
  async run({ values, words, io, paint, print, json, width }) {
    expectWords(words, [])
    const sort = values.sort ?? 'npu'
    const { pid } = values
    if (values.json) return json({ takenAt: dateNow(), ...(await gather(pid)) })
    if (values.once || io.stdout.isTTY !== true) {
      const view = { sort, chosen: 0, width, height: Infinity, paint, interactive: false, time: clock() }
      return frame(await gather(pid), view).forEach((line) => print(line))
    }
    return live(io, paint, { sort, pid, intervalMs: 1000 * (values.interval ?? 1) })
  },
}

const clock = () => new Date().toTimeString().slice(0, 8)

/** @typedef {import('./top/frame.js').Data} Data */

/** @param {any} manager */
const keyOf = (manager) => (manager === undefined ? '' : `${manager.about.pid} ${manager.about.manager}`)

/**
 * Notes each manager's NPU memory, and forgets managers that are gone.
 *
 * @param {Map<string, number[]>} history
 * @param {any[]} managers
 */
function remember(history, managers) {
  const keys = new Set(managers.map(keyOf))
  for (const key of history.keys()) if (!keys.has(key)) history.delete(key)
  for (const manager of managers) {
    const figures = history.get(keyOf(manager)) ?? []
    history.set(keyOf(manager), [...figures, manager.usage.npu.used].slice(-MAX_HISTORY))
  }
}

/**
 * @param {number} [pid] only this process
 * @returns {Promise<Data>}
 */
async function gather(pid) {
  const reader = makeReader()
  const machine = machineOf(reader)
  const outcomes = await Promise.allSettled(sockets(pid).map(({ path }) => ask(path, ['usage'], TIMEOUT_MS)))
  // A manager that has ended is left out. A busy one still exists.
  const managers = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
  const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
  const silent = errors.filter((error) => error instanceof AttachError && error.busy).length
  const others = holders(reader, machine.nodes).filter((of) => pid === undefined || of.pid === pid)
  return { machine, managers, silent, holders: others, pid }
}

/**
 * Shows frames until the user quits. Resolves to the exit status.
 *
 * @param {any} io
 * @param {import('./style.js').Paint} paint
 * @param {{ sort: string, pid: number | undefined, intervalMs: number }} options
 * @returns {Promise<number>}
 */
function live(io, paint, { sort, pid, intervalMs }) {
  /** @type {{ sort: string, chosen: number, help: boolean, data: Data | undefined }} */
  const state = { sort, chosen: 0, help: false, data: undefined }
  /** @type {Map<string, number[]>} */
  const history = new Map()
  return new Promise((resolve, reject) => {
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    const draw = () => {
      if (state.data === undefined) return
      const { columns: width = 80, rows: height = 24 } = io.stdout
      const listed = sorted(state.data.managers, state.sort)
      state.chosen = Math.max(0, Math.min(state.chosen, state.data.managers.length - 1))
      screen.draw(
        frame(state.data, {
          sort: state.sort,
          chosen: state.chosen,
          history: history.get(keyOf(listed[state.chosen])),
          help: state.help,
          width,
          height,
          paint,
          interactive: true,
          time: clock(),
        }),
      )
    }
    const end = (/** @type {(value: any) => void} */ settle, /** @type {unknown} */ value) => {
      clearTimeout(timer)
      ended = true
      screen.close()
      settle(value)
    }
    let ended = false
    const refresh = () =>
      gather(pid)
        .then((data) => {
          if (ended) return
          state.data = data
          remember(history, data.managers)
          draw()
          timer = setTimeout(refresh, intervalMs)
        })
        .catch((error) => ended || end(reject, error))
    /** @type {Record<string, () => void>} */
    const keys = {
      q: () => end(resolve, 0),
      quit: () => end(resolve, 0),
      '?': () => (state.help = !state.help),
      h: () => (state.help = !state.help),
      up: () => state.chosen--,
      down: () => state.chosen++,
      s: () => (state.sort = ORDER[(ORDER.indexOf(state.sort) + 1) % ORDER.length]),
    }
    const screen = openScreen(io, {
      key: (name) => (keys[name]?.(), ended || draw()),
      resized: draw,
      ended: (status) => end(resolve, status),
    })
    refresh()
  })
}

module.exports = command
