'use strict'

// How long loads take: smoothed measurements, and estimates before the first one. Pure: no clock, no I/O.

/** @typedef {import('./model.js').Model} Model */

/** The load time of a byte before any load was measured: an eMMC's 200 MB/s. */
const MS_PER_BYTE = 1 / 200_000
/** A measured load time counts so much; the smoothed one before it counts the rest. */
const NEW_LOAD_WEIGHT = 0.3

class LoadTimes {
  #msPerByte = MS_PER_BYTE

  /**
   * Records that a load starts beside others.
   *
   * @param {Model} model
   * @param {Model[]} beside
   */
  begin(model, beside) {
    for (const other of beside) other.loadedBeside = true
    model.loadedBeside = beside.length > 0
  }

  /**
   * Smooths a measured load time. A load beside others takes longer than alone, so that it counts only if it was faster
   * than expected.
   *
   * @param {Model} model
   * @param {number} ms
   */
  learn(model, ms) {
    model.lastLoadMs = ms
    if (model.loadedBeside && ms > model.loadMs) return
    this.#msPerByte += NEW_LOAD_WEIGHT * (ms / Math.max(1, model.bytes) - this.#msPerByte)
    model.loadMs = model.isTimed ? model.loadMs + NEW_LOAD_WEIGHT * (ms - model.loadMs) : ms
    model.isTimed = true
  }

  /**
   * Derives the load times of models that were never loaded from those that were.
   *
   * @param {Iterable<Model>} models
   */
  expect(models) {
    for (const model of models) {
      model.bytes = Math.max(model.ram, model.npu)
      if (!model.isTimed) model.loadMs = model.bytes * this.#msPerByte
    }
  }
}

module.exports = { LoadTimes }
