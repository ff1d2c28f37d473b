/** The understudy of librkllmrt: each version by FFI over the sessions, and each of its faults. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test as runTest } from 'node:test'
import { fileURLToPath } from 'node:url'

import { runtimeVersion } from '../../../index.js'
import { HEADERS, buildUnderstudy } from '../../runtime/build.mjs'
import { inPieces, needsSimulated, runChild } from '../../support/helpers.mjs'
import { ALL, CONTEXT, SPEC, WEIGHTS, all, begin, file, folder, skip, textOf } from '../../support/understudy.mjs'

/** In an emulated machine each piece has a share of the tests. */
const test = inPieces(runTest)
/** The versions that the libraries carry. */
const VERSIONS = { 1.1: '1.1.4', '1.2.0': '1.2.0', 1.2: '1.2.3', 1.3: '1.3.0' }

for (const header of HEADERS) {
  const since12 = header === '1.2' || header === '1.3'

  test(`${header}: the library carries a version of its header`, { skip }, () => {
    assert.equal(runtimeVersion(buildUnderstudy(header)), VERSIONS[header])
  })

  test(`${header}: the same prompt has the same answer, another prompt another`, { skip }, async (t) => {
    const { library, session, run, end } = await begin(t, header)
    assert.equal(library.bytesOf(0), ALL)
    const first = await run(session.promptInput('What is memory?'))
    const again = await run(session.promptInput('What is memory?'))
    const other = await run(session.promptInput('What is time?'))
    assert.ok(textOf(first).length > 4)
    assert.equal(textOf(again), textOf(first))
    assert.notEqual(textOf(other), textOf(first))
    assert.ok(!textOf(first).includes('\uFFFD'))
    const { state, perf } = first.at(-1)
    assert.equal(state, 'finish')
    if (since12) {
      assert.equal(perf.prefillTokens, 'What is memory?'.length)
      assert.equal(perf.generateTokens, first.length - 1)
      assert.ok(perf.peakResidentMB > 1)
    } else assert.equal(perf, null)
    end()
  })

  test(`${header}: rkllm_run calls back before it returns`, { skip }, async (t) => {
    const { session, model, end } = await begin(t, header)
    assert.equal(model.run(session.promptInput('abc'), session.inferParam()), 0)
    assert.equal(model.isRunning(), false)
    assert.equal((await all(session.results())).at(-1).state, 'finish')
    end()
  })

  test(`${header}: rows of hidden states and logits, by token`, { skip }, async (t) => {
    const { session, model, run, end } = await begin(t, header)
    for (const mode of ['hiddenStates', 'logits']) {
      session.tokens.set([7, 8, 9])
      if (mode === 'logits' && header === '1.1') {
        assert.equal(model.run(session.tokenInput(3), session.inferParam({ mode })), -1)
        continue
      }
      const found = await run(session.tokenInput(3), { mode })
      assert.deepEqual(found.map(({ rows, state }) => [rows, state]), [[3, 'normal'], [0, 'finish']])
      const width = mode === 'logits' ? 10 : 8
      const want = [7, 1008, 2009].flatMap((row) => Array.from({ length: width }, (_, at) => row + at / 8192))
      assert.deepEqual([...session[mode].subarray(0, 3 * width)], [...new Float32Array(want)])
    }
    end()
  })

  test(`${header}: an adapter changes the answer; an unknown one is refused`, { skip }, async (t) => {
    const { session, model, run, library, end } = await begin(t, header)
    const path = join(folder, 'lora')
    writeFileSync(path, Buffer.alloc(8192))
    assert.equal(model.run(session.promptInput('abc'), session.inferParam({ lora: 'tone' })), -1)
    assert.equal(model.loadLora(session.loraAdapter({ path, name: 'tone', scale: 0.5 })), 0)
    assert.equal(library.bytesOf(0), ALL + 8192)
    const plain = textOf(await run(session.promptInput('abc')))
    assert.notEqual(textOf(await run(session.promptInput('abc'), { lora: 'tone' })), plain)
    assert.equal(model.loadLora(session.loraAdapter({ path: `${path}-absent`, name: 'none' })), -1)
    end()
  })

  test(`${header}: a run writes the prompt's cache`, { skip }, async (t) => {
    const { session, run, end } = await begin(t, header)
    const path = join(folder, `cache-${header}`)
    await run(session.promptInput('abcde'), { promptCache: { path, save: false } })
    assert.equal(existsSync(path), false)
    await run(session.promptInput('abcde'), { promptCache: { path, save: true } })
    assert.equal(existsSync(path), true)
    end()
  })

  test(`${header}: a loaded cache has the prompt's positions`, { skip: skip || !since12 }, async (t) => {
    const { session, model, run, end } = await begin(t, header, { maxNewTokens: 1 })
    const path = join(folder, `loaded-${header}`)
    assert.equal(model.setSystemPrompt('Be brief.'), 0)
    await run(session.promptInput('abcde'), { promptCache: { path, save: true } })
    assert.equal(model.kvSize(), 9 + 5 + 1)
    assert.equal(model.loadPromptCache(`${path}-absent`), -1)
    assert.equal(model.loadPromptCache(path), 0)
    assert.equal(model.kvSize(), 9 + 5)
    assert.equal(model.releasePromptCache(), 0)
    assert.equal(model.kvSize(), 9)
    end()
  })

  test(`${header}: a prompt beyond the context ends the run with an error`, { skip }, async (t) => {
    const { session, model, idle, end } = await begin(t, header)
    const reading = all(session.results())
    model.runAsync(session.promptInput('x'.repeat(CONTEXT + 1)), session.inferParam())
    await assert.rejects(reading, { code: 'ERR_DEVICE_IO' })
    await idle()
    end()
  })

  test(`${header}: a model that is none is refused`, { skip }, async (t) => {
    const { manager, library, end } = await begin(t, header)
    const other = manager.createInferenceBuffers({ ...SPEC, header })
    const wrong = join(folder, 'wrong')
    for (const text of ['', 'GGUF', 'RKLLM understudy model\nweight = 1\n', 'RKLLM understudy model\nhidden = 0\n']) {
      writeFileSync(wrong, text)
      assert.equal(library.model(manager, other).init(other.param({ model: wrong })), -1, JSON.stringify(text))
    }
    other.dispose()
    end()
  })

  test(`${header}: memory in the given domain`, { skip: skip || header === '1.1' }, async (t) => {
    const { library, end } = await begin(t, header, { domain: 3 })
    assert.equal(library.bytesOf(0), 0)
    assert.equal(library.bytesOf(3), ALL)
    end()
  })

  test(`${header}: positions of the KV memory`, { skip: skip || !since12 }, async (t) => {
    const { session, model, run, end } = await begin(t, header, { maxNewTokens: 1 })
    await run(session.promptInput('abcde'), { keepHistory: true })
    assert.equal(model.kvSize(), 6)
    await run(session.promptInput('fg'), { keepHistory: true })
    assert.equal(model.kvSize(), 9)
    await run(session.promptInput('fg'), { keepHistory: false })
    assert.equal(model.kvSize(), 3)
    assert.equal(model.clearKv(false, [0, 2]), -1, 'a range needs a paused run')
    assert.equal(model.clearKv(), 0)
    assert.equal(model.kvSize(), 0)
    end()
  })
}

