// The numbers of the page, from records alone: what `history`, `best`, `diff` and `sites` print over SSH with --json.
// Nothing here knows of the page; tests hold every number to what Charity prints of the same history.

const VERDICTS = ["accepted", "refused", "counted", "invalid"];
const MAKES_CURRENT = ["genesis", "accepted", "round-accepted", "rollback"];
const CLOSES_ROUND = ["round-accepted", "round-refused"];
const PLAIN = ["report", "scored", "masks"]; // judged, but no word on a model
const LOWER = ["mae", "rmse", "loss"]; // is better
const ABSURD = 1e9; // a claim may be any number
const Z = 1.959964; // 97.5 % of the normal distribution

// A metrics object's accuracy (of numbers: the mean absolute error) and loss; null when it has neither.
function headline(metrics) {
  if (!isObject(metrics)) return null;
  const found = Object.fromEntries(
    ["accuracy", "mae", "loss"].filter((name) => isNumber(metrics[name])).map((name) => [name, metrics[name]]),
  );
  return Object.keys(found).length ? found : null;
}

const main = (genesis) => (genesis.plan || {}).metric || "accuracy";
const better = (metric, value) => (LOWER.includes(metric) ? -value : value);

// By how much a model is better than the one that it replaced; null where a score is missing.
function gainOf(record, metric) {
  const after = (record.metrics || {})[metric],
    before = (record.current_metrics || {})[metric];
  return isNumber(after) && isNumber(before)
    ? metric === "loss"
      ? before - after
      : better(metric, after) - better(metric, before)
    : null;
}

// The gain of a record that made a model current by training, by metric; null of others.
function gains(record, metric) {
  if (record.event !== "accepted" && record.event !== "round-accepted") return null;
  const found = Object.fromEntries(
    [metric, "loss"].map((name) => [name, gainOf(record, name)]).filter(([, by]) => by !== null),
  );
  return Object.keys(found).length ? found : null;
}

// How many bytes a site sent for a verdict: its model's, and what went through a channel; null of other records.
function bytesOf(record) {
  if (!VERDICTS.includes(record.event)) return null;
  const sent = record.candidate || record.model,
    work = record.work;
  return sent || work ? (sent ? sent.size : 0) + (work ? work.received : 0) : null;
}

// What the history's table shows of one record.
function historyRow(record, prints) {
  const { sequence, time, event } = record,
    own = PLAIN.includes(event); // a report's metrics are the site's own
  return {
    sequence,
    time,
    event,
    site: record.site ?? null,
    session: record.session ?? null,
    epoch: (own ? record.epochs : record.epoch) ?? null,
    claim: headline(own ? record.metrics : record.claim),
    score: own || event === "tested" ? null : headline(record.metrics),
    reason: why(record, prints),
    submission: record.submission ?? null,
    bytes: bytesOf(record),
  };
}

// By site the gain in the main metric and in loss, positive is better in both: see agents/history/contributions.py.
function contributions(records, metric) {
  const refused = new Map(),
    steps = new Map();
  let last = null;
  for (const record of records) {
    if (record.event === "refused") refused.set(record.sequence, record.site);
    if (MAKES_CURRENT.includes(record.event)) {
      steps.set(record.sequence, {
        before: record.event === "rollback" ? record.to : last,
        gains: siteGains(record, metric, refused),
      });
      last = record.sequence;
    }
  }
  const found = new Map();
  while (last !== null && steps.has(last)) {
    const step = steps.get(last);
    for (const [site, by] of step.gains) {
      const own = found.get(site) || {};
      for (const [name, value] of Object.entries(by)) own[name] = (own[name] || 0) + value;
      found.set(site, own);
    }
    steps.delete(last); // a history that goes in a circle ends here
    last = step.before;
  }
  return found;
}

