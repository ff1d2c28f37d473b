// A user without permission for the node gets an error with a remedy, not a silent fallback to the simulated device.
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
if (!refused.some(device => device.error.code === 'ERR_DEVICE_PERMISSION')) fail('probeDevices() reports no permission')
console.log(`ok: ERR_DEVICE_PERMISSION in every case (uid ${process.getuid()})`)
