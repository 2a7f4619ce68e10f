// The ledger as it stands in this page, and what can be checked of it here: form, hash, link and signature.
//
// A line is one of the export, with `<` as \u003c and every letter beyond ASCII as \uXXXX:
//   {"hash":"<hex>","record":"<canonical JSON>","sequence":n,"signature":"-----BEGIN SSH SIGNATURE-----…"}
// A signature is an SSHSIG (OpenSSH, PROTOCOL.sshsig): RSASSA-PKCS1-v1_5 with SHA-512, namespace ledger@fedssh.
// Held to the same as agents/chain.py; tests/integration/test_report_check.py compares the two.

const NAMESPACE = "ledger@fedssh";
const START = "0".repeat(64);
const BITS = [3072, 4096];
const AT_ONCE = 256; // records that the browser checks side by side
const BEGIN = "-----BEGIN SSH SIGNATURE-----",
  END = "-----END SSH SIGNATURE-----";
const utf8 = new TextEncoder();

// A letter beyond printable ASCII, or `<`, as it is written in a line; of the others quotes and backslashes alone.
const ESCAPED = "\\\\u(?:003c|007f|00[89a-f]X|0[1-9a-f]XX|[1-9a-cef]XXX|d[0-7]XX|d[89ab]XX\\\\ud[c-f]XX)".replaceAll(
  "X",
  "[0-9a-f]",
);
const LINE = new RegExp(
  `^{"hash":"[0-9a-f]{64}","record":"(?:[ !#-;=-[\\]-~]|\\\\["\\\\]|${ESCAPED})*","sequence":[1-9][0-9]{0,14},` +
    `"signature":"${BEGIN}\\\\n(?:[A-Za-z0-9+/]{70}\\\\n)*[A-Za-z0-9+/]{1,70}={0,2}\\\\n${END}\\\\n"}$`,
);

// One object a line: {sequence, line, number, hash, text, signature, fields}, or {sequence, line, broken} of what is none.
function readLines(text) {
  const lines = text.split("\n"), // a newline stands before the first line and after the last
    ended = lines.at(-1) === "";
  const own = lines.slice(lines[0] === "" ? 1 : 0, ended && lines.length > 1 ? -1 : undefined);
  return own.map((line, place) => {
    const sequence = place + 1;
    try {
      if (!ended && sequence === own.length) throw new Error("it ends early");
      const outer = JSON.parse(line),
        fields = JSON.parse(outer.record);
      if (!isObject(fields) || typeof fields.event !== "string") throw new Error("it says nothing of an event");
      const { hash, record: text, signature } = outer;
      return { sequence, line, number: outer.sequence, hash, text, signature, fields };
    } catch (error) {
      return { sequence, line, broken: `it is not a ledger line: ${error.message}` };
    }
  });
}

// Checks every record in turn. Stops at the first that is not as it must be.
// Returns {checked, coordinator, problem: {sequence, why} | null, impossible: why nothing can be checked | null}.
async function checkAll(records) {
  const found = { checked: 0, coordinator: null, problem: null, impossible: null };
  if (!globalThis.crypto || !crypto.subtle) {
    return { ...found, impossible: "this browser gives a page that was opened so no cryptography" };
  }
  if (!records.length) return { ...found, impossible: "the page holds no record" };
  let key = null;
  try {
    const first = records[0].fields || {};
    if (first.event !== "genesis" || typeof first.coordinator !== "string")
      throw new Error("it is not the beginning of a history, which names the coordinator's key");
    const line = first.coordinator;
    key = await readKey(line);
    found.coordinator = key.fingerprint;
  } catch (error) {
    return { ...found, problem: { sequence: 1, why: records[0].broken || error.message } };
  }
  for (let start = 0; start < records.length; start += AT_ONCE) {
    const some = records.slice(start, start + AT_ONCE);
    const results = await Promise.all(
      some.map((record, place) => objection(record, start + place ? records[start + place - 1].hash : START, key)),
    );
    const first = results.findIndex((why) => why);
    if (first >= 0)
      return { ...found, checked: start + first, problem: { sequence: start + first + 1, why: results[first] } };
    found.checked = start + some.length;
    await new Promise((go) => setTimeout(go)); // the page stays alive meanwhile
  }
  return found;
}

// Why a record is not as it must be; empty when it is.
async function objection(record, before, key) {
  if (record.broken) return record.broken;
  if (!LINE.test(record.line)) return "its line has not the form of a ledger line";
  if (record.number !== record.sequence) return `record ${record.number} stands in its place`;
  const other = notCanonical(record.text, String(record.sequence));
  if (other) return other;
  if (record.fields.sequence !== record.sequence) return "it has no number";
  if (record.fields.previous !== before) return "it does not follow the record before it";
  if (hex(await crypto.subtle.digest("SHA-256", utf8.encode(record.text))) !== record.hash)
    return "its hash is another one";
  try {
    return (await isSigned(record, key)) ? "" : "the signature does not match what the record says";
  } catch (error) {
    return error.message;
  }
}

