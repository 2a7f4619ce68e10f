// What each site claims, sent and brought, and the rounds in which they took part.

const CLAIMING = ["accepted", "refused", "counted"];

function claimedAndScored(shown) {
  const claims = shown.records.filter((one) => CLAIMING.includes(one.event) && headline(one.claim));
  if (!claims.length) return quiet("No site claims a score here: privacy or masks are agreed, or nothing came yet.");
  const measure = "mae" in headline(claims[0].claim) ? "mae" : "accuracy",
    ofRound = new Map();
  for (const one of shown.records) if (CLOSES_ROUND.includes(one.event)) ofRound.set(one.round, one);
  const scored = (one) => scoreOf(one.event === "counted" ? ofRound.get(one.round) || {} : one, measure);
  const holder = el("div"),
    names = [...new Set(claims.map((one) => one.site))];
  const [label, site] = choice("Site", names, String, names[0], () => show());
  const show = () => {
    const own = claims.filter((one) => one.site === site());
    swap(holder, chart(claimsAlong(shown, own, site(), measure, scored)));
  };
  show();
  const mixed = claims.some((one) => one.candidate || (isNumber(one.share) && one.share < 1));
  return [
    el("p", {}, "What lies between the two is overfitting, other images, or lying: worth a look, not blame."),
    shown.genesis.schedule === "rounds"
      ? el("p", {}, "In rounds nobody scores one update: beside its claim stands the score of its round's mean.")
      : mixed
        ? el(
            "p",
            {},
            `The policy ${String(shown.genesis.policy).split(":")[0]} mixes: what is claimed is the site's own model, what is `,
            "scored is its mix with the current one. So the difference tells of the policy, too.",
          )
        : null,
    asking([label], () => show()),
    holder,
  ];
}

function claimsAlong(shown, own, site, measure, scored) {
  const claimed = (one) => one.claim[measure] ?? null,
    apart = measure === "mae" ? "scored above it, as a share#" : "claimed - scored#";
  return {
    title: `${measure} that ${site} claims, and that the holdout gives`,
    x: { label: "record" },
    y: measure,
    xs: own.map((one) => one.sequence),
    series: [
      { label: "claimed by the site", values: own.map(claimed), mark: "line", dash: true },
      { label: "scored on the holdout", values: own.map(scored), mark: "line" },
    ],
    told: (place) => {
      const one = own[place];
      return `record ${one.sequence}, ${one.event}: claimed ${decimal(claimed(one))}, scored ${decimal(scored(one))}`;
    },
    chosen: (place) => openRecord(shown, own[place].sequence),
    columns: ["record#", "time (UTC)", "event", "session#", "epoch#", "share#", "claimed#", "scored#", apart],
    rows: () =>
      own.map((one) => () => [
        link(shown, one.sequence),
        clock(one.time),
        one.event,
        one.session,
        one.epoch,
        decimal(one.share),
        decimal(claimed(one)),
        decimal(scored(one)),
        signed(gap(one.claim, { [measure]: scored(one) })),
      ]),
  };
}

function bySite(shown, sites) {
  if (!sites.length) return quiet("No site is enrolled yet.");
  const inRounds = shown.genesis.schedule === "rounds",
    metric = shown.metric,
    gain = (row) => (row.gain || {})[metric] ?? null;
  const largest = (values) => values.reduce((most, one) => Math.max(most, Math.abs(one || 0)), 1e-12);
  const most = largest(sites.map(gain)),
    mostBytes = largest(sites.map((row) => row.bytes));
  const bar = (value, of, text) => {
    const line = el("span", { class: value < 0 ? "bar less" : "bar", "aria-hidden": "true" });
    line.style.width = `${(100 * Math.abs(value || 0)) / of}%`;
    return el("span", {}, text, line);
  };
  const kinds = [inRounds ? "counted" : "accepted", "refused", "invalid"];
  const above = "mae" in (shown.genesis.metrics || {}) ? "scored above claims, as a share#" : "claimed - scored#";
  const columns = [`gain in ${title(metric)}#`, "gain in loss#", "sent#", ...kinds.map((kind) => `${kind}#`)];
  columns.push("bytes of models#", above, "worst#", "last heard (UTC)");
  const rows = sites.map((row) => () => [
    row.state === "revoked" ? `${row.site} (revoked)` : row.site,
    bar(gain(row), most, signed(gain(row))),
    signed((row.gain || {}).loss),
    whole(row.submissions),
    ...kinds.map((kind) => whole(row[kind])),
    bar(row.bytes, mostBytes, size(row.bytes)),
    signed((row.claims || {}).median),
    signed((row.claims || {}).worst),
    clock(row.last),
  ]);
  return [
    el(
      "p",
      {},
      "Gain is what the current model scores more than the first one, divided among the sites whose models made it so",
      inRounds
        ? "; a round's is divided by the shares of its updates, which attributes and does not measure."
        : ". What was rolled back counts for nobody.",
      " Which sites stand out from the others, and by what rule, tells ",
      el("code", {}, "sites"),
      ".",
    ),
    tableOf("What each site sent and brought", ["site", ...columns], rows).node,
    gainsChart(shown, sites, gain),
  ];
}

function gainsChart(shown, sites, gain) {
  const brought = sites.filter((row) => gain(row) !== null);
  if (!brought.length) return null;
  const largest = brought.toSorted((one, other) => Math.abs(gain(other)) - Math.abs(gain(one))).slice(0, COLOURS);
  const names = largest.map((row) => row.site),
    models = shown.records.filter((one) => MAKES_CURRENT.includes(one.event)),
    last = shown.records.at(-1);
  const steps = models.at(-1) === last ? models : [...models, last],
    along = gainsAlong(shown.records, steps, names, shown.metric);
  const first = brought.length > names.length ? `, the ${names.length} largest` : "";
  return chart({
    title: `Gain in ${title(shown.metric)} by site, added up${first}`,
    x: { label: "record" },
    y: "gain",
    xs: steps.map((one) => one.sequence),
    series: names.map((label, place) => ({ label, values: along.map((sums) => sums[place] ?? 0), mark: "step" })),
    told: (at) =>
      `record ${steps[at].sequence}: ${names.map((name, place) => `${name} ${signed(along[at][place])}`).join(", ")}`,
    chosen: (at) => openRecord(shown, steps[at].sequence),
    columns: ["record#", "time (UTC)", ...names.map((name) => `${name}#`)],
    rows: () => models.map((one, at) => () => [link(shown, one.sequence), clock(one.time), ...along[at].map(signed)]),
  }).node;
}

function rounds(shown) {
  const rows = roundRows(shown.records);
  if (!rows.length) return quiet("No round has opened yet.");
  const took = (row) => (row.closed ? duration((Date.parse(row.closed) - Date.parse(row.opened)) / 1000) : "–");
  const columns = ["round#", "record#", "opened (UTC)", "took#", "updates#", "drawn#", "missing", "result"];
  const cells = (row) => () => [
    row.round,
    link(shown, row.record),
    clock(row.opened),
    took(row),
    row.sent.length,
    row.sites.length,
    few(row.missing) || "nobody",
    row.verdict,
    decimal(scoreOf(row, shown.metric)),
    row.reason,
  ];
  columns.push(`${title(shown.metric)}#`, "why");
  return tableOf("Rounds, the newest first", columns, rows.map(cells), { perPage: 20 }).node;
}
