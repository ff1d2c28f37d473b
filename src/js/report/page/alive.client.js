// Draws what was alive over time: bytes stacked by tag, with the peak marked, and the allocations at the peak.

function drawAlive() {
  const { alive, profile } = data
  if (alive === null) {
    $('alive-legend').remove()
    return $('alive-chart').append(
      profile.enabled ? empty('The log has no allocations yet.') : profilingOff('Nothing was recorded.'),
    )
  }
  const { time, total, tags, byTag, peak } = alive
  const [start, end] = [time[0], Math.max(time.at(-1), time[0] + 0.001)]
  const rest = total.map((sum, at) => Math.max(0, sum - byTag.reduce((part, column) => part + column[at], 0)))
  // Tags of the palette keep their colours; the chart has few enough for the others to differ.
  const shadeOf = (tag, at) => tagColours.get(tag) ?? (tag < 0 ? OTHERS : `hsl(${(at * 67 + 20) % 360} 45% 55%)`)
  const layers = tags.map((tag, at) => ({ name: tagName(tag), shade: shadeOf(tag, at), values: byTag[at] }))
  if (rest.some((bytes) => bytes > 0)) layers.push({ name: 'all other tags', shade: 'var(--strong)', values: rest })
  const dropped = profile.droppedEvents > 0 ? `; ${count(profile.droppedEvents)} older events are gone` : ''
  $('alive-note').textContent =
    `Requested bytes by tag, over ${duration(end - start)} that the log covers${dropped}. ` +
    `At the peak ${count(peak.count)} ${peak.count === 1 ? 'allocation' : 'allocations'}, ${bytes(peak.bytes)}.`
  Object.assign($('alive-note').dataset, { peak: peak.bytes, count: peak.count })
  const most = Math.max(4096, ...total) * 1.05
  const cursor = { at: -1 }

  const label = 'Live bytes by tag over time. The arrow keys move along it; P goes to the peak.'
  const chart = drawing({ tabindex: 0, role: 'img', 'aria-label': label }, () => 240, (context, width) => {
    const { left, right, top, bottom } = chartEdges(width, 14)
    const x = (ms) => left + ((ms - start) / (end - start)) * (right - left)
    const y = (value) => bottom - (value / most) * (bottom - top)
    drawAxes(context, { left, right, bottom, width, most, y, start, end, x })
    const base = total.map(() => 0)
    for (const { shade, values } of layers) {
      context.beginPath()
      context.moveTo(x(time[0]), y(base[0]))
      for (let at = 0; at < time.length; at++) {
        if (at > 0) context.lineTo(x(time[at]), y(base[at - 1] + values[at - 1]))
        context.lineTo(x(time[at]), y(base[at] + values[at]))
      }
      context.lineTo(x(end), y(base.at(-1) + values.at(-1)))
      context.lineTo(x(end), y(base.at(-1)))
      for (let at = time.length - 1; at >= 0; at--) {
        context.lineTo(x(time[at]), y(base[at]))
        if (at > 0) context.lineTo(x(time[at]), y(base[at - 1]))
      }
      context.fillStyle = shade
      context.globalAlpha = 0.85
      context.fill()
      context.globalAlpha = 1
      values.forEach((value, at) => (base[at] += value))
    }
    const line = (at, shade, dash) => {
      context.strokeStyle = colour(shade)
      context.lineWidth = 1
      context.setLineDash(dash)
      context.beginPath()
      context.moveTo(x(time[at]), top - 4)
      context.lineTo(x(time[at]), bottom)
      context.stroke()
      context.setLineDash([])
    }
    line(peak.at, 'text', [3, 3])
    if (cursor.at >= 0) line(cursor.at, 'soft', [])
  })

  const content = (at) => [
    el('b', {}, `after ${duration(time[at])}${at === peak.at ? ', the peak' : ''}`),
    pair('all', bytes(total[at])),
    ...layers
      .filter(({ values }) => values[at] > 0)
      .reverse()
      .map(({ name, shade, values }) =>
        el(
          'div',
          { class: 'pair' },
          el('span', { class: 'soft' }, dot(shade), ` ${name}`),
          el('span', {}, bytes(values[at])),
        ),
      ),
  ]
  moveCursor(cursor, chart, { time, start, end, content, keys: { p: peak.at } })
  $('alive-legend').append(
    ...layers.map(({ name, shade }) => el('span', { class: 'key' }, el('i', { style: { background: shade } }), name)),
  )
  $('alive-chart').append(chart.canvas)
  drawPeak(peak)
}

/** The table of the allocations at the peak. */
function drawPeak({ holders, count: all, timeMs, bytes: sum }) {
  const shown = holders.id.length
  const cut = shown < all ? `, the largest ${count(shown)} of ${count(all)}` : ''
  const note = el('p', { class: 'note' })
  const detail = el('div', { class: 'detail', 'aria-live': 'polite', hidden: true })
  note.textContent = `${bytes(sum)} after ${duration(timeMs)}${cut}`
  $('alive-peak').append(el('h3', {}, 'Alive at the peak'), note)
  holderTable($('alive-peak'), 'Alive at the peak', holders, detail)
  $('alive-peak').append(detail)
}