async function isSigned(record, key) {
  const [publicKey, namespace, reserved, hash, inner] = readSignature(record.signature);
  const [algorithm, raw] = strings(inner, 0, 2);
  if (!equal(publicKey, key.blob)) throw new Error("it is signed by another key than that of record 1");
  const named = [namespace, reserved, hash, algorithm].map(ascii).join(" ");
  if (named !== `${NAMESPACE}  sha512 rsa-sha2-512`)
    throw new Error("it is signed for another purpose, or in another way");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-512", utf8.encode(record.text)));
  const signed = concat(
    utf8.encode("SSHSIG"),
    ...[utf8.encode(NAMESPACE), new Uint8Array(), utf8.encode("sha512"), digest].map(withLength),
  );
  return crypto.subtle.verify("RSASSA-PKCS1-v1_5", key.rsa, raw, signed);
}

// The five strings of an armored SSHSIG, whose lines have their form already.
function readSignature(armored) {
  const blob = bytes(armored.split("\n").slice(1, -2).join(""));
  if (ascii(blob.subarray(0, 10)) !== "SSHSIG\0\0\0\x01")
    throw new Error("its signature is not an SSHSIG of version 1");
  return strings(blob, 10, 5);
}

// An OpenSSH public key line, `ssh-rsa AAAA…`, for WebCrypto; only one that every part of fedssh takes.
async function readKey(line) {
  if (!/^ssh-rsa [A-Za-z0-9+/]+={0,2}$/.test(line)) throw new Error("the coordinator's key is no ssh-rsa line");
  const blob = bytes(line.slice(8)),
    [name, exponent, modulus] = strings(blob, 0, 3);
  if (ascii(name) !== "ssh-rsa") throw new Error("the coordinator's key is no RSA key");
  const [e, n] = [exponent, modulus].map(unsigned);
  const bits = 8 * (n.length - 1) + n[0].toString(2).length;
  if (!BITS.includes(bits)) throw new Error(`the coordinator's key has ${bits} bits, expected ${BITS.join(" or ")}`);
  if (e.length > 4 || e.at(-1) % 2 === 0 || (e.length === 1 && e[0] < 3))
    throw new Error("the coordinator's key has an unusual exponent");
  const url = (part) => base64(part).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const jwk = { kty: "RSA", alg: "RS512", e: url(e), n: url(n), ext: true };
  const rsa = await crypto.subtle.importKey("jwk", jwk, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-512" }, false, [
    "verify",
  ]);
  return { rsa, blob, fingerprint: await fingerprintOf(line) };
}

// A positive number's bytes without the zero that tells it from a negative one; it has one form (RFC 4251, section 5).
function unsigned(number) {
  const zero = number[0] === 0;
  if (!number.length || number[0] & 0x80 || (zero && !(number[1] & 0x80)))
    throw new Error("the coordinator's key is not written as SSH writes keys");
  return zero ? number.subarray(1) : number;
}

// `SHA256:…` of an OpenSSH public key line, as `ssh-keygen -l` prints it.
async function fingerprintOf(line) {
  try {
    const digest = await crypto.subtle.digest("SHA-256", bytes(String(line).split(" ")[1]));
    return "SHA256:" + base64(new Uint8Array(digest)).replace(/=+$/, "");
  } catch {
    return "–";
  }
}

// The strings of SSH's wire format: uint32 length, then so many bytes; nothing may be left after the last.
function strings(data, start, count) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength),
    found = [];
  for (let place = start; found.length < count; place += 4 + found.at(-1).length) {
    const length = place + 4 <= data.length ? view.getUint32(place) : Infinity;
    if (place + 4 + length > data.length) throw new Error("its signature or key ends early");
    found.push(data.subarray(place + 4, place + 4 + length));
  }
  const end = start + found.reduce((sum, one) => sum + 4 + one.length, 0);
  if (end !== data.length) throw new Error("its signature or key has trailing bytes");
  return found;
}

function withLength(value) {
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, value.length);
  return concat(head, value);
}

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

const equal = (one, other) => one.length === other.length && one.every((byte, place) => byte === other[place]);
const ascii = (data) => String.fromCharCode(...data);
const base64 = (data) => btoa(ascii(data));
const hex = (buffer) => [...new Uint8Array(buffer)].map((one) => one.toString(16).padStart(2, "0")).join("");

// What base64 says; one text for each, so that nothing can be changed about it unnoticed.
function bytes(text) {
  let binary = null;
  try {
    binary = atob(text);
  } catch {
    /* told below */
  }
  if (binary === null || btoa(binary) !== text) throw new Error("its signature or key is not base64");
  const found = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place += 1) found[place] = binary.charCodeAt(place);
  return found;
}
