// What each site claims, sent and brought, and the rounds in which they took part.

const CLAIMING = ["accepted", "refused", "counted"];

function claimedAndScored(shown, sites) {
  const claims = shown.records.filter((one) => CLAIMING.includes(one.event) && headline(one.claim));
  if (!claims.length)
    return el(
      "p",
      { class: "quiet" },
      "No site claims a score here: privacy or masks are agreed, or nothing came yet.",
    );
  const measure = "mae" in headline(claims[0].claim) ? "mae" : "accuracy",
    ofRound = new Map();
  for (const one of shown.records) if (CLOSES_ROUND.includes(one.event)) ofRound.set(one.round, one);
  const scoreOf = (one) =>
    ((one.event === "counted" ? (ofRound.get(one.round) || {}).metrics : one.metrics) || {})[measure];
  const holder = el("div"),
    names = sites.map((row) => row.site).filter((site) => claims.some((one) => one.site === site));
  const select = el(
    "select",
    { onchange: () => show() },
    names.map((name) => el("option", { value: name }, name)),
  );
  const show = () => {
    const own = claims.filter((one) => one.site === names[select.selectedIndex]);
    const spec = {
      title: `${measure} that ${names[select.selectedIndex]} claims, and that the holdout gives`,
      x: { label: "record" },
      y: measure,
      xs: own.map((one) => one.sequence),
      series: [
        {
          label: "claimed by the site",
          values: own.map((one) => one.claim[measure] ?? null),
          mark: "line",
          dash: true,
        },
        { label: "scored on the holdout", values: own.map((one) => scoreOf(one) ?? null), mark: "line" },
      ],
      told: (place) =>
        `record ${own[place].sequence}, ${own[place].event}: claimed ${decimal(own[place].claim[measure])}, scored ${decimal(scoreOf(own[place]))}`,
      chosen: (place) => openRecord(shown, own[place].sequence),
      columns: ["record#", "time (UTC)", "event", "session#", "epoch#", "claimed#", "scored#", "difference#"],
      rows: () =>
        own.map((one) => [
          one.sequence,
          clock(one.time),
          one.event,
          one.session,
          one.epoch,
          decimal(one.claim[measure]),
          decimal(scoreOf(one)),
          signed(gap(one.claim, { [measure]: scoreOf(one) })),
        ]),
    };
    swap(holder, chart(spec));
  };
  show();
  return [
    el(
      "p",
      {},
      "What lies between the two is overfitting, other images, or lying: worth a look, not blame.",
      shown.genesis.schedule === "rounds"
        ? " In rounds nobody scores one update: what stands beside its claim is the score of its round's mean."
        : "",
    ),
    el("form", { class: "asked", onsubmit: (event) => event.preventDefault() }, el("label", {}, "Site", select)),
    holder,
  ];
}

