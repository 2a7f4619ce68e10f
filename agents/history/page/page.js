// The page: its sections in order, made from the records; and the records are checked, whatever becomes of the sections.

const content = document.getElementById("main"),
  contents = document.getElementById("contents"),
  checked = document.getElementById("check");

// What the sections are made from, `shown`: the records that can be read, in order, and record 1 (genesis); fingerprints
// by key line (prints); what models are compared by (metric); records by number (at); the first record of a rollback's
// model by its number (back); names by the first record that had a model (tags).
async function begin() {
  const lines = readLines(document.getElementById("ledger").textContent);
  const records = lines
    .filter((line) => !line.broken)
    .map((line) => ({ ...line.fields, hash: line.hash, signature: line.signature }));
  globalThis.report = { records }; // what stands here, for whoever opens the console
  try {
    if (records.length && records[0].event === "genesis") await sections(records);
  } catch (error) {
    content.append(failed(error));
  }
  report.check = await check(lines);
}

const failed = (error) => el("p", { class: "bad" }, `This cannot be shown: ${error.message}`);

async function sections(records) {
  const [genesis] = records,
    prints = new Map();
  if (globalThis.crypto && crypto.subtle) {
    for (const record of records)
      if (record.event === "site-added") prints.set(record.key, await fingerprintOf(record.key));
  }
  const at = new Map(records.map((one) => [one.sequence, one]));
  const shown = { records, genesis, prints, metric: main(genesis), at, back: origins(records), tags: tags(records) };
  report.shown = shown;
  document.title = printable(`${genesis.federation}: history`);
  document.getElementById("title").textContent = printable(String(genesis.federation));
  document.getElementById("standing").textContent = printable(standing(records));
  const models = champions(records),
    sites = siteRows(records, genesis);
  const made = {
    "The model": () => theModel(shown, models),
    "Score on the holdout": () => overTime(shown),
    "Claimed and scored": () => claimedAndScored(shown),
    "What each site brought": () => bySite(shown, sites),
    ...(genesis.schedule === "rounds" ? { Rounds: () => rounds(shown) } : {}),
    "Where the model is right": () => whereRight(shown, models),
    "Two records side by side": () => sideBySide(shown, models),
    History: () => everyRecord(shown),
  };
  Object.entries(made).forEach(([name, make], place) => {
    const section = el(
      "section",
      { "aria-labelledby": `section-${place}` },
      el("h2", { id: `section-${place}` }, name),
    );
    content.append(section);
    contents.append(el("li", {}, el("a", { href: `#section-${place}` }, name)));
    try {
      section.append(...[make()].flat().filter(Boolean));
    } catch (error) {
      section.append(failed(error));
    }
  });
  drawAll();
  reachAll();
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", drawAll);
  let pending = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(resizeAll);
  });
}

function standing(records) {
  const [genesis] = records,
    over = records.findLast((one) => ["finished", "reopened"].includes(one.event));
  return [
    over && over.event === "finished" ? "finished" : "open",
    `policy ${genesis.policy}`,
    `schedule ${genesis.schedule}`,
    number(whole(records.length), "record"),
    `the last at ${clock(records.at(-1).time)} UTC`,
  ].join(" · ");
}

// Checks all records, and says what came of it.
async function check(lines) {
  const tell = (text, kind) => {
    checked.className = kind;
    checked.textContent = printable(text);
  };
  tell(`Checking ${number(whole(lines.length), "record")} …`, "");
  const found = await checkAll(lines);
  if (found.problem) {
    const { sequence, why: reason } = found.problem;
    tell(`Record ${sequence} is not as the coordinator signed it: ${reason}. Believe nothing on this page.`, "bad");
  } else if (found.impossible) {
    tell(`Nothing was checked: ${found.impossible}. fedssh verify checks the same history.`, "bad");
  } else {
    const key = `signed by ${found.coordinator}; compare it with the fingerprint on your invitation`;
    tell(`${number(whole(found.checked), "record")}: every hash, link and signature is right, ${key}.`, "good");
  }
  document.getElementById("proof").append(...proof(found, lines));
  return found;
}

// What that proves, and what it does not.
function proof(found, lines) {
  const say = (...words) => el("p", {}, ...words),
    code = (text) => el("code", {}, text);
  const verify = "ssh HOST history --export > ledger.jsonl; fedssh verify ledger.jsonl --signers allowed_signers";
  const right = !found.problem && !found.impossible;
  return [
    right
      ? say(
          "It shows that each record is, byte for byte, what the holder of the key ",
          code(found.coordinator),
          " signed, and that none between the first and the last is missing or was put elsewhere. All numbers on this page ",
          "are made from these records.",
        )
      : say("It shows nothing: what stands on this page may be anybody's."),
    say(
      "It does not show whose key that is: compare its fingerprint with the one that the coordinator gave you. Nor that no ",
      "newer record is left out: compare the last hash, ",
      code(String((lines.at(-1) || {}).hash)),
      ", with what somebody else sees. Nor that a score is true, for only the coordinator has the holdout.",
    ),
    say(
      "And whoever made this file could have changed what checks it. To rely on nobody's page, run ",
      code(verify),
      ", which recomputes the decisions, too.",
    ),
  ];
}

begin().catch((error) => {
  checked.className = "bad";
  checked.textContent = printable(`Nothing was checked: ${error.message}. fedssh verify checks the same history.`);
});
