/** A strict parser of OpenMetrics 1.0 text: throws on every violation. Does not support exemplars and timestamps. */

import assert from 'node:assert/strict'

const SUFFIXES = {
  counter: ['_total', '_created'],
  gauge: [''],
  histogram: ['_bucket', '_sum', '_count', '_created'],
  info: ['_info'],
  unknown: [''],
}
const DESCRIPTOR = /^# (TYPE|UNIT|HELP) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$/
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)/y
const NUMBER = /^(?:[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|[+-]?\.\d+(?:[eE][+-]?\d+)?|[+-]Inf|NaN)$/

/** Returns the families by name: `{ type, unit, help, samples: [{ name, labels, value }] }`. */
export function parse(text) {
  assert.ok(text.endsWith('\n# EOF\n'), 'it ends with # EOF')
  assert.ok(text.isWellFormed(), 'the text is valid Unicode')
  const families = new Map()
  let family
  for (const line of text.slice(0, -'\n# EOF\n'.length).split('\n')) {
    const descriptor = DESCRIPTOR.exec(line)
    if (descriptor) {
      const [, field, name, value] = descriptor
      if (family?.name !== name) {
        assert.ok(!families.has(name), `${name} appears twice`)
        families.set(name, (family = { name, samples: [] }))
      }
      assert.equal(family.samples.length, 0, `${field} of ${name} comes after a sample`)
      assert.equal(family[field.toLowerCase()], undefined, `${field} of ${name} appears twice`)
      family[field.toLowerCase()] = field === 'HELP' ? unescaped(value) : value
    } else {
      const sample = sampleOf(line)
      assert.ok(family, `a sample without a family: ${line}`)
      assert.ok(sample.name.startsWith(family.name), `${sample.name} is listed under ${family.name}`)
      family.samples.push(sample)
    }
  }
  for (const each of families.values()) checkFamily(each)
  checkClashes(families)
  return families
}

function sampleOf(line) {
  const match = SAMPLE.exec(line)
  assert.ok(match, `neither a sample nor a descriptor: ${JSON.stringify(line)}`)
  const [, name, braces, number] = match
  assert.match(number, NUMBER, line)
  const labels = {}
  const list = braces?.slice(1, -1) ?? ''
  for (LABEL.lastIndex = 0; LABEL.lastIndex < list.length; ) {
    const label = LABEL.exec(list)
    assert.ok(label, `malformed labels: ${line}`)
    assert.ok(!(label[1] in labels) && !label[1].startsWith('__'), `label ${label[1]}: ${line}`)
    labels[label[1]] = unescaped(label[2])
    assert.ok(label[3] === '' || LABEL.lastIndex < list.length, `trailing comma: ${line}`)
  }
  return { name, labels, value: Number(number.replace('Inf', 'Infinity')) }
}

const unescaped = (text) => text.replace(/\\(.)/g, (_, letter) => (letter === 'n' ? '\n' : letter))

function checkFamily({ name, type = 'unknown', unit, samples }) {
  const suffixes = SUFFIXES[type]
  assert.ok(suffixes, `${name} is a ${type}`)
  if (unit) assert.ok(name.endsWith(`_${unit}`), `${name} does not end with its unit, ${unit}`)
  const seen = new Set()
  for (const sample of samples) {
    assert.ok(suffixes.includes(sample.name.slice(name.length)), `a ${type} has no ${sample.name}`)
    const key = JSON.stringify([sample.name, Object.entries(sample.labels).sort()])
    assert.ok(!seen.has(key), `twice: ${key}`)
    seen.add(key)
    if (type === 'counter') assert.ok(sample.value >= 0, `${key} is ${sample.value}`)
  }
  if (type === 'histogram' && samples.length > 0) checkHistogram(name, samples)
}

function checkHistogram(name, samples) {
  const of = (suffix) => samples.filter((sample) => sample.name === name + suffix)
  const buckets = of('_bucket')
  const bounds = buckets.map(({ labels: { le } }) => {
    assert.match(le, /^(\+Inf|\d+\.\d+|\d+(\.\d+)?e[+-]\d\d+)$/, `${name}: a bound is spelt ${le}`)
    return Number(le.replace('Inf', 'Infinity'))
  })
  assert.ok(bounds.every((bound, i) => i === 0 || bound > bounds[i - 1]), `${name}: bounds rise`)
  assert.ok(
    buckets.every(({ value }, i) => i === 0 || value >= buckets[i - 1].value),
    `${name}: buckets are cumulative`,
  )
  assert.equal(bounds.at(-1), Infinity)
  assert.equal(buckets.at(-1).value, of('_count')[0].value)
  assert.equal(of('_sum').length, 1)
}

/** Asserts that no family has the name of another one's sample. */
function checkClashes(families) {
  for (const { name, type = 'unknown' } of families.values()) {
    for (const suffix of SUFFIXES[type]) {
      assert.ok(suffix === '' || !families.has(name + suffix), `${name + suffix} is a family, and a sample of ${name}`)
    }
  }
}
