'use strict'

// Figures of the models, of RAM and of the domains, as plain data.

const { Layout } = require('./layout.js')
const { isIdle } = require('./model.js')

/**
 * @param {import('./model.js').Model[]} all
 * @param {import('./layout.js').Room} room
 */
function figuresOf(all, room) {
  const models = all.map((model) => ({
    name: model.name,
    state: model.state,
    domain: model.domain,
    group: model.group,
    pinned: model.pinned,
    estimated: { ...model.estimated },
    measured: model.measured && { ...model.measured },
    reserved: { ...model.reserved },
    stuck: model.state === 'stuck' ? { ...model.reserved } : { ram: 0, npu: 0 },
    leases: model.leases.size,
    waiting: model.waiting.length,
    waitingSince: model.waiting.length > 0 ? Math.min(...model.waiting.map(({ at }) => at)) : null,
    idleSince: isIdle(model) ? model.idleSince : null,
    loads: model.loads,
    evictions: model.evictions,
    loadMs: model.lastLoadMs === null ? null : model.isTimed ? model.loadMs : model.lastLoadMs,
  }))
  const { others } = room
  const { rooms } = Layout.of(all, room, false)
  const sumOf = (/** @type {'ram' | 'npu'} */ kind) => models.reduce((sum, { reserved }) => sum + reserved[kind], 0)
  const ram = { limit: room.ram, others: others.ram, reserved: sumOf('ram') }
  const npu = { limit: room.npu, others: others.npu, reserved: sumOf('npu') }
  const domains = room.domains.map(({ id, limit }) => {
    return { id, limit, others: others.domains.get(id) ?? 0, reserved: limit - (rooms.get(id) ?? 0) }
  })
  const waiting = models.reduce((sum, model) => sum + model.waiting, 0)
  return { ram, npu, domains, models, waiting }
}

module.exports = { figuresOf }
