/** Sharing memory with other threads and processes. */

import type { MemoryManager } from './manager.js'

/** Names shared memory within its process. Structured-cloneable. */
export interface SharedBufferToken {
  readonly token: string
  /** Size in bytes. */
  readonly size: number
}

/**
 * Receives dma-bufs from other processes at a Unix socket (`SCM_RIGHTS`, unix(7)).
 *
 * The permissions of `path` and its directory decide which processes can send. A new inbox replaces a socket that a
 * dead process left at `path`.
 */
export class DmaBufInbox {
  /**
   * Opens the socket.
   *
   * @throws ERR_DEVICE_IO with errno: another process listens at `path`, another file exists there, the directory
   * does not exist, or permission is denied.
   */
  constructor(path: string)
  readonly path: string
  readonly closed: boolean
  /**
   * Resolves to the next dma-buf, in the order of sending. Keeps the process alive while it waits.
   *
   * `fd` is close-on-exec, and the caller owns and closes it ({@link closeDmaBuf}).
   *
   * @throws the reason of `signal`; ERR_BUFFER_FREED: the inbox was closed.
   */
  receive(options?: { signal?: AbortSignal }): Promise<{ fd: number; message: string }>
  /** Rejects pending receives and removes the socket. Idempotent. */
  close(): void
  [Symbol.dispose](): void
}

/**
 * Sends a dma-buf to the {@link DmaBufInbox} at `path`, with a message of at most 64 KiB.
 *
 * The caller still owns `fd`, and may close it as soon as this function has returned its promise.
 *
 * @throws ERR_INVALID_ARG_TYPE: `fd` is not an open dma-buf; ERR_OUT_OF_RANGE: the message is too long; ERR_DEVICE_IO
 * with errno: no process listens at `path`, or the listener received nothing for 5 s.
 */
export function sendDmaBuf(path: string, fd: number, message?: string): Promise<void>

/**
 * Closes an fd from {@link MemoryManager.exportDmaBuf} or {@link DmaBufInbox.receive}.
 *
 * `fs.closeSync` closes it too, except on Deno, whose `fs` only knows descriptors that it opened itself.
 *
 * @throws ERR_INVALID_ARG_TYPE: `fd` is not an open dma-buf.
 */
export function closeDmaBuf(fd: number): void
