// Says how fast this machine computes, so that a slow run of CI can be told from a slow change:
//   node .ci/calibrate.mjs
// Processor time does not count the time that other programs take; elapsed time does.

/** Milliseconds of processor time that the loop takes on the machine whose CI times the contributor's guide quotes. */
const REFERENCE_MS = 420

function work() {
  let x = 1
  for (let i = 0; i < 4e8; i++) x = (Math.imul(x, 1664525) + 1013904223) >>> 0
  return x
}

const runs = Array.from({ length: 5 }, () => {
  const [began, before] = [performance.now(), process.cpuUsage()]
  work()
  const { user, system } = process.cpuUsage(before)
  return { elapsed: performance.now() - began, processor: (user + system) / 1000 }
})
const median = (name) => runs.map((run) => run[name]).sort((a, b) => a - b)[runs.length >> 1]
const [processor, elapsed] = [median('processor'), median('elapsed')]
const speed = Math.round((100 * REFERENCE_MS) / processor)
console.log(
  `calibration: ${processor.toFixed(0)} ms of processor time, ${elapsed.toFixed(0)} ms elapsed; ` +
    `${speed} % of the reference's speed`,
)
if (speed < 75) console.log('this machine is slow today: read the times below with that in mind')
