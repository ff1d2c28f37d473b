// Switches the theme.

const prefersDark = matchMedia('(prefers-color-scheme: dark)')
const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? 'dark' : 'light')) === 'dark'

function themed() {
  $('theme').textContent = isDark() ? 'Light' : 'Dark'
  $('theme').setAttribute('aria-pressed', String(isDark()))
  $('theme').setAttribute('aria-label', `Dark theme: ${isDark() ? 'on' : 'off'}`)
  for (const redraw of drawings) redraw()
}

$('theme').addEventListener('click', () => {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark'
  themed()
})
prefersDark.addEventListener('change', themed)

/** Runs the functions that draw the parts, and says when the page is complete. */
function drawAll(...parts) {
  for (const draw of parts) draw()
  $('foot').textContent = `Written by @rkllmjs/memory ${data.version}.`
  themed()
  document.documentElement.dataset.ready = 'true'
}
