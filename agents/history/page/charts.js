// Charts by uPlot, each with its legend, a line that says what lies under the pointer, and a table of the same numbers.

const CHART_HEIGHT = 260;
const drawn = []; // every chart that is on the page: {draw()}

// A chart of numbers over numbers or times.
// spec: {title, x: {label, time, range}, y, yRange, xs, series: [{label, values, mark: "line" | "step" | "points", dash, bare}],
//        marks: [{x, full}], markWord, square, told: (place) => text of what lies there, chosen: (place) => what a click does,
//        columns, rows: () => rows of the table}
function chart(spec) {
  const plot = el("div", { class: spec.square ? "plot square" : "plot", "aria-hidden": "true" }),
    under = el("p", { class: "under", "aria-hidden": "true" });
  const legend = el(
    "ul",
    { class: "legend" },
    spec.series.map((one, place) =>
      el(
        "li",
        {},
        el("span", {
          class: `swatch ${one.mark} series-${place % 8}${one.dash ? " dashed" : ""}`,
          "aria-hidden": "true",
        }),
        one.label,
      ),
    ),
    (spec.marks || []).length
      ? el("li", {}, el("span", { class: "swatch marked", "aria-hidden": "true" }), spec.markWord)
      : null,
  );
  const table = tableOf(`${spec.title}, as a table`, spec.columns, spec.rows);
  const details = el(
    "details",
    { ontoggle: () => details.open && table.fill() },
    el("summary", {}, `${spec.title}: as a table`),
    table.node,
  );
  const node = el("figure", {}, el("figcaption", {}, spec.title), legend, plot, under, details);
  let made = null;
  const draw = () => {
    if (made) made.destroy();
    made = null;
    const width = plot.clientWidth || 640;
    if (spec.xs.length && plot.isConnected)
      made = new uPlot(options(spec, width, under), [spec.xs, ...spec.series.map((one) => one.values)], plot);
  };
  plot.addEventListener("click", () => {
    if (made && made.cursor.idx != null && spec.chosen) spec.chosen(made.cursor.idx);
  });
  drawn.push({
    draw,
    resize: () => made && made.setSize({ width: plot.clientWidth || 640, height: CHART_HEIGHT }),
    node,
  });
  return { node, draw };
}

function options(spec, width, under) {
  const style = getComputedStyle(document.documentElement),
    color = (name) => style.getPropertyValue(name).trim();
  const text = color("--text"),
    grid = { stroke: color("--line"), width: 1 },
    font = "12px system-ui, sans-serif";
  const axis = { stroke: text, grid, ticks: grid, font, labelFont: font, labelSize: 20 };
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
      { ...axis, label: spec.x.label },
      { ...axis, label: spec.y, size: 64 },
    ],
    series: [
      {},
      ...spec.series.map((one, place) => {
        const stroke = color(`--series-${place % 8}`);
        const points = {
          show: true,
          size: spec.xs.length > 2000 ? 3 : 6,
          stroke,
          fill: one.mark === "points" ? stroke : color("--ground"),
        };
        if (one.mark === "points") return { label: one.label, stroke, paths: () => null, points };
        const paths = one.mark === "step" ? uPlot.paths.stepped({ align: 1 }) : undefined;
        return {
          label: one.label,
          stroke,
          width: 2,
          paths,
          dash: one.dash ? [6, 4] : undefined,
          spanGaps: true,
          points: { ...points, show: spec.xs.length < 60 && one.mark === "line" && !one.bare },
        };
      }),
    ],
    hooks: {
      draw: [(u) => (spec.marks || []).forEach((mark) => drawMark(u, mark, color("--text")))],
      setCursor: [
        (u) => {
          under.textContent = u.cursor.idx == null || !spec.told ? "" : printable(spec.told(u.cursor.idx));
        },
      ],
    },
  };
}

// A little above and below, and something where all values are the same or there are none.
function padded(low, high) {
  if (low == null || high == null) return [0, 1];
  const more = (high - low) * 0.05 || Math.abs(high) * 0.05 || 0.5;
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
}

// Puts another chart where one was.
function swap(holder, made) {
  for (let place = drawn.length - 1; place >= 0; place -= 1)
    if (holder.contains(drawn[place].node)) drawn.splice(place, 1);
  holder.replaceChildren(made.node);
  made.draw();
}
