'use strict'

// The page's frame, which the scripts fill.

/** @type {(id: string, title: string, note: string, content: string) => string} */
const section = (id, title, note, content) => `<section id="${id}" class="panel" aria-labelledby="${id}-title">
<div class="panel-head"><h2 id="${id}-title">${title}</h2><p class="note" id="${id}-note">${note}</p></div>
${content}
</section>`

/** @type {(id: string, label: string) => string} */
const search = (id, label) => `<label class="search"><span class="hidden">${label}</span><input
 id="${id}" type="search" placeholder="${label}" autocomplete="off" spellcheck="false"></label>`

const SECTIONS = {
  timeline: 'Timeline',
  alive: 'Peak',
  limits: 'Limits',
  pools: 'Pools',
  sites: 'Call sites',
  holders: 'Holders',
  leaks: 'Leaks',
  events: 'Events',
}

const timeline = '<div id="timeline-legend" class="legend"></div><div id="timeline-chart" class="chart"></div>'
const alive = `<div id="alive-legend" class="legend"></div><div id="alive-chart" class="chart"></div>
<div id="alive-peak"></div>`
const poolsNote = 'The blocks of each chunk by address. Hover, or focus a map and use the arrow keys.'

const sites = `<div class="tools"><div
 id="flame-metric" class="switch" role="group" aria-label="Metric that the widths show"></div>${search(
   'flame-search',
   'Highlight a function or file',
 )}<button id="flame-reset" type="button" class="button" disabled>Reset zoom</button></div><div id="flame"></div><p
 id="flame-detail" class="detail-line" aria-live="polite"></p>`

const holders = `<div class="tools">${search(
  'holder-filter',
  'Filter by tag, pool, kind, id or stack',
)}</div><div id="holder-table"></div><div id="holder-detail" class="detail" aria-live="polite" hidden></div>`

const events = `<div class="tools"><div
 id="event-types" class="switch" role="group" aria-label="Types of event"></div>${search(
   'event-filter',
   'Filter by tag, pool, kind or id',
 )}</div><div id="event-table"></div>`

/** @type {(title: string, sections: Record<string, string>, skip: string, content: string) => string} */
const frame = (title, sections, skip, content) => `<body>
<a class="skip" href="#${skip}">Skip to the table of memory</a>
<header class="top"><div class="wrap bar">
<div class="brand"><h1>${title}</h1><span id="simulated" class="badge" hidden>Simulated NPU</span></div>
<nav aria-label="Sections">${Object.entries(sections)
  .map(([id, name]) => `<a href="#${id}">${name}</a>`)
  .join('')}</nav>
<button id="theme" type="button" class="button" aria-pressed="false">Dark</button>
</div></header>
<main class="wrap">
<p id="device" class="device"></p>
<div id="summary" class="cards"></div>
${content}<footer id="foot"></footer>
</main>
<div id="tip" role="status" hidden></div>
<noscript><p class="wrap">This report needs JavaScript, which is switched off here.
The .json report has the same figures.</p></noscript>`

const body = frame(
  'Memory report',
  SECTIONS,
  'holders',
  `${section('tags', 'Largest tags', 'Live bytes by tag', '<div id="tag-bars" class="bars"></div>')}
${section('timeline', 'Memory over time', '', timeline)}
${section('alive', 'Memory that was alive', '', alive)}
${section('limits', 'Limits and refusals', '', '<div id="limit-table"></div>')}
${section('models', 'Models', '', '<div id="model-table"></div>')}
${section('reservations', 'Reservations', 'Bytes set aside by reserve()', '<div id="reservation-table"></div>')}
${section('domains', 'IOMMU domains', '', '<div id="domain-table"></div>')}
${section('pools', 'Pools', poolsNote, '<div id="pool-list"></div>')}
${section('sites', 'Call sites', '', sites)}
${section('holders', 'Largest holders', '', holders)}
${section('leaks', 'Leaks', 'Allocations that outlived leakAfterMs', '<div id="leak-table"></div>')}
${section('spread', 'Sizes, lifetimes, latencies', '', '<div id="spread-list" class="spreads"></div>')}
${section('process', 'Process and machine', '', '<div id="process-list" class="groups"></div>')}
${section('events', 'Events', '', events)}
`,
)

/** @type {(name: string) => string} */
const holderList = (name) => `<div class="tools">${search(
  `${name}-filter`,
  'Filter by tag, pool, kind, id or stack',
)}</div><div id="${name}-table"></div><div id="${name}-detail" class="detail" aria-live="polite" hidden></div>`

const diffBody = frame(
  'Memory diff',
  { tags: 'Tags', pools: 'Pools', sites: 'Call sites', added: 'Added', gone: 'Gone' },
  'added',
  `${section('tags', 'Growth by tag', '', '<div id="tag-growth"></div>')}
${section('kinds', 'Growth by kind', '', '<div id="kind-growth"></div>')}
${section('pools', 'Growth by pool', '', '<div id="pool-growth"></div>')}
${section('sites', 'Growth by call site', '', '<div id="site-growth"></div>')}
${section('added', 'Added', '', holderList('added'))}
${section('gone', 'Gone', '', holderList('gone'))}
`,
)

module.exports = { body, diffBody }
