/** Typical use, and errors that the compiler must report. Only compiled, never run. */

import { PassThrough } from 'node:stream'
import memory = require('../../index.js')
import {
  closeDmaBuf, diagnose, DmaBufInbox, MemoryError, MemoryManager, probeDevices, replayEventLog, sendDmaBuf,
  SimulatedNPU,
} from '../../index.js'
import type {
  AllocationMessage, BufferInfo, DmaBufPiece, InferenceBuffers, MemoryErrorCode, MemorySnapshot, ReplayResult,
  SharedBufferToken, SnapshotDiff,
} from '../../index.js'
import promClient = require('prom-client')
import { metrics as openTelemetry } from '@opentelemetry/api'
import { MeterProvider } from '@opentelemetry/sdk-metrics'
import { channel } from 'node:diagnostics_channel'
import { registerMetrics as inOpenTelemetry } from '../../src/js/metrics/opentelemetry.js'
import { registerMetrics as inPrometheus } from '../../src/js/metrics/prom-client.js'

export function observed(manager: MemoryManager): Array<() => void> {
  const text: string = manager.metrics() + manager.metrics({ format: 'prometheus' })
  // @ts-expect-error no such format
  manager.metrics({ format: 'json' })
  channel('rkllm-memory:free').subscribe((message) => console.log((message as AllocationMessage).size, text.length))
  const registry = new promClient.Registry()
  return [
    inPrometheus(promClient, manager),
    inPrometheus(registry, manager, { prefix: 'my_npu_' }),
    inPrometheus(promClient, manager, { registry, prefix: 'other_' }),
    inOpenTelemetry(openTelemetry, manager),
    inOpenTelemetry(new MeterProvider().getMeter('mine'), manager, { attributes: { model: 'qwen' } }),
  ]
}

export function missingSyncs(): Array<string | null> {
  const board = { caches: 'incoherent', cacheMaintenance: 'objects' } as const
  const manager = new MemoryManager({ backend: 'simulated', simulated: board, debug: { checkSync: true } })
  const places: Array<string | null> = []
  manager.on('missingSync', ({ fault, buffer, place }) => {
    if (fault === 'device-read-dirty') places.push(buffer.tag, place)
  })
  const npu = new SimulatedNPU(manager)
  const bytes: Uint8Array = npu.read(manager.allocateNPUMemory(64), 0, 8)
  npu.write(manager.allocateNPUMemory(64), new Float32Array(bytes.buffer), 8)
  // @ts-expect-error bytes come in a view
  npu.write(new ArrayBuffer(8), [1, 2])
  return places
}

export function replayed(csv: string): number | null {
  const result: ReplayResult = replayEventLog(csv, { capacity: 2 ** 31, pools: ['kv', null], smallestCapacity: true })
  replayEventLog([{ type: 'allocate', id: 1, size: 4096 }])
  // @ts-expect-error a text or events
  replayEventLog(1)
  return result.firstFailure?.line ?? result.smallestCapacity
}

export async function acrossProcesses(fd: number): Promise<void> {
  const inbox = new DmaBufInbox('/run/app/frames')
  await sendDmaBuf(inbox.path, fd, 'frame 7')
  await sendDmaBuf(inbox.path, { fd, offset: 64, size: 100 }, 'frame 8')
  const letter: DmaBufPiece & { message: string } = await inbox.receive({ signal: AbortSignal.timeout(100) })
  closeDmaBuf(letter.fd)
  inbox.close()
}

