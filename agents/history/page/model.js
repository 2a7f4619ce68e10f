// The current model: where it comes from, what it scores over time, and where it is right.

const MANY = 15; // classes, from which on a matrix is opened on demand
const REFUSED = ["refused", "round-refused"];
const LADDERS = ["ladder", "parameter-free-ladder"];

const title = (metric) => metric.replaceAll("_", " ");
const scoreOf = (record, metric) => (isNumber((record.metrics || {})[metric]) ? record.metrics[metric] : null);
const scoresTold = (metrics) =>
  Object.entries(metrics || {})
    .filter(([, value]) => isNumber(value))
    .map(([name, value]) => `${name} ${decimal(value)}`)
    .join(", ");

// From whom a model is: of a record that made one current by training, or the first.
function origin(source) {
  if (source.event === "accepted") return `${source.site}, session ${source.session}, epoch ${source.epoch}`;
  if (source.event !== "round-accepted") return "the coordinator's first model";
  const part = (one) => `${one.site} (${one.share == null ? "–" : Number(one.share.toPrecision(2))})`;
  return `round ${source.round}: ${few(source.updates.map(part))}`;
}

function theModel(shown, models) {
  const [{ record, source }] = models,
    names = namesOf(shown, record.sequence);
  const called = (one) => `${one.tag}, by ${one.by} at ${clock(one.time)} UTC${one.note ? `: ${one.note}` : ""}`;
  const releases = shown.records.filter((one) => one.event === "release" && one.of === record.sequence);
  const since = `${clock(record.time)} UTC, by record ${record.sequence}, ${record.event}: ${why(record, shown.prints)}`;
  const columns = ["record#", "since (UTC)", "until (UTC)", "from", `${title(shown.metric)}#`, "loss#", "why"];
  const rows = models.map((one) => () => [
    tagged(shown, one.record.sequence),
    clock(one.record.time),
    one.until ? clock(one.until.time) : "now",
    origin(one.source),
    decimal(scoreOf(one.record, shown.metric)),
    decimal(scoreOf(one.record, "loss")),
    why(one.record, shown.prints),
  ]);
  return [
    LADDERS.includes(shown.genesis.gate)
      ? quiet("The gate is a ladder: scores are told in steps, none of a refused model, and gains are of steps, too.")
      : null,
    named([
      ["model", el("code", {}, (record.model || {}).sha256 || "–")],
      ["from", origin(source)],
      ["current since", since],
      ["called", names.map(called).join("; ")],
      ["released as", few(releases.map((one) => one.sequence)) || "not released yet"],
      ["claimed", scoresTold(source.claim)],
      ["scored", scoresTold(record.metrics)],
      ["the first model scored", scoresTold(shown.genesis.metrics)],
    ]),
    el("h3", {}, "Every model that was current"),
    tableOf("Every model that was current, the newest first", columns, rows, { perPage: 10 }).node,
    el("h3", {}, "On images that nobody selected on"),
    testScores(shown),
  ];
}

function testScores(shown) {
  const tested = shown.records.filter((one) => one.event === "tested").reverse();
  if (!tested.length)
    return quiet(
      "No model was scored so and written down. The holdout decides what becomes current, so its scores flatter; ",
      el("code", {}, "charity score best --split test --record"),
      " says how the test split does.",
    );
  const cells = (one) => () => [
    link(shown, one.sequence),
    clock(one.time),
    link(shown, one.of),
    one.split,
    whole(one.examples),
    scoresTold(one.metrics),
  ];
  const columns = ["record#", "time (UTC)", "model of#", "split", "examples#", "scores"];
  return tableOf("Scores on the test split, the newest first", columns, tested.map(cells), { perPage: 10 }).node;
}

// The holdout's metric, of every model that was scored and of the one that was current then.
function overTime(shown) {
  const judged = shown.records.filter((one) => MAKES_CURRENT.includes(one.event) || REFUSED.includes(one.event));
  const metrics = [
    ...new Set(judged.flatMap((one) => Object.keys(one.metrics || {}).filter((name) => scoreOf(one, name) !== null))),
  ];
  if (!metrics.length) return quiet("Nothing was scored, or scores may not be told.");
  const holder = el("div");
  const [metricLabel, metric] = choice("Metric", metrics, title, shown.metric, () => show());
  const [alongLabel, along] = choice("Along", ["records", "time"], String, "records", () => show());
  const show = () => swap(holder, chart(scoresAlong(shown, judged, metric(), along() === "time")));
  show();
  return [asking([metricLabel, alongLabel], () => show()), holder];
}

