// The page: its sections in order, made from the records; then the records are checked.

const SERIES = 8; // lines in one chart
const content = document.getElementById("main"),
  contents = document.getElementById("contents");

// What the sections are made from, `shown`: the records that can be read, in order, and record 1 (genesis); fingerprints
// by key line (prints); what models are compared by (metric); records by number (at); first record of a rollback's
// model by its number (back); names by the first record that had a model (tags). Later also
// the rows of the history (rows), those that the filter leaves (found), and what the check says (check).
async function begin() {
  const lines = readLines(document.getElementById("ledger").textContent);
  const records = lines
    .filter((line) => !line.broken)
    .map((line) => ({ ...line.fields, hash: line.hash, signature: line.signature }));
  const genesis = records.find((record) => record.event === "genesis");
  const prints = new Map();
  if (globalThis.crypto && crypto.subtle) {
    for (const record of records)
      if (record.event === "site-added") prints.set(record.key, await fingerprintOf(record.key));
  }
  const shown = {
    records,
    genesis,
    prints,
    metric: genesis ? main(genesis) : "accuracy",
    at: new Map(records.map((one) => [one.sequence, one])),
    back: origins(records),
    tags: tags(records),
  };
  if (genesis) sections(shown);
  globalThis.report = { records, shown }; // what stands here, for whoever opens the console
  await check(lines, shown);
}

function sections(shown) {
  const { genesis, records } = shown,
    models = champions(records),
    sites = siteRows(records, genesis);
  document.title = printable(`${genesis.federation}: history`);
  document.getElementById("title").textContent = printable(String(genesis.federation));
  const last = records.at(-1),
    over = records.findLast((one) => ["finished", "reopened"].includes(one.event));
  document
    .getElementById("standing")
    .append(
      el(
        "span",
        {},
        [
          over && over.event === "finished" ? "finished" : "open",
          `policy ${genesis.policy}`,
          `schedule ${genesis.schedule}`,
          `${whole(records.length)} records`,
          `the last at ${clock(last.time)} UTC`,
        ].join(" · "),
      ),
    );
  const made = [
    ["The model", () => theModel(shown, models)],
    ["Score on the holdout", () => overTime(shown, models)],
    ["Claimed and scored", () => claimedAndScored(shown, sites)],
    ["What each site brought", () => bySite(shown, sites)],
    genesis.schedule === "rounds" ? ["Rounds", () => rounds(shown)] : null,
    ["Where the model is right", () => whereRight(shown, models)],
    ["Two records side by side", () => sideBySide(shown)],
    ["History", () => everyRecord(shown)],
  ].filter(Boolean);
  made.forEach(([title, make], place) => {
    const section = el(
      "section",
      { "aria-labelledby": `section-${place}` },
      el("h2", { id: `section-${place}` }, title),
    );
    content.append(section);
    try {
      section.append(...[make()].flat());
    } catch (error) {
      // a record that is not as it must be; the check names it
      section.append(el("p", { class: "bad" }, `This cannot be shown: ${error.message}`));
    }
    contents.append(el("li", {}, el("a", { href: `#section-${place}` }, title)));
  });
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let pending = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(resizeAll);
  });
}

async function check(lines, shown) {
  const status = document.getElementById("check"),
    proof = document.getElementById("proof");
  const tell = (text, kind) => {
    status.className = kind;
    status.textContent = printable(text);
  };
  tell(`Checking ${whole(lines.length)} records …`, "");
  const found = await checkAll(lines, (done) => {
    if (done % 1024 === 0) tell(`Checking: ${whole(done)} of ${whole(lines.length)} records …`, "");
  });
  shown.check = found;
  const key = found.coordinator || "–",
    head = lines.length ? lines.at(-1).hash : "–";
  if (found.problem) {
    tell(
      `Record ${found.problem.sequence} is not as the coordinator signed it: ${found.problem.why}. Believe nothing on this page from that record on.`,
      "bad",
    );
  } else if (found.impossible) {
    tell(`Nothing was checked: ${found.impossible}. fedssh verify checks the same history.`, "bad");
  } else {
    tell(`${whole(found.checked)} records: every hash, link and signature is right.`, "good");
  }
  const say = (...words) => el("p", {}, ...words);
  proof.append(
    say(
      "It shows that each record is, byte for byte, what the holder of the key ",
      el("code", {}, key),
      " signed, and that none between the first and the last is missing or was put elsewhere. All numbers on this page are made from these records.",
    ),
    say(
      "It does not show whose key that is: compare its fingerprint with the one that the coordinator gave you. Nor that no newer record is left out: compare the last hash, ",
      el("code", {}, String(head)),
      ", with what somebody else sees. Nor that a score is true, for only the coordinator has the holdout.",
    ),
    say(
      "And whoever made this file could have changed what checks it. To rely on nobody's page, run ",
      el("code", {}, "ssh HOST history --export > ledger.jsonl; fedssh verify ledger.jsonl --signers allowed_signers"),
      ", which recomputes the decisions, too.",
    ),
  );
}

begin();
