import type { Registry } from 'prom-client'
import type { MemoryManager } from '../../../index.js'

type AnyRegistry = Pick<Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric'>

/**
 * Puts the figures of {@link MemoryManager.metrics} into a registry of prom-client, under the same names. They are read when the registry
 * is scraped, once a scrape. A figure that is not known, a manager that was disposed and one that was collected have no samples. The
 * registry does not keep the manager alive.
 *
 * @param target The module `prom-client`, whose default registry is taken unless `options.registry` names one, or a registry.
 * @returns Takes the metrics out again. Idempotent.
 * @throws MemoryError ERR_INVALID_ARG_TYPE; ERR_UNSUPPORTED a metric of that name is there already, or prom-client is not found.
 */
export function registerMetrics(
  target: typeof import('prom-client') | AnyRegistry,
  manager: MemoryManager,
  options?: {
    registry?: AnyRegistry
    /** In place of `rkllm_memory_`: two managers in one registry need one each. */
    prefix?: string
  },
): () => void