function siteGains(record, metric, refused) {
  const all = gains(record, metric);
  if (!all) return [];
  if (record.event === "accepted") {
    const sites = [
      record.site,
      ...(record.slots || []).filter((one) => refused.has(one)).map((one) => refused.get(one)),
    ];
    const part = Object.fromEntries(Object.entries(all).map(([name, by]) => [name, by / sites.length]));
    return [...new Set(sites)].map((site) => [site, part]);
  }
  const parts = record.updates.filter((part) => part.share != null);
  return parts.map((part) => [
    part.site,
    Object.fromEntries(Object.entries(all).map(([name, by]) => [name, by * part.share])),
  ]);
}

// How much better a model is said to be than it scores: in accuracy, or as a share of the mean absolute error.
function gap(claim, metrics) {
  for (const measure of ["accuracy", "mae"]) {
    const said = (claim || {})[measure],
      scored = (metrics || {})[measure];
    if (isNumber(said) && isNumber(scored)) {
      const found = measure === "accuracy" ? said - scored : scored ? (scored - said) / scored : Infinity;
      return Math.abs(found) <= ABSURD ? found : null;
    }
  }
  return null;
}

// A row for each site: what it sent, what it claimed above what was scored, and what it brought.
function siteRows(records, genesis) {
  const metric = main(genesis),
    inRounds = genesis.schedule === "rounds",
    rows = new Map();
  let counted = new Map();
  for (const record of records) {
    const { event, site } = record;
    if (event === "site-added" && record.role === "site" && !rows.has(site)) {
      rows.set(site, {
        site,
        state: "enrolled",
        submissions: 0,
        accepted: 0,
        refused: 0,
        counted: 0,
        invalid: 0,
        bytes: 0,
        gaps: [],
        last: null,
      });
    }
    const row = rows.get(site);
    if (row && (event === "site-added" || event === "site-revoked"))
      row.state = event === "site-added" ? "enrolled" : "revoked";
    if (row && (VERDICTS.includes(event) || PLAIN.includes(event) || event === "garbage")) row.last = record.time;
    if (event === "round-opened") counted = new Map();
    if (event === "counted") counted.set(site, record);
    if (CLOSES_ROUND.includes(event)) {
      for (const part of record.updates) {
        const found = gap((counted.get(part.site) || {}).claim, record.metrics);
        if (found !== null && rows.has(part.site)) rows.get(part.site).gaps.push(found);
      }
    }
    if (!row || !(event === "invalid" || (VERDICTS.includes(event) && record.model))) continue;
    row.submissions += 1;
    row[event] += 1;
    row.bytes += bytesOf(record) ?? 0;
    if (!inRounds && (event === "accepted" || event === "refused")) {
      const found = gap(record.claim, record.metrics);
      if (found !== null) row.gaps.push(found);
    }
  }
  const brought = contributions(records, metric);
  return [...rows.values()].map(({ gaps, ...row }) => ({
    ...row,
    claims: gaps.length
      ? { median: median(gaps), worst: gaps.reduce((worst, one) => Math.max(worst, one)), of: gaps.length }
      : null,
    gain: brought.get(row.site) ?? null,
  }));
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other),
    middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Every model that was current, the newest first: {record, source, until}; a rollback's source is where its model came from.
function champions(records) {
  const sources = new Map(),
    found = [];
  for (const record of records) {
    if (!MAKES_CURRENT.includes(record.event)) continue;
    const source = record.event === "rollback" ? (sources.get(record.to) ?? record) : record;
    sources.set(record.sequence, source);
    if (found.length) found.at(-1).until = record;
    found.push({ record, source, until: null });
  }
  return found.reverse();
}

// What some sites had brought by then, of each of some records in turn: [[gain or null, …], …] in the order of the sites.
function gainsAlong(records, steps, sites, metric) {
  const refused = new Map(records.filter((one) => one.event === "refused").map((one) => [one.sequence, one.site]));
  const place = new Map(sites.map((site, at) => [site, at])),
    known = new Map();
  let sum = sites.map(() => null);
  return steps.map((record) => {
    sum = record.event === "rollback" ? (known.get(record.to) ?? sites.map(() => null)) : sum;
    for (const [site, by] of siteGains(record, metric, refused)) {
      const at = place.get(site);
      if (at === undefined || by[metric] === undefined) continue;
      sum = sum.with(at, (sum[at] ?? 0) + by[metric]);
    }
    known.set(record.sequence, sum);
    return sum;
  });
}

