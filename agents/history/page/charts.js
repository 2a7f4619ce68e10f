// Charts by uPlot, each with its legend, a line that says what lies under the pointer, and a table of the same numbers.

const CHART_HEIGHT = 260;
const COLOURS = 8; // lines in one chart, and colours in page.css
const DRAWN = 1e9; // larger numbers, which a claim may be, stand in tables alone: an axis has no room for them
const MOVED = 5; // pixels from where a click began, from which on it is a drag
const TWICE_MS = 300; // in which a second click comes
const drawn = []; // every chart that is on the page

// A chart of numbers over numbers or times.
// spec: {title, x: {label, time, range}, y, yRange, xs, series: [{label, values, mark: "line" | "step" | "points", dash, bare}],
//        marks: [{x, full}], markWord, square, told: (place) => text of what lies there, chosen: (place) => what a click does,
//        columns, rows: () => rows of the table}
function chart(spec) {
  const plot = el("div", { class: spec.square ? "plot square" : "plot", "aria-hidden": "true" }),
    under = el("p", { class: "under", "aria-hidden": "true" });
  const swatch = (kind) => el("span", { class: `swatch ${kind}`, "aria-hidden": "true" });
  const entries = spec.series.map((one, place) =>
    el("li", {}, swatch(`${one.mark} series-${place % COLOURS}${one.dash ? " dashed" : ""}`), one.label),
  );
  if ((spec.marks || []).length) entries.push(el("li", {}, swatch("marked"), spec.markWord));
  const table = tableOf(`${spec.title}, as a table`, spec.columns, spec.rows);
  const details = el(
    "details",
    { ontoggle: () => details.open && table.fill() },
    el("summary", {}, `${spec.title}: as a table`),
    table.node,
  );
  const node = el(
    "figure",
    {},
    el("figcaption", {}, spec.title),
    el("ul", { class: "legend" }, entries),
    plot,
    under,
    details,
  );
  let made = null;
  const draw = () => {
    if (made) made.destroy();
    made = null;
    if (!globalThis.uPlot || !spec.xs.length || !plot.isConnected) return;
    const values = spec.series.map((one) => one.values.map((value) => (Math.abs(value) <= DRAWN ? value : null)));
    made = new uPlot(options(spec, plot.clientWidth || 640, under), [spec.xs, ...values], plot);
  };
  choosing(plot, () => made && made.cursor.idx != null && spec.chosen && spec.chosen(made.cursor.idx));
  const resize = () => made && made.setSize({ width: plot.clientWidth || 640, height: CHART_HEIGHT });
  const shows = () => made.scales.x.max - made.scales.x.min; // so much of the axis
  drawn.push({ draw, resize, shows, node });
  return { node, draw };
}

// Calls for a click that is neither the end of a drag, which zooms, nor one of two, which zoom out again.
function choosing(plot, chosen) {
  let from = 0,
    waiting = 0;
  plot.addEventListener("mousedown", (event) => (from = event.clientX));
  plot.addEventListener("click", (event) => {
    clearTimeout(waiting);
    if (event.detail === 1 && Math.abs(event.clientX - from) < MOVED) waiting = setTimeout(chosen, TWICE_MS);
  });
}

function options(spec, width, under) {
  const style = getComputedStyle(document.documentElement),
    color = (name) => style.getPropertyValue(name).trim();
  const text = color("--text"),
    grid = { stroke: color("--line"), width: 1 },
    font = "12px system-ui, sans-serif";
  const axis = { stroke: text, grid, ticks: grid, font, labelFont: font, labelSize: 20 };
  const alongRecords = spec.x.time || spec.x.range ? {} : { incrs: WHOLE };
  return {
    width,
    height: CHART_HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: true, y: false } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
    scales: {
      x: { time: Boolean(spec.x.time), range: spec.x.range },
      y: { range: spec.yRange || ((u, low, high) => padded(low, high)) },
    },
    axes: [
      { ...axis, label: spec.x.label, ...alongRecords },
      { ...axis, label: spec.y, size: 64 },
    ],
    series: [
      {},
      ...spec.series.map((one, place) =>
        drawnAs(one, color(`--series-${place % COLOURS}`), color("--ground"), spec.xs.length),
      ),
    ],
    hooks: {
      draw: [(u) => (spec.marks || []).forEach((mark) => drawMark(u, mark, text))],
      setCursor: [
        (u) => {
          under.textContent = u.cursor.idx == null || !spec.told ? "" : printable(spec.told(u.cursor.idx));
        },
      ],
    },
  };
}

const WHOLE = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((ten) => [ten, 2 * ten, 5 * ten]); // there is no record 9.5

// How uPlot draws a series.
function drawnAs(one, stroke, ground, count) {
  const points = { show: true, size: count > 2000 ? 3 : 6, stroke, fill: one.mark === "points" ? stroke : ground };
  if (one.mark === "points") return { label: one.label, stroke, paths: () => null, points };
  return {
    label: one.label,
    stroke,
    width: 2,
    paths: one.mark === "step" ? uPlot.paths.stepped({ align: 1 }) : undefined,
    dash: one.dash ? [6, 4] : undefined,
    spanGaps: true,
    points: { ...points, show: count < 60 && one.mark === "line" && !one.bare },
  };
}

// A little above and below, and something where all values are the same, nearly so, or there are none.
function padded(low, high) {
  if (low == null || high == null) return [0, 1];
  const least = Math.max(Math.abs(low), Math.abs(high)) * 0.02 || 0.5,
    more = Math.max((high - low) * 0.05, (least - (high - low)) / 2);
  return [low - more, high + more];
}

function drawMark(u, mark, stroke) {
  const x = u.valToPos(mark.x, "x", true),
    { left, top, width, height } = u.bbox;
  if (x < left || x > left + width) return;
  const context = u.ctx;
  context.save();
  context.strokeStyle = context.fillStyle = stroke;
  context.globalAlpha = mark.full ? 1 : 0.4;
  context.lineWidth = mark.full ? 2 : 1;
  context.setLineDash(mark.full ? [4, 4] : []);
  context.beginPath();
  context.moveTo(x, mark.full ? top : top + height - 12);
  context.lineTo(x, top + height);
  context.stroke();
  context.restore();
}

function drawAll() {
  drawn.forEach((one) => one.draw());
}

function resizeAll() {
  drawn.forEach((one) => one.resize());
  reachAll();
}

// Puts another chart where one was.
function swap(holder, made) {
  for (let place = drawn.length - 1; place >= 0; place -= 1)
    if (holder.contains(drawn[place].node)) drawn.splice(place, 1);
  holder.replaceChildren(made.node);
  made.draw();
}
