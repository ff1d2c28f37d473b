/** Tells what grew during a soak: medians of the first third of the rows, after the warm-up, against the last. */

const MiB = 2 ** 20

/**
 * Figure → the growth that is no leak: a share of the first median, and an amount beside it. A collector that has run
 * in one third and not in the other moves resident memory by tens of MiB; two processors with other work move delays.
 */
const TOLERATED = {
  rss: { share: 0.1, amount: 64 * MiB },
  heap: { share: 0.25, amount: 64 * MiB },
  maps: { share: 0.05, amount: 100 },
  fds: { share: 0.05, amount: 16 },
  vm: { share: 0, amount: 1024 * MiB },
  objects: { share: 0.05, amount: 16 },
  live: { share: 0.02, amount: 64 },
  tags: { share: 0.1, amount: 100 },
  waiting: { share: 0.25, amount: 64 * MiB },
  p50: { share: 1, amount: 1 },
  p99: { share: 1, amount: 10 },
}
/** Figures that must be zero in every row. */
const ZERO = { lost: 'objects, mappings or slices were lost', wrong: 'buffers had other bytes than were written' }
/** The share of the rows in which the process gets to its usual size. */
const WARM_UP = 0.2
/** Fewer rows have no thirds to compare. */
const FEWEST_ROWS = 8

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]

/**
 * @param {Array<Record<string, number>>} rows
 * @returns {{ grew: string[], compared: Array<{ figure: string, first: number, last: number, grew: boolean }> }}
 *   sentences of what grew or went wrong, and the comparison by figure
 */
export function verdictOf(rows) {
  const faults = Object.entries(ZERO).flatMap(([figure, text]) => {
    const most = Math.max(0, ...rows.map((row) => row[figure] ?? 0))
    return most > 0 ? [`${most} ${text}`] : []
  })
  if (rows.length < FEWEST_ROWS) return { grew: faults, compared: [] }
  const warm = rows.slice(Math.ceil(rows.length * WARM_UP))
  const third = Math.floor(warm.length / 3)
  const compared = Object.entries(TOLERATED).flatMap(([figure, { share, amount }]) => {
    if (typeof warm[0][figure] !== 'number') return []
    const first = median(warm.slice(0, third).map((row) => row[figure]))
    const last = median(warm.slice(-third).map((row) => row[figure]))
    return [{ figure, first, last, grew: last > first * (1 + share) + amount }]
  })
  const grew = compared.filter((one) => one.grew).map(({ figure, first, last }) => `${figure} grew: ${first} → ${last}`)
  return { grew: [...faults, ...grew], compared }
}