// Rounds, the newest first: {round, opened, sites, sent, missing, closed, verdict, reason, metrics}.
function roundRows(records) {
  const rows = [];
  let open = null;
  for (const record of records) {
    if (record.event === "round-opened") {
      open = {
        round: record.round,
        record: record.sequence,
        opened: record.time,
        sites: record.sites,
        sent: [],
        missing: [],
        closed: null,
        verdict: "open",
        reason: record.reason,
        metrics: null,
      };
      rows.push(open);
    }
    if (!open) continue;
    if (record.event === "round-extended") open.sites = record.sites;
    if (record.event === "counted") open.sent.push(record.site);
    if (CLOSES_ROUND.includes(record.event)) {
      Object.assign(open, {
        record: record.sequence,
        closed: record.time,
        verdict: record.event.slice(6),
        reason: record.reason,
        missing: record.missing,
        metrics: record.metrics,
      });
      open = null;
    }
  }
  return rows.reverse();
}

// By number of a rollback: the record that first had its model.
function origins(records) {
  const found = new Map();
  for (const record of records)
    if (record.event === "rollback") found.set(record.sequence, found.get(record.to) ?? record.to);
  return found;
}

// Which names stand where now: the records that gave them, by the record that first had the model.
function tags(records) {
  const at = new Map(),
    back = origins(records),
    found = new Map();
  for (const record of records) {
    if (record.event === "tagged") at.set(record.tag, record);
    if (record.event === "untagged") at.delete(record.tag);
  }
  for (const record of at.values()) {
    const of = back.get(record.of) ?? record.of;
    found.set(of, [...(found.get(of) || []), record]);
  }
  return found;
}

// Two records side by side: scores with their difference, then every other field that is not the same.
function diff(one, two) {
  const names = (first, second) => [...new Set([...Object.keys(first), ...Object.keys(second)])];
  const of = (value, name) => (Object.hasOwn(value, name) ? value[name] : null);
  const [before, after] = [one.metrics || {}, two.metrics || {}];
  const scores = names(before, after).flatMap((name) => {
    const [first, second] = [before, after].map((metrics) => (isNumber(of(metrics, name)) ? metrics[name] : null));
    const change = first === null || second === null ? null : second - first;
    return first === null && second === null ? [] : [[name, { first, second, change }]];
  });
  const apart = ["sequence", "previous", "hash", "signature", "metrics"];
  const fields = names(one, two)
    .filter((name) => !apart.includes(name) && !same(of(one, name), of(two, name)))
    .map((name) => [name, { first: of(one, name), second: of(two, name) }]);
  const [first, second] = [one.sequence, two.sequence];
  return { first, second, scores: Object.fromEntries(scores), fields: Object.fromEntries(fields) };
}

// Whether two values are the same JSON; members are in one order in every record.
const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

// Fields with those of nested objects beside them: `model.sha256`, `updates.alice-1.share`.
function flat(name, value) {
  const list = Array.isArray(value) && value.length && value.every(isObject);
  const inner = isObject(value)
    ? Object.entries(value)
    : list
      ? value.map((child, place) => [
          child.site ?? String(place + 1),
          Object.fromEntries(Object.entries(child).filter(([key]) => key !== "site")),
        ])
      : [];
  return inner.length ? inner.flatMap(([key, child]) => flat(`${name}.${key}`, child)) : [[name, value]];
}

