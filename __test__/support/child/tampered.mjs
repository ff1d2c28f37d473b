/** Frees buffers with tampered prototypes and properties. The library reads the internal slots only. */

import { runInNewContext } from 'node:vm'

import { open } from './open.mjs'

const manager = open()
const wrong = []
const frees = (name, make) => {
  const buffer = manager.allocateNPUMemory(4096)
  const given = make(buffer)
  try {
    manager.deallocate(given)
    if (realLength.call(buffer) !== 0) wrong.push(`${name}: still attached`)
  } catch (error) {
    wrong.push(`${name}: ${error.stack}`)
  }
}
const realLength = Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, 'byteLength').get

frees('no prototype', (buffer) => Object.setPrototypeOf(buffer, null))
frees('frozen', (buffer) => Object.freeze(buffer))
frees('a view of another realm', (buffer) => runInNewContext('new Uint8Array(buffer)', { buffer }))
frees('a view with a buffer of its own', (buffer) =>
  Object.defineProperty(new Uint8Array(buffer), 'buffer', { value: new ArrayBuffer(5) }),
)
class Liar extends Uint8Array {
  get buffer() {
    return new ArrayBuffer(5)
  }
  get byteLength() {
    return 5
  }
}
frees('an heir that lies', (buffer) => new Liar(buffer))

// From here on the built-ins return false values.
ArrayBuffer.prototype.transfer = () => new ArrayBuffer(1)
ArrayBuffer.isView = () => true
Object.defineProperty(ArrayBuffer.prototype, 'byteLength', { get: () => 99, configurable: true })
Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), 'buffer', {
  get: () => new ArrayBuffer(5),
  configurable: true,
})
frees('lying built-ins', (buffer) => buffer)
frees('lying built-ins, a view', (buffer) => new Uint8Array(buffer))

console.log(JSON.stringify({ wrong, live: manager.getMemoryStats().liveAllocations }))
