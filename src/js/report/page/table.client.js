// A table of any length: only the visible rows are elements.

const ROW = 30
const NARROW = 620

/**
 * @param {{label: string, columns: object[], cells: (row: number) => Record<string, unknown>, onSort?: (key: string) =>
 * void,
 *   onPick?: (row: number) => void, rows: number}} options `rows` is the most rows that are visible without scrolling
 */
function table({ label, columns, cells, onSort, onPick, rows: most }) {
  let order = []
  let chosen = -1
  let drawn = ''
  const name = label.toLowerCase().replaceAll(' ', '-')
  const head = el('div', { class: 'tr thead', role: 'row', 'aria-rowindex': 1 })
  const body = el('div', { class: 'body', role: 'presentation' })
  const scroll = el('div', { class: 'scroll', tabindex: 0, role: 'rowgroup', 'aria-label': `${label}: rows` }, body)
  const root = el(
    'div',
    { class: `table${onPick ? ' pick' : ''}`, role: 'grid', 'aria-label': label },
    el('div', { role: 'rowgroup' }, head),
    scroll,
  )
  const isNarrow = () => root.clientWidth < NARROW
  const shownColumns = () => columns.filter(({ wide }) => !wide || !isNarrow())
  let sorted = null

  function drawHead() {
    const shown = shownColumns()
    root.style.setProperty('--columns', shown.map(({ width, narrow }) => (isNarrow() && narrow) || width).join(' '))
    const headings = shown.map(({ key, label, end }) => {
      const content = onSort
        ? el('button', { type: 'button', 'data-sort': key, onclick: () => onSort(key) }, label)
        : el('span', {}, label)
      const direction = sorted?.key === key ? (sorted.descending ? 'descending' : 'ascending') : null
      return el('div', { class: `th${end ? ' right' : ''}`, role: 'columnheader', 'aria-sort': direction }, content)
    })
    const focused = head.contains(document.activeElement) ? document.activeElement.dataset.sort : null
    head.replaceChildren(...headings)
    if (focused) head.querySelector(`[data-sort="${focused}"]`)?.focus()
  }

  function draw(force) {
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 6)
    const last = Math.min(order.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW) + 6)
    const state = `${first} ${last}`
    if (!force && state === drawn) return
    drawn = state
    const shown = shownColumns()
    const lines = []
    for (let at = first; at < last; at++) {
      const content = cells(order[at])
      const fields = shown.map(({ key, end, mono }) =>
        el(
          'div',
          { class: `td${end ? ' right' : ''}${mono ? ' mono' : ''}`, role: 'gridcell', 'data-key': key },
          ...[content[key]].flat(),
        ),
      )
      const line = el(
        'div',
        {
          class: 'tr',
          role: 'row',
          'aria-rowindex': at + 2,
          'aria-selected': onPick ? String(at === chosen) : null,
          'data-at': at,
          id: `${name}-${at}`,
        },
        ...fields,
      )
      line.style.top = `${at * ROW}px`
      lines.push(line)
    }
    body.replaceChildren(...lines)
  }

  function choose(at) {
    if (order.length === 0) return
    chosen = Math.max(0, Math.min(order.length - 1, at))
    const top = chosen * ROW
    if (top < scroll.scrollTop) scroll.scrollTop = top
    else if (top + ROW > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + ROW - scroll.clientHeight
    draw(true)
    scroll.setAttribute('aria-activedescendant', `${name}-${chosen}`)
    onPick?.(order[chosen])
  }

  const page = () => Math.max(1, Math.floor(scroll.clientHeight / ROW) - 1)
  const STEPS = {
    ArrowDown: () => chosen + 1,
    ArrowUp: () => chosen - 1,
    PageDown: () => chosen + page(),
    PageUp: () => chosen - page(),
    Home: () => 0,
    End: () => order.length - 1,
  }
  scroll.addEventListener('scroll', () => draw(false), { passive: true })
  if (onPick) {
    scroll.addEventListener('keydown', (event) => {
      const step = STEPS[event.key]
      if (step === undefined) return
      event.preventDefault()
      choose(step())
    })
    body.addEventListener('click', (event) => {
      const line = event.target.closest('[data-at]')
      if (line) choose(Number(line.dataset.at))
    })
  }
  const redraw = () => {
    drawHead()
    root.style.setProperty('--bar', `${scroll.offsetWidth - scroll.clientWidth}px`)
    draw(true)
  }
  new ResizeObserver(redraw).observe(root)

  return {
    root,
    /** Shows these rows in this order. */
    show(rows, sort = null) {
      order = rows
      sorted = sort
      chosen = -1
      scroll.removeAttribute('aria-activedescendant')
      body.style.height = `${rows.length * ROW}px`
      scroll.style.height = `${Math.max(1, Math.min(rows.length, most)) * ROW}px`
      scroll.scrollTop = 0
      root.setAttribute('aria-rowcount', rows.length + 1)
      redraw()
    },
  }
}
