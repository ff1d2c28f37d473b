// Draws memory over time: three lines, and a crosshair that shows their values.

const SERIES = [
  ['npuUsed', 'NPU used', 'npu'],
  ['systemUsed', 'System used', 'system'],
  ['poolReserved', 'Pools reserved', 'pool'],
]

/** Returns the ticks of the axis: multiples of a power of two, at most five steps up to `most`. */
function byteSteps(most) {
  let step = 1024
  while (most / step > 5) step *= 2
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step)
}

/** Draws the lines and labels of a chart of bytes over time. */
function drawAxes(context, { left, right, bottom, width, most, y, start, end, x }) {
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`
  context.fillStyle = colour('soft')
  context.strokeStyle = colour('line')
  context.lineWidth = 1
  context.textAlign = 'right'
  context.textBaseline = 'middle'
  for (const step of byteSteps(most)) {
    context.fillText(bytes(step), left - 8, y(step))
    context.beginPath()
    context.moveTo(left, Math.round(y(step)) + 0.5)
    context.lineTo(right, Math.round(y(step)) + 0.5)
    context.stroke()
  }
  const marks = width < 500 ? 3 : 6
  context.textBaseline = 'alphabetic'
  for (let mark = 0; mark <= marks; mark++) {
    const ms = start + ((end - start) * mark) / marks
    context.textAlign = mark === 0 ? 'left' : mark === marks ? 'right' : 'center'
    context.fillText(ms < 1 ? '0' : duration(ms), x(ms), bottom + 20)
  }
}

function drawTimeline() {
  const { time, ...lines } = data.timeline
  if (time.length < 2) {
    $('timeline-legend').remove()
    return $('timeline-chart').append(
      data.profile.enabled
        ? empty('The profile is too young: it has not two points yet.')
        : profilingOff('Nothing was recorded.'),
    )
  }
  const [start, end] = [time[0], time.at(-1)]
  $('timeline-note').textContent = `${count(time.length)} points over ${duration(end - start)}`
  const off = new Set()
  const shownSeries = () => SERIES.filter(([key]) => !off.has(key))
  const cursor = { at: -1 }

  const { canvas, redraw } = drawing(
    { tabindex: 0, role: 'img', 'aria-label': 'Memory over time. The arrow keys move along it.' },
    () => 240,
    (context, width) => {
      const { left, right, top, bottom } = chartEdges(width, 10)
      const most =
        Math.max(4096, ...shownSeries().map(([key]) => lines[key].reduce((a, b) => Math.max(a, b), 0))) * 1.05
      const x = (ms) => left + ((ms - start) / (end - start)) * (right - left)
      const y = (value) => bottom - (value / most) * (bottom - top)
      drawAxes(context, { left, right, bottom, width, most, y, start, end, x })
      context.lineJoin = 'round'
      for (const [key, , shade] of shownSeries()) {
        // A step chart: a value holds until the next point.
        context.beginPath()
        context.moveTo(x(start), y(lines[key][0]))
        for (let at = 1; at < time.length; at++) {
          context.lineTo(x(time[at]), y(lines[key][at - 1]))
          context.lineTo(x(time[at]), y(lines[key][at]))
        }
        context.strokeStyle = colour(shade)
        context.lineWidth = 1.75
        context.stroke()
        context.lineTo(x(end), bottom)
        context.lineTo(x(start), bottom)
        context.globalAlpha = 0.08
        context.fillStyle = colour(shade)
        context.fill()
        context.globalAlpha = 1
      }
      if (cursor.at < 0) return
      context.lineWidth = 1
      context.strokeStyle = colour('soft')
      context.beginPath()
      context.moveTo(x(time[cursor.at]), top)
      context.lineTo(x(time[cursor.at]), bottom)
      context.stroke()
      for (const [key, , shade] of shownSeries()) {
        context.beginPath()
        context.arc(x(time[cursor.at]), y(lines[key][cursor.at]), 3.5, 0, 7)
        context.fillStyle = colour(shade)
        context.fill()
      }
    },
  )

  const content = (at) => [
    el('b', {}, `after ${duration(time[at] - start)}`),
    ...shownSeries().map(([key, name]) => pair(name, bytes(lines[key][at]))),
  ]
  moveCursor(cursor, { canvas, redraw }, { time, start, end, content })

  for (const [key, name, shade] of SERIES) {
    const button = el(
      'button',
      { type: 'button', 'aria-pressed': 'true' },
      el('i', { style: { background: `var(--${shade})` } }),
      name,
    )
    button.addEventListener('click', () => {
      if (!off.delete(key)) off.add(key)
      button.setAttribute('aria-pressed', String(!off.has(key)))
      redraw()
    })
    $('timeline-legend').append(button)
  }
  $('timeline-chart').append(canvas)
}
