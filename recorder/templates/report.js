// Draws the charts of the report with uPlot: drag to zoom, double click to see all again.
"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const drawn = [];
const css = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const short = v => v == null ? "" : Math.abs(v) >= 1e5 ? v.toLocaleString("en", {notation: "compact"}) : +v.toPrecision(4) + "";

function times(chart) {
  return Array.from({length: chart.series[0].values.length}, (_, i) => chart.start + i * chart.step);
}

function clock(at, fine) {
  const text = new Date(Math.round(at * 1e3)).toISOString();
  return text.slice(11, fine ? 23 : 19);
}

function bands(chart) {
  return u => {
    u.ctx.save();
    for (const [from, to, kind] of chart.dark || []) {
      const a = Math.max(u.valToPos(from, "x", true), u.bbox.left);
      const b = Math.min(u.valToPos(to, "x", true), u.bbox.left + u.bbox.width);
      u.ctx.fillStyle = css(kind);
      u.ctx.globalAlpha = 0.35;
      if (b >= a) u.ctx.fillRect(a, u.bbox.top, Math.max(b - a, devicePixelRatio), u.bbox.height);
    }
    u.ctx.restore();
  };
}

function options(chart, width) {
  const soft = css("soft"), grid = {stroke: css("line"), width: 1}, ticks = {stroke: css("line"), width: 1, size: 4};
  const font = "11px system-ui, sans-serif", small = width < 500;
  const time = chart.start !== undefined;
  const axes = [{stroke: soft, grid, ticks, font}];
  axes[0].values = time ? (u, at) => at.map(v => clock(v, at[1] - at[0] < 1))
                        : (u, at) => at.map(v => chart.labels[v] || "");
  axes[0].space = 90;
  chart.series.forEach((one, i) => axes.push({
    scale: one.name, stroke: css(one.color), font, ticks, side: i ? 1 : 3, grid: i ? {show: false} : grid,
    size: small ? 44 : 58, values: (u, at) => at.map(short), label: small ? undefined : one.name,
    labelFont: font, labelSize: 16,
  }));
  return {
    width, height: small ? 170 : chart.height || 190, axes,
    tzDate: s => uPlot.tzDate(new Date(s * 1e3), "Etc/UTC"),
    cursor: {drag: {x: true, y: false}, points: {show: false}, sync: time ? {key: "time"} : undefined},
    scales: {x: {time}, ...Object.fromEntries(chart.series.map(one => [one.name, {range: (u, lo, hi) =>
      [Math.min(0, lo || 0), hi > 0 ? hi * 1.05 : 1]}]))},
    series: [
      {value: (u, v) => v == null ? "" : time ? clock(v, true) : chart.names[v], label: chart.x || "UTC"},
      ...chart.series.map(one => ({
        label: one.name, scale: one.name, stroke: css(one.color), width: 1.3, points: {show: false},
        value: (u, v) => short(v), fill: one.bars ? css(one.color) : undefined,
        paths: one.bars ? uPlot.paths.bars({size: [0.9, 60]}) : uPlot.paths.stepped({align: 1}),
      })),
    ],
    hooks: {drawClear: [bands(chart)]},
  };
}

function draw() {
  while (drawn.length) drawn.pop().destroy();
  for (const chart of charts) {
    const place = document.getElementById(chart.id);
    const x = chart.start !== undefined ? times(chart) : chart.series[0].values.map((_, i) => i);
    const data = [x, ...chart.series.map(one => one.values)];
    drawn.push(new uPlot(options(chart, place.clientWidth - 12), data, place));
  }
}

draw();
let wide = document.body.clientWidth, waiting;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (document.body.clientWidth !== wide) { wide = document.body.clientWidth; draw(); } }, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.documentElement.dataset.charts = drawn.length;
document.documentElement.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
