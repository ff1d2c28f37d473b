/** Builds and loads result-thread.c, which calls native callbacks as a runtime of RKLLM does. */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { open } from '../../examples/inference/ffi.mjs'

const FUNCTIONS = {
  start: {
    returns: 'void',
    takes: ['pointer', 'u64', 'i32', 'i32', 'i32', 'i32', 'pointer', 'i32', 'i32', 'i32', 'i32', 'i32', 'i32'],
  },
  answers_of: { returns: 'u32', takes: ['i32'] },
  paused_at: { returns: 'u32', takes: [] },
  thread_ns: { returns: 'i64', takes: [] },
  callback_ns: { returns: 'i64', takes: [] },
  start_batches: { returns: 'void', takes: ['pointer', 'u64', 'i32', 'i32', 'i32'] },
  running: { returns: 'u32', takes: [] },
  run_elsewhere: { returns: 'i32', takes: ['pointer', 'pointer', 'pointer', 'pointer', 'pointer'] },
  tokenizer_address: { returns: 'u64', takes: [] },
}

/** Loads the library at `path`, or builds it first. */
export async function loadResultThread(path = build()) {
  const { call } = await open(path, FUNCTIONS)
  /** Starts a run; `answers` is false for headers up to 1.2.0. */
  const start = (
    { result, userdata },
    {
      answers = true, first = 0, tokens = 0, end = 2, text = 0n, hidden = [0, 0], logits = [0, 0],
      endRows = false, here = false,
    } = {},
  ) => call.start(result, userdata, +answers, first, tokens, end, text, ...hidden, ...logits, +endRows, +here)
  const pausedAt = () => call.paused_at()
  const answersOf = (answer) => call.answers_of(answer)
  const startBatches = ({ result, userdata }, { count, size, pauseUs }) =>
    call.start_batches(result, userdata, count, size, pauseUs)
  return {
    path,
    start,
    startBatches,
    pausedAt,
    answersOf,
    running: () => call.running(),
    /** Calls rkllm_run of the library whose path is at `path`, on another thread. */
    runElsewhere: (path, handle, input, infer, userdata) => call.run_elsewhere(path, handle, input, infer, userdata),
    tokenizer: () => BigInt(call.tokenizer_address()),
    threadNs: () => Number(call.thread_ns()),
    callbackNs: () => Number(call.callback_ns()),
  }
}

function build() {
  const folder = mkdtempSync(join(tmpdir(), 'result-thread-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  const library = join(folder, 'result-thread.so')
  const source = fileURLToPath(new URL('result-thread.c', import.meta.url))
  const warnings = ['-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror']
  // koffi and Deno unload a library at the end of the thread that loaded it, under the library's own threads.
  const flags = ['-shared', '-fPIC', '-O2', '-std=gnu11', '-pthread', '-Wl,-z,nodelete', ...warnings]
  const { status, error, stderr } = spawnSync('cc', [...flags, '-o', library, source], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`cc failed: ${error ?? stderr}`)
  return library
}
