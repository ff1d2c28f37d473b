// Draws the comparison of two snapshots.

const signed = (number) => `${number > 0 ? '+' : ''}${bytes(number)}`
const utc = (ms) => new Date(ms).toISOString().replace('T', ' ').replace(/\.\d+Z/, ' UTC')

function drawDiffHead() {
  const { before, after, device } = data
  $('device').append(
    el('b', {}, [device.backend, device.soc].filter(Boolean).join(' · ')),
    ` · ${utc(before.takenAt)} to ${utc(after.takenAt)} · ${duration(Math.abs(after.takenAt - before.takenAt))}`,
  )
  $('simulated').hidden = !after.stats.simulated
  document.title = `Memory diff · ${device.soc ?? device.backend}`
  const figure = (name, key, shown, growth) =>
    el(
      'div',
      { class: 'card' },
      el('div', { class: 'name' }, el('span', {}, name)),
      el('div', { class: 'value', 'data-stat': key, 'data-value': after.stats[key] - before.stats[key] }, growth),
      el('div', { class: 'of' }, `${shown(before.stats[key])} → ${shown(after.stats[key])}`),
    )
  const grown = (key) => signed(after.stats[key] - before.stats[key])
  const live = after.stats.liveAllocations - before.stats.liveAllocations
  $('summary').append(
    figure('NPU memory', 'npuUsed', bytes, grown('npuUsed')),
    figure('System memory', 'systemUsed', bytes, grown('systemUsed')),
    figure('Pools reserved', 'poolReserved', bytes, grown('poolReserved')),
    figure('Live allocations', 'liveAllocations', count, `${live > 0 ? '+' : ''}${count(live)}`),
  )
}

/** Draws a table of growth, with a bar to the right for growth and to the left for shrinkage. */
function growthTable(host, note, label, { rows, left }, nameOf) {
  if (rows.length === 0) return host.append(empty('Nothing was allocated in either snapshot.'))
  const most = Math.max(1, ...rows.map(({ growth }) => Math.abs(growth)))
  if (left > 0) note.textContent = `The ${count(rows.length)} largest changes; ${count(left)} are left out`
  const columns = [
    { label },
    { label: 'Growth', end: true },
    { label: '', wide: true },
    { label: 'Before', end: true, wide: true },
    { label: 'After', end: true },
    { label: 'Count', end: true, wide: true },
  ]
  const cells = rows.map((row) => {
    const half = (Math.abs(row.growth) / most) * 50
    const bar = { width: `${half}%`, 'margin-left': `${row.growth < 0 ? 50 - half : 50}%` }
    const shade = row.growth < 0 ? 'system' : 'bad'
    return [
      nameOf(row),
      el('span', { 'data-growth': row.growth }, signed(row.growth)),
      el('div', { class: 'track both' }, el('i', { style: { ...bar, background: `var(--${shade})` } })),
      bytes(row.before),
      bytes(row.after),
      `${count(row.countBefore)} → ${count(row.countAfter)}`,
    ]
  })
  host.append(plainTable(label, columns, cells))
}

function drawGrowth() {
  const table = (part, label, list, nameOf) =>
    growthTable($(`${part}-growth`), $(`${part}s-note`), label, list, nameOf)
  table('tag', 'Tag', data.byTag, ({ tag }) => [dot(tagColour(tag)), ` ${tagName(tag)}`])
  table('kind', 'Kind', data.byKind, ({ kind }) => text(kind))
  table('pool', 'Pool', data.byPool, ({ pool }) => text(pool) ?? '(no pool)')
  table('site', 'Call site', data.bySite, ({ stack }) => {
    const lines = (text(stack) ?? '(not sampled)').split('\n')
    if (lines.length === 1) return lines[0]
    return el('details', {}, el('summary', {}, lines[0]), el('pre', {}, lines.slice(1).join('\n')))
  })
}

function drawHolderChanges() {
  for (const name of ['added', 'gone']) {
    const { rows, count: all, bytes: sum } = data[name]
    const note = $(`${name}-note`)
    note.textContent = `${count(all)} buffers and blocks, ${bytes(sum)}`
    Object.assign(note.dataset, { count: all, bytes: sum })
    if (all === 0) {
      document.querySelector(`#${name} .tools`).remove()
      $(`${name}-table`).append(empty(name === 'added' ? 'Nothing was added.' : 'Nothing is gone.'))
      continue
    }
    if (rows.id.length < all) note.textContent += `; the largest ${count(rows.id.length)} are listed`
    const label = name === 'added' ? 'Added' : 'Gone'
    const filter = holderTable($(`${name}-table`), label, rows, $(`${name}-detail`))
    $(`${name}-filter`).addEventListener('input', (event) => filter(event.target.value))
  }
}

drawAll(drawDiffHead, drawGrowth, drawHolderChanges)
