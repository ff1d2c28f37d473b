// Measures this machine's speed, which separates a slow run of CI from a slow change:
//   node .ci/calibrate.mjs
// Processor time does not count the time that other programs take; elapsed time does.

/** Processor milliseconds of the loop on the reference machine, which gave CONTRIBUTING.md its CI times. */
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
if (speed < 75) console.log('this machine is slower than the reference: expect longer times than in CONTRIBUTING.md')
