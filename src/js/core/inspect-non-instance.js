'use strict'

const { inspect } = require('node:util')

/**
 * Shows a prototype, or an object that inherits from one without being constructed: as an empty object.
 *
 * @param {import('node:util').InspectOptions} options
 */
const inspectNonInstance = (options) => inspect(Object.create(null), options)

module.exports = { inspectNonInstance }