// What scores say of each class, with 95 % intervals; null where no table tells of single classes. See agents/rules/figures.py.
function assessed(metrics, names, rule) {
  const table = (metrics || {}).confusion;
  if (!table || table.some((row) => row.length !== table.length)) return null;
  const totals = table.map((row) => row.reduce((sum, one) => sum + one, 0)),
    images = totals.reduce((sum, one) => sum + one, 0);
  const called = names || table.map((_, label) => String(label));
  if (!images || called.length !== table.length) return null;
  const figures = shares(table, called),
    at = metrics.confusion_at_threshold;
  if (table.length === 2 && isNumber(metrics.auc) && totals.every((one) => one)) {
    const [low, high] = metrics.auc_interval || hanleyMcNeil(metrics.auc, ...totals);
    figures.push({ of: "AUC", value: metrics.auc, low, high, right: null, images });
  }
  const threshold =
    isNumber(metrics.threshold) && at
      ? { value: metrics.threshold, rule: rule ?? null, class: called[1], figures: shares(at, called), table: at }
      : null;
  return { images, names: called, table, figures, threshold };
}

// Accuracy, balanced accuracy and the recall of each class that has images. Intervals: Wilson; of the mean, Zou and Donner.
function shares(table, names) {
  const counts = table
    .map((row, label) => [names[label], row[label], row.reduce((sum, one) => sum + one, 0)])
    .filter(([, , of]) => of);
  const share = (of, right, images) => ({ of, value: right / images, ...wilson(right, images), right, images });
  const recalls = counts.map(([name, right, of]) => share(`recall of ${name}`, right, of));
  const sum = (pick) => counts.reduce((so_far, one) => so_far + pick(one), 0);
  const value = recalls.reduce((so_far, one) => so_far + one.value, 0) / recalls.length;
  const spread = (end) => Math.hypot(...recalls.map((one) => one.value - one[end])) / recalls.length;
  const mean = {
    of: "balanced accuracy",
    value,
    low: Math.max(0, value - spread("low")),
    high: Math.min(1, value + spread("high")),
    right: null,
    images: sum(([, , of]) => of),
  };
  return [
    share(
      "accuracy",
      sum(([, right]) => right),
      sum(([, , of]) => of),
    ),
    mean,
    ...recalls,
  ];
}

// Wilson's 95 % interval of a share (Wilson 1927).
function wilson(right, of) {
  const share = right / of,
    more = Z ** 2 / of,
    middle = (share + more / 2) / (1 + more);
  const half = (Z / (1 + more)) * Math.sqrt((share * (1 - share)) / of + Z ** 2 / (4 * of ** 2));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

// The 95 % interval of an area under the curve (Hanley and McNeil 1982).
function hanleyMcNeil(area, negatives, positives) {
  const first = area / (2 - area),
    second = (2 * area ** 2) / (1 + area);
  const spread = area * (1 - area) + (positives - 1) * (first - area ** 2) + (negatives - 1) * (second - area ** 2);
  const half = Z * Math.sqrt(Math.max(0, spread) / (positives * negatives));
  return [Math.max(0, area - half), Math.min(1, area + half)];
}

// Of a task with several labels: [{label, found, missed, wrong, right}] of each, called from 0.5 on; null of other tasks.
function labelRows(metrics, names) {
  const tables = (metrics || {}).confusion_per_label;
  if (!Array.isArray(tables)) return null;
  return tables.map(([right, wrong, missed, found], place) => ({
    label: (names || [])[place] ?? String(place),
    found,
    missed,
    wrong,
    right,
    auc: (metrics.per_label_auc || [])[place] ?? null,
  }));
}

// What is known of a receiver operating characteristic: points {share of class 0 called 1, share of class 1 found, at, of}.
function operatingPoints(metrics) {
  const point = (table, at) => ({
    x: table[0][1] / (table[0][0] + table[0][1]),
    y: table[1][1] / (table[1][0] + table[1][1]),
    at,
  });
  const two = (table) => Array.isArray(table) && table.length === 2 && table.every((row) => row[0] + row[1]);
  const found = [];
  if (two(metrics.confusion)) found.push(point(metrics.confusion, 0.5));
  if (two(metrics.confusion_at_threshold)) found.push(point(metrics.confusion_at_threshold, metrics.threshold));
  return found;
}
