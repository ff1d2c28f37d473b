/** The understudies of librknnrt and librkllmrt, with models that state only their sizes, and two images. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { buildRknnUnderstudy, buildUnderstudy } from '../../__test__/runtime/build.mjs'
import { writeRknnModel } from '../../__test__/support/rknn.mjs'

const [WIDTH, HEIGHT] = [28, 28]

/**
 * @param {{ header?: string, tokens: number, hidden: number, output: string, images: string[] }} options
 */
export function makeUnderstudies({ header = '2.1', tokens, hidden, output, images }) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-vision-'))
  const encoder = join(folder, 'encoder.rknn')
  // Rows of 28 pixels in 32, as the NPU likes them.
  const tensors = [
    `input = pixels uint8 nhwc 32 1 ${HEIGHT} ${WIDTH} 3`,
    `output = ${output} float16 undefined 0 1 ${tokens} ${hidden}`,
  ]
  writeRknnModel(encoder, { weights: 1 << 20, internal: 256 << 10, tensors })
  const model = join(folder, 'understudy.rkllm')
  const sizes = `weights = 4194304\nkv_per_token = 1024\nscratch = 65536\nhidden = ${hidden}\nvocab = 256\n`
  writeFileSync(model, `RKLLM understudy model\n${sizes}`)
  return {
    encoder, model,
    images: images.length > 0 ? images : ['slope', 'rings'].map((name) => picture(folder, name)),
    rknn: buildRknnUnderstudy(header),
    rkllm: buildUnderstudy('1.3'),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

function picture(folder, name) {
  const path = join(folder, `${name}.ppm`)
  const pixels = Buffer.alloc(WIDTH * HEIGHT * 3)
  for (let at = 0; at < pixels.length; at++) {
    const [x, y] = [Math.floor(at / 3) % WIDTH, Math.floor(at / 3 / WIDTH)]
    pixels[at] = name === 'slope' ? 4 * (x + y) : 128 + 127 * Math.sin(Math.hypot(x - 14, y - 14))
  }
  writeFileSync(path, Buffer.concat([Buffer.from(`P6\n# ${name}\n${WIDTH} ${HEIGHT}\n255\n`), pixels]))
  return path
}
