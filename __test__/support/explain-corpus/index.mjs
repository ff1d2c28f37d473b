/**
 * Logs with the right answer, by kind: the corpus of `explainError`.
 *
 * A group is { kind, code, cause, remedy, not, logs }: for each of its logs the answer has that kind and code, `cause`
 * and `remedy` match its texts, and `not` matches neither. `kind: null`: the answer is null, and `share` names the part
 * of these logs.
 */

import { access } from './access.mjs'
import { media } from './media.mjs'
import { npu } from './npu.mjs'
import { ram } from './ram.mjs'
import { runtime } from './runtime.mjs'
import { unknown } from './unknown.mjs'

export const GROUPS = [...ram, ...npu, ...runtime, ...access, ...media, ...unknown]

/** Returns the fault of an answer to a log of a group; null without one. */
export function faultOf(group, answer) {
  if (group.kind === null) return answer === null ? null : `known as ${answer.kind}: ${answer.cause}`
  if (answer === null) return 'unknown'
  if (answer.kind !== group.kind) return `kind ${answer.kind}: ${answer.cause}`
  if (answer.code !== group.code) return `code ${answer.code}`
  for (const part of ['cause', 'remedy'])
    for (const pattern of [group[part]].flat().filter(Boolean))
      if (!pattern.test(answer[part])) return `${part} without ${pattern}: ${answer[part]}`
  if (group.not?.test(`${answer.cause} ${answer.remedy}`)) return `says ${group.not}: ${answer.cause} ${answer.remedy}`
  return null
}

/** Surroundings of lines in real logs, which do not change the answer. */
export const WRAPPINGS = {
  dmesg: (log) => log.replace(/^/gm, '[ 1234.567890] '),
  'dmesg -T': (log) => log.replace(/^/gm, '[Mon Mar  2 09:14:07 2026] '),
  journald: (log) => log.replace(/^/gm, 'Mar 02 09:14:07 rock-5b kernel: '),
  'journald, German': (log) => log.replace(/^/gm, 'Mär 02 09:14:07 wohnzimmer kernel: [ 1234.567890] '),
  'journald -o short-iso': (log) => log.replace(/^/gm, '2026-03-02T09:14:07+0100 rock-5b kernel: '),
  'docker compose': (log) => log.replace(/^/gm, 'llm-server-1  | '),
  colours: (log) => log.replace(/^(.*)$/gm, '\x1b[1;31m$1\x1b[0m'),
  'levels and callers': (log) => log.replace(/^/gm, '<3>[ 1234.567890] [T4711] '),
  CRLF: (log) => `${log.replaceAll('\n', '\r\n')}\r\n`,
  quoted: (log) => log.replace(/^/gm, '> '),
  'a German post': (log) => `Hallo, beim Laden kommt folgendes, was mache ich falsch?\n\n${log}\n\nDanke und Grüße`,
  'a Chinese post': (log) => `你好，运行时出现下面的问题，请问怎么解决？\n${log}\n板子是 rk3588，内存 16G`,
}
