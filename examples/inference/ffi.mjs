/**
 * Calls C in three runtimes: with koffi in Node, bun:ffi in Bun, Deno.dlopen in Deno. Pointers are plain addresses
 * (bigints), as `manager.describe(buffer).address` and `buffers.addresses` return them.
 */

/**
 * @param {string} path
 * @param {Record<string, { returns: string, takes: string[] }>} functions of 'pointer', 'i32', 'u32', 'i64', 'u64';
 * 'text' comes back only
 * @returns {Promise<{ name: string, call: Record<string, (...args: (number | bigint)[]) => any> }>}
 */
export async function open(path, functions) {
  if (process.versions.bun !== undefined) return { name: 'bun:ffi', call: await withBun(path, functions) }
  if (process.versions.deno !== undefined) return { name: 'Deno.dlopen', call: withDeno(path, functions) }
  return { name: 'koffi', call: await withKoffi(path, functions) }
}

async function withKoffi(path, functions) {
  const { default: koffi } = await import('koffi')
  const types = {
    pointer: 'void *', i32: 'int32_t', u32: 'uint32_t', i64: 'int64_t', u64: 'uint64_t', text: 'str', void: 'void',
  }
  const library = koffi.load(path)
  return each(functions, (name, { returns, takes }) =>
    library.func(
      name,
      types[returns],
      takes.map((type) => types[type]),
    ),
  )
}

async function withBun(path, functions) {
  const { dlopen, FFIType } = await import('bun:ffi')
  const types = { ...FFIType, pointer: FFIType.ptr, text: FFIType.cstring }
  const { symbols } = dlopen(
    path,
    each(functions, (_, { returns, takes }) => ({ returns: types[returns], args: takes.map((type) => types[type]) })),
  )
  return each(functions, (name, { returns, takes }) => (...args) => {
    // Pointers of bun:ffi are numbers. Addresses of user space are far below 2^53.
    const answer = symbols[name](...args.map((value, at) => (takes[at] === 'pointer' ? Number(value) : value)))
    return returns === 'text' ? String(answer) : answer
  })
}

function withDeno(path, functions) {
  const { dlopen, UnsafePointer, UnsafePointerView } = globalThis.Deno
  const types = (type) => (type === 'text' ? 'pointer' : type)
  const { symbols } = dlopen(
    path,
    each(functions, (_, { returns, takes }) => ({ parameters: takes.map(types), result: types(returns) })),
  )
  return each(functions, (name, { returns, takes }) => (...args) => {
    const answer = symbols[name](
      ...args.map((value, at) => (takes[at] === 'pointer' ? UnsafePointer.create(value) : value)),
    )
    return returns === 'text' ? new UnsafePointerView(answer).getCString() : answer
  })
}

const each = (functions, make) =>
  Object.fromEntries(Object.entries(functions).map(([name, of]) => [name, make(name, of)]))
