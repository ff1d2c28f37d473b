/** Imports the dma-buf at descriptor 3, prints its first word and writes its second. */

import { open } from './open.mjs'

const manager = open()
const buffer = manager.importDmaBuf(3)
const words = new Uint32Array(buffer)
manager.syncFromDevice(buffer)
console.log(words[0].toString(16))
words[1] = 0xbeef
manager.syncToDevice(buffer)
manager.dispose()
