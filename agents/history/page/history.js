// The records: all of them with a filter, one alone, and two side by side.

// The number of a record, to look at it.
function link(shown, sequence) {
  const look = () => openRecord(shown, sequence);
  return el(
    "button",
    { type: "button", class: "link", "aria-label": `record ${sequence}`, onclick: look },
    String(sequence),
  );
}

// The record that first had the model which a record made current: itself, but for a rollback.
const firstOf = (shown, sequence) => shown.back.get(sequence) ?? sequence;

// The records that gave a record's model the names which it has.
const namesOf = (shown, sequence) => shown.tags.get(firstOf(shown, sequence)) || [];

// The number of a record, with the names of its model.
function tagged(shown, sequence) {
  const names = namesOf(shown, sequence).map((one) => el("span", { class: "tag" }, one.tag));
  return names.length ? el("span", {}, link(shown, sequence), " ", names) : link(shown, sequence);
}

function everyRecord(shown) {
  const rows = shown.records.map((record) => historyRow(record, shown.prints)).reverse();
  const of = rows.some((row) => row.score && "mae" in row.score) ? "mae" : "acc";
  const pair = (score) => (score ? `${decimal(score.accuracy ?? score.mae)} / ${decimal(score.loss)}` : "–");
  const columns = ["record#", "time (UTC)", "event", "site", "session#", "epoch#"];
  columns.push(`claimed ${of} / loss#`, `scored ${of} / loss#`, "bytes#", "why");
  const cells = (row) => () => [
    tagged(shown, row.sequence),
    clock(row.time),
    row.event,
    row.site,
    row.session,
    row.epoch,
    pair(row.claim),
    pair(row.score),
    row.bytes == null ? "–" : whole(row.bytes),
    row.reason,
  ];
  const distinct = (values) => [null, ...new Set(values.filter((one) => one != null))];
  const all = (value) => value ?? "all";
  const [events, event] = choice("Event", distinct(rows.map((row) => row.event)), all, null, () => show());
  const [sites, site] = choice("Site", distinct(rows.map((row) => row.site)), all, null, () => show());
  const words = el("input", { type: "search", oninput: () => later() });
  const table = tableOf("The history, the newest first", columns, [], { perPage: 50 }),
    count = el("p", { role: "status", class: "quiet" });
  const show = () => {
    const wanted = words.value.trim().toLowerCase();
    const fits = (row) =>
      [row.sequence, row.time, row.event, row.site, row.reason, row.submission].some(
        (one) => one != null && String(one).toLowerCase().includes(wanted),
      );
    const found = rows.filter(
      (row) => (!event() || row.event === event()) && (!site() || row.site === site()) && (!wanted || fits(row)),
    );
    table.fill(found.map(cells));
    const part = found.length === rows.length ? "" : `${whole(found.length)} of `;
    count.textContent = `${part}${whole(rows.length)} records`;
  };
  let waiting = 0;
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 150);
  };
  show();
  return [asking([el("label", {}, "Words in it", words), events, sites], show), count, table.node];
}

// Everything that one record says, in a window of the page.
function openRecord(shown, sequence) {
  const record = shown.at.get(sequence);
  if (!record) return;
  const { hash, signature, ...said } = record;
  const lines = JSON.stringify(said, null, 2).split("\n");
  const dialog = el(
    "dialog",
    { "aria-labelledby": "record", onclose: () => dialog.remove() },
    el("h2", { id: "record" }, `Record ${sequence}: ${record.event}`),
    el("p", {}, why(record, shown.prints)),
    el(
      "pre",
      { tabindex: "0", role: "region", "aria-label": "What it says" },
      lines.flatMap((line) => [line, document.createTextNode("\n")]),
    ),
    named([["hash", el("code", {}, hash)]]),
    el("form", { method: "dialog" }, el("button", {}, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function sideBySide(shown, models) {
  const { records } = shown,
    [first, last] = [records[0].sequence, records.at(-1).sequence],
    result = el("div"),
    said = el("p", { role: "status", class: "quiet" });
  const field = (label, value) => {
    const input = el("input", { type: "number", min: first, max: last, value, required: true });
    return [el("label", {}, label, input), input];
  };
  const [one, before] = field("Record", first),
    [other, after] = field("Record beside it", models[0].record.sequence);
  const show = () => {
    const inputs = [before, after],
      two = inputs.map((input) => shown.at.get(Number(input.value))),
      missing = two.findIndex((record) => !record);
    said.textContent =
      missing < 0
        ? compared(result, two)
        : `There is no record ${inputs[missing].value}; they are ${first} to ${last}.`;
  };
  show();
  return [asking([one, other, el("button", {}, "Compare")], show), said, result];
}

// Puts two records side by side; what it comes to, in a sentence.
function compared(result, [one, two]) {
  const found = diff(one, two),
    heads = [`record ${found.first}`, `record ${found.second}`];
  const scores = Object.entries(found.scores).map(([name, pair]) => [
    name,
    decimal(pair.first),
    decimal(pair.second),
    signed(pair.change),
  ]);
  const fields = Object.entries(found.fields).flatMap(([name, pair]) => {
    const [before, after] = [pair.first, pair.second].map((value) => new Map(flat(name, value)));
    return [...new Set([...before.keys(), ...after.keys()])]
      .filter((key) => !same(before.get(key), after.get(key)))
      .map((key) => [key, cellOf(before.get(key)), cellOf(after.get(key))]);
  });
  const numbers = ["score", ...heads.map((head) => `${head}#`), "change#"];
  const tables = [];
  if (scores.length) tables.push(tableOf("Scores", numbers, scores, { hidden: false }).node);
  if (fields.length)
    tables.push(tableOf("What else differs", ["field", ...heads], fields, { hidden: false, perPage: 50 }).node);
  result.replaceChildren(...tables);
  reachAll();
  if (!tables.length) return `Records ${found.first} and ${found.second} say the same.`;
  return `Between ${heads.join(" and ")}: ${number(scores.length, "score")}, ${number(fields.length, "other field")}.`;
}

// A field's value in a cell.
function cellOf(value) {
  if (value == null) return "–";
  if (isNumber(value) && !Number.isInteger(value)) return decimal(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}
