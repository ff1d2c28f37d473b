'use strict'

const native = require('../core/binding.js')
const { integer } = require('../core/options.js')

/**
 * Implements `unpinDropped`.
 *
 * @param {number} id
 */
function unpinDropped(id) {
  native.unpinDropped(integer('id', id, 1))
}

module.exports = { unpinDropped }
