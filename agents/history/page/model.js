// The current model: where it comes from, what it scores over time, and where it is right.

function origin(source) {
  if (source.event === "round-accepted") {
    return `round ${source.round}: ${few(source.updates.map((part) => `${part.site} (${part.share == null ? "–" : Number(part.share.toPrecision(2))})`))}`;
  }
  if (source.event === "accepted") return `${source.site}, session ${source.session}, epoch ${source.epoch}`;
  return "the coordinator's first model";
}

const scoresTold = (metrics) =>
  Object.entries(metrics || {})
    .filter(([, value]) => isNumber(value))
    .map(([name, value]) => `${name} ${decimal(value)}`)
    .join(", ");

function theModel(shown, models) {
  const [now] = models,
    { record, source } = now,
    own = namesOf(shown, record.sequence);
  const tested = shown.records.filter((one) => one.event === "tested");
  const parts = [
    named([
      ["model", el("code", {}, (record.model || {}).sha256 || "–")],
      ["from", origin(source)],
      [
        "current since",
        `${clock(record.time)} UTC, by record ${record.sequence}, ${record.event}: ${why(record, shown.prints)}`,
      ],
      [
        "called",
        own.length
          ? own
              .map(
                (one) => `${one.tag}, by ${one.by ?? "–"} at ${clock(one.time)} UTC${one.note ? `: ${one.note}` : ""}`,
              )
              .join("; ")
          : null,
      ],
      [
        "released as",
        few(
          shown.records
            .filter((one) => one.event === "release" && one.of === record.sequence)
            .map((one) => one.sequence),
        ) || "not released yet",
      ],
      ["claimed", scoresTold(source.claim) || null],
      ["scored", scoresTold(record.metrics)],
      ["the first model scored", scoresTold(shown.genesis.metrics)],
    ]),
  ];
  const columns = ["record#", "since (UTC)", "until (UTC)", "by", `${shown.metric}#`, "loss#", "why"];
  const rows = models.map((one) => [
    el("span", {}, link(shown, one.record.sequence), " ", tagsOf(shown, one.record.sequence)),
    clock(one.record.time),
    one.until ? clock(one.until.time) : "now",
    origin(one.source),
    decimal((one.record.metrics || {})[shown.metric]),
    decimal((one.record.metrics || {}).loss),
    why(one.record, shown.prints),
  ]);
  parts.push(
    el("h3", {}, "Every model that was current"),
    tableOf("Every model that was current, the newest first", columns, rows, { perPage: 10 }).node,
  );
  parts.push(el("h3", {}, "On images that nobody selected on"));
  parts.push(
    tested.length
      ? tableOf(
          "Scores on splits that no decision rests on, the newest first",
          ["record#", "time (UTC)", "model of#", "split", "images#", "scores"],
          [...tested]
            .reverse()
            .map((one) => [
              link(shown, one.sequence),
              clock(one.time),
              link(shown, one.of),
              one.split,
              whole(one.examples),
              scoresTold(one.metrics),
            ]),
          { perPage: 10 },
        ).node
      : el(
          "p",
          { class: "quiet" },
          "No model was scored so and written down. The holdout decides what becomes current, so its scores flatter; ",
          el("code", {}, "charity score best --split test --record"),
          " says how the test split does.",
        ),
  );
  return parts;
}

