// The tables of holders and leaks, which can be sorted and filtered.

/** Returns the row numbers sorted by a column. */
function ordered(held, key, descending) {
  const rows = held.id.map((_, row) => row)
  const value = { age: (row) => held.at[row] ?? Infinity, size: (row) => held.size[row], id: (row) => held.id[row] }[
    key
  ]
  if (value) rows.sort((a, b) => value(a) - value(b) || held.size[b] - held.size[a])
  else {
    const names = rows.map((row) => text(held[key][row]) ?? '\uffff')
    rows.sort((a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : held.size[b] - held.size[a]))
  }
  // The first allocation has the greatest age.
  if (key === 'age') return descending ? rows : rows.reverse()
  return descending ? rows.reverse() : rows
}

/** The text by which the filter finds pinned blocks. */
const PINS = ['', 'pinned', 'pinned dropped']

/** Returns the text of a row that the filter searches. */
const wordsOf = (held, row) =>
  [held.tag, held.pool, held.kind, held.stack]
    .map((column) => text(column[row]) ?? '')
    .concat(PINS[held.pin[row]])
    .join('\n')
    .toLowerCase()

const age = (at) => (at === null ? '–' : duration(Math.max(0, data.takenAt - at)))

function holderDetail(held, row) {
  const facts = held.facts[row]
  const fact = (name, value) =>
    el('div', {}, el('dt', {}, name), el('dd', { class: /address|id/.test(name) ? 'mono' : null }, value))
  const known = [
    fact('size', `${bytes(held.size[row])} (${count(held.size[row])})`),
    fact('id', String(held.id[row])),
    fact('tag', tagName(held.tag[row])),
    fact('kind', text(held.kind[row])),
    fact('pool', text(held.pool[row]) ?? '–'),
    fact('age', age(held.at[row])),
  ]
  if (held.pin[row] > 0) known.push(fact('pin', held.pin[row] > 1 ? 'pinned, and dropped by JavaScript' : 'pinned'))
  if (facts !== null) {
    const [address, deviceAddress, reserved, domain, dedicated, imported, shared, cacheable] = facts
    const traits = [
      cacheable && 'cacheable',
      dedicated && 'dedicated',
      imported && 'imported',
      shared && 'shared',
    ].filter(Boolean)
    known.push(
      fact('occupies', bytes(reserved)),
      fact('address', address),
      fact('NPU address', deviceAddress ?? '–'),
      fact('IOMMU domain', domain === null ? '–' : String(domain)),
      fact('traits', traits.join(', ') || '–'),
    )
  }
  const stack = text(held.stack[row])
  return [
    el('dl', {}, ...known),
    stack === null ? el('p', { class: 'note' }, 'Its stack was not sampled.') : el('pre', {}, stack),
  ]
}

const HOLDER_COLUMNS = [
  { key: 'size', label: 'Size', width: '104px', narrow: '86px', end: true },
  { key: 'tag', label: 'Tag', width: 'minmax(60px, 1.4fr)' },
  { key: 'kind', label: 'Kind', width: '84px', wide: true },
  { key: 'pool', label: 'Pool', width: 'minmax(90px, 1fr)', wide: true },
  { key: 'age', label: 'Age', width: '118px', narrow: '104px', end: true },
  { key: 'id', label: 'Id', width: '160px', end: true, mono: true, wide: true },
]

/** Makes a sortable table of `held` in `host`, and returns the function that filters it. */
function holderTable(host, label, held, detail, onShow) {
  let sort = { key: 'size', descending: true }
  let rows = []
  let needles = []
  const words = []
  const matches = (row) => {
    const known = (words[row] ??= wordsOf(held, row))
    // Ids are short numbers, which are part of many others.
    return needles.every((needle) => known.includes(needle) || needle === String(held.id[row]))
  }
  const grid = table({
    label,
    columns: HOLDER_COLUMNS,
    rows: 14,
    cells: (row) => ({
      size: bytes(held.size[row]),
      tag: [dot(tagColour(held.tag[row])), tagName(held.tag[row])],
      kind: text(held.kind[row]),
      pool: text(held.pool[row]) ?? '–',
      age: age(held.at[row]),
      id: String(held.id[row]),
    }),
    onSort(key) {
      sort = { key, descending: sort.key === key ? !sort.descending : ['size', 'age', 'id'].includes(key) }
      rows = ordered(held, sort.key, sort.descending)
      show()
    },
    onPick(row) {
      detail.hidden = false
      detail.replaceChildren(...holderDetail(held, row))
    },
  })
  function show() {
    const shown = needles.length === 0 ? rows : rows.filter(matches)
    grid.show(shown, sort)
    onShow?.(
      shown.length,
      shown.reduce((sum, row) => sum + held.size[row], 0),
    )
  }
  host.append(grid.root)
  rows = ordered(held, sort.key, sort.descending)
  show()
  return (value) => {
    needles = value.toLowerCase().split(/\s+/).filter(Boolean)
    show()
  }
}

function drawHolders() {
  const held = data.holders
  const { count: all, bytes: sumOfAll } = data.held
  const left = all - held.id.length
  if (all === 0) {
    document.querySelector('#holders .tools').remove()
    return $('holder-table').append(empty('Nothing is allocated.'))
  }
  const onShow = (number, sum) => {
    const note = $('holders-note')
    const cut = left > 0 ? `; ${count(left)} smaller ones are left out, the .json report has them` : ''
    note.textContent =
      (number === held.id.length
        ? `${count(all)} buffers and blocks, ${bytes(sumOfAll)}`
        : `${count(number)} of ${count(all)}, ${bytes(sum)}`) + cut
    Object.assign(note.dataset, { count: number, bytes: sum })
  }
  const filter = holderTable($('holder-table'), 'Holders of memory', held, $('holder-detail'), onShow)
  $('holder-filter').addEventListener('input', (event) => filter(event.target.value))
}

function drawLeaks() {
  const { leaks } = data
  if (leaks === null || leaks.id.length === 0) {
    const known = leaks !== null && data.profile.enabled
    const how = [
      known ? 'None was reported. ' : 'Leak detection is off. ',
      code('manager.enableMemoryProfiling({ leakAfterMs: 60_000 })'),
      ' reports allocations that live longer than that.',
    ]
    return $('leak-table').append(empty(...how))
  }
  $('leaks-note').textContent =
    `${count(leaks.id.length)} allocations that outlived leakAfterMs, ${bytes(leaks.size.reduce((a, b) => a + b, 0))}`
  const detail = el('div', { class: 'detail', 'aria-live': 'polite', hidden: true })
  holderTable($('leak-table'), 'Leaks', leaks, detail)
  $('leak-table').append(detail)
}
