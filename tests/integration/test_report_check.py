"""What the page's check takes and refuses beside what Python does: the same."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from playwright.sync_api import Page

from fedssh import signature as sshsig
from fedssh.chain import record_of
from fedssh.errors import AgentError
from fedssh.forms import canonical
from fedssh.history.published import export
from fedssh.history.report import page as page_of
from fedssh.keys import PrivateKey, load_private, parse_public
from fedssh.ledger import read_export, verify
from fedssh.rules.events import Record
from fedssh.signature import LEDGER, sign
from tests.harness.browser import Opened, browser
from tests.vectors.histories import kept

PLAIN = [json.loads(record.text) for record in kept.records("best-free")[:6]]
AT = 4  # the record that is another one


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = kept.unpack_keys(tmp_path_factory.mktemp("keys"))
    return {"charity": load_private(folder / "coordinator_key"), "alice-1": load_private(folder / "alice-1")}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page whose functions are asked about other histories than its own."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_bytes(b"".join(page_of(record.line() for record in kept.records("best-free"))))
    with browser() as running:
        opened = Opened(running, file)
        opened.checked()
        yield opened.page


def by_page(shown: Page, inside: bytes) -> str:
    """Why the page refuses what stands in its element, as a browser reads it; empty when it does not."""
    text = inside.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    found = shown.evaluate("(text) => checkAll(readLines('\\n' + text))", text)
    return str((found["problem"] or {}).get("why") or found["impossible"] or "")


def by_python(lines: bytes) -> str:
    """Why Python refuses an export; empty when it does not. Decisions are not looked at: the page does not either."""
    try:
        split = lines.splitlines(keepends=True) if lines else []
        line = record_of(split[0]).fields["coordinator"]
        if parse_public(line).line != line or record_of(split[0]).event != "genesis":
            return "record 1 is not the beginning"
        verify(read_export(iter(split), growing=False), parse_public(line))
    except (AgentError, IndexError, KeyError, UnicodeDecodeError) as error:
        return str(error) or type(error).__name__
    return ""


def in_page(lines: bytes) -> bytes:
    """A history as it stands in the element."""
    return b"".join(export(lines.splitlines(keepends=True))).replace(b"<", b"\\u003c")


Signer = Callable[[bytes], str]


def history(
    sign_: Signer,
    change: Callable[[bytes], bytes] = lambda text: text,
    first: dict[str, Any] | None = None,
    at: int = AT,
    sign_at: Signer | None = None,
) -> bytes:
    """A history whose record `at` has another text, signed all the same."""
    lines, previous = [], "0" * 64
    for number, fields in enumerate(PLAIN, 1):
        begin = first if first and number == 1 else {}
        text = canonical({**fields, **begin, "sequence": number, "previous": previous})
        text = change(text) if number == at else text
        previous = hashlib.sha256(text).hexdigest()
        signed = (sign_at or sign_)(text) if number == at else sign_(text)
        lines.append(Record(number, previous, text, signed).line())
    return b"".join(lines)


def added(member: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text[:-1] + b',"zz":' + member + b"}"


VALUES = [
    *(b"1e400", b"-1e400", b"NaN", b"Infinity", b"1e5", b"1E5", b"100000.0", b"1e16", b"1e+16", b"1e-5", b"1e-05"),
    *(b"-0", b"-0.0", b"0.0", b"00", b"01", b"+1", b"1.", b".5", b"1.50", b"0.0001", b"0.00001"),
    b"12345678901234567.0",
    *(b"9007199254740993", b"123456789012345678901234567890", b"1" * 4300, b"1" * 4301, b"5e-324", b"2.5e-310"),
    *(b"1.7976931348623157e+308", b"1.7976931348623159e+308", b"0.1", b"0.30000000000000004", b"1e+22", b"1e+100"),
    *(b'"\\u0041"', b'"\\/"', b'"/"', b'"\\u00e9"', b'"\\u001f"', b'"\\u001F"', b'"\\n"', b'"\\u000a"', b'"\\b"'),
    *(b'"\\u0007"', b'"\\u000b"', b'"\\u007f"', b'"\x7f"', b'"\t"', b'"\x00"', b'"\\u0000"', b'"\\ud800"'),
    b'"<\\\\u003c"',
    *(one.encode() for one in ('"é"', '"\u2028\u2029"', '"\U0001f600"', '"\ufffd"', '"\ufeff"', '"e\u0301"')),
    *(b'"<!--</script>"', b'{"a":1,"a":1}', b'{"a":1,"b":1}', b'{"b":1,"a":1}', b'{"":1}', b'{"__proto__":1}'),
    *(one.encode() for one in ('{"\ue000":1,"\U0001f600":2}', '{"\U0001f600":1,"\ue000":2}', '{"z":1,"é":2}')),
    *(b'{"__proto__":{"x":1},"constructor":1}', b"[1, 2]", b"[ ]", b"{}", b"[]", b"[1,]", b"[,]", b"tru", b"true"),
    *(b"null ", *(b"[" * deep + b"]" * deep for deep in (13, 14, 15, 16, 17, 1000)), b'{"a":' * 14 + b"1" + b"}" * 14),
    *(b'{"a":' * 15 + b"1" + b"}" * 15, b'"' + b"x" * 60000 + b'"', b'"' + b"x" * 70000 + b'"'),
    b'"' + "\u4e00".encode() * 20000 + b'"', b'"' + "\u4e00".encode() * 22000 + b'"',
]  # fmt: skip
FORMS = (b"4.0", b'"4"', b"4e0", b"[4]", b"true", b"4.00", b"04", b"5", b"-4")


def numbered(form: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(b'"sequence":4', b'"sequence":' + form)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "leading-space": lambda text: b" " + text,
    "trailing-space": lambda text: text + b" ",
    "trailing-newline": lambda text: text + b"\n",
    "byte-order-mark": lambda text: b"\xef\xbb\xbf" + text,
    "space-after-comma": lambda text: text.replace(b',"', b', "', 1),
    "unsorted": lambda text: b'{"zz":1,' + text[1:],
    "event-twice": lambda text: text.replace(b'"event":', b'"event":"x","event":', 1),
    "list": lambda text: b"[" + text + b"]",
    "string": lambda text: b'"x"',
    "empty": lambda text: b"",
    "previous-upper": lambda text: re.sub(
        rb'(?<="previous":")[0-9a-f]*', lambda found: found[0].upper(), text
    ),
    "no-previous": lambda text: re.sub(rb'"previous":"[0-9a-f]*",', b"", text),
    "no-sequence": lambda text: re.sub(rb'"sequence":\d+,', b"", text),
    **{f"sequence-{form.decode()}": numbered(form) for form in FORMS},
}  # fmt: skip


@pytest.mark.parametrize("start", range(0, len(VALUES), 12))
def test_a_value_that_is_written_otherwise_is_refused_by_both(
    start: int, keys: dict[str, PrivateKey], shown: Page
) -> None:
    sign_ = own(keys["charity"])
    for value in VALUES[start : start + 12]:
        lines = history(sign_, added(value))
        told = by_python(lines), by_page(shown, in_page(lines))
        assert bool(told[0]) == bool(told[1]), (value[:40], told)


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_of_another_form_is_refused_by_both(name: str, keys: dict[str, PrivateKey], shown: Page) -> None:
    lines = history(own(keys["charity"]), CHANGES[name])
    told = by_python(lines), by_page(shown, in_page(lines))
    assert told[0] and told[1], told


def test_a_float_is_written_as_python_does(shown: Page) -> None:
    chance = random.Random(5)
    values = [struct.unpack(">d", chance.randbytes(8))[0] for _ in range(3000)]
    values = [value for value in values if math.isfinite(value)]
    values += [sign * 10.0**power for power in range(-30, 30) for sign in (1, -1)] + [0.0, -0.0, 1 / 3, 123456789.125]
    assert shown.evaluate("(values) => values.map(shortest)", values) == [repr(value) for value in values]


# Keys and signatures


def own(key: PrivateKey) -> Signer:
    return lambda text: sign(text, key, LEDGER)


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return string((b"\0" if raw[0] & 0x80 else b"") + raw)


def signed_by(
    key: rsa.RSAPrivateKey, blob: bytes, namespace: bytes = b"ledger@fedssh", algorithm: bytes = b"rsa-sha2-512",
    magic: bytes = b"SSHSIG\0\0\0\1", reserved: bytes = b"", digest: bytes = b"sha512", more: bytes = b"",
) -> Signer:  # fmt: skip
    """SSHSIG by any key, of any kind."""

    def make(text: bytes) -> str:
        hashed = hashlib.new(digest.decode(), text).digest()
        data = b"SSHSIG" + b"".join(map(string, (namespace, reserved, digest, hashed)))
        with_ = {b"rsa-sha2-512": hashes.SHA512(), b"rsa-sha2-256": hashes.SHA256()}[algorithm]
        raw = key.sign(data, padding.PKCS1v15(), with_)
        inner = string(algorithm) + string(raw)
        return sshsig._armored(magic + b"".join(map(string, (blob, namespace, reserved, digest, inner))) + more)

    return make


@cache
def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def public_line(key: rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, form).decode()


@pytest.mark.parametrize(
    ("bits", "exponent", "taken"),
    [(3072, 65537, True), (4096, 65537, True), (3072, 3, True), (2048, 65537, False), (3080, 65537, False)],
)
def test_keys_of_a_size_that_fedssh_takes(bits: int, exponent: int, taken: bool, shown: Page) -> None:
    key = rsa_key(bits, exponent)
    line = public_line(key)
    lines = history(signed_by(key, base64.b64decode(line.split()[1])), first={"coordinator": line})
    assert [not by_python(lines), not by_page(shown, in_page(lines))] == [taken, taken]


@pytest.mark.parametrize(
    "name", ["comment", "two-spaces", "newline", "zero-before", "two-zeros", "trailing", "its-name"]
)
def test_a_key_that_is_written_otherwise_is_refused_by_both(name: str, shown: Page) -> None:
    key = rsa_key(3072)
    line, modulus = public_line(key), key.public_key().public_numbers().n.to_bytes(384, "big")
    blob = base64.b64decode(line.split()[1])
    blobs = {
        "zero-before": string(b"ssh-rsa") + string(b"\0\1\0\1") + string(b"\0" + modulus),
        "two-zeros": string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\0\0" + modulus),
        "trailing": blob + string(b"x"),
        "its-name": string(b"rsa-sha2-512") + blob[11:],
    }
    blob = blobs.get(name, blob)
    others = {"comment": line + " me@host", "two-spaces": line.replace(" ", "  "), "newline": line + "\n"}
    lines = history(signed_by(key, blob), first={
        "coordinator": others.get(name, "ssh-rsa " + base64.b64encode(blob).decode())
    })  # fmt: skip
    told = by_python(lines), by_page(shown, in_page(lines))
    assert told[0] and told[1], told


def armored(change: Callable[[str], str]) -> Callable[[PrivateKey], Signer]:
    return lambda key: lambda text: change(sign(text, key, LEDGER))


OF_BLOB: dict[str, dict[str, bytes]] = {
    "another-purpose": {"namespace": b"release@fedssh"},
    "a-purpose-with-a-zero": {"namespace": b"ledger@fedssh\0"},
    "sha256": {"digest": b"sha256"},
    "rsa-sha2-256": {"algorithm": b"rsa-sha2-256"},
    "version-2": {"magic": b"SSHSIG\0\0\0\2"},
    "reserved": {"reserved": b"x"},
    "something-behind": {"more": b"x"},
}
ARMORED: dict[str, Callable[[str], str]] = {
    "no-last-newline": lambda text: text[:-1],
    "two-newlines": lambda text: text + "\n",
    "carriage-returns": lambda text: text.replace("\n", "\r\n"),
    "leading-space": lambda text: " " + text,
    "one-line": lambda text: re.sub(r"(?<=[A-Za-z0-9+/])\n(?=[A-Za-z0-9+/])", "", text),
    "no-padding": lambda text: text.replace("=", ""),
    "other-last-bits": lambda text: re.sub(r"(.)(=+)\n", lambda m: chr(ord(m[1]) + 1) + m[2] + "\n", text),
    "empty": lambda text: "",
}


@pytest.mark.parametrize("name", [*OF_BLOB, *ARMORED, "another-key"])
def test_a_signature_of_another_kind_is_refused_by_both(name: str, keys: dict[str, PrivateKey], shown: Page) -> None:
    charity = keys["charity"]
    if name in OF_BLOB:
        other = signed_by(charity.rsa, charity.public.blob, **OF_BLOB[name])
    elif name in ARMORED:
        other = armored(ARMORED[name])(charity)
    else:
        other = own(keys["alice-1"])
    lines = history(own(charity), sign_at=other)
    told = by_python(lines), by_page(shown, in_page(lines))
    assert told[0] and told[1], told


# Lines, as they may be changed without a key


def rewritten(name: str, inside: bytes) -> bytes:
    first = inside.split(b"\n")[0]
    value = json.loads(first)
    forms = {
        "record-as-list": (b'"record":' + json.dumps(value["record"]).encode(), b"record"),
        "signature-as-list": (b'"signature":' + json.dumps(value["signature"]).encode(), b"signature"),
        "hash-as-list": (f'"hash":"{value["hash"]}"'.encode(), b"hash"),
    }
    if name in forms:
        old, member = forms[name]
        assert old in inside
        return inside.replace(old, b'"' + member + b'":[' + old.partition(b":")[2] + b"]", 1)
    return {
        "blank-between": inside.replace(b"}\n{", b"}\n\n{", 1),
        "blank-first": b"\n" + inside,
        "blank-last": inside + b"\n",
        "no-last-newline": inside[:-1],
        "trailing-space": inside.replace(b"}\n", b"} \n", 1),
        "leading-space": b" " + inside,
        "sequence-1.0": inside.replace(b'"sequence":1,', b'"sequence":1.0,', 1),
        "another-member": inside.replace(b'"sequence":1,', b'"sequence":1,"x":1,', 1),
        "a-lone-surrogate": inside.replace(b"\\ufffd", b"\\udffd"),
        "upper-case": inside.replace(b"\\u00e9", b"\\u00E9"),
        "a-letter-as-it-is": inside.replace(b"\\u00e9", "é".encode()),
        "a-bracket-as-it-is": inside.replace(b"\\u003c", b"<"),
        "hash-upper": re.sub(rb'"hash":"([0-9a-f]*)"', lambda m: b'"hash":"' + m[1].upper() + b'"', inside, count=1),
    }[name]


LINES = (
    "record-as-list", "signature-as-list", "hash-as-list", "blank-between", "blank-first", "blank-last",
    "no-last-newline", "trailing-space", "leading-space", "sequence-1.0", "another-member", "a-lone-surrogate",
    "upper-case", "a-letter-as-it-is", "a-bracket-as-it-is", "hash-upper",
)  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_written_otherwise_is_refused(name: str, keys: dict[str, PrivateKey], shown: Page) -> None:
    text = '"\ufffd é < \x7f \U0001f600 \u2028 \\\\u003c"'.encode()
    inside = in_page(history(own(keys["charity"]), added(text)))
    assert by_page(shown, inside) == ""
    changed = rewritten(name, inside)
    assert changed != inside and by_page(shown, changed)


def test_thousands_of_changed_bytes(keys: dict[str, PrivateKey], shown: Page) -> None:
    """Flipped, taken out, put in, exchanged: nothing passes that is another history than was signed."""
    inside = in_page(history(own(keys["charity"]), added('"é < \ufffd"'.encode())))
    chance, passed = random.Random(11), []
    for _ in range(1200):
        changed = bytearray(inside)
        place, other = chance.randrange(len(inside)), chance.randrange(len(inside))
        match chance.randrange(4):
            case 0:
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                del changed[place]
            case 2:
                changed.insert(place, chance.choice(b' \n\t"\\u0[]{},:/=A'))
            case _:
                changed[place], changed[other] = changed[other], changed[place]
        if bytes(changed) != inside and not by_page(shown, bytes(changed)):
            passed.append(bytes(changed))
    # A carriage return is a newline to a browser before anything can look at it.
    assert [one for one in passed if one.replace(b"\r", b"\n") != inside] == []


def test_the_histories_that_are_kept_pass(shown: Page, tmp_path: Path) -> None:
    for name in kept.FOLDERS[:4]:
        lines = b"".join(record.line() for record in kept.records(name))
        assert by_python(lines) == by_page(shown, in_page(lines)) == ""
