import type { Registry } from 'prom-client'
import type { MemoryManager } from '../../../index.js'

type AnyRegistry = Pick<Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric'>

/**
 * Registers the figures of {@link MemoryManager.metrics} in a registry of prom-client, under the same names.
 *
 * The figures are read once per scrape. Unknown figures, disposed managers and collected managers have no samples. The
 * registry does not keep the manager alive.
 *
 * @param target The module `prom-client`, or a registry. The module stands for its default registry, unless
 * `options.registry` names another.
 * @returns A function that removes the metrics. Idempotent.
 * @throws MemoryError ERR_INVALID_ARG_TYPE; ERR_UNSUPPORTED: the registry already has a metric of that name, or
 * prom-client is not installed.
 */
export function registerMetrics(
  target: typeof import('prom-client') | AnyRegistry,
  manager: MemoryManager,
  options?: {
    registry?: AnyRegistry
    /** Prefix in place of `rkllm_memory_`. Two managers in one registry need two prefixes, or labels. */
    prefix?: string
    /**
     * Labels of every sample, as `{ model: 'chat' }`. Managers that share a registry and a prefix have the same names
     * of labels, and other values.
     */
    labels?: Record<string, string>
  },
): () => void
