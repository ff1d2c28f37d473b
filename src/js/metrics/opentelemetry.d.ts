import type { Attributes, Meter, MeterProvider } from '@opentelemetry/api'
import type { MemoryManager } from '../../../index.js'

/**
 * Makes observable instruments of the figures of {@link MemoryManager.metrics}: `rkllm_memory_pool_reserved_bytes` there is
 * `rkllm.memory.pool_reserved` here, with the unit By. They are read once a collection; histograms are left out, since OpenTelemetry
 * has none that somebody else observed. A figure that is not known, a manager that was disposed and one that was collected are not
 * observed. The meter does not keep the manager alive.
 *
 * @param target A meter, or a provider, which is asked for the meter `@rkllmjs/memory`.
 * @returns Ends the observations. Idempotent.
 * @throws MemoryError ERR_INVALID_ARG_TYPE.
 */
export function registerMetrics(
  target: Meter | MeterProvider,
  manager: MemoryManager,
  options?: {
    /** Added to every observation: what tells several managers apart. */
    attributes?: Attributes
  },
): () => void
