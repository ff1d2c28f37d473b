// Refuses to pack or publish the checkout itself: that package would lack its binaries. The root's prepack script.

console.error('npm run package makes the tarballs to publish, in dist/; RELEASING.md tells how they are published.')
process.exitCode = 1
