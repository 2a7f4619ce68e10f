// The records: all of them with a filter, one alone, and two side by side.

// The number of a record, to look at it.
function link(shown, sequence) {
  return el(
    "button",
    { type: "button", class: "link", "aria-label": `record ${sequence}`, onclick: () => openRecord(shown, sequence) },
    String(sequence),
  );
}

// The record that first had the model which a record made current: itself, but for a rollback.
const firstOf = (shown, sequence) => shown.back.get(sequence) ?? sequence;

// The records that gave a record's model the names which it has.
const namesOf = (shown, sequence) => shown.tags.get(firstOf(shown, sequence)) || [];

function tagsOf(shown, sequence) {
  return namesOf(shown, sequence).map((one) => el("span", { class: "tag" }, one.tag));
}

function everyRecord(shown) {
  const { records } = shown,
    rows = records.map((record) => historyRow(record, shown.metric, shown.prints)).reverse();
  shown.rows = rows;
  const pair = (score) => (score ? `${decimal(score.accuracy ?? score.mae)} / ${decimal(score.loss)}` : "–");
  const of = rows.some((row) => row.score && "mae" in row.score) ? "mae" : "acc";
  const columns = [
    "#",
    "time (UTC)",
    "event",
    "site",
    "session#",
    "epoch#",
    `claimed ${of} / loss#`,
    `scored ${of} / loss#`,
    "bytes#",
    "why",
  ];
  columns[0] = "record#";
  const cells = (row) => [
    el("span", {}, link(shown, row.sequence), " ", tagsOf(shown, row.sequence)),
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
  const words = el("input", { type: "search", oninput: () => later() }),
    choose = (label, values) => {
      const select = el(
        "select",
        { onchange: () => show() },
        el("option", { value: "" }, "all"),
        values.map((one) => el("option", { value: one }, one)),
      );
      return [el("label", {}, label, select), () => (select.selectedIndex ? values[select.selectedIndex - 1] : null)];
    };
  const distinct = (values) => [...new Set(values.filter((one) => one != null))];
  const [events, event] = choose("Event", distinct(records.map((one) => one.event))),
    [sites, site] = choose("Site", distinct(records.map((one) => one.site)));
  const table = tableOf("The history, the newest first", columns, [], { perPage: 50 }),
    count = el("p", { role: "status", class: "quiet" });
  const show = () => {
    const wanted = words.value.trim().toLowerCase(),
      kind = event(),
      who = site();
    const found = rows.filter(
      (row) =>
        (!kind || row.event === kind) &&
        (!who || row.site === who) &&
        (!wanted ||
          [row.sequence, row.time, row.event, row.site, row.reason, row.submission].some(
            (one) => one != null && String(one).toLowerCase().includes(wanted),
          )),
    );
    shown.found = found;
    table.fill(found.map((row) => () => cells(row)));
    count.textContent =
      found.length === rows.length
        ? `${whole(rows.length)} records`
        : `${whole(found.length)} of ${whole(rows.length)} records`;
  };
  let waiting = 0;
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 150);
  };
  show();
  return [
    el(
      "form",
      {
        class: "asked",
        onsubmit: (submitted) => {
          submitted.preventDefault();
          show();
        },
      },
      el("label", {}, "Words in it", words),
      events,
      sites,
    ),
    count,
    table.node,
  ];
}

// Everything that one record says, in a window of the page.
function openRecord(shown, sequence) {
  const record = shown.at.get(sequence);
  if (!record) return;
  const { hash, signature, ...said } = record;
  const dialog = el(
    "dialog",
    { "aria-labelledby": "record", onclose: () => dialog.remove() },
    el("h2", { id: "record" }, `Record ${sequence}: ${record.event}`),
    el("p", {}, why(record, shown.prints)),
    el(
      "pre",
      { tabindex: "0", "aria-label": "What it says" },
      JSON.stringify(said, null, 2)
        .split("\n")
        .flatMap((line) => [line, document.createTextNode("\n")]),
    ),
    named([["hash", el("code", {}, hash)]]),
    el("form", { method: "dialog" }, el("button", {}, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function sideBySide(shown) {
  const { records } = shown,
    last = champions(records)[0].record.sequence,
    result = el("div", { role: "status" });
  const field = (label, value) => {
    const input = el("input", {
      type: "number",
      min: records[0].sequence,
      max: records.at(-1).sequence,
      value,
      required: true,
    });
    return [el("label", {}, label, input), input];
  };
  const [one, first] = field("Record", records[0].sequence),
    [other, second] = field("Record beside it", last);
  const show = () => {
    const two = [first, second].map((input) => shown.at.get(Number(input.value)));
    const missing = two.findIndex((record) => !record);
    if (missing >= 0)
      return result.replaceChildren(
        el(
          "p",
          { class: "bad" },
          `There is no record ${[first, second][missing].value || "without a number"}; they are 1 to ${records.at(-1).sequence}.`,
        ),
      );
    const found = diff(...two),
      heads = [`record ${found.first}`, `record ${found.second}`];
    const scores = Object.entries(found.scores).map(([name, pair]) => [
      name,
      decimal(pair.first),
      decimal(pair.second),
      signed(pair.change),
    ]);
    const fields = Object.entries(found.fields).flatMap(([name, pair]) => {
      const before = new Map(flat(name, pair.first)),
        after = new Map(flat(name, pair.second));
      return [...new Set([...before.keys(), ...after.keys()])]
        .filter((key) => !same(before.get(key), after.get(key)))
        .map((key) => [key, told(key, before.get(key)), told(key, after.get(key))]);
    });
    result.replaceChildren(
      ...(scores.length
        ? [tableOf("Scores", ["score", ...heads.map((head) => `${head}#`), "change#"], scores, { hidden: false }).node]
        : []),
      ...(fields.length
        ? [tableOf("What else differs", ["field", ...heads], fields, { hidden: false, perPage: 50 }).node]
        : []),
      ...(scores.length + fields.length
        ? []
        : [el("p", {}, `Records ${found.first} and ${found.second} say the same.`)]),
    );
    return null;
  };
  show();
  return [
    el(
      "form",
      {
        class: "asked",
        onsubmit: (event) => {
          event.preventDefault();
          show();
        },
      },
      one,
      other,
      el("button", {}, "Compare"),
    ),
    result,
  ];
}

// A field's value in a cell.
function told(name, value) {
  if (value == null) return "–";
  if (isNumber(value) && !Number.isInteger(value)) return decimal(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}
