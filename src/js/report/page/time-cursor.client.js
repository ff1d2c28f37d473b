// Moves a cursor along a chart of bytes over time, with the mouse and the keys, and shows the figures there.

/** The area of such a chart. */
const chartEdges = (width, top) => ({ left: 62, right: width - 8, top, bottom: 214 })

/**
 * Shows `content(at)` for the point of `time` that the cursor is at: `cursor.at`, -1 for none. A key of `keys` leads to
 * a point.
 */
function moveCursor(cursor, { canvas, redraw }, { time, start, end, content, keys = {} }) {
  const point = (at) => {
    cursor.at = Math.max(0, Math.min(time.length - 1, at))
    redraw()
    const box = canvas.getBoundingClientRect()
    const { left, right } = chartEdges(box.width)
    const x = box.left + left + ((time[cursor.at] - start) / (end - start)) * (right - left)
    tip.show(x, box.top + 30, ...content(cursor.at))
  }
  const leave = () => {
    cursor.at = -1
    redraw()
    tip.hide()
  }
  canvas.addEventListener('pointermove', (event) => {
    const { left, right } = chartEdges(canvas.clientWidth)
    const ms = start + ((event.offsetX - left) / (right - left)) * (end - start)
    point(Math.max(0, blockAt(time, ms)))
  })
  canvas.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key]
    const key = event.key.toLowerCase()
    if (event.key === 'Escape') leave()
    if (keys[key] !== undefined) point(keys[key])
    if (step === undefined) return
    event.preventDefault()
    point(cursor.at + step)
  })
  canvas.addEventListener('pointerleave', leave)
  canvas.addEventListener('blur', leave)
}
