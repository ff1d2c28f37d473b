// Limits, refusals, models, reservations, domains, and the figures of the process and the machine.

const known = (figure, shown = bytes) => (figure === null || figure === undefined ? '–' : shown(figure))
const noUsage = () => empty('This report has no such figures: a process of an older version wrote it.')

function drawLimits() {
  const { usage, pools } = data
  if (usage === null) return $('limit-table').append(noUsage())
  const row = (scope, name, taken, most, refused) => ({ scope, name, taken, most, refused })
  const scopes = [
    row('all memory', '', usage.total.taken, usage.total.limit, null),
    row('NPU memory', '', usage.npu.taken, usage.npu.limit, usage.npu.failedAllocations),
    row('system memory', '', usage.system.taken, usage.system.limit, usage.system.failedAllocations),
    ...usage.tags.map(({ tag, taken, limit, failedAllocations }) => row('tag', tag, taken, limit, failedAllocations)),
    ...pools.map(({ name, reserved, maxSize, failedAllocations }) =>
      row('pool', name, reserved, maxSize ?? null, failedAllocations),
    ),
  ]
  const share = ({ taken, most }) => (most === null ? -1 : most > 0 ? taken / most : 1)
  const rows = scopes.sort((a, b) => share(b) - share(a))
  const failed = usage.npu.failedAllocations + usage.system.failedAllocations
  const refusals = failed === 0 ? 'Nothing was refused' : `${count(failed)} refused`
  $('limits-note').textContent =
    `${refusals}. Taken: in use, reserved, and requested right now; of a pool its chunks.`
  Object.assign($('limits-note').dataset, { refused: failed })
  const columns = [
    { label: 'Scope' },
    { label: 'Taken', end: true },
    { label: 'Limit', end: true },
    { label: 'How near', wide: true },
    { label: 'Refused', end: true },
  ]
  const cells = rows.map(({ scope, name, taken, most, refused }) => [
    name === '' && scope !== 'tag' ? scope : [el('span', { class: 'soft' }, `${scope} `), name],
    bytes(taken),
    known(most),
    nearness(taken, most),
    known(refused, count),
  ])
  $('limit-table').append(plainTable('Limits', columns, cells))
}

function drawReservations() {
  const { usage } = data
  if (usage === null) return $('reservation-table').append(noUsage())
  if (usage.reservationCount === 0)
    return $('reservation-table').append(
      empty('Nothing is reserved. ', code('manager.reserve(size)'), ' sets memory aside.'),
    )
  const { reservationCount: all, reserved } = usage
  $('reservations-note').textContent = `${count(all)}, ${bytes(reserved)} set aside by reserve()`
  const columns = [{ label: 'Tag' }, { label: 'Kind' }, { label: 'Size', end: true }]
  const cells = usage.reservations.map(({ tag, kind, size }) => [tag ?? '(no tag)', kind, bytes(size)])
  $('reservation-table').append(plainTable('Reservations', columns, cells))
}

/** Models of residencies. Figures of older managers have none. */
function drawModels() {
  const models = data.usage?.models ?? []
  if (models.length === 0) return $('models').remove()
  const loaded = models.filter(({ state }) => state === 'ready').length
  $('models-note').textContent = `${count(models.length)} of createModelResidency, ${count(loaded)} loaded`
  const columns = [
    { label: 'Model' },
    { label: 'State' },
    { label: 'Domain', end: true, wide: true },
    { label: 'Estimated', end: true, wide: true },
    { label: 'Reserved', end: true },
    { label: 'Measured', end: true },
    { label: 'Leases', end: true },
    { label: 'Loads', end: true },
    { label: 'Unloads', end: true, wide: true },
  ]
  const cells = models.map((model) => [
    model.name,
    model.bytes.stuck > 0 ? `${model.state}, ${bytes(model.bytes.stuck)}` : model.state,
    model.domain === null ? '–' : String(model.domain),
    bytes(model.bytes.estimated),
    bytes(model.bytes.reserved),
    known(model.bytes.measured),
    count(model.leases),
    count(model.loads),
    count(model.evictions),
  ])
  $('model-table').append(plainTable('Models', columns, cells))
}

