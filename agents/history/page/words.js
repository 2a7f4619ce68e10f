// Values as words, the same as the views over SSH print. Whatever a site or a person said goes through `printable`.

// A text with everything escaped that would act on a screen or not show: controls, direction marks.
function printable(text) {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu,
    (one) => "\\u" + one.codePointAt(0).toString(16).padStart(4, "0"),
  );
}

const isNumber = (value) => typeof value === "number";
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// `2026-01-31T12:00:00.123Z` as `2026-01-31 12:00:00`.
const clock = (time) => (time == null ? "–" : String(time).slice(0, 19).replace("T", " "));

// Four decimals, halves to the even digit; of a number that would be wide, four digits and its size.
function decimal(value) {
  if (!isNumber(value) || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return value.toExponential(3).replace(/e([+-])(\d)$/, "e$10$2");
  const text = value.toFixed(4);
  const half = Number.isInteger(value * 32) && !Number.isInteger(value * 16); // 0.03125 lies between two of them
  return half && Number(text.at(-1)) % 2 ? (value - Math.sign(value) * 1e-6).toFixed(4) : text;
}

const signed = (value) => (isNumber(value) ? (value >= 0 ? "+" : "") + decimal(value) : "–");
const whole = (value) => value.toLocaleString("en-US");
const number = (count, thing) => `${count} ${thing}${String(count) === "1" ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Words with commas between them; of many only the first, and how many more there are.
function few(words, most = 10) {
  const more = words.length - most;
  return words.slice(0, most).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

// So many seconds, in the unit that fits.
function duration(seconds) {
  const [unit, of] = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ].find(([, least]) => seconds >= 2 * least) || ["s", 1];
  return `${(seconds / of).toFixed(1)} ${unit}`;
}

// So many bytes; sizes count in thousands, as disks do.
function size(count) {
  if (!isNumber(count)) return "–";
  if (count < 50_000) return `${whole(count)} bytes`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(2)} GB`;
}

// `38 steps, 2,400 images, 7.8 MB in and 7.8 MB out, 18.6 steps a second`; in and out at the coordinator.
function workTold(work) {
  const speed = work.seconds > 0 ? `, ${(work.steps / work.seconds).toFixed(1)} steps a second` : "";
  const bytesOf = (count) =>
    count >= 50_000
      ? `${whole(Number((count / 1e6).toFixed(1))).replace(/^([^.]*)$/, "$1.0")} MB`
      : `${whole(count)} bytes`;
  return `${whole(work.steps)} ${work.steps === 1 ? "step" : "steps"}, ${whole(work.images)} images, ${bytesOf(work.received)} in and ${bytesOf(work.sent)} out${speed}`;
}

// A record's reason; for events that have none, what there is to know about them. `prints` has fingerprints by key line.
function why(record, prints) {
  const event = record.event;
  if (event.startsWith("round-")) {
    const asked = record.sites && record.sites.length ? ` for ${few(record.sites)}` : "";
    const missing = record.missing && record.missing.length ? `; missing ${few(record.missing)}` : "";
    return `round ${record.round}${asked}: ${record.reason}${missing}`;
  }
  if (record.reason) {
    if (event === "rollback") return `back to ${record.to}: ${record.reason}`;
    const margin = isNumber(record.margin) ? `, ${record.margin.toFixed(4)}` : "";
    return record.reason + margin + (record.work ? `; ${workTold(record.work)}` : "");
  }
  return Object.hasOwn(WHY, event) ? WHY[event](record, prints) : "";
}

const WHY = {
  genesis(record) {
    const name = (record.spec || {}).name ?? "a model",
      given = record.weights;
    const trained = (record.epochs ?? 1) ? "trained on the coordinator's own images" : "as they are";
    if (!given) return `${name}, random weights ${trained}`;
    return `${name}, ${given.tensors} of ${given.of} tensors from given weights ${given.sha256.slice(0, 16)}…, ${trained}`;
  },
  "site-added": (record, prints) => `as ${record.role} with ${prints.get(record.key) || "–"}`,
  release: (record) => `the model of ${record.of}, for ${few((record.federation || {}).sites || []) || "nobody"}`,
  report(record) {
    if (record.passed) return "no new images; the turn passes";
    return `session over, ${number(record.checkpoints, "checkpoint")} in ${number(record.epochs, "epoch")}`;
  },
  scored: (record) => `what release ${record.builds_on} scores there, on ${number(record.examples, "image")}`,
  masks(record) {
    const advert = record.advert || {},
      late = record.late || [];
    const words = {
      advert: late.includes("advert") ? "keys for a round" : `keys for round ${advert.round}`,
      shares: "sealed shares of its secrets",
      agreed: "its signature on who masked and who came",
      answer: "what takes the masks off the sum",
    };
    const said = Object.entries(words).filter(([name]) => name in record || late.includes(name));
    return said.map(([name, text]) => text + (late.includes(name) ? ", too late" : "")).join(" and ");
  },
  rollback: (record) => `back to ${record.to}`,
  tagged: (record) => `record ${record.of} is ${record.tag}, by ${record.by}${record.note ? `: ${record.note}` : ""}`,
  untagged: (record) => `${record.tag} is taken away, by ${record.by}${record.note ? `: ${record.note}` : ""}`,
  tested(record) {
    const scores = Object.entries(headline(record.metrics) || {}).map(([name, value]) => `${name} ${decimal(value)}`);
    return `the model of ${record.of} on the ${record.split} split, ${whole(record.examples)} examples: ${scores.join(", ")}`;
  },
  tagged: (record) => `record ${record.of} is ${record.tag}, by ${record.by}` + (record.note ? `: ${record.note}` : ""),
  untagged: (record) => `${record.tag} is taken away, by ${record.by}` + (record.note ? `: ${record.note}` : ""),
  tested(record) {
    const scores = Object.entries(headline(record.metrics) || {}).map(([name, value]) => `${name} ${decimal(value)}`);
    return `the model of ${record.of} on the ${record.split} split, ${whole(record.examples)} examples: ${scores.join(", ")}`;
  },
};
