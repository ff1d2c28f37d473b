// The table of events, the latest first.

function drawEvents() {
  const { events, profile } = data
  const all = events.id.length
  if (all === 0) {
    document.querySelector('#events .tools').remove()
    return $('event-table').append(
      profile.enabled ? empty('There are no events yet.') : profilingOff('Nothing was recorded.'),
    )
  }
  const left = profile.droppedEvents + profile.events - all
  const off = new Set()
  let needles = []
  const latest = Array.from({ length: all }, (_, at) => all - 1 - at)
  const words = (at) =>
    [events.tag, events.pool, events.kind]
      .map((column) => text(column[at]) ?? '')
      .concat(events.id[at])
      .join('\n')
      .toLowerCase()
  const grid = table({
    label: 'Events',
    rows: 12,
    columns: [
      { key: 'time', label: 'After', width: '112px', narrow: '74px', end: true },
      { key: 'type', label: 'Event', width: '92px', narrow: '68px' },
      { key: 'size', label: 'Size', width: '96px', narrow: '78px', end: true },
      { key: 'tag', label: 'Tag', width: 'minmax(40px, 1.2fr)' },
      { key: 'kind', label: 'Kind', width: '84px', wide: true },
      { key: 'pool', label: 'Pool', width: 'minmax(90px, 1fr)', wide: true },
      { key: 'id', label: 'Id', width: '160px', end: true, mono: true, wide: true },
    ],
    cells: (at) => ({
      time: duration(events.time[at] / 1000),
      type: text(events.type[at]),
      size: bytes(events.size[at]),
      tag: [dot(tagColour(events.tag[at])), tagName(events.tag[at])],
      kind: text(events.kind[at]),
      pool: text(events.pool[at]) ?? '–',
      id: String(events.id[at]),
    }),
  })
  function show() {
    const shown = latest.filter(
      (at) => !off.has(events.type[at]) && needles.every((needle) => words(at).includes(needle)),
    )
    grid.show(shown)
    const note = $('events-note')
    note.textContent =
      `${count(shown.length)} of the last ${count(all)}, latest ` +
      `first${left > 0 ? `; ${count(left)} older ones are left out` : ''}`
    note.dataset.count = shown.length
  }
  for (const type of new Set(events.type)) {
    const button = el('button', { type: 'button', 'aria-pressed': 'true', 'data-type': text(type) }, text(type))
    button.addEventListener('click', () => {
      if (!off.delete(type)) off.add(type)
      button.setAttribute('aria-pressed', String(!off.has(type)))
      show()
    })
    $('event-types').append(button)
  }
  $('event-filter').addEventListener('input', (event) => {
    needles = event.target.value.toLowerCase().split(/\s+/).filter(Boolean)
    show()
  })
  $('event-table').append(grid.root)
  show()
}
