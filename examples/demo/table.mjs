/** Formats numbers and tables. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

export function bytes(count) {
  let unit = 0
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024
    unit++
  }
  return `${count.toFixed(unit === 0 || count >= 100 ? 0 : 1)} ${UNITS[unit]}`
}

export function integer(count) {
  return Math.round(count).toLocaleString('en-US')
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** Formats rows of [name, value]; null draws a line between groups. */
export function table(rows) {
  const cells = rows.filter((row) => row !== null)
  const widths = [0, 1].map((column) => Math.max(...cells.map((row) => row[column].length)))
  const rule = (left, middle, right) => left + widths.map((width) => '─'.repeat(width + 2)).join(middle) + right
  const lines = rows.map((row) =>
    row === null ? rule('├', '┼', '┤') : `│ ${row[0].padEnd(widths[0])} │ ${row[1].padStart(widths[1])} │`,
  )
  return [rule('┌', '┬', '┐'), ...lines, rule('└', '┴', '┘')].join('\n')
}