test('a full ring pauses the run; the next run goes on, and ranges can be cleared in between', { skip }, async (t) => {
  const options = { ignoreEos: true, callbacks: { ringBytes: 1024 } }
  const { session, model, idle, end } = await begin(t, '1.3', options)
  let pauses = 0
  const resume = () => {
    while (model.isRunning()) continue
    pauses++
    const held = model.kvSize()
    assert.ok(held > 3)
    if (pauses === 1) {
      assert.equal(model.clearKv(false, [0, held + 1]), -1)
      assert.equal(model.clearKv(false, [1, 3]), 0)
      assert.equal(model.kvSize(), held - 2)
    }
    session.tokens[0] = 7
    const more = session.inferParam({ maxNewTokens: 4 })
    assert.equal(model.runAsync(session.tokenInput(1), more), 0)
  }
  const reading = all(session.results({ resume }))
  // The ring fills before the reader has a turn: rkllm_run returns once the callback has paused it.
  assert.equal(model.run(session.promptInput('abc'), session.inferParam()), 0)
  const found = await reading
  assert.ok(pauses >= 1)
  assert.equal(found.at(-1).state, 'finish')
  await idle()
  end()
})

test('a pause in the midst of a character loses no half of it', { skip }, async (t) => {
  const options = { maxNewTokens: 48, ignoreEos: true, callbacks: { ringBytes: 1024 } }
  const { session, model, idle, end } = await begin(t, '1.3', options)
  let pauses = 0
  // An emulated machine takes minutes for all.
  const prompts = needsSimulated ? 20 : 200
  for (let prompt = 0; prompt < prompts; prompt++) {
    const resume = () => {
      while (model.isRunning()) continue
      pauses++
      session.tokens[0] = 7
      assert.equal(model.runAsync(session.tokenInput(1), session.inferParam({ maxNewTokens: 4 })), 0)
    }
    const reading = all(session.results({ resume }))
    assert.equal(model.run(session.promptInput(`${prompt}`), session.inferParam()), 0)
    assert.ok(!textOf(await reading).includes('\uFFFD'), `prompt ${prompt}`)
    await idle()
  }
  assert.ok(pauses >= prompts)
  end()
})

