/**
 * `doctor` tells apart why an NPU cannot be used, and what helps: machines of each kind, by their reasons.
 *
 * Compiled from kernels' sources and reports in public trackers; none is a copy of one machine.
 */

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'

import doctor from '../../../src/js/devices/doctor/examine.js'
import reading from '../../../src/js/devices/doctor/reader.js'
import { command, visibleWidth } from '../../support/command.mjs'
import { kernel, limits, psi, rock5b, user, without } from './machines.mjs'
import { MACHINES } from './reason-machines.mjs'

const { examine } = doctor
const { makeReader } = reading
/** Writes a machine below a temporary folder, and examines it. */
function diagnosed(t, { files, nodes = [] }) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-reasons-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const write = (path, text) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  for (const [path, text] of Object.entries(files)) if (text !== undefined) write(path, text)
  write('nodes', nodes.map((line) => `${line}\n`).join(''))
  return { folder, ...examine(makeReader(folder)) }
}

for (const [name, { id, reason, message, remedy, not, ...machine }] of Object.entries(MACHINES)) {
  test(name, async (t) => {
    const { folder, findings } = diagnosed(t, machine)
    const found = findings.filter((finding) => finding.id === id)
    const finding = found.find((one) => one.reason === reason)
    assert.ok(finding, `${id}: ${JSON.stringify(found)}`)
    for (const pattern of [message].flat().filter(Boolean)) assert.match(finding.message, pattern)
    for (const pattern of [remedy].flat().filter(Boolean)) assert.match(finding.remedy, pattern)
    const texts = findings.filter(({ area }) => area === 'npu').map((one) => `${one.message} ${one.remedy}`)
    if (not !== undefined) for (const text of texts) assert.doesNotMatch(text, not)
    assert.doesNotMatch(JSON.stringify(findings), /undefined|NaN/)
    const { stdout } = await command(['doctor', '--root', folder])
    for (const line of stdout.split('\n')) assert.ok(visibleWidth(line) <= 80, line)
  })
}

test('another vendor’s accelerator is no NPU of Rockchip', (t) => {
  const { findings } = diagnosed(t, {
    files: {
      ...kernel('6.14.1', 'ro'),
      '/sys/class/accel/accel0/device/uevent': 'DRIVER=amdxdna\n',
      ...user('alice', 1000, [104]),
      ...limits(),
      ...psi(),
    },
    nodes: ['crw-rw---- 0 104 /dev/accel/accel0'],
  })
  assert.deepEqual(
    findings.filter(({ area, status }) => area === 'npu' && status !== 'ok').map(({ id }) => id),
    ['board'],
  )
})

test('a misc device of the driver is not stray', (t) => {
  const files = { ...without(rock5b, '/sys/class/drm'), '/sys/class/misc/rknpu/dev': '10:60\n', '/dev/rknpu': '' }
  const { findings } = diagnosed(t, { files, nodes: ['crw------- 0 0 /dev/rknpu'] })
  assert.ok(!findings.some(({ id }) => id === 'stray'))
})

test('a support bundle of each machine gives the same findings', async (t) => {
  for (const { files, nodes } of Object.values(MACHINES)) {
    const { folder } = diagnosed(t, { files, nodes })
    const bundle = join(folder, 'bundle')
    const { stdout } = await command(['doctor', '--root', folder, '--save', bundle])
    assert.equal((await command(['doctor', '--root', bundle])).stdout, stdout)
  }
})

test('every reason is documented, and of the form a-b', (t) => {
  const text = readFileSync(new URL('../../../docs/command-line.md', import.meta.url), 'utf8')
  const reasons = Object.values(MACHINES).flatMap((machine) =>
    diagnosed(t, machine).findings.map(({ reason }) => reason),
  )
  for (const reason of new Set(reasons.filter((one) => one !== null))) {
    assert.match(reason, /^[a-z0-9]+(?:-[a-z0-9]+)*$/)
    assert.ok(text.includes(`\`${reason}\``), reason)
  }
})
