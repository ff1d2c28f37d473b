// Draws the parts of the report.

drawAll(
  drawDevice,
  drawSummary,
  drawTags,
  drawTimeline,
  drawAlive,
  drawLimits,
  drawModels,
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