function drawDomains() {
  const all = data.usage?.npu.domains ?? []
  if (all.length === 0) return $('domains').remove()
  const domains = all.filter(({ id, used, reservedForOthers }) => id === 0 || used + reservedForOthers > 0)
  $('domains-note').textContent = `${count(all.length)} of this device; those that are not used are left out`
  const columns = [
    { label: 'Domain' },
    { label: 'Used here', end: true },
    { label: 'Reserved for others', end: true, wide: true },
    { label: 'Addressable', end: true },
    { label: 'How near', wide: true },
  ]
  const cells = domains.map(({ id, used, reservedForOthers, total }) => [
    String(id),
    bytes(used),
    bytes(reservedForOthers),
    bytes(total),
    nearness(used + reservedForOthers, total),
  ])
  $('domain-table').append(plainTable('IOMMU domains', columns, cells))
}

function drawProcess() {
  const { usage, pools } = data
  if (usage === null) return $('process-list').replaceWith(noUsage())
  const { npu, system, process, pinned } = usage
  const sum = (figure) => pools.reduce((total, pool) => total + (figure(pool) ?? 0), 0)
  const group = (title, ...facts) =>
    el(
      'div',
      {},
      el('h3', {}, title),
      el('dl', {}, ...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))),
    )
  const of = (part, whole) => `${known(part, count)} of ${known(whole, count)}`
  const lost = (pool) => pool.lost ?? { slices: 0, bytes: 0 }
  $('process-list').append(
    group(
      'Descriptors and mappings',
      ['open descriptors', of(process.openFds, process.maxFds)],
      ['mappings', of(process.maps, process.maxMaps)],
      ['kernel objects', count(npu.objects)],
      ['addresses to use', known(process.addresses?.budget)],
      ['addresses withheld', known(process.addresses?.withheld)],
    ),
    group(
      'Freed, not used again yet',
      ['slices of pools that wait', bytes(sum(({ waiting }) => waiting))],
      ['slices of slabs that wait', bytes(npu.slabs?.waiting ?? 0)],
      ['frees that the driver has not done', bytes(npu.pendingFree)],
      ['kernel objects not taken back', `${count(npu.lost.objects)}, ${bytes(npu.lost.bytes)}`],
      ['lost slices of pools', `${count(sum((pool) => lost(pool).slices))}, ${bytes(sum((pool) => lost(pool).bytes))}`],
    ),
    group(
      'Pinned',
      ['pinned blocks', `${count(pinned?.blocks ?? 0)}, ${bytes(pinned?.bytes ?? 0)}`],
      ['dropped by JavaScript', `${count(pinned?.droppedBlocks ?? 0)}, ${bytes(pinned?.droppedBytes ?? 0)}`],
      ['of ended managers', `${count(pinned?.orphanedBlocks ?? 0)}, ${bytes(pinned?.orphanedBytes ?? 0)}`],
    ),
    group(
      'Process',
      ['resident', known(process.rss)],
      ['JavaScript heap', bytes(process.heapUsed)],
      ['outside the heap', bytes(process.external)],
    ),
    group(
      'Machine',
      ['RAM available', `${bytes(system.available)} of ${bytes(system.total)}`],
      ['swap free', `${bytes(system.swapFree)} of ${bytes(system.swapTotal)}`],
      ['memory cgroup', `${known(system.cgroup?.current)} of ${known(system.cgroup?.limit)}`],
      ['CMA free', `${known(npu.cmaFree)} of ${known(npu.cmaTotal)}`],
      ['SRAM free', `${bytes(npu.sramFree)} of ${bytes(npu.sramTotal)}`],
    ),
  )
}
