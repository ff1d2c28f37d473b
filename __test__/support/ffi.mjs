import { runtime } from './helpers.mjs'

/** Why C functions cannot be called here, or false: on Node by koffi, a development package. */
export const noFfi = runtime === 'node' && !(await import('koffi').then(() => true, () => false)) && 'needs koffi'
