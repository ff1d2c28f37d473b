// The head of the page: device, summary, tags, and the distributions of sizes and times.

function drawDevice() {
  const { device, profile } = data
  const parts = [
    device.backend,
    device.soc,
    device.driverVersion && `driver ${device.driverVersion}`,
    device.npuCores && `${device.npuCores} cores`,
    device.path,
  ]
  const taken = new Date(data.takenAt)
  $('device').append(
    el('b', {}, parts.filter(Boolean).join(' · ')),
    ` · taken ${taken
      .toISOString()
      .replace('T', ' ')
      .replace(/\.\d+Z/, ' UTC')}`,
  )
  if (profile.durationMs > 0) $('device').append(` · profiled for ${duration(profile.durationMs)}`)
  $('simulated').hidden = !data.stats.simulated
  document.title = `Memory report · ${device.soc ?? device.backend}${data.stats.simulated ? ' (simulated)' : ''}`
}

function card(name, extra, value, exact, meter, of) {
  return el(
    'div',
    { class: 'card' },
    el('div', { class: 'name' }, el('span', {}, name), el('span', {}, extra)),
    el('div', { class: 'value', 'data-stat': exact[0], 'data-value': exact[1], title: `${count(exact[1])}` }, value),
    meter,
    el('div', { class: 'of' }, ...of),
  )
}

/** Makes a bar of `used` in `total`, with a mark at the peak. */
function meter(used, total, peak, shade) {
  const share = (part) => `${total > 0 ? Math.min(100, (part / total) * 100) : 0}%`
  const mark = !peak ? null : el('b', { style: { left: `min(${share(peak)}, 100% - 2px)` } })
  return el(
    'div',
    { class: 'meter', style: { '--colour': `var(--${shade})` } },
    used > 0 ? el('i', { style: { width: share(used) } }) : null,
    mark,
  )
}

function drawSummary() {
  const { stats, profile } = data
  const kind = (name, prefix) => {
    const [used, total, peak] = ['Used', 'Total', 'Peak'].map((figure) => stats[prefix + figure])
    const exact = [`${prefix}Used`, used]
    return card(name, percent(total > 0 ? used / total : 0), bytes(used), exact, meter(used, total, peak, prefix), [
      `of ${bytes(total)}, peak ${bytes(peak)}`,
    ])
  }
  const { poolReserved, poolAllocated, liveAllocations } = stats
  const pools = [
    `${bytes(poolAllocated)} allocated in ${count(data.pools.length)} ${data.pools.length === 1 ? 'pool' : 'pools'}`,
  ]
  const rate =
    profile.durationMs > 0
      ? [
          `${count(profile.allocations)} allocated, ${count(profile.frees)} freed`,
          el('br'),
          `${count(profile.allocationRate)} a second`,
        ]
      : ['Profiling is off']
  $('summary').append(
    kind('NPU memory', 'npu'),
    kind('System memory', 'system'),
    card(
      'Pools',
      percent(poolReserved > 0 ? poolAllocated / poolReserved : 0),
      bytes(poolReserved),
      ['poolReserved', poolReserved],
      meter(poolAllocated, poolReserved, null, 'pool'),
      pools,
    ),
    card('Live allocations', '', count(liveAllocations), ['liveAllocations', liveAllocations], null, rate),
  )
}

function drawTags() {
  const shown = tagTotals.slice(0, 10)
  if (shown.length === 0) return $('tag-bars').append(empty('Nothing is allocated.'))
  const most = shown[0].bytes
  const rest = tagTotals
    .slice(10)
    .reduce((sum, { bytes, count }) => ({ bytes: sum.bytes + bytes, count: sum.count + count }), { bytes: 0, count: 0 })
  const row = (name, shade, total, more) =>
    el(
      'div',
      { class: 'row', 'data-tag': name, 'data-value': total.bytes },
      el('span', { title: name }, name),
      el(
        'div',
        { class: 'track' },
        el('i', { style: { width: `${Math.min(100, (total.bytes / most) * 100)}%`, background: shade } }),
      ),
      el('span', { class: 'right' }, bytes(total.bytes)),
      el('span', { class: 'right soft' }, more),
    )
  const amount = (number) => `${count(number)} ${number === 1 ? 'holder' : 'holders'}`
  $('tag-bars').append(
    ...shown.map((total) => row(tagName(total.tag), tagColour(total.tag), total, amount(total.count))),
  )
  if (rest.count > 0)
    $('tag-bars').append(row(`${count(tagTotals.length - 10)} others`, OTHERS, rest, amount(rest.count)))
}

function drawSpreads() {
  const { sizes, lifetimesMs, latencyNs } = data.profile
  const all = [
    ['Sizes', sizes, bytes],
    ['Lifetimes', lifetimesMs, duration],
    ['Time to allocate', latencyNs, nanoseconds],
  ].filter(([, { count }]) => count > 0)
  if (all.length === 0) return $('spread-list').replaceWith(profilingOff('Nothing was measured.'))
  $('spread-list').append(
    ...all.map(([name, { buckets = [], ...figures }, shown]) => {
      const most = Math.max(1, ...buckets.map(([, number]) => number))
      const bars = buckets.map(([upTo, number]) =>
        el('i', { style: { height: `${(number / most) * 100}%` }, title: `up to ${shown(upTo)}: ${count(number)}` }),
      )
      const quantiles = [
        ['median', 'p50'],
        ['90 %', 'p90'],
        ['99 %', 'p99'],
        ['99.9 %', 'p999'],
        ['largest', 'max'],
        ['mean', 'mean'],
      ]
      const axis = el('div', { class: 'axis' }, el('span', {}, shown(figures.min)), el('span', {}, shown(figures.max)))
      return el(
        'div',
        {},
        el('h3', {}, name, ' ', el('span', { class: 'soft' }, count(figures.count))),
        bars.length > 0
          ? el('div', { class: 'graph', role: 'img', 'aria-label': `${name}: distribution` }, ...bars)
          : null,
        bars.length > 0 ? axis : null,
        el(
          'dl',
          {},
          ...quantiles.map(([label, figure]) =>
            el('div', {}, el('dt', {}, label), el('dd', {}, shown(figures[figure]))),
          ),
        ),
      )
    }),
  )
}
