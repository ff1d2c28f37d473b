/** Builds the head of a GGUF file, as ggml's docs/gguf.md describes it. */

const u32 = (value) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const string = (text) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)])

/** A value of metadata: a string, a number (u32), a list of strings or of numbers. */
function value(of) {
  if (typeof of === 'string') return [u32(8), string(of)]
  if (typeof of === 'number') return [u32(4), u32(of)]
  const strings = typeof of[0] === 'string'
  return [u32(9), u32(strings ? 8 : 4), u64(of.length), ...of.map((each) => (strings ? string(each) : u32(each)))]
}

/**
 * @param {Record<string, string | number | string[] | number[]>} metadata
 * @param {Array<{ name: string, shape: number[], type: number, bytes: number }>} tensors
 * @returns {{ head: Buffer, size: number }} the head, and the size of the whole file
 */
export function gguf(metadata, tensors, { version = 3 } = {}) {
  const entries = Object.entries(metadata).flatMap(([name, of]) => [string(name), ...value(of)])
  let offset = 0
  const table = tensors.flatMap(({ name, shape, type, bytes }) => {
    const at = offset
    offset += Math.ceil(bytes / 32) * 32
    return [string(name), u32(shape.length), ...shape.map(u64), u32(type), u64(at)]
  })
  const counts = [u64(tensors.length), u64(Object.keys(metadata).length)]
  const head = Buffer.concat([Buffer.from('GGUF'), u32(version), ...counts, ...entries, ...table])
  return { head, size: Math.ceil(head.length / 32) * 32 + offset }
}
