/** Sharing memory between threads and processes. */

import type { MemoryManager } from './manager.js'

/** Names shared memory within its process. Structured-cloneable. */
export interface SharedBufferToken {
  readonly token: string
  /** Bytes. */
  readonly size: number
}

/**
 * A Unix socket at which this process receives dma-bufs from others (`SCM_RIGHTS`, unix(7)). Who may send is a matter of the
 * permissions of `path` and its directory. A socket that a dead process left at `path` is taken over.
 */
export class DmaBufInbox {
  /** @throws ERR_DEVICE_IO with errno: somebody listens there, another file is there, no such directory, no permission. */
  constructor(path: string)
  readonly path: string
  readonly closed: boolean
  /**
   * The next dma-buf, in the order in which they were sent; keeps the process alive while it waits. `fd` is close-on-exec and yours to
   * close ({@link closeDmaBuf}).
   *
   * @throws the signal's reason; ERR_BUFFER_FREED the inbox was closed.
   */
  receive(options?: { signal?: AbortSignal }): Promise<{ fd: number; message: string }>
  /** Ends what waits, and removes the socket. Idempotent. */
  close(): void
  [Symbol.dispose](): void
}

/**
 * Sends a dma-buf to whoever has a {@link DmaBufInbox} at `path`, with a message of at most 64 KiB. `fd` stays yours, and may be closed as soon as this
 * returns its promise.
 *
 * @throws ERR_INVALID_ARG_TYPE not an open dma-buf; ERR_OUT_OF_RANGE the message is too long; ERR_DEVICE_IO with errno: nobody listens
 * there, or has not received for 5 s.
 */
export function sendDmaBuf(path: string, fd: number, message?: string): Promise<void>

/**
 * Closes an fd of {@link MemoryManager.exportDmaBuf} or {@link DmaBufInbox.receive}. `fs.closeSync` does so too, but not on Deno, whose `fs` knows
 * only descriptors that it opened itself.
 *
 * @throws ERR_INVALID_ARG_TYPE not an open dma-buf.
 */
export function closeDmaBuf(fd: number): void
