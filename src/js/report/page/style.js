'use strict'

// The page's style. Colours are variables, which the canvases read too.

const dark = `color-scheme: dark;
  --bg: #0f1217; --panel: #161a21; --sunk: #1d222b; --text: #e8ebf1; --soft: #9aa3b3; --line: #282e39;
  --strong: #3a4250;
  --accent: #8fabff; --npu: #7ea2ff; --system: #45c8b2; --pool: #e3ad55; --warn: #f0b65c; --warn-bg: #33270f;
  --bad: #ff8d8d; --free: #222833;`

const css = `
:root { color-scheme: light;
  --bg: #f5f6f8; --panel: #ffffff; --sunk: #f2f4f7; --text: #171a21; --soft: #5a6372; --line: #e2e6ec;
  --strong: #c9d0da;
  --accent: #2f55cf; --npu: #3a68d8; --system: #0d9480; --pool: #bd7d14; --warn: #8a5a00; --warn-bg: #fff1d2;
  --bad: #c0343c; --free: #e9edf2;
  --mono: ui-monospace, "SF Mono", "Cascadia Code", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) { ${dark} } }
:root[data-theme="dark"] { ${dark} }
* { box-sizing: border-box; }
html { scroll-padding-top: 68px; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
body { margin: 0; background: var(--bg); color: var(--text); font: 14px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
h1, h2, h3, p { margin: 0; }
h1 { font-size: 15px; font-weight: 650; letter-spacing: -.01em; white-space: nowrap; }
h2 { font-size: 15px; font-weight: 650; letter-spacing: -.005em; }
h3 { font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
a { color: inherit; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.wrap { width: min(1200px, 100%); margin: 0 auto; padding: 0 24px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 12px; top: 12px; z-index: 9; background: var(--panel);
  padding: 8px 12px; }
.top { position: sticky; top: 0; z-index: 5; background: var(--panel); border-bottom: 1px solid var(--line); }
.bar { display: flex; align-items: center; gap: 20px; min-height: 52px; }
.brand { display: flex; align-items: center; gap: 10px; }
.bar nav { display: flex; gap: 2px; margin-left: auto; }
.bar nav a { color: var(--soft); text-decoration: none; padding: 5px 9px; border-radius: 6px; font-size: 13px; }
.bar nav a:hover { color: var(--text); background: var(--sunk); }
.badge { font-size: 12px; font-weight: 600; color: var(--warn); background: var(--warn-bg); border-radius: 999px;
  padding: 2px 10px; white-space: nowrap; }
.button, .switch button { font: inherit; font-size: 13px; color: var(--text); background: var(--panel);
  border: 1px solid var(--strong); border-radius: 7px; padding: 4px 11px; cursor: pointer; }
.button:hover:not(:disabled) { background: var(--sunk); } .button:disabled { color: var(--soft);
  border-color: var(--line); cursor: default; }
.device { color: var(--soft); margin: 22px 0 12px; overflow-wrap: anywhere; } .device b { color: var(--text);
  font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 14px; margin-bottom: 14px; }
.card, .panel { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 16px 15px; }
.card .name { color: var(--soft); font-size: 13px; display: flex; justify-content: space-between; gap: 8px; }
.card .value { font-size: 25px; line-height: 1.25; font-weight: 600; letter-spacing: -.02em; margin-top: 3px;
  white-space: nowrap; }
.card .of { color: var(--soft); font-size: 13px; }
.meter { height: 6px; border-radius: 3px; background: var(--free); margin: 9px 0 7px; position: relative;
  overflow: hidden; }
.meter i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--colour, var(--accent));
  min-width: 2px; }
.meter b { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--text); opacity: .55; }
.panel { padding: 18px 20px 20px; margin-bottom: 14px; }
.panel-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 12px; margin-bottom: 14px; }
.note, .soft { color: var(--soft); font-size: 13px; }
.empty { color: var(--soft); background: var(--sunk); border-radius: 8px; padding: 18px; max-width: none; }
.empty code, .note code { font: 12.5px var(--mono); color: var(--text); overflow-wrap: anywhere; }
.bars { display: grid; gap: 7px; }
.bars .row { display: grid; grid-template-columns: minmax(90px, 190px) 1fr 84px 104px; gap: 12px; align-items: center;
  font-size: 13px; }
.bars .row > span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .track { height: 14px; background: var(--sunk); border-radius: 3px; overflow: hidden; } .bars .track i {
  display: block; height: 100%; border-radius: 3px; min-width: 2px; }
.right { text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: -4px 0 10px; }
.legend button { font: inherit; font-size: 13px; display: inline-flex; gap: 7px; align-items: center; border: 0;
  background: none; color: var(--text); padding: 2px 8px 2px 2px; border-radius: 6px; cursor: pointer; }
.legend button[aria-pressed="false"] { color: var(--soft); text-decoration: line-through; }
  .legend button[aria-pressed="false"] i { opacity: .3; }
.legend i, .dot { width: 10px; height: 10px; border-radius: 3px; display: inline-block; flex: none; }
.chart canvas { display: block; width: 100%; height: 240px; border-radius: 6px; }
.pool { padding: 14px 0 4px; border-top: 1px solid var(--line); } .pool:first-child { border-top: 0; padding-top: 0; }
.pool-head { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 4px; }
.figures { display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--soft); font-size: 13px; margin-bottom: 10px; }
  .figures b { color: var(--text); font-weight: 600; } .figures .high b { color: var(--bad); }
.map { margin-bottom: 10px; } .map canvas { display: block; width: 100%; border-radius: 4px; cursor: crosshair; }
.map figcaption { color: var(--soft); font-size: 12px; margin-bottom: 3px; } figure { margin: 0; }
.tools { display: flex; flex-wrap: wrap; gap: 8px 10px; align-items: center; margin-bottom: 12px; }
.search { flex: 1 1 220px; max-width: 380px; } .search input { width: 100%; font: inherit; font-size: 13px;
  padding: 5px 10px; color: var(--text); background: var(--panel); border: 1px solid var(--strong);
  border-radius: 7px; }
.search input::placeholder { color: var(--soft); opacity: 1; }
.switch { display: flex; flex-wrap: wrap; } .switch button { border-radius: 0; margin-left: -1px; color: var(--soft); }
.switch button:first-child { border-radius: 7px 0 0 7px; margin-left: 0; } .switch button:last-child {
  border-radius: 0 7px 7px 0; }
.switch button[aria-pressed="true"] { color: var(--text); background: var(--sunk); font-weight: 600; }
#flame { position: relative; overflow: hidden; }
#flame button, #flame .others { position: absolute; height: 20px; font: 12px/18px var(--mono); text-align: left;
  padding: 0 5px; border: 0; border-right: 1px solid var(--panel); border-bottom: 1px solid var(--panel);
  border-radius: 3px; color: #14161b; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; cursor: pointer; }
#flame .others { background: var(--free); color: var(--soft); cursor: default; }
#flame button:hover, #flame button:focus-visible { filter: brightness(1.08); outline-offset: -2px; }
  #flame button.dim { opacity: .28; }
.detail-line:empty { display: none; } .detail-line { min-height: 21px; margin-top: 8px; font: 12.5px/1.6 var(--mono);
  color: var(--soft); overflow-wrap: anywhere; }
.table { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; font-size: 13px; }
.table .tr { display: grid; grid-template-columns: var(--columns); align-items: center; }
.table .thead { background: var(--sunk); border-bottom: 1px solid var(--line); padding-right: var(--bar, 0px); }
.table .th button { font: inherit; font-weight: 600; font-size: 12.5px; color: var(--soft); background: none;
  border: 0; width: 100%; padding: 7px 12px; text-align: inherit; cursor: pointer; white-space: nowrap; }
.table .th > span { display: block; font-weight: 600; font-size: 12.5px; color: var(--soft); padding: 7px 12px; }
  .table .th button:hover { color: var(--text); }
.table .th button:focus-visible { outline-offset: -3px; } .th[aria-sort="ascending"] button::after {
  content: " \\2191"; } .th[aria-sort="descending"] button::after { content: " \\2193"; }
.table .th[aria-sort] button { color: var(--text); }
.table .scroll { overflow-y: auto; position: relative; } .table .scroll:focus-visible { outline-offset: -2px; }
.table .body { position: relative; }
.table .body .tr { position: absolute; left: 0; right: 0; height: 30px; border-bottom: 1px solid var(--line); }
.table .body .tr:hover { background: var(--sunk); } .table .tr[aria-selected="true"] { background: color-mix(in srgb,
  var(--accent) 14%, transparent); }
.table.pick .body .tr { cursor: pointer; }
.td { padding: 0 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .td .dot { margin-right: 8px; }
.mono { font-family: var(--mono); font-size: 12px; }
.detail { margin-top: 12px; background: var(--sunk); border-radius: 8px; padding: 14px 16px; font-size: 13px; }
.detail dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px 18px; margin: 0; }
  dt { color: var(--soft); font-size: 12px; } dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 12px 0 0; font: 12px/1.6 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.spreads { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 24px; } .spreads .graph {
  display: flex; align-items: flex-end; gap: 2px; height: 74px; margin: 10px 0 4px;
  border-bottom: 1px solid var(--strong); }
.spreads .graph i { flex: 1; background: var(--accent); opacity: .8; border-radius: 2px 2px 0 0; min-height: 2px; }
  .spreads .graph i:hover { opacity: 1; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 12px; }
.spreads dl { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px 10px; margin: 10px 0 0; font-size: 13px; }
#tip { position: fixed; z-index: 8; left: 0; top: 0; max-width: min(420px, calc(100vw - 16px)); pointer-events: none;
  background: var(--panel); color: var(--text); border: 1px solid var(--strong); border-radius: 8px;
  box-shadow: 0 6px 24px rgb(0 0 0 / .18); padding: 8px 12px; font-size: 12.5px; overflow-wrap: anywhere; } #tip pre {
  margin-top: 6px; max-height: 180px; overflow: hidden; font-size: 11.5px; } #tip .pair { display: flex;
  justify-content: space-between; gap: 18px; }
footer { color: var(--soft); font-size: 12.5px; padding: 8px 0 36px; }
.plain { overflow: auto; max-height: 420px; } .plain table { border-collapse: collapse; width: 100%; font-size: 13px; }
.plain th { text-align: left; color: var(--soft); font-weight: 600; font-size: 12.5px; position: sticky; top: 0;
  background: var(--panel); } .plain th, .plain td { padding: 6px 12px; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; vertical-align: top; } .plain .right { text-align: right; white-space: nowrap; }
.plain td .track, .near .track { min-width: 80px; } .near { display: flex; gap: 10px; align-items: center; }
  .near .track { flex: 1; }
.near .track, .track.both { height: 8px; background: var(--sunk); border-radius: 3px;
  overflow: hidden; } .near i, .both i { display: block; height: 100%; border-radius: 3px; }
.near span { min-width: 48px; text-align: right; }
.track.both { margin-top: 6px; }
.plain summary { cursor: pointer; } .plain details pre { margin: 6px 0 0; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 20px 28px; }
.groups dl { margin: 8px 0 0; display: grid; gap: 4px; font-size: 13px; } .groups dl div { display: flex;
  justify-content: space-between; gap: 14px; } .groups dd { text-align: right; }
#alive-peak { margin-top: 18px; } #alive-peak .note { margin-bottom: 8px; } .legend .key { display: inline-flex;
  align-items: center; gap: 6px; font-size: 13px; overflow-wrap: anywhere; }
.legend .key i { width: 10px; height: 10px; border-radius: 3px; flex: none; }
@media (max-width: 640px) { .plain .wide { display: none; } .plain th, .plain td { padding: 6px 8px; } }
@media (max-width: 900px) { .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); } .bar nav { display: none; }
  .bar .button { margin-left: auto; } .spreads { grid-template-columns: 1fr; } }
@media (max-width: 560px) { .wrap { padding: 0 12px; } .panel { padding: 14px 14px 16px; } .cards { gap: 10px;
  margin-bottom: 10px; } .card { padding: 11px 12px; } .card .value { font-size: 19px; } .card .of { font-size: 12px; }
  .bars .row { grid-template-columns: minmax(70px, 1fr) 1.2fr 70px; } .bars .row > :last-child { display: none; }
  .search { max-width: none; flex-basis: 100%; } .panel { margin-bottom: 10px; } .bar { gap: 8px; } .brand { gap: 8px;
  min-width: 0; } .brand h1 { overflow: hidden; text-overflow: ellipsis; } .badge { padding: 2px 8px;
  font-size: 11.5px; } .switch { gap: 5px; } .switch button, .switch button:first-child, .switch button:last-child {
  border-radius: 7px; margin: 0; padding: 3px 9px; }
  .td { padding: 0 8px; } .table .th button, .table .th > span { padding: 7px 8px; } }
@media print { .top { position: static; } .tools, nav, #theme { display: none; } }
`

module.exports = { css }