function scoresAlong(shown, judged, metric, byTime) {
  const last = shown.records.at(-1), // so that the current model's line goes to the end
    scored = judged.filter((one) => scoreOf(one, metric) !== null),
    points = scored.at(-1) === last ? scored : [...scored, last];
  const along = (one) => (byTime ? Date.parse(one.time) / 1000 : one.sequence);
  let current = null;
  const level = points.map((one) => (MAKES_CURRENT.includes(one.event) ? (current = scoreOf(one, metric)) : current));
  const only = (events) => points.map((one) => (events.includes(one.event) ? scoreOf(one, metric) : null));
  const at = (place) => {
    const one = points[place];
    const by = one.site ? ` of ${one.site}` : "";
    return `record ${one.sequence}, ${one.event}${by}: ${decimal(scoreOf(one, metric))} · ${why(one, shown.prints)}`;
  };
  const moves = shown.records.filter((one) => one.event === "release" || one.event === "rollback");
  return {
    title: `${title(metric)} on the holdout`,
    x: { label: byTime ? "time (UTC)" : "record", time: byTime },
    y: title(metric),
    xs: points.map(along),
    series: [
      { label: "the current model", values: level, mark: "step" },
      { label: "refused", values: only(REFUSED), mark: "points" },
      { label: "accepted", values: only(["accepted", "round-accepted"]), mark: "points" },
    ],
    marks: moves.map((one) => ({ x: along(one), full: one.event === "rollback" })),
    markWord: "a rollback; short lines below: releases",
    told: at,
    chosen: (place) => openRecord(shown, points[place].sequence),
    columns: ["record#", "time (UTC)", "event", "site", `${title(metric)}#`, "current then#"],
    rows: () => {
      const levels = new Map(scored.map((one, place) => [one.sequence, level[place]]));
      const listed = shown.records.filter((one) => levels.has(one.sequence) || one.event === "release");
      return listed.map((one) => () => [
        link(shown, one.sequence),
        clock(one.time),
        one.event,
        one.site,
        levels.has(one.sequence) ? decimal(scoreOf(one, metric)) : "–",
        decimal(levels.get(one.sequence) ?? null),
      ]);
    },
  };
}

function whereRight(shown, models) {
  const { record } = models[0],
    metrics = record.metrics || {},
    labels = labelRows(metrics, shown.genesis.class_names);
  if (labels) return byLabel(record, labels);
  const found = assessed(metrics, shown.genesis.class_names, (shown.genesis.decision || {}).threshold);
  if (!found) {
    const numbers = (shown.genesis.spec || {}).task === "regression";
    return quiet(
      numbers
        ? "The model predicts numbers: there are no classes to confuse."
        : "The record of the current model holds no table of classes: scores may not be told.",
    );
  }
  const parts = [quiet(`Of record ${record.sequence}, on ${whole(found.images)} examples of the holdout.`)];
  parts.push(...matrix("Confusion on the holdout, called what is likeliest", found.table, found.names));
  parts.push(figuresOf("Figures with their intervals", found.figures));
  if (found.threshold) {
    const { value, rule, table, figures } = found.threshold,
      from = Number(value.toPrecision(4));
    const caption = `Confusion where ${found.names[1]} is called from ${from} on${rule ? ` (${rule})` : ""}`;
    parts.push(...matrix(caption, table, found.names), figuresOf("Figures at that threshold", figures));
  }
  if (found.table.length === 2) parts.push(...curve(shown, record, found));
  return parts;
}

function byLabel(record, labels) {
  const columns = ["label", "found#", "missed#", "wrongly called so#", "rightly not called so#", "AUC#"];
  const rows = labels.map((one) => [one.label, one.found, one.missed, one.wrong, one.right, decimal(one.auc)]);
  return [
    quiet(`Of record ${record.sequence}, on the holdout: each label, called from 0.5 on.`),
    tableOf("Each label on the holdout", columns, rows, { hidden: false, perPage: 20 }).node,
  ];
}

