'use strict'

// Draws a plan as SVG: time goes to the right, offsets go up.

const [WIDTH, HEIGHT, MARGIN] = [960, 540, 24]

/**
 * @param {import('../types/arena.js').ArenaPlan} plan
 * @returns {string}
 */
function drawPlan({ size, placements }) {
  // Every moment at which something changes gets the same width: long idle times would hide the rest.
  const moments = [...new Set(placements.flatMap(({ lower, upper }) => [lower, upper]))].sort((a, b) => a - b)
  const place = new Map(moments.map((moment, at) => [moment, at]))
  const x = (/** @type {number} */ moment) =>
    MARGIN + ((place.get(moment) ?? 0) / Math.max(1, moments.length - 1)) * (WIDTH - 2 * MARGIN)
  const y = (/** @type {number} */ offset) => HEIGHT - MARGIN - (offset / Math.max(1, size)) * (HEIGHT - 2 * MARGIN)
  const boxes = placements.map(({ id, lower, upper, size, offset }, at) => {
    const [left, top] = [x(lower), y(offset + size)]
    const box = [left, top, x(upper) - left, y(offset) - top].map((figure) => figure.toFixed(2))
    const colour = `hsl(${(at * 137.508) % 360} 55% 62%)`
    const title = `${escape(String(id))}: ${size} bytes at ${offset}, from ${lower} to ${upper}`
    return (
      `<rect x="${box[0]}" y="${box[1]}" width="${box[2]}" height="${box[3]}" fill="${colour}" stroke="#fff" ` +
      `stroke-width="0.5"><title>${title}</title></rect>`
    )
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11">`,
    `<rect x="${MARGIN}" y="${MARGIN}" width="${WIDTH - 2 * MARGIN}" height="${HEIGHT - 2 * MARGIN}" fill="#eee"/>`,
    ...boxes,
    `<text x="${MARGIN}" y="${MARGIN - 8}">${size} bytes, ${placements.length} buffers</text>`,
    '</svg>',
    '',
  ].join('\n')
}

/** @param {string} text */
const escape = (text) =>
  text
    // XML allows no other control characters.
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '\ufffd')
    .toWellFormed()
    .replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)

module.exports = { drawPlan, escape }