function bySite(shown, sites) {
  if (!sites.length) return el("p", { class: "quiet" }, "No site is enrolled yet.");
  const inRounds = shown.genesis.schedule === "rounds",
    metric = shown.metric,
    largest = (values) => Math.max(1e-12, ...values.map((one) => Math.abs(one || 0)));
  const most = largest(sites.map((row) => (row.gain || {})[metric])),
    mostBytes = largest(sites.map((row) => row.bytes));
  const bar = (value, of, text) => {
    const line = el("span", { class: value < 0 ? "bar less" : "bar", "aria-hidden": "true" });
    line.style.width = `${(100 * Math.abs(value || 0)) / of}%`;
    return el("span", {}, text, line);
  };
  const kinds = inRounds ? ["counted", "refused", "invalid"] : ["accepted", "refused", "invalid"];
  const columns = [
    "site",
    `gain in ${metric.replaceAll("_", " ")}#`,
    "gain in loss#",
    "sent#",
    ...kinds.map((kind) => `${kind}#`),
    "bytes#",
    "claimed - scored#",
    "worst#",
    "last heard (UTC)",
  ];
  const rows = sites.map((row) => {
    const gain = row.gain || {},
      claims = row.claims || {};
    return [
      row.state === "revoked" ? `${row.site} (revoked)` : row.site,
      bar(gain[metric], most, signed(gain[metric])),
      signed(gain.loss),
      whole(row.submissions),
      ...kinds.map((kind) => whole(row[kind])),
      bar(row.bytes, mostBytes, size(row.bytes)),
      signed(claims.median),
      signed(claims.worst),
      clock(row.last),
    ];
  });
  const models = shown.records.filter((one) => MAKES_CURRENT.includes(one.event)),
    last = shown.records.at(-1),
    first = sites
      .slice()
      .sort((one, other) => Math.abs((other.gain || {})[metric] || 0) - Math.abs((one.gain || {})[metric] || 0))
      .slice(0, SERIES)
      .map((row) => row.site);
  const steps = models.at(-1) === last ? models : [...models, last],
    along = gainsAlong(shown, steps),
    parts = [
      el(
        "p",
        {},
        `Gain is what the current model scores more than the first one, divided among the sites whose models made it so`,
        inRounds
          ? "; a round's is divided by the shares of its updates, which attributes and does not measure."
          : ". What was rolled back counts for nobody.",
        " Which sites stand out from the others, and by what rule, tells ",
        el("code", {}, "sites"),
        ".",
      ),
      tableOf("What each site sent and brought", columns, rows).node,
    ];
  if (models.length > 1) {
    const spec = {
      title: `Gain in ${metric.replaceAll("_", " ")} by site, added up${sites.length > first.length ? `, the ${first.length} largest` : ""}`,
      x: { label: "record" },
      y: "gain",
      xs: steps.map((one) => one.sequence),
      series: first.map((site) => ({
        label: site,
        values: along.map((one) => (one.get(site) || {})[metric] ?? 0),
        mark: "step",
      })),
      told: (place) =>
        `record ${steps[place].sequence}: ${first.map((site) => `${site} ${signed((along[place].get(site) || {})[metric] ?? 0)}`).join(", ")}`,
      chosen: (place) => openRecord(shown, steps[place].sequence),
      columns: ["record#", "time (UTC)", ...first.map((site) => `${site}#`)],
      rows: () =>
        models.map((one, place) => [
          one.sequence,
          clock(one.time),
          ...first.map((site) => signed((along[place].get(site) || {})[metric] ?? 0)),
        ]),
    };
    parts.push(chart(spec).node);
  }
  return parts;
}

// By record, each of which may have made a model current, what each site had brought by then.
function gainsAlong(shown, steps) {
  const refused = new Map(
      shown.records.filter((one) => one.event === "refused").map((one) => [one.sequence, one.site]),
    ),
    at = new Map();
  let before = new Map();
  return steps.map((record) => {
    const found = record.event === "rollback" ? at.get(record.to) || new Map() : new Map(before);
    for (const [site, by] of siteGains(record, shown.metric, refused)) {
      const own = found.get(site) || {};
      found.set(
        site,
        Object.fromEntries([shown.metric, "loss"].map((name) => [name, (own[name] || 0) + (by[name] || 0)])),
      );
    }
    at.set(record.sequence, found);
    before = found;
    return found;
  });
}

function rounds(shown) {
  const rows = roundRows(shown.records),
    columns = [
      "round#",
      "record#",
      "opened (UTC)",
      "took#",
      "updates#",
      "drawn#",
      "missing",
      "result",
      `${shown.metric}#`,
      "why",
    ];
  const seconds = (row) => (row.closed ? duration((Date.parse(row.closed) - Date.parse(row.opened)) / 1000) : "–");
  const told = (row) => [
    String(row.round),
    link(shown, row.record),
    clock(row.opened),
    seconds(row),
    row.sent.length,
    row.sites.length,
    few(row.missing) || "nobody",
    row.verdict,
    decimal((row.metrics || {})[shown.metric]),
    row.reason,
  ];
  return rows.length
    ? tableOf("Rounds, the newest first", columns, rows.map(told), { perPage: 20 }).node
    : el("p", { class: "quiet" }, "No round has opened yet.");
}