const child = (header, { lives = 1, mode = 'generate', env = {} } = {}) => {
  const script = fileURLToPath(new URL('../../support/child/understudy.mjs', import.meta.url))
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    [script, buildUnderstudy(header), header, file, String(lives), mode],
    { encoding: 'utf8', timeout: 60_000, env: { ...process.env, NODE_OPTIONS: '', ...env } },
  )
  return { status, signal, stderr, steps: JSON.parse(stdout.trim() || 'null') }
}

for (const header of HEADERS) {
  const faulty = (name, options, check) =>
    test(`${header}: fault: ${name}`, { skip }, () => check(child(header, options)))

  faulty('none: two lives leave nothing', { lives: 2 }, ({ steps, stderr }) => {
    for (const { loadMs: _, runMs: __, tokens: ___, ...step } of steps) {
      assert.deepEqual(step, { init: 0, bytes: ALL, run: 0, ended: 'finish', afterRun: ALL, destroy: 0, after: 0 })
    }
    assert.match(stderr, /understudy for tests, not the vendor's library: rkllm-runtime version: \d/)
  })
  faulty('the second init crashes', { lives: 2, env: { UNDERSTUDY_CRASH_SECOND_INIT: '1' } }, ({ signal, status }) =>
    // A runtime may catch the signal to report it.
    assert.ok(['SIGSEGV', 'SIGTRAP', 'SIGILL'].includes(signal) || status > 128, `${signal} ${status}`),
  )
  const full = { UNDERSTUDY_ONE_DOMAIN: '1', UNDERSTUDY_DOMAIN_BYTES: String(WEIGHTS) }
  faulty('errno 14 when the domain is full', { env: full }, ({ steps, stderr }) => {
    assert.equal(steps[0].init, -1)
    assert.equal(steps[0].after, 0)
    assert.match(stderr, /errno 14/)
  })
  faulty('without it the next domain is used', { env: { UNDERSTUDY_DOMAIN_BYTES: String(WEIGHTS) } }, ({ steps }) => {
    assert.equal(steps[0].bytes, WEIGHTS)
    assert.equal(steps[0].ended, 'finish')
  })
  faulty('init returns 0 and the run fails', { env: { ...full, UNDERSTUDY_FAIL_LATER: '1' } }, ({ steps }) => {
    const [{ init, ended, destroy, after: left }] = steps
    assert.deepEqual({ init, ended, destroy, left }, { init: 0, ended: 'ERR_DEVICE_IO', destroy: 0, left: 0 })
  })
  faulty('weights held twice', { env: { UNDERSTUDY_WEIGHTS_TWICE: '1' } }, ({ steps }) =>
    assert.equal(steps[0].bytes, ALL + WEIGHTS),
  )
  faulty('memory kept after destroy', { lives: 2, env: { UNDERSTUDY_KEEP_AFTER_DESTROY: '1' } }, ({ steps }) =>
    assert.deepEqual(steps.map((step) => step.after), [WEIGHTS, 2 * WEIGHTS]),
  )
  const hidden = { mode: 'hiddenStates', env: { UNDERSTUDY_KEEP_OUTPUT: '1' } }
  faulty('output kept until the callback returns 2', hidden, ({ steps }) =>
    // The native callback answers 2 from 1.2 on.
    assert.equal(steps[0].afterRun - ALL, header === '1.2' || header === '1.3' ? 0 : 4096),
  )
  faulty('a slow load', { env: { UNDERSTUDY_LOAD_MS: '50' } }, ({ steps }) => assert.ok(steps[0].loadMs >= 50))
  faulty('600 tokens a second', { env: { UNDERSTUDY_TOKENS_PER_SECOND: '600' } }, ({ steps }) =>
    assert.ok(steps[0].tokens > 4 && steps[0].runMs >= (steps[0].tokens * 1000) / 600, JSON.stringify(steps)),
  )
  faulty('a submit that hangs', { env: { UNDERSTUDY_HANG_AT: '0' } }, ({ signal, steps }) => {
    assert.equal(signal, 'SIGKILL')
    assert.deepEqual([steps[0].run, steps[0].abort, steps[0].running], [0, 0, true])
  })
}

test('abort ends a run at once; a second run is refused meanwhile', { skip }, () => {
  // One token in a quarter of an hour: only the abort ends the run.
  const env = { UNDERSTUDY_MS_PER_TOKEN: '900000' }
  const { result } = runChild('abort-run.mjs', { args: [skip ? '' : buildUnderstudy('1.3'), file], env })
  assert.deepEqual(result, { second: -1, aborted: 0, found: ['finish'], destroyed: 0 })
})
