/** The alert rules and the dashboard of docs/monitoring: they name metrics and labels that exist. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import table from '../../../src/js/metrics/families.js'
import { needsCommand } from '../../support/helpers.mjs'

const folder = new URL('../../../docs/monitoring/', import.meta.url)
const rules = readFileSync(new URL('alerts.yml', folder), 'utf8')
const dashboard = JSON.parse(readFileSync(new URL('grafana.json', folder), 'utf8'))
/** Every label of every metric, and Prometheus's own. */
const labels = new Set(['instance', ...table.families.flatMap((family) => family.labels)])

test('rules and dashboard name metrics that exist', () => {
  const known = new Set(table.families.map(({ name }) => name))
  const named = `${rules}${JSON.stringify(dashboard.panels)}`.match(/rkllm_memory_\w+/g)
  assert.ok(named.length > 20)
  for (const name of named) assert.ok(known.has(name), name)
})

test('rules and dashboard name labels that exist', () => {
  const inRules = [...rules.matchAll(/\$labels\.(\w+)/g), ...rules.matchAll(/\{(\w+)=/g)].map(([, label]) => label)
  const legends = dashboard.panels.flatMap(({ targets }) => targets.map(({ legendFormat }) => legendFormat))
  const inLegends = legends.flatMap((legend) => [...legend.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label))
  assert.ok(inRules.length > 5 && inLegends.length > 5)
  for (const label of [...inRules, ...inLegends]) assert.ok(labels.has(label), label)
})

test('each alert has an expression, a severity and what to do', () => {
  const alerts = rules.split(/^ {6}- alert: /m).slice(1)
  assert.ok(alerts.length >= 5)
  for (const alert of alerts)
    for (const part of [/expr: /, /severity: /, /summary: /, /description: /]) assert.match(alert, part)
})

test('the dashboard is one that Grafana imports', () => {
  assert.equal(dashboard.uid, 'rkllm-memory')
  assert.ok(dashboard.schemaVersion >= 36)
  const ids = dashboard.panels.map(({ id }) => id)
  assert.equal(new Set(ids).size, ids.length)
  for (const { title, type, gridPos, targets, fieldConfig } of dashboard.panels) {
    assert.ok(title && type && targets.length > 0 && fieldConfig.defaults.unit, title)
    assert.ok(gridPos.x + gridPos.w <= 24, title)
  }
})

test('promtool accepts the rules', { skip: needsCommand('promtool') }, () => {
  const path = fileURLToPath(new URL('alerts.yml', folder))
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', path], { encoding: 'utf8' })
  assert.equal(status, 0, stdout + stderr)
})