// The holdout's metric, of every model that was scored and of the one that was current then.
function overTime(shown, models) {
  const scored = shown.records.filter(
    (one) =>
      one.metrics &&
      one.event !== "report" &&
      !["release", "scored", "tested"].includes(one.event) &&
      isNumber(one.metrics[shown.metric]),
  );
  const names = [
    ...new Set(scored.flatMap((one) => Object.keys(one.metrics).filter((name) => isNumber(one.metrics[name])))),
  ];
  if (!names.length) return el("p", { class: "quiet" }, "Nothing was scored, or scores may not be told.");
  const holder = el("div"),
    pick = (label, values, value) => {
      const select = el(
        "select",
        { onchange: () => show() },
        values.map((one) => el("option", { value: one, selected: one === value }, one.replaceAll("_", " "))),
      );
      return [el("label", {}, label, select), select];
    };
  const [metricLabel, metricPicked] = pick("Metric", names, shown.metric),
    [axisLabel, axisPicked] = pick("Along", ["records", "time"], "records");
  const show = () => {
    const metric = metricPicked.value,
      byTime = axisPicked.value === "time";
    const along = (one) => (byTime ? Date.parse(one.time) / 1000 : one.sequence);
    const last = shown.records.at(-1); // so that the current model's line goes to the end
    const points = shown.records.filter(
      (one) =>
        one === last ||
        (isNumber((one.metrics || {})[metric]) &&
          (MAKES_CURRENT.includes(one.event) || ["refused", "round-refused"].includes(one.event))),
    );
    let current = null;
    const level = points.map(
      (one) => (current = MAKES_CURRENT.includes(one.event) ? ((one.metrics || {})[metric] ?? null) : current),
    );
    const only = (events) =>
      points.map((one) => (events.includes(one.event) ? ((one.metrics || {})[metric] ?? null) : null));
    const spec = {
      title: `${metric.replaceAll("_", " ")} on the holdout`,
      x: { label: byTime ? "time (UTC)" : "record", time: byTime },
      y: metric.replaceAll("_", " "),
      xs: points.map(along),
      series: [
        { label: "the current model", values: level, mark: "step" },
        { label: "refused", values: only(["refused", "round-refused"]), mark: "points" },
        { label: "accepted", values: only(["accepted", "round-accepted"]), mark: "points" },
      ],
      marks: shown.records
        .filter((one) => one.event === "release" || one.event === "rollback")
        .map((one) => ({ x: along(one), full: one.event === "rollback" })),
      markWord: "a rollback; short lines below: releases",
      told: (place) =>
        `record ${points[place].sequence}, ${points[place].event}${points[place].site ? ` of ${points[place].site}` : ""}: ${decimal((points[place].metrics || {})[metric])} · ${why(points[place], shown.prints)}`,
      chosen: (place) => openRecord(shown, points[place].sequence),
      columns: ["record#", "time (UTC)", "event", "site", `${metric}#`, "current then#"],
      rows: () =>
        shown.records
          .filter((one) => isNumber((one.metrics || {})[metric]) || one.event === "release")
          .map((one) => {
            const place = points.indexOf(one);
            return [
              one.sequence,
              clock(one.time),
              one.event,
              one.site,
              isNumber((one.metrics || {})[metric]) ? decimal(one.metrics[metric]) : "–",
              place < 0 ? "–" : decimal(level[place]),
            ];
          }),
    };
    swap(holder, chart(spec));
  };
  show();
  return [el("form", { class: "asked", onsubmit: (event) => event.preventDefault() }, metricLabel, axisLabel), holder];
}

function whereRight(shown, models) {
  const { record } = models[0],
    rule = (shown.genesis.decision || {}).threshold;
  const found = assessed(record.metrics, shown.genesis.class_names, rule);
  if (!found)
    return el(
      "p",
      { class: "quiet" },
      "No table of classes is recorded of the current model: it does not tell classes apart, or scores may not be told.",
    );
  const parts = [
    el("p", {}, `Of record ${record.sequence}, on ${whole(found.images)} images of the holdout.`),
    matrix("Confusion on the holdout, called what is likeliest", found.table, found.names),
  ];
  if (found.threshold) {
    const at = found.threshold;
    parts.push(
      matrix(
        `Confusion where ${at.class} is called from ${Number(at.value.toPrecision(4))} on${at.rule ? ` (${at.rule})` : ""}`,
        at.table,
        found.names,
      ),
    );
  }
  const rows = (figures) =>
    figures.map((one) => [
      one.of,
      decimal(one.value),
      `${decimal(one.low)} to ${decimal(one.high)}`,
      one.right == null ? "–" : `${whole(one.right)} of ${whole(one.images)}`,
    ]);
  const columns = ["figure", "value#", "95 % interval", "right#"];
  parts.push(tableOf("Figures with their intervals", columns, rows(found.figures), { hidden: false }).node);
  if (found.threshold)
    parts.push(tableOf("Figures at that threshold", columns, rows(found.threshold.figures), { hidden: false }).node);
  if (found.table.length === 2) parts.push(...curve(shown, record, found));
  return parts;
}