function figuresOf(caption, figures) {
  const rows = figures.map((one) => [
    one.of,
    decimal(one.value),
    `${decimal(one.low)} to ${decimal(one.high)}`,
    one.right == null ? "–" : `${whole(one.right)} of ${whole(one.images)}`,
  ]);
  return tableOf(caption, ["figure", "value#", "95 % interval", "right#"], rows, { hidden: false, perPage: 20 }).node;
}

// A table of counts, a row per true and a column per called class; of many classes what is confused most comes first.
function matrix(caption, table, names) {
  if (names.length <= MANY) return [counts(caption, table, names)];
  const apart = table.flatMap((row, truth) =>
    row.flatMap((count, called) => (count && called !== truth ? [[names[truth], names[called], count]] : [])),
  );
  const most = apart.sort((one, other) => other[2] - one[2]).map((row) => [row[0], row[1], whole(row[2])]);
  const every = el(
    "details",
    { ontoggle: () => every.open && every.children.length < 2 && every.append(counts(caption, table, names)) },
    el("summary", {}, `${caption}: all ${names.length} classes`),
  );
  const columns = ["is", "called", "examples#"];
  return [tableOf(`${caption}: what is confused most`, columns, most, { hidden: false, perPage: 10 }).node, every];
}

function counts(caption, table, names) {
  const heat = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  const body = table.map((row, truth) => {
    const total = row.reduce((sum, one) => sum + one, 0);
    const cells = row.map((count, called) => {
      const share = total ? count / total : 0;
      const kind = called === truth ? "right" : null;
      const cell = el("td", { class: kind }, `${whole(count)} (${total ? percent(share) : "–"})`);
      cell.style.background = `rgba(${heat}, ${0.3 * share})`;
      return cell;
    });
    return el("tr", {}, el("th", { scope: "row" }, `is ${names[truth]}`), cells);
  });
  const heads = ["truth", ...names.map((name) => `called ${name}`)].map((name) => el("th", { scope: "col" }, name));
  return scrolling(
    caption,
    el(
      "table",
      { class: "matrix" },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads)),
      el("tbody", {}, body),
    ),
  );
}

// The receiver operating characteristic: the curve where one was written down, and what is known without it.
function curve(shown, record, found) {
  const same = (one) => firstOf(shown, one.of) === firstOf(shown, record.sequence);
  const written = shown.records.findLast((one) => one.event === "tested" && one.curve && same(one));
  const points = operatingPoints(record.metrics),
    path = written ? written.curve.map(([at, x, y]) => ({ at, x, y })) : [];
  const ends = [
    { x: 0, y: 0 },
    { x: 1, y: 1 },
  ];
  const all = [...path, ...points, ...ends].sort((one, other) => one.x - other.x || one.y - other.y);
  const values = (of) => all.map((one) => (of.includes(one) ? one.y : null));
  const [no, yes] = found.names;
  const rates = (one) => [decimal(one.at), percent(one.y), percent(one.x)];
  const onCurve = written
    ? [
        {
          label: `on the ${written.split} split, record ${written.sequence}`,
          values: values([ends[0], ...path]),
          mark: "line",
          bare: true,
        },
      ]
    : [];
  const spec = {
    title: `Receiver operating characteristic for ${yes}`,
    x: { label: `${no} called ${yes} (1 - specificity)`, range: [0, 1] },
    y: `${yes} found (sensitivity)`,
    yRange: () => [0, 1.02],
    xs: all.map((one) => one.x),
    series: [
      ...onCurve,
      { label: "on the holdout, at the thresholds that are known", values: values(points), mark: "points" },
      { label: "by chance", values: all.map((one) => one.x), mark: "line", dash: true, bare: true },
    ],
    square: true,
    told: (place) => {
      const one = all[place];
      if (one.at == null) return "";
      return `called ${yes} from ${decimal(one.at)} on: ${percent(one.y)} of ${yes} found, ${percent(one.x)} of ${no} called so`;
    },
    columns: ["from#", `${yes} found#`, `${no} called ${yes}#`, "on"],
    rows: () => [
      ...points.map((one) => [...rates(one), "the holdout"]),
      ...path.map((one) => [...rates(one), `the ${written.split} split`]),
    ],
  };
  const missing = quiet(
    "The history holds no curve of this model, but an area and a table at each threshold that is agreed; ",
    el("code", {}, "charity score best --split test --record"),
    " writes one down.",
  );
  return [chart(spec).node, written ? null : missing];
}
