// Draws call sites as a flame graph: callers above callees, as wide as the bytes that they hold.

const METRICS = [
  ['liveBytes', 'Live bytes', bytes],
  ['liveCount', 'Live count', count],
  ['totalBytes', 'Total bytes', bytes],
  ['totalCount', 'Total count', count],
]
const FLAME_ROW = 21
/** The narrowest bar in pixels; narrower ones cannot be clicked and are merged. */
const FLAME_MIN = 2

/** Merges the stacks into a tree from the outermost frame, and sums the metrics of each node. */
function flameTree() {
  const node = (name) => ({ name, children: new Map(), sums: [0, 0, 0, 0], parent: null, depth: 0 })
  const root = node('all call sites')
  const { sites } = data
  sites.stack.forEach((stack, index) => {
    const frames = (text(stack) || '(unknown)')
      .split('\n')
      .map((line) => line.trim().replace(/^at /, ''))
      .filter(Boolean)
      .reverse()
    const tag = sites.tag[index]
    const path = tag < 0 ? frames : [...frames, `[${tagName(tag)}]`]
    let current = root
    const add = (to) => METRICS.forEach(([key], at) => (to.sums[at] += sites[key][index]))
    add(root)
    for (const frame of path) {
      let next = current.children.get(frame)
      if (next === undefined) {
        next = Object.assign(node(frame), { parent: current, depth: current.depth + 1 })
        current.children.set(frame, next)
      }
      add(next)
      current = next
    }
  })
  return root
}

/** Returns a warm colour by name: a function has the same colour everywhere. */
function flameHue(name) {
  let hash = 0
  for (let at = 0; at < name.length; at++) hash = (hash * 31 + name.charCodeAt(at)) | 0
  return name.startsWith('[')
    ? 'hsl(215 60% 76%)'
    : `hsl(${28 + (Math.abs(hash) % 26)} ${72 + (Math.abs(hash >> 8) % 16)}% ${70 + (Math.abs(hash >> 4) % 9)}%)`
}

const shortFrame = (name) =>
  name.replace(/\(?(?:file:\/\/)?(?:[^\s()]*\/)([^/\s()]+)\)?$/, '($1)').replace(/^\((.+)\)$/, '$1')

function drawFlame() {
  const { profile } = data
  if (data.sites.stack.length === 0) {
    document.querySelector('#sites .tools').remove()
    return $('flame').append(
      profile.enabled
        ? empty('No allocation was sampled yet. A smaller ', code('sampleInterval'), ' samples more of them.')
        : profilingOff('No call site is known.'),
    )
  }
  const sampled = profile.sampleInterval > 1 ? `, estimated from a sample every ${bytes(profile.sampleInterval)}` : ''
  $('sites-note').textContent = `${count(data.sites.stack.length)} places in the program${sampled}`
  const root = flameTree()
  let metric = 0
  let zoom = root
  let needle = ''
  const say = (node) => {
    const [, , shown] = METRICS[metric]
    const sum = node.sums[metric]
    return `${node.name}: ${shown(sum)}, ${percent(root.sums[metric] > 0 ? sum / root.sums[metric] : 0)}`
  }

  function draw() {
    const width = $('flame').clientWidth
    const bars = []
    let deepest = 0
    /** Draws all calls that are too narrow as one bar. */
    const others = (number, left, wide, row) => {
      deepest = Math.max(deepest, row)
      const label = `${count(number)} narrower ${number === 1 ? 'one' : 'ones'}`
      const bar = el('div', { class: 'others', title: label }, wide > 60 ? label : '')
      Object.assign(bar.style, { left: `${left}px`, width: `${wide}px`, top: `${row * FLAME_ROW}px` })
      bars.push(bar)
    }
    const place = (node, left, wide, row) => {
      deepest = Math.max(deepest, row)
      const label = say(node)
      const bar = el(
        'button',
        { type: 'button', 'aria-label': label, 'data-name': node.name, 'data-value': node.sums[metric] },
        wide > 30 ? shortFrame(node.name) : '',
      )
      Object.assign(bar.style, {
        left: `${left}px`,
        width: `${wide}px`,
        top: `${row * FLAME_ROW}px`,
        background: node === root ? 'var(--strong)' : flameHue(node.name),
      })
      if (node === root) bar.style.color = 'var(--text)'
      bar.classList.toggle('dim', needle !== '' && !node.name.toLowerCase().includes(needle))
      bar.addEventListener('click', () => {
        zoom = node
        draw()
        $('flame').children[node.depth].focus({ preventScroll: true })
      })
      for (const event of ['pointerenter', 'focus'])
        bar.addEventListener(event, () => ($('flame-detail').textContent = label))
      bars.push(bar)
      if (row < above.length) return
      let at = left
      let narrow = 0
      const children = [...node.children.values()].sort((a, b) => b.sums[metric] - a.sums[metric])
      for (const child of children) {
        const part = node.sums[metric] > 0 ? (child.sums[metric] / node.sums[metric]) * wide : 0
        if (part < FLAME_MIN) {
          narrow++
          continue
        }
        place(child, at, part, row + 1)
        at += part
      }
      if (narrow > 0 && left + wide - at >= FLAME_MIN) others(narrow, at, left + wide - at, row + 1)
    }
    const above = []
    for (let node = zoom.parent; node !== null; node = node.parent) above.unshift(node)
    above.forEach((node, row) => place(node, 0, width, row))
    place(zoom, 0, width, above.length)
    $('flame').replaceChildren(...bars)
    $('flame').style.height = `${(deepest + 1) * FLAME_ROW}px`
    $('flame-reset').disabled = zoom === root
    $('flame-detail').textContent = say(zoom)
  }

  const reset = () => {
    zoom = root
    draw()
  }
  METRICS.forEach(([key, name], at) => {
    const button = el('button', { type: 'button', 'aria-pressed': String(at === 0), 'data-metric': key }, name)
    button.addEventListener('click', () => {
      metric = at
      for (const other of $('flame-metric').children) other.setAttribute('aria-pressed', String(other === button))
      draw()
    })
    $('flame-metric').append(button)
  })
  $('flame-search').addEventListener('input', (event) => {
    needle = event.target.value.trim().toLowerCase()
    draw()
  })
  $('flame-reset').addEventListener('click', reset)
  $('sites').addEventListener('keydown', (event) => event.key === 'Escape' && reset())
  let width = 0
  new ResizeObserver(() => {
    if (width === $('flame').clientWidth) return
    width = $('flame').clientWidth
    draw()
  }).observe($('flame'))
}
