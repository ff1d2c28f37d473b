/** Metrics of the server beside those of its memory manager, by prom-client. */

import { monitorEventLoopDelay } from 'node:perf_hooks'

import client from 'prom-client'

import prometheus from '../../src/js/metrics/prom-client.js'

/** Milliseconds between two samples of the event loop's delay. */
const RESOLUTION = 1

/**
 * @param {import('../../index.js').MemoryManager} memory
 * @param {import('./models.mjs').Models} models
 * @param {number} limit of waiting requests
 */
export function makeMetrics(memory, models, limit) {
  const registry = new client.Registry()
  const unregister = prometheus.registerMetrics(client, memory, { registry })
  const make = (Class, name, help, more) =>
    new Class({ name: `rkllm_server_${name}`, help, registers: [registry], ...more })
  const gauge = (name, help, read) => make(client.Gauge, name, help, { collect() { this.set(read()) } })
  const counter = (name, help, labelNames) => make(client.Counter, name, help, { labelNames })

  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION })
  histogram.enable()
  /** Milliseconds. A sample is the time between two timers: with no delay it is the resolution. */
  const delayP99 = () => Math.max(0, histogram.percentile(99) / 1e6 - RESOLUTION)

  gauge('queue_waiting', 'Requests that wait.', () => models.waiting)
  gauge('queue_limit', 'Requests that may wait.', () => limit)
  gauge('running', 'Runs under way.', () => models.running)
  const help = 'The 99th percentile of the delay of the event loop since the start.'
  gauge('event_loop_delay_p99_seconds', help, () => delayP99() / 1e3)
  return {
    requests: counter('requests_total', 'Responses, by route and status.', ['route', 'status']),
    tokens: counter('tokens_total', 'Tokens of prompts and of replies.', ['kind']),
    contentType: registry.contentType,
    text: () => registry.metrics(),
    delayP99,
    end() {
      histogram.disable()
      unregister()
    },
  }
}
