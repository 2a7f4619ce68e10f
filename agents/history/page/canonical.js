// Whether a text is the one serialisation of a JSON object that a record must be: see agents/forms.py. JSON.parse takes
// many texts for one value; who signs and who reads must mean the same one.

const MAX_BYTES = 64 * 1024;
const MAX_DEPTH = 16;
const MAX_DIGITS = 4300; // that Python reads of a whole number
const STRING =
  /"(?:[^"\\\u0000-\u001f\ud800-\udfff]|[\ud800-\udbff][\udc00-\udfff]|\\["\\bfnrt]|\\u00(?:0[0-7be]|0f|1[0-9a-f]))*"/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-][0-9]+)?/y;
const WORD = /true|false|null/y;

// Why a text is not canonical; empty when it is. `sequence` is how its number must be written.
function notCanonical(text, sequence) {
  if (utf8.encode(text).length > MAX_BYTES) return `it has more than ${MAX_BYTES} bytes`;
  let at = 0;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) throw new Error(`it is not canonical JSON at letter ${at + 1}`);
    at = pattern.lastIndex;
    return found[0];
  };
  const expect = (letter) => {
    if (text[at] !== letter) throw new Error(`it is not canonical JSON at letter ${at + 1}`);
    at += 1;
  };
  // The members of what begins here, up to its end.
  const inside = (end, each) => {
    at += 1;
    for (let first = true; first ? text[at] !== end : text[at] === ","; first = false) {
      if (!first) at += 1;
      each();
    }
    expect(end);
  };
  const value = (depth) => {
    if (depth >= MAX_DEPTH) throw new Error(`it is nested deeper than ${MAX_DEPTH} levels`);
    const begun = at;
    if (text[at] === "{") {
      let before = null;
      inside("}", () => {
        const name = JSON.parse(take(STRING));
        if (before !== null && !isBefore(before, name))
          throw new Error(`its members are not in order, or one stands twice`);
        before = name;
        expect(":");
        const written = value(depth + 1);
        if (depth === 0 && name === "sequence" && written !== sequence)
          throw new Error("its number is written otherwise");
      });
    } else if (text[at] === "[") inside("]", () => value(depth + 1));
    else if (text[at] === '"') take(STRING);
    else if (text[at] === "-" || (text[at] >= "0" && text[at] <= "9")) {
      if (!isOwnNumber(take(NUMBER))) throw new Error("a number in it is written otherwise");
    } else take(WORD);
    return text.slice(begun, at);
  };
  try {
    if (text[0] !== "{") throw new Error("it is no JSON object");
    value(0);
    return at === text.length ? "" : "something follows its JSON object";
  } catch (error) {
    return error.message;
  }
}

// Whether a name stands before another one, by code points; JavaScript's own order is by halves of pairs.
function isBefore(one, other) {
  if (!/[\ud800-\udfff]/.test(one + other)) return one < other;
  const [first, second] = [[...one], [...other]].map((letters) => letters.map((letter) => letter.codePointAt(0)));
  const place = first.findIndex((point, at) => point !== second[at]);
  return place < 0 ? first.length < second.length : place < second.length && first[place] < second[place];
}

function isOwnNumber(token) {
  if (!/[.e]/.test(token)) return token !== "-0" && token.replace("-", "").length <= MAX_DIGITS;
  const found = Number(token);
  return Number.isFinite(found) && shortest(found) === token;
}

// A float as Python writes it: the fewest digits that give it back, an exponent below 1e-4 and from 1e16 on.
function shortest(value) {
  const [mantissa, power] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", ""),
    exponent = Number(power),
    sign = value < 0 || Object.is(value, -0) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${mantissa}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const before = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${before}.${digits.slice(exponent + 1) || "0"}`;
}
