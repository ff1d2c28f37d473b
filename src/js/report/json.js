'use strict'

// The snapshot and the profile as JSON; snapshot.schema.json describes it.

/** Addresses do not fit JSON's numbers: "0x200000000000". */
const plain = (_key, value) => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value)

const json = (snapshot, profile) => `${JSON.stringify({ version: 1, snapshot, profile }, plain)}\n`

module.exports = { json, plain }
