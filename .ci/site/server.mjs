// Holds memory of two models on the simulated device until it is killed: the server that `top` shows in the picture.

import { MemoryManager } from '../../index.js'

const MiB = 2 ** 20
const memory = new MemoryManager({ backend: 'simulated', inspect: true })
memory.setMemoryLimits({ npu: { max: 6144 * MiB } })
memory.reserve(1690 * MiB, { tag: 'qwen2.5-1.5b', iommuDomain: 1 })
memory.reserve(2780 * MiB, { tag: 'gemma2-2b', iommuDomain: 2 })

const kv = memory.createMemoryPool({ name: 'kv-cache', initialSize: 64 * MiB, maxSize: 512 * MiB })
const blocks = Array.from({ length: 1200 }, () => kv.allocate(64 * 1024))
for (const block of blocks.filter((_, at) => at % 7 === 3)) block.free()

const kept = [
  memory.allocateNPUMemory(24 * MiB, { tag: 'embeddings' }),
  memory.allocateNPUMemory(152_064 * 4, { tag: 'logits' }),
  memory.allocateNPUMemory(16 * MiB, { tag: 'vision-input', iommuDomain: 2 }),
  memory.allocateSystemMemory(12 * MiB, { tag: 'tokenizer' }),
]
console.log('ready', kept.length)
setInterval(() => blocks.length, 1000)
