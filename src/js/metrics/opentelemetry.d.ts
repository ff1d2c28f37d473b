import type { Attributes, Meter, MeterProvider } from '@opentelemetry/api'
import type { MemoryManager } from '../../../index.js'

/**
 * Registers the figures of {@link MemoryManager.metrics} as observable instruments of OpenTelemetry. The metric
 * `rkllm_memory_pool_reserved_bytes` becomes the instrument `rkllm.memory.pool_reserved` with the unit By.
 *
 * The figures are read once per collection. Histograms are left out: OpenTelemetry has no instrument for a histogram
 * that another party recorded. Unknown figures, disposed managers and collected managers are not observed. The meter
 * does not keep the manager alive.
 *
 * @param target A meter, or a provider, from which the meter `@rkllmjs/memory` is taken.
 * @returns A function that ends the observations. Idempotent.
 * @throws MemoryError ERR_INVALID_ARG_TYPE.
 */
export function registerMetrics(
  target: Meter | MeterProvider,
  manager: MemoryManager,
  options?: {
    /** Attributes of every observation, which tell several managers apart. */
    attributes?: Attributes
  },
): () => void
