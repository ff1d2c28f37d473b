'use strict'

// The findings that checks return. A check maps facts to findings; it reads no files and prints nothing.

/**
 * @typedef {Omit<import('../../types/doctor.js').Finding, 'area'>} Finding
 * @typedef {Finding | Finding[]} Result
 */

/** @type {(id: string, message: string) => Finding} */
const ok = (id, message) => ({ id, status: 'ok', reason: null, message, remedy: null })
/** @type {(id: string, reason: string, message: string, remedy: string | null) => Finding} */
const warn = (id, reason, message, remedy) => ({ id, status: 'warn', reason, message, remedy })
/** @type {(id: string, reason: string, message: string, remedy: string | null) => Finding} */
const fail = (id, reason, message, remedy) => ({ id, status: 'fail', reason, message, remedy })

/** @type {(argument: string) => string} */
const kernelArgument = (argument) =>
  `add ${argument} to the kernel command line (extlinux.conf, armbianEnv.txt, U-Boot's bootargs) and reboot`

module.exports = { fail, kernelArgument, ok, warn }
