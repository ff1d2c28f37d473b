'use strict'

// Reads the machine's memory and the processes that hold NPU memory, for `top`.

const { factsOf } = require('../../devices/doctor/facts.js')
const { holder } = require('../../devices/npu-holders.js')

/**
 * @typedef {ReturnType<typeof import('../../devices/doctor/reader.js').makeReader>} Reader
 * @typedef {import('../../devices/npu-holders.js').Holder} Holder
 */

/** @param {Reader} reader */
function machineOf(reader) {
  const { board, soc, driver, memory, pressure, load, nodes } = factsOf(reader)
  return {
    board: board ?? null,
    soc: soc ?? null,
    driver: driver.name === undefined ? null : [driver.name, driver.version].filter(Boolean).join(' '),
    memory:
      memory === undefined
        ? null
        : Object.fromEntries(Object.entries(memory).map(([name, bytes]) => [name, bytes ?? null])),
    pressure: pressure ?? null,
    load: load ?? null,
    nodes: nodes.map(({ path }) => path),
  }
}

/**
 * Lists the processes that hold dma-bufs or mapped NPU memory and that this user may read, the largest first. A dma-buf
 * counts once for each process that holds it.
 *
 * @param {Reader} reader
 * @param {string[]} nodes the NPU's device nodes
 * @returns {Holder[]}
 */
function holders(reader, nodes) {
  const pids = reader.list('/proc', /^\d+$/) ?? []
  return pids
    .flatMap((pid) => holder(reader, pid, nodes))
    .sort((a, b) => b.bytes + b.mapped - a.bytes - a.mapped || a.pid - b.pid)
}

module.exports = { holders, machineOf }
