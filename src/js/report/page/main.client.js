// Draws the parts of the report.

drawAll(
  drawDevice,
  drawSummary,
  drawTags,
  drawTimeline,
  drawAlive,
  drawLimits,
  drawReservations,
  drawDomains,
  drawPools,
  drawFlame,
  drawHolders,
  drawLeaks,
  drawSpreads,
  drawProcess,
  drawEvents,
)
