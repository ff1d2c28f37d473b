'use strict'

// Estimates a GGUF model under llama.cpp, whose fork rk-llama.cpp multiplies on the NPU.
//
// llama.cpp clears the KV cache when it makes it, so the whole of it is resident from the start.

const { formatBytes } = require('../core/format-bytes.js')
const { readGguf, shapeOfGguf } = require('./gguf.js')
const { openError } = require('../core/system-errors.js')
const { result } = require('./result.js')

/** The tokens that llama.cpp computes at once by default (n_ubatch). */
const MICRO_BATCH = 512
const FLOAT = 4
/** The library and its heap. */
const PROGRAM = 64 * 2 ** 20
/** No measurements of llama.cpp on the NPU are published with the terms that this sum has. */
const UNCERTAINTY = 0.3

/**
 * @param {import('./gguf.js').Gguf} gguf
 * @param {string} path
 * @param {import('../types/models.js').ModelSpec & { contextLength: number }} spec
 * @param {string[]} warnings
 */
function estimateGguf(gguf, path, spec, warnings) {
  const shape = { ...shapeOfGguf(gguf) }
  const { contextLength, batch = 1, kvBytesPerElement = 2 } = spec
  if (shape.parts > 1)
    warnings.push(`${path} is one of ${shape.parts} parts of a model: only the tensors of this part are counted`)
  if (shape.trainedContext !== null && contextLength > shape.trainedContext)
    warnings.push(`the model was trained for ${shape.trainedContext} tokens of context, not ${contextLength}`)
  const layers = Math.ceil((shape.layers ?? 0) / (shape.interval || 1))
  const kvCache =
    2 * layers * (shape.kvHeads ?? 0) * (shape.headDim ?? 0) * kvBytesPerElement * contextLength * batch
  if (kvCache === 0) warnings.push('the KV cache is unknown and left out: the metadata has no layers or heads')
  const activations = MICRO_BATCH * FLOAT * ((shape.vocabSize ?? 0) + 8 * (shape.hiddenSize ?? 0))
  if (gguf.npu > 0)
    warnings.push(
      `rk-llama.cpp converts ${formatBytes(gguf.converted)} of F16, Q8_0 and Q4_0 matrices to ` +
        `${formatBytes(gguf.npu)} for the NPU; ` +
        "the file's own pages stay cached beside them while memory allows",
    )
  else
    warnings.push('no matrix is F16, Q8_0 or Q4_0, the types that rk-llama.cpp multiplies on the NPU: the CPU does all')
  return result({
    weights: gguf.weights - gguf.converted + gguf.npu,
    kvCache,
    kvFirst: kvCache,
    activations,
    hostBuffers: PROGRAM,
    domain: gguf.npu,
    domainShare: UNCERTAINTY,
    uncertainty: UNCERTAINTY,
    architecture: gguf.architecture,
    source: 'file',
    basis: 'arithmetic',
    dtype: null,
    runtime: null,
    warnings,
  })
}

/** @param {string} path */
function readModel(path) {
  try {
    return readGguf(path)
  } catch (reason) {
    const error = /** @type {NodeJS.ErrnoException} */ (reason)
    throw error.syscall === undefined ? error : openError(path, error)
  }
}

module.exports = { estimateGguf, readModel }
