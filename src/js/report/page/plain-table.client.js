// Short tables, each a table element in a box that scrolls.

/**
 * @param {string} label
 * @param {Array<{ label: string, end?: boolean, wide?: boolean }>} columns
 * @param {Array<unknown[]>} rows the cells, each a text or elements
 */
function plainTable(label, columns, rows) {
  const classes = ({ end, wide }) => [end && 'right', wide && 'wide'].filter(Boolean).join(' ') || null
  const head = columns.map((column) => el('th', { scope: 'col', class: classes(column) }, column.label))
  const lines = rows.map((cells) =>
    el('tr', {}, ...cells.map((cell, at) => el('td', { class: classes(columns[at]) }, ...[cell].flat()))),
  )
  const table = el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...lines))
  return el('div', { class: 'plain', tabindex: 0, role: 'region', 'aria-label': label }, table)
}

/** Makes a bar that shows how near `used` is to `most`, and the share as text. */
function nearness(used, most) {
  if (most === null || most === undefined) return ['–']
  const share = most > 0 ? used / most : used > 0 ? 1 : 0
  const shade = share >= 0.9 ? 'bad' : share >= 0.75 ? 'warn' : 'accent'
  const bar = el('i', { style: { width: `${Math.min(100, share * 100)}%`, background: `var(--${shade})` } })
  return [el('div', { class: 'near' }, el('div', { class: 'track' }, bar), el('span', {}, percent(share)))]
}