export function right(): void {
  const manager = new MemoryManager({ backend: 'simulated', simulated: { soc: 'rk3588', domains: 2 }, inspect: true })
  new MemoryManager()
  new memory.MemoryManager({ backend: 'auto' })

  const buffer: ArrayBuffer = manager.allocateNPUMemory(4096, {
    tag: 'kv-cache',
    iommuDomain: 1,
    placement: 'try-sram',
  })
  manager.syncToDevice(buffer)
  manager.syncToDevice(new Float32Array(buffer), 0, 64)
  const system: ArrayBuffer = manager.allocateSystemMemory(4096, {
    hugePages: 'try',
    lock: true,
    prefault: true,
    alignment: 64,
  })
  manager.deallocate(Buffer.from(system))
  const freed: Promise<void> = manager.deallocateWhen(system, Promise.resolve(1))
  void manager.deallocateWhen(Buffer.from(system), new PassThrough()).then(() => freed)

  const info: BufferInfo = manager.describe(buffer)
  const address: bigint = info.address
  const deviceAddress: bigint | null = info.deviceAddress
  const { fd, offset, size } = manager.exportDmaBuf(buffer)
  const twin: ArrayBuffer = manager.importDmaBuf(fd, { offset, size, tag: 'twin' })
  const token: SharedBufferToken = manager.share(buffer)
  const adopted: ArrayBuffer = manager.adopt(structuredClone(token))
  const controller = new AbortController()
  const { signal } = controller
  void manager.adoptAsync(token, { signal }).then((again: ArrayBuffer) => again.byteLength)
  void manager
    .createMemoryPoolAsync({ name: 'later', initialSize: 4096, growAhead: 0.25, signal })
    .then((pool) => Promise.all([pool.allocateAsync(64, { movable: true, signal }), pool.allocateBufferAsync(64)]))
    .then(([block, slice]: [memory.MemoryBlock, ArrayBuffer]) => [block.size, slice.byteLength])
  void manager
    .createInferenceBuffersAsync({ contextLength: 16, hiddenSize: 8, signal }, { signal })
    .then((session: InferenceBuffers) => session.dispose())
  void manager.allocateFromPoolAsync('later', 64, { signal }).then(() => manager.disposeAsync({ signal }))
  // @ts-expect-error the synchronous verb takes no signal
  manager.createMemoryPool({ name: 'now', initialSize: 4096, signal })
  const owned: boolean = manager.owns(twin) && manager.describe(adopted).shared
  const { domains, cmaFree } = manager.getNPUMemoryStats()
  const used: number[] = domains.map((domain) => domain.used)
  const free: number | null = cmaFree
  const tagged: number | undefined = manager.getMemoryUsage().tags['kv-cache']?.peak
  manager.on('warning', () => {})
  manager.on('pressure', ({ level, available, released }) => void [level === 'full', available + released])
  manager.dispose()
  manager[Symbol.dispose]()
  void [address, deviceAddress, owned, used, free, tagged]

  const { findings, counts } = diagnose({ root: '/tmp/bundle' })
  const remedies: Array<string | null> = findings.filter(({ status }) => status === 'fail').map(({ remedy }) => remedy)
  void [remedies, counts.fail === 0]

  for (const found of probeDevices()) {
    if ('error' in found) console.log(found.path, found.error.hint)
    else console.log(found.soc, found.iommuDomains)
  }

  try {
    manager.allocateNPUMemory(1)
  } catch (error) {
    if (!(error instanceof MemoryError)) throw error
    const code: MemoryErrorCode = error.code
    const largest: number | undefined = error.largestFree
    void [code, largest]
  }
}

export function whatGrew(a: MemorySnapshot, b: MemorySnapshot): string[] {
  const diff: SnapshotDiff = memory.diffSnapshots(a, b)
  return diff.byTag.filter(({ growth }) => growth > 0).map(({ tag, growth }) => `${tag ?? 'untagged'}: ${growth}`)
}

export function wrong(manager: MemoryManager, buffer: ArrayBuffer): void {
  // @ts-expect-error sizes are numbers
  manager.allocateNPUMemory('4096')
  // @ts-expect-error sizes are numbers, not bigints
  manager.allocateSystemMemory(4096n)
  // @ts-expect-error a size is needed
  manager.allocateNPUMemory()
  // @ts-expect-error misspelt
  manager.allocateNPUMemory(1, { tga: 'x' })
  // @ts-expect-error an option of the other kind of memory
  manager.allocateSystemMemory(1, { iommuDomain: 0 })
  // @ts-expect-error no such placement
  manager.allocateNPUMemory(1, { placement: 'sram' })
  // @ts-expect-error neither true, false nor 'try'
  manager.allocateSystemMemory(1, { hugePages: 'always' })
  // @ts-expect-error options are an object
  manager.allocateNPUMemory(1, null)
  // @ts-expect-error not a buffer
  manager.deallocate({})
  // @ts-expect-error not a buffer
  manager.deallocate('buffer')
  // @ts-expect-error a buffer is needed
  manager.deallocate()
  // @ts-expect-error offsets are numbers
  manager.syncToDevice(buffer, '0')
  // @ts-expect-error there are no such caches
  new MemoryManager({ simulated: { caches: 'none' } })
  // @ts-expect-error there is no such backend
  new MemoryManager({ backend: 'cuda' })
  // @ts-expect-error misspelt
  new MemoryManager({ bakend: 'simulated' })
  // @ts-expect-error it is read-only
  manager.disposed = true
  // @ts-expect-error what was opened does not change
  manager.device.soc = 'rk3576'
  // @ts-expect-error an address is a bigint
  const address: number = manager.describe(buffer).address
  // @ts-expect-error it may be null
  const deviceAddress: bigint = manager.describe(buffer).deviceAddress
  // @ts-expect-error there is no such code
  const never = (error: MemoryError) => error.code === 'ERR_NO_SUCH_CODE'
  void [address, deviceAddress, never]
}

