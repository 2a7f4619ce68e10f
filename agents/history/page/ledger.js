// The ledger as it stands in this page, and what can be checked of it here: form, hash, link and signature.
//
// A line is one of the export, with `<` as \u003c and every letter beyond ASCII as \uXXXX:
//   {"hash":"<hex>","record":"<canonical JSON>","sequence":n,"signature":"-----BEGIN SSH SIGNATURE-----…"}
// A signature is an SSHSIG (OpenSSH, PROTOCOL.sshsig): RSASSA-PKCS1-v1_5 with SHA-512, namespace ledger@fedssh.

const NAMESPACE = "ledger@fedssh";
const START = "0".repeat(64);
const AT_ONCE = 256; // records that the browser checks side by side
const BEGIN = "-----BEGIN SSH SIGNATURE-----",
  END = "-----END SSH SIGNATURE-----";
const utf8 = new TextEncoder();

// One object a line: {sequence, line, hash, text, signature, fields}, or {sequence, line, broken} of what is no line.
function readLines(text) {
  return text
    .split("\n")
    .filter((line) => line)
    .map((line, place) => {
      try {
        const outer = JSON.parse(line),
          fields = JSON.parse(outer.record);
        if (fields === null || typeof fields !== "object" || typeof fields.event !== "string")
          throw new Error("no event");
        return {
          sequence: place + 1,
          line,
          number: outer.sequence,
          hash: outer.hash,
          text: outer.record,
          signature: outer.signature,
          fields,
        };
      } catch (error) {
        return { sequence: place + 1, line, broken: `it is not a ledger line: ${error.message}` };
      }
    });
}

// A line as it must be written, letter by letter, so that no byte of it can be another one unnoticed.
function lineOf(record) {
  const outer = { hash: record.hash, record: record.text, sequence: record.number, signature: record.signature };
  return JSON.stringify(outer).replace(
    /[<\u007f-\uffff]/g,
    (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

// Checks every record in turn; `told(done)` is called in between. Stops at the first that is not as it must be.
// Returns {checked, coordinator, problem: {sequence, why} | null, impossible: why nothing can be checked | null}.
async function checkAll(records, told = () => {}) {
  const found = { checked: 0, coordinator: null, problem: null, impossible: null };
  if (!globalThis.crypto || !crypto.subtle) {
    return { ...found, impossible: "this browser gives a page that was opened so no cryptography" };
  }
  if (!records.length) return { ...found, impossible: "the page holds no record" };
  let key = null;
  try {
    const line = records[0].broken ? null : records[0].fields.coordinator;
    if (typeof line !== "string") throw new Error("record 1 names no coordinator's key");
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
    told(found.checked);
    await new Promise((go) => setTimeout(go)); // the page stays alive meanwhile
  }
  return found;
}

// Why a record is not as it must be; empty when it is.
async function objection(record, before, key) {
  if (record.broken) return record.broken;
  if (record.number !== record.sequence || record.fields.sequence !== record.sequence) {
    return `record ${String(record.fields.sequence).slice(0, 20)} stands in its place`;
  }
  if (lineOf(record) !== record.line) return "its line has not the form of a ledger line";
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

// The five strings of an armored SSHSIG.
function readSignature(armored) {
  const lines = String(armored).split("\n"),
    body = lines.slice(1, -2),
    last = body.pop() || "";
  const shaped =
    lines[0] === BEGIN &&
    lines.at(-2) === END &&
    lines.at(-1) === "" &&
    body.every((line) => line.length === 70) &&
    last.length > 0 &&
    last.length <= 70;
  if (!shaped) throw new Error("its signature is not armored as ssh-keygen does it");
  const blob = bytes(body.join("") + last);
  if (ascii(blob.subarray(0, 10)) !== "SSHSIG\0\0\0\x01")
    throw new Error("its signature is not an SSHSIG of version 1");
  return strings(blob, 10, 5);
}

// An OpenSSH public key line, `ssh-rsa AAAA…`, for WebCrypto.
async function readKey(line) {
  const [kind, body] = line.split(" "),
    blob = bytes(body || "");
  if (kind !== "ssh-rsa") throw new Error("the coordinator's key is no ssh-rsa line");
  const [name, exponent, modulus] = strings(blob, 0, 3);
  if (ascii(name) !== "ssh-rsa") throw new Error("the coordinator's key is no RSA key");
  const url = (number) =>
    base64(number[0] ? number : number.subarray(1))
      .replace(/\+/g, "-")
      .replace(/\//g, "_")
      .replace(/=+$/, "");
  const jwk = { kty: "RSA", alg: "RS512", e: url(exponent), n: url(modulus), ext: true };
  const rsa = await crypto.subtle.importKey("jwk", jwk, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-512" }, false, [
    "verify",
  ]);
  return { rsa, blob, fingerprint: await fingerprintOf(line) };
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
