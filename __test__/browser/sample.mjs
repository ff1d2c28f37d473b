/** Makes a snapshot and a profile for reports: those of a real manager, plus generated entries. */

import assert from 'node:assert/strict'

import { MemoryManager } from '../../index.js'

const MiB = 1024 * 1024

/** A hostile tag: HTML, line breaks, a spreadsheet formula. */
export const HOSTILE = '</script><script>alert(1)</script><!--\u2028"quoted", \\n not a line\nbut this\r\n=1+1 ü 🎈'

/** Returns a deterministic generator of numbers in [0, 1). */
export function random(seed) {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const TAGS = ['kv-cache', 'weights', 'logits', 'embeddings', 'vision-input', 'scratch', null]
const frames = (...names) =>
  names
    .map((name) => `at ${name} (/srv/llm/src/${name.toLowerCase().split('.')[0]}.js:${name.length * 7}:11)`)
    .join('\n')
export const STACKS = [
  frames('KvCache.grow', 'Decoder.step', 'Session.generate', 'Server.handle'),
  frames('KvCache.append', 'Decoder.step', 'Session.generate', 'Server.handle'),
  frames('Logits.take', 'Decoder.sample', 'Decoder.step', 'Session.generate', 'Server.handle'),
  frames('Embedder.encode', 'Prompt.prepare', 'Session.open', 'Server.handle'),
  frames('Vision.resize', 'Vision.prepare', 'Prompt.prepare', 'Session.open', 'Server.handle'),
  frames('Weights.map', 'Model.load', 'main'),
]

/** Builds the block list of a pool's chunk from the addresses and sizes of its blocks. */
function chunkMap(size, blocks) {
  const base = blocks.reduce((least, { address }) => (address < least ? address : least), blocks[0].address)
  const map = []
  let end = 0
  for (const { id, address, size: taken, tag, stack } of [...blocks].sort((a, b) => Number(a.address - b.address))) {
    const offset = Number(address - base)
    if (offset > end) map.push({ offset: end, size: offset - end, id: null, tag: null, stack: null })
    map.push({ offset, size: taken, id, tag, stack })
    end = offset + taken
  }
  if (end < size) map.push({ offset: end, size: size - end, id: null, tag: null, stack: null })
  return { size, blocks: map }
}

/** @param {{more?: number, tag?: string}} [options] how many buffers to add to the real ones; a tag for one of them */
export function sample({ more = 0, tag } = {}) {
  const manager = new MemoryManager({ backend: 'simulated' })
  const next = random(7)
  const of = (list) => list[Math.floor(next() * list.length)]
  const kept = []
  const buffers = []
  for (let at = 0; at < 40; at++) {
    const chosen = (at === 3 && tag) || of(TAGS)
    const size = Math.ceil(next() * (at % 9 === 0 ? 24 : 0.5) * MiB)
    const buffer = manager[at % 4 === 0 ? 'allocateSystemMemory' : 'allocateNPUMemory'](size, {
      tag: chosen ?? undefined,
    })
    kept.push(buffer)
    buffers.push({ ...manager.describe(buffer), stack: at % 2 === 0 ? of(STACKS) : null })
  }
  const pools = []
  for (const [name, kind, blocks] of [
    ['kv-cache', 'npu', 900],
    ['scratch', 'system', 60],
  ]) {
    const pool = manager.createMemoryPool({ name, kind, initialSize: 16 * MiB })
    const all = Array.from({ length: blocks }, () => ({
      block: pool.allocate(Math.ceil(next() * 14) * 1024),
      tag: of(TAGS),
      stack: of(STACKS),
    }))
    const live = all.filter(({ block }) => next() < 0.7 || void block.free())
    const described = live.map(({ block, tag, stack }) => ({
      id: block.id,
      address: block.address,
      size: Math.ceil(block.size / 64) * 64,
      tag,
      stack,
    }))
    pools.push({ ...pool.stats(), chunkMaps: [chunkMap(16 * MiB, described)] })
  }
  const max = (MiBs) => ({ max: MiBs * MiB })
  manager.setMemoryLimits({ npu: max(300), tags: { 'kv-cache': max(64), logits: max(40) } })
  const reservation = manager.reserve(128 * MiB, { tag: 'weights of librkllmrt' })
  assert.throws(() => manager.allocateNPUMemory(512 * MiB, { tag: 'logits' }))
  const pinned = manager.getMemoryPool('scratch').allocate(4096)
  pinned.pin()
  const { device } = manager
  const stats = manager.getMemoryStats()
  const usage = manager.getMemoryUsage()
  const takenAt = Date.now()
  reservation.release()
  manager.dispose()
  for (let at = 0; at < more; at++) {
    const size = Math.ceil(2 ** (6 + next() * 14))
    const like = buffers[at % 40]
    buffers.push({
      ...like,
      id: 10_000_000 + at,
      size,
      reservedSize: size,
      tag: of(TAGS),
      stack: of(STACKS),
      allocatedAt: takenAt - next() * 3.6e6,
    })
  }
  const events = []
  const live = []
  for (let at = 0; at < 4000; at++) {
    const timeUs = at * 9000
    const common = {
      timeUs,
      kind: at % 5 === 0 ? 'system' : 'npu',
      tag: of(TAGS),
      pool: at % 3 === 0 ? 'kv-cache' : null,
      thread: at % 2,
    }
    if (live.length > 0 && next() < 0.45)
      events.push({
        ...live.splice(Math.floor(next() * live.length), 1)[0],
        timeUs,
        type: next() < 0.1 ? 'collect' : 'free',
      })
    else if (next() < 0.03) events.push({ ...common, type: of(['fail', 'grow', 'trim', 'move']), id: 0, size: MiB })
    else {
      const event = { ...common, type: 'allocate', id: 500 + at, size: Math.ceil(next() * 65536) }
      events.push(event)
      live.push(event)
    }
  }
  const callSites = STACKS.map((stack, at) => ({
    stack,
    tag: TAGS[at % TAGS.length],
    liveBytes: Math.round((6 - at) * 9.5 * MiB),
    liveCount: (6 - at) * 41,
    totalBytes: Math.round((at + 2) * 40.25 * MiB),
    totalCount: (at + 2) * 173,
  }))
  const wave = (at, most, speed) => Math.round(most * (0.55 + 0.35 * Math.sin(at / speed) + 0.1 * next()))
  const timeline = Array.from({ length: 360 }, (_, at) => ({
    timeMs: at * 100,
    npuUsed: wave(at, 180 * MiB, 30) + at * 122_880,
    systemUsed: wave(at, 60 * MiB, 17),
    poolReserved: (1 + Math.floor(at / 120)) * 32 * MiB,
  }))
  const spread = (scale) => ({
    count: 4000,
    min: scale,
    p50: scale * 8,
    p90: scale * 30,
    p99: scale * 60,
    p999: scale * 100,
    max: scale * 128,
    mean: scale * 11.5,
    buckets: [1, 2, 4, 8, 16, 32, 64, 128].map((times, at) => [
      scale * times,
      [90, 300, 700, 1300, 900, 500, 180, 30][at],
    ]),
  })
  const profile = {
    enabled: true,
    startedAt: takenAt - 36_000,
    durationMs: 36_000,
    allocations: 2300,
    frees: 1700,
    bytesAllocated: 75 * MiB,
    bytesFreed: 55 * MiB,
    allocationRate: 2300 / 36,
    sampleInterval: 524_288,
    sizes: spread(512),
    lifetimesMs: spread(3),
    latencyNs: spread(150),
    callSites,
    events,
    droppedEvents: 120,
    timeline,
    leaks: buffers.slice(0, 3),
  }
  return { snapshot: { version: 1, takenAt, device, stats, buffers, pools }, profile, usage }
}

const NOTHING = { count: 0, min: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0, mean: 0 }

/** Returns the snapshot and the profile of an empty manager without profiling. */
export function nothing() {
  const manager = new MemoryManager({ backend: 'simulated' })
  const { device } = manager
  const stats = manager.getMemoryStats()
  const usage = manager.getMemoryUsage()
  manager.dispose()
  const figures = {
    durationMs: 0,
    allocations: 0,
    frees: 0,
    bytesAllocated: 0,
    bytesFreed: 0,
    allocationRate: 0,
    droppedEvents: 0,
  }
  const lists = { callSites: [], events: [], timeline: [] }
  return {
    snapshot: { version: 1, takenAt: Date.now(), device, stats, buffers: [], pools: [] },
    profile: {
      enabled: false, startedAt: 0, ...figures, ...lists, sizes: NOTHING, lifetimesMs: NOTHING, latencyNs: NOTHING,
    },
    usage,
  }
}

/** Answers what `writeReport` asks for. */
export const sourceOf = (figures) => (needs) => {
  const known = { metrics: '# EOF\n', ...figures }
  return Object.fromEntries(needs.map((need) => [need, known[need]]))
}

/** Joins the pieces of a report. */
export async function textOf(pieces) {
  let text = ''
  for await (const piece of pieces) text += piece
  return text
}