export function session(manager: MemoryManager, run: (input: bigint, param: bigint) => void): void {
  const buffers = manager.createInferenceBuffers({
    contextLength: 4096,
    hiddenSize: 1536,
    vocabSize: 151_936,
    image: { tokens: 196, count: 2 },
    rknnInputs: [{ name: 'pixels', shape: [1, 392, 392, 3], dtype: 'uint8' }],
    doubleBuffered: true,
  })
  buffers.back?.tokens?.set([1, 2, 3])
  buffers.swap()
  run(buffers.tokenInput(3, { role: 'user' }), buffers.inferParam({ mode: 'logits' }))
  buffers.reset({ tokens: 3 })
  const address: bigint | null = buffers.addresses.logits
  buffers.dispose()
  void address
  // @ts-expect-error no such header
  manager.createInferenceBuffers({ header: '1.0', maxTokens: 1 })
  // @ts-expect-error misspelt
  manager.createInferenceBuffers({ maxToken: 1 })
}

export async function rknn(manager: MemoryManager, call: (name: string, args: readonly unknown[]) => bigint | number) {
  const models = manager.createRknnMemory({
    models: [
      { name: 'encoder', file: 'vit.rknn', outputs: { features: { dtype: 'float32' } } },
      { name: 'head', file: 'head.rknn', inputs: { x: { memory: { from: ['encoder', 'features'] } } } },
    ],
    via: 'fd',
  })
  const signal = AbortSignal.timeout(1000)
  for await (const each of models.loadAsync({ signal })) each.done(call(each.name, each.args))
  const [context] = models.models.encoder.contexts
  const written: number | undefined = context?.inputs.pixels?.write(new Uint8Array(3))
  // @ts-expect-error no such model
  void models.models.decoder
  // @ts-expect-error misspelt
  manager.createRknnMemory({ models: [{ name: 'm', flie: 'x' }] })
  // @ts-expect-error memory is of one kind
  manager.createRknnMemory({ models: [{ name: 'm', file: 'x', inputs: { x: { memory: { physical: 1n } } } }] })
  for (const each of models.unload()) each.done(call(each.name, each.args))
  await models.disposeAsync()
  return written
}

export function planning(config: Record<string, unknown>): void {
  const estimate: memory.ModelEstimate = memory.estimateModelMemory({
    config,
    contextLength: 4096,
    dtype: 'w4a16',
    soc: 'rk3576',
  })
  const [device] = probeDevices()
  if (device === undefined || 'error' in device) return
  const plan: memory.DomainPlan = memory.planModels(
    [
      { name: 'chat', config, contextLength: 4096, group: 'vl' },
      { name: 'eyes', path: 'vision.rknn', contextLength: 1, group: 'vl' },
    ],
    device,
    { ramAvailable: 4e9, domains: [{ id: 0, used: 1 << 20 }] },
  )
  const code: MemoryErrorCode | null | undefined = memory.explainError('errno: 14')?.code
  const kinds: string[] = memory.explainError('errno: 14', { all: true }).map(({ kind }) => kind)
  const loaded: [number, number] = [estimate.loaded * (1 + estimate.loadedUncertainty), estimate.domain.max]
  const measured: Promise<memory.MeasuredModel> = memory.measureModel(
    { command: 'llm_demo', args: ['qwen.rkllm'], model: 'qwen.rkllm', until: /init success/ },
    { signal: AbortSignal.timeout(60_000) },
  )
  memory.estimateModelMemory({ config, contextLength: 1, dtype: 'w8a8_g512', runtime: '1.1.4', embedFlash: false })
  memory.planModels([], device, { ramAvailable: null, spread: false })
  void [loaded, measured, estimate.vision ?? 0, estimate.basis === 'measured-here']
  void [estimate.total * (1 + estimate.uncertainty), plan.placements[0]?.domain, code, kinds]
  // Of a file's name or an option of a command: a word that is none is refused at the call.
  memory.estimateModelMemory({ config, contextLength: 1, dtype: 'w8a8'.toLowerCase() })
}

// A result has the parts of its spec; the others may be null.
function ofSpec(manager: MemoryManager): void {
  const text = manager.createInferenceBuffers({ contextLength: 16, hiddenSize: 8, vocabSize: 32, doubleBuffered: true })
  const all: [Int32Array, Float32Array, Float32Array] = [text.tokens, text.embeddings, text.logits]
  const back: Int32Array = text.back.tokens
  // @ts-expect-error: not asked for
  const image: Float32Array = text.imageEmbeddings
  const off = manager.createInferenceBuffers({ contextLength: 16, hiddenSize: 8, embeddings: false })
  // @ts-expect-error: turned off
  const none: Float32Array = off.embeddings
  const any: InferenceBuffers = off
  void [all, back, image, none, any]
}

// Events: their names and the arguments of listeners, for every way to listen.
function listening(manager: MemoryManager): void {
  manager.once('warning', ({ scope, ratio }) => void [scope, ratio.toFixed(1)])
  manager.off('leak', (leak) => void leak.size.toFixed())
  manager.addListener('relocated', (moves) => void moves[0].id)
  manager.removeListener('pressure', ({ level }) => void level)
  // @ts-expect-error: no such event
  manager.once('warn', () => {})
}

function discriminated(): void {
  for (const found of probeDevices()) {
    if (found.refused) void found.error.code
    else void found.npuCores
  }
}
void [ofSpec, listening, discriminated]
