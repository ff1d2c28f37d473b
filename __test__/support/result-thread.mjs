/** Builds and loads result-thread.c, which calls native callbacks as a runtime of RKLLM does. */

import { open } from '../../examples/inference/ffi.mjs'
import { buildResultThread } from '../runtime/build.mjs'

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
export async function loadResultThread(path = buildResultThread()) {
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
