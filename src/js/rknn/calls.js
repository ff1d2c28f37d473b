'use strict'

// The calls for the program to make. A generator yields steps: calls, which the program answers, and needs of memory,
// which the iterator meets itself.

const { publicClass } = require('../core/border.js')
const { memoryError } = require('../core/errors.js')
const { formatValue, invalid, outOfRange } = require('../core/options.js')
const { FUNCTIONS, runtimeError } = require('./numbers.js')

/** @typedef {import('../types/rknn.js').RknnFunction} RknnFunction */
/**
 * @typedef {{ name: RknnFunction, args: Array<bigint | number>, model: string, context: number,
 *   settle?: () => void }} CallStep `settle` runs when it was answered, also with an error
 * @typedef {{ bytes: number, role: 'weights' | 'scratch' | 'tensors' }} AllocateStep
 * @typedef {{ path: string }} ReadStep
 * @typedef {CallStep | AllocateStep | ReadStep} Step
 * @typedef {Generator<Step, void, any>} Steps
 */

/** The construction key: only the iterators have it. */
const kConstruct = Symbol('constructed by an iterator of calls')

class RknnCall {
  #step
  #answer
  #isAnswered = false

  /**
   * @param {symbol} key
   * @param {CallStep} step
   * @param {(result: bigint | number, error: unknown) => void} answer
   */
  constructor(key, step, answer) {
    if (key !== kConstruct) throw invalid('calls are made by load and unload of RKNN memory')
    this.#step = step
    this.#answer = answer
  }

  get name() {
    return this.#step.name
  }

  get args() {
    return [...this.#step.args]
  }

  get takes() {
    return [...FUNCTIONS[this.#step.name].takes]
  }

  get returns() {
    return FUNCTIONS[this.#step.name].returns
  }

  get model() {
    return this.#step.model
  }

  get context() {
    return this.#step.context
  }

  /** @param {bigint | number | null} result */
  done(result) {
    const { name, model, context } = this.#step
    if (this.#isAnswered) throw outOfRange(`${name} was answered before`)
    const isPointer = this.returns === 'pointer'
    const isNumber = typeof result === 'number' || typeof result === 'bigint'
    if (!isNumber && !(isPointer && result === null)) {
      throw invalid(`done needs the result of ${name}, not ${formatValue(result)}`)
    }
    this.#isAnswered = true
    const what = `${name} of the model ${formatValue(model)}, context ${context},`
    const number = Number(result)
    if (isPointer ? number === 0 : number < 0) {
      const error = runtimeError(what, isPointer ? null : number)
      this.#answer(0, error)
      throw error
    }
    this.#answer(isPointer ? BigInt(/** @type {bigint | number} */ (result)) : number, undefined)
  }

  static {
    publicClass(RknnCall, (value) => #step in value)
  }
}

/** The state that both iterators have: the generator, and the call that the program has not answered. */
class Asker {
  /** @type {RknnCall | undefined} */
  #open
  #steps
  /** @type {any} */
  #result
  #failed = false

  /** @param {Steps} steps */
  constructor(steps) {
    this.#steps = steps
  }

  /** Returns the next step, or undefined at the end. */
  next() {
    if (this.#failed) return undefined
    if (this.#open !== undefined) {
      throw outOfRange(`${this.#open.name} was not answered: call done with its result before the next call`)
    }
    const { done, value } = this.#steps.next(this.#result)
    return done ? undefined : /** @type {Step} */ (value)
  }

  /** @param {any} result of a need */
  met(result) {
    this.#result = result
  }

  /** @param {CallStep} step */
  ask(step) {
    const call = new RknnCall(kConstruct, step, (result, error) => {
      this.#open = undefined
      this.#result = result
      step.settle?.()
      if (error !== undefined) {
        this.#failed = true
        this.close()
      }
    })
    this.#open = call
    return call
  }

  /** Ends the generator: its `finally` runs. */
  close() {
    this.#steps.return()
  }
}

/**
 * Iterates over calls; meets needs at once.
 *
 * @param {Steps} steps
 * @param {(need: AllocateStep | ReadStep) => any} meet
 * @returns {IterableIterator<any>}
 */
function iterate(steps, meet) {
  const asker = new Asker(steps)
  return {
    [Symbol.iterator]() {
      return this
    },
    next() {
      for (;;) {
        const step = asker.next()
        if (step === undefined) return { done: true, value: undefined }
        if ('name' in step) return { done: false, value: asker.ask(step) }
        try {
          asker.met(meet(step))
        } catch (error) {
          asker.close()
          throw error
        }
      }
    },
    return() {
      asker.close()
      return { done: true, value: undefined }
    },
  }
}

/**
 * Iterates over calls; waits for needs.
 *
 * @param {Steps} steps
 * @param {(need: AllocateStep | ReadStep) => Promise<any>} meet
 * @param {AbortSignal} [signal]
 * @returns {AsyncIterableIterator<any>}
 */
function iterateAsync(steps, meet, signal) {
  const asker = new Asker(steps)
  let isWaiting = false
  return {
    [Symbol.asyncIterator]() {
      return this
    },
    async next() {
      if (isWaiting) throw memoryError('ERR_BUFFER_BUSY', 'the next call is asked for already')
      isWaiting = true
      try {
        for (;;) {
          signal?.throwIfAborted()
          const step = asker.next()
          if (step === undefined) return { done: true, value: undefined }
          if ('name' in step) return { done: false, value: asker.ask(step) }
          asker.met(await meet(step))
        }
      } catch (error) {
        asker.close()
        throw error
      } finally {
        isWaiting = false
      }
    },
    async return() {
      asker.close()
      return { done: true, value: undefined }
    },
  }
}

module.exports = { iterate, iterateAsync }
