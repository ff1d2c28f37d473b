// Draws pools as maps: a chunk is a strip of addresses, folded into lines. A block has the colour of its tag.

const LINE = 16
const GAP = 2

/** Finds the last of the ascending `offsets` that is at most `offset`; -1 for none. */
function blockAt(offsets, offset) {
  let low = -1
  let high = offsets.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (offsets[middle] <= offset) low = middle
    else high = middle - 1
  }
  return low
}

function drawMap(pool, map, number) {
  const { total, offset: offsets, size: sizes, id: ids, tag: tags, stack: stacks } = map
  let cursor = -1
  // Enough lines to give a block some pixels, at most 12.
  const linesAt = (width) => Math.max(1, Math.min(12, Math.ceil((offsets.length * 6) / width)))
  const label =
    `Chunk ${number} of pool ${pool.name}: ${bytes(total)}, ${count(offsets.length)} pieces. The arrow keys select ` +
    'a piece.'

  const { canvas, redraw } = drawing(
    { tabindex: 0, role: 'img', 'aria-label': label },
    (width) => linesAt(width) * (LINE + GAP) - GAP,
    (context, width) => {
      const perLine = total / linesAt(width)
      const fill = (at, shade, frame) => {
        let from = offsets[at]
        const end = from + sizes[at]
        while (from < end) {
          const line = Math.min(linesAt(width) - 1, Math.floor(from / perLine))
          const stop = line === linesAt(width) - 1 ? end : Math.min(end, (line + 1) * perLine)
          const left = ((from - line * perLine) / perLine) * width
          const wide = ((stop - from) / perLine) * width
          const top = line * (LINE + GAP)
          context.fillStyle = shade
          // Leaves a gap between neighbours that are wide enough.
          if (frame) context.strokeRect(left + 1, top + 1, Math.max(1, wide - 2), LINE - 2)
          else context.fillRect(left, top, wide > 3 ? wide - 1 : Math.max(wide, 0.6), LINE)
          if (stop <= from) break
          from = stop
        }
      }
      context.fillStyle = colour('free')
      for (let line = 0; line < linesAt(width); line++) context.fillRect(0, line * (LINE + GAP), width, LINE)
      for (let at = 0; at < offsets.length; at++) if (ids[at] !== null) fill(at, tagColour(tags[at]))
      if (cursor < 0) return
      context.strokeStyle = colour('text')
      context.lineWidth = 2
      fill(cursor, '', true)
    },
  )

  function select(at, x, y) {
    if (at !== cursor) {
      cursor = at
      redraw()
    }
    if (at < 0) return tip.hide()
    const taken = ids[at] !== null
    tip.show(
      x,
      y,
      el('b', {}, ...(taken ? [dot(tagColour(tags[at])), ` ${tagName(tags[at])}`] : ['free'])),
      pair('size', `${bytes(sizes[at])} (${count(sizes[at])})`),
      pair('offset', `0x${offsets[at].toString(16)}`),
      taken ? pair('id', String(ids[at])) : null,
      taken && text(stacks[at]) ? el('pre', {}, text(stacks[at])) : null,
    )
  }
  canvas.addEventListener('pointermove', (event) => {
    const lines = linesAt(canvas.clientWidth)
    const line = Math.min(lines - 1, Math.floor(event.offsetY / (LINE + GAP)))
    const offset = ((line + event.offsetX / canvas.clientWidth) * total) / lines
    const at = blockAt(offsets, offset)
    select(at >= 0 && offset < offsets[at] + sizes[at] ? at : -1, event.clientX, event.clientY)
  })
  canvas.addEventListener('keydown', (event) => {
    const last = offsets.length - 1
    const next = {
      ArrowLeft: cursor - 1,
      ArrowRight: cursor + 1,
      ArrowUp: cursor - 10,
      ArrowDown: cursor + 10,
      Home: 0,
      End: last,
      Escape: -1,
    }[event.key]
    if (next === undefined) return
    event.preventDefault()
    const at = event.key === 'Escape' ? -1 : Math.max(0, Math.min(last, next))
    const box = canvas.getBoundingClientRect()
    const lines = linesAt(box.width)
    const along = at < 0 ? 0 : (offsets[at] / total) * lines
    select(at, box.left + (along % 1) * box.width, box.top + Math.floor(along) * (LINE + GAP) + LINE)
  })
  const leave = () => select(-1)
  canvas.addEventListener('pointerleave', leave)
  canvas.addEventListener('blur', leave)
  const used = sizes.reduce((sum, size, at) => (ids[at] === null ? sum : sum + size), 0)
  return el(
    'figure',
    { class: 'map' },
    el('figcaption', {}, `Chunk ${number} · ${bytes(total)}, ${percent(total > 0 ? used / total : 0)} used`),
    canvas,
  )
}

/** The chunks shown at first; a button shows the rest. */
const CHUNKS = 12

function drawPools() {
  if (data.pools.length === 0) {
    return $('pool-list').append(
      empty(
        'There are no pools. ',
        code("manager.createMemoryPool({ name: 'kv-cache', initialSize: 64 << 20 })"),
        ' creates one.',
      ),
    )
  }
  const figure = (name, value) => el('span', {}, `${name} `, el('b', {}, value))
  for (const pool of data.pools) {
    const maps = el('div', {})
    const add = (from, to) => maps.append(...pool.maps.slice(from, to).map((map, at) => drawMap(pool, map, from + at)))
    add(0, CHUNKS)
    const more = pool.maps.length - CHUNKS
    const button = el('button', { type: 'button', class: 'button' }, `Show ${count(more)} more chunks`)
    button.addEventListener('click', () => {
      button.remove()
      add(CHUNKS)
    })
    $('pool-list').append(
      el(
        'div',
        { class: 'pool', 'data-pool': pool.name },
        el(
          'div',
          { class: 'pool-head' },
          el('h3', {}, pool.name),
          el(
            'span',
            { class: 'soft' },
            `${pool.kind} · ${count(pool.chunks)} ${pool.chunks === 1 ? 'chunk' : 'chunks'}`,
          ),
        ),
        el(
          'div',
          { class: 'figures' },
          figure('reserved', bytes(pool.reserved)),
          figure('allocated', bytes(pool.allocated)),
          figure('requested', bytes(pool.requested)),
          figure('live', count(pool.liveAllocations)),
          figure('largest free', bytes(pool.largestFree)),
          figure('peak', bytes(pool.peakAllocated)),
          pool.waiting > 0 ? figure('waiting', bytes(pool.waiting)) : null,
          pool.maxSize > 0 ? figure('at most', bytes(pool.maxSize)) : null,
          figure('failed', count(pool.failedAllocations)),
          el(
            'span',
            { 'data-fragmentation': pool.fragmentation, class: pool.fragmentation > 0.5 && 'high' },
            'fragmentation ',
            el('b', {}, percent(pool.fragmentation)),
          ),
        ),
        maps,
        more > 0 ? button : null,
        pool.unmapped > 0
          ? el('p', { class: 'note' }, `${count(pool.unmapped)} more chunks are left out, the .json report has them.`)
          : null,
      ),
    )
  }
}
