/** Sharing memory with other threads and processes. */

import type { MemoryManager } from './manager.js'

/** Names shared memory within its process. Structured-cloneable. */
export interface SharedBufferToken {
  readonly token: string
  /** Size in bytes. */
  readonly size: number
}

/** A part of a dma-buf: of a slice, its place in the kernel object of its slab or pool. */
export interface DmaBufPiece {
  fd: number
  /** The first byte. */
  offset: number
  /** Bytes. */
  size: number
}

/** Options of {@link MemoryManager.importDmaBuf}. */
export interface DmaBufImportOptions {
  /** Bytes. Default: all from `offset` on. */
  size?: number
  /** The first byte, a multiple of 8. Default 0. */
  offset?: number
  tag?: string | null
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
   * Resolves to the next dma-buf, in the order of sending. Keeps the process alive while it waits. All inboxes of the
   * process wait on one thread.
   *
   * `fd` is close-on-exec, and the caller owns and closes it ({@link closeDmaBuf}). `offset` and `size` are the part
   * that was sent, within the dma-buf; a sender that names only an fd means all of it.
   *
   * A message that is not handed out is reported, its descriptors are closed, and the inbox stays open. Of several
   * descriptors in one message the first is handed out.
   *
   * @throws the reason of `signal`; ERR_BUFFER_FREED: the inbox was closed; ERR_INVALID_ARG_TYPE: a message carried
   * another file than a dma-buf; ERR_OUT_OF_RANGE: a message named bytes beyond the dma-buf, or was too long;
   * ERR_TOO_MANY_FDS: the process can take no descriptor, and the message stays queued.
   */
  receive(options?: { signal?: AbortSignal }): Promise<DmaBufPiece & { message: string }>
  /** Rejects pending receives and removes the socket. Idempotent. */
  close(): void
  [Symbol.dispose](): void
}

/**
 * Sends a dma-buf, or a part of one, to the {@link DmaBufInbox} at `path`, with a message of at most 64 KiB. An fd
 * alone means all of the dma-buf.
 *
 * The caller still owns the fd, and may close it as soon as this function has returned its promise. The receiver's fd
 * shows the whole kernel object: a process that must not see the neighbours gets a `dedicated` buffer.
 *
 * @throws ERR_INVALID_ARG_TYPE: the fd is not an open dma-buf; ERR_OUT_OF_RANGE: the part is not inside the dma-buf, or
 * the message is too long; ERR_DEVICE_IO with errno: no process listens at `path`, or the listener received nothing for
 * 5 s.
 */
export function sendDmaBuf(path: string, piece: number | DmaBufPiece, message?: string): Promise<void>

/**
 * Closes an fd from {@link MemoryManager.exportDmaBuf} or {@link DmaBufInbox.receive}.
 *
 * `fs.closeSync` closes it too, except on Deno, whose `fs` only knows descriptors that it opened itself.
 *
 * @throws ERR_INVALID_ARG_TYPE: `fd` is not an open dma-buf.
 */
export function closeDmaBuf(fd: number): void
