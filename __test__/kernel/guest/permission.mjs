// A user who may not open the node hears so, and what to do about it; nobody is sent to a simulated device behind his
// back.
import { MemoryManager, backend, fail, probeDevices } from './driver.mjs'

for (const options of [{ backend: 'auto' }, { backend }, undefined]) {
  let caught
  try {
    new MemoryManager(options)
  } catch (error) {
    caught = error
  }
  if (caught?.code !== 'ERR_DEVICE_PERMISSION')
    fail(`${JSON.stringify(options)}: ${caught?.code ?? 'no error'} ${caught?.message ?? ''}`)
  if (!/render|video|udev|group/.test(`${caught.message} ${caught.hint ?? ''}`)) fail(`no remedy in: ${caught.message}`)
}
const refused = probeDevices().filter(device => device.error)
if (!refused.some(device => device.error.code === 'ERR_DEVICE_PERMISSION')) fail('probeDevices() does not say so')
console.log(`ok: ERR_DEVICE_PERMISSION from every way in (uid ${process.getuid()})`)