// A table of counts, a row per true and a column per called class.
function matrix(caption, table, names) {
  const totals = table.map((row) => row.reduce((sum, one) => sum + one, 0));
  const body = table.map((row, truth) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, `is ${names[truth]}`),
      row.map((count, called) => {
        const cell = el(
          "td",
          { class: called === truth ? "right" : null },
          `${whole(count)} (${totals[truth] ? percent(count / totals[truth]) : "–"})`,
        );
        cell.style.background = `rgba(${getComputedStyle(document.documentElement).getPropertyValue("--heat")}, ${totals[truth] ? (0.3 * count) / totals[truth] : 0})`;
        return cell;
      }),
    ),
  );
  return el(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    el(
      "table",
      { class: "matrix" },
      el("caption", {}, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "truth"),
          names.map((name) => el("th", { scope: "col" }, `called ${name}`)),
        ),
      ),
      el("tbody", {}, body),
    ),
  );
}

// The receiver operating characteristic: the curve where one was written down, and what is known without it.
function curve(shown, record, found) {
  const written = shown.records.findLast(
    (one) => one.event === "tested" && one.curve && firstOf(shown, one.of) === firstOf(shown, record.sequence),
  );
  const points = [...operatingPoints(record.metrics)].sort((one, other) => one.x - other.x);
  const path = written ? written.curve.map(([at, x, y]) => ({ at, x, y })) : [];
  const all = [...path, ...points, { x: 0, y: 0 }, { x: 1, y: 1 }].sort(
    (one, other) => one.x - other.x || one.y - other.y,
  );
  const values = (of) => all.map((one) => (of.includes(one) ? one.y : null));
  const name = found.names[1];
  const spec = {
    title: `Receiver operating characteristic for ${name}`,
    x: { label: `${found.names[0]} called ${name} (1 - specificity)`, range: [0, 1] },
    y: `${name} found (sensitivity)`,
    yRange: () => [0, 1.02],
    xs: all.map((one) => one.x),
    series: [
      ...(written
        ? [
            {
              label: `on the ${written.split} split, record ${written.sequence}`,
              values: values(path),
              mark: "line",
              bare: true,
            },
          ]
        : []),
      { label: "on the holdout, at the thresholds that are known", values: values(points), mark: "points" },
      { label: "by chance", values: all.map((one) => one.x), mark: "line", dash: true, bare: true },
    ],
    square: true,
    told: (place) =>
      all[place].at == null
        ? ""
        : `called ${name} from ${decimal(all[place].at)} on: ${percent(all[place].y)} of ${name} found, ${percent(all[place].x)} of ${found.names[0]} called so`,
    columns: ["from#", `${name} found#`, `${found.names[0]} called ${name}#`, "on"],
    rows: () => [
      ...points.map((one) => [decimal(one.at), percent(one.y), percent(one.x), "the holdout"]),
      ...path.map((one) => [decimal(one.at), percent(one.y), percent(one.x), `the ${written.split} split`]),
    ],
  };
  const note = written
    ? null
    : el(
        "p",
        { class: "quiet" },
        "The history holds no curve of this model, but an area and a table at each threshold that is agreed; ",
        el("code", {}, "charity score best --split test --record"),
        " writes one down.",
      );
  return [chart(spec).node, note].filter(Boolean);
}
