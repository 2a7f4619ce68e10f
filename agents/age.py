"""The header of an age file: read before age itself sees it, because age takes time quadratic in its length.

    age-encryption.org/v1
    -> ssh-rsa TAG                   one stanza per recipient: the file key, RSA-OAEP wrapped; TAG names whose key
    base64, 64 letters a line, the last line shorter
    -> …-grease …                    at most one that means nothing, by which Rust's age keeps readers tolerant
    --- MAC                          HMAC-SHA256 over all before it and `---`; its key is derived from the file key

The library parses a header anew with every line it reads, so 100 kB of stanzas cost it a minute. Here a header is read
once, is only as long as its recipients need, and has their stanzas and no other. Where there are several, as in a
release, age gets a header with the reader's own one, after the MAC over all of them was checked.

Source: age-encryption.org/v1, sections "Header" and "ssh-rsa recipient stanza".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedssh.errors import BundleError
from fedssh.keys import PrivateKey

MAX_STANZA_BYTES = 1024  # of an RSA key of 4096 bits it has 712

_INTRO = b"age-encryption.org/v1\n"
_STANZA = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)\n((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)")
_END = re.compile(rb"--- ([A-Za-z0-9+/]{43})\n")
_LABEL = b"age-encryption.org/v1/ssh-rsa"
_FILE_KEY_BYTES = 16


@dataclass(frozen=True)
class Header:
    """A well-formed header.

    Attributes:
        text: Its bytes.
        stanzas: Those of type ssh-rsa: the tag, and the whole stanza as written.
    """

    text: bytes
    stanzas: tuple[tuple[bytes, bytes], ...]


def max_bytes(recipients: int) -> int:
    """The longest header of so many recipients, a grease stanza included."""
    return MAX_STANZA_BYTES * (recipients + 1)


def read_header(file: BinaryIO, recipients: int) -> Header:
    """Read the header that a file begins with, in time linear in its length.

    The file stands behind the header afterwards.

    Args:
        file: At its place.
        recipients: How many it must have, no more and no fewer.

    Raises:
        BundleError: Not the form of a header, longer than its recipients need, or for more or fewer of them.
    """
    limit = max_bytes(recipients)
    start = file.tell()
    data = file.read(limit)
    if not data.startswith(_INTRO):
        raise BundleError("model.age does not begin as an age file does")
    position, stanzas, others = len(_INTRO), [], 0
    while found := _STANZA.match(data, position):
        words = found[1].split(b" ")
        if words[0] == b"ssh-rsa" and len(words) == 2:
            stanzas.append((words[1], found[0]))
        elif words[0].endswith(b"-grease") and not others:
            others += 1
        else:
            raise BundleError(f"the header of model.age has a stanza of type {words[0][:40].decode()!r}")
        position = found.end()
    end = _END.match(data, position)
    if end is None:
        raise BundleError(f"the header of model.age is malformed, or longer than {limit:,} bytes")
    if len(stanzas) != recipients:
        raise BundleError(f"model.age is sealed for {len(stanzas)} keys, its manifest names {recipients}")
    file.seek(start + end.end())
    return Header(data[: end.end()], tuple(stanzas))


def narrowed(header: Header, key: PrivateKey) -> bytes:
    """A header with one stanza, for `key`, of the same file key; a header that has only one is left as it is.

    Raises:
        BundleError: No stanza opens with `key`, or the header is not as it was sealed.
    """
    if len(header.stanzas) == 1:
        return header.text
    tag = base64.b64encode(hashlib.sha256(key.public.blob).digest()[:4]).rstrip(b"=")
    for stanza in (stanza for found, stanza in header.stanzas if found == tag):
        file_key = _unwrapped(stanza, key)
        if file_key is not None:
            text, _, mac = header.text.rpartition(b" ")
            if not hmac.compare_digest(_mac(file_key, text), mac.rstrip(b"\n")):
                raise BundleError("the header of model.age is not as it was sealed")
            text = _INTRO + stanza + b"---"
            return text + b" " + _mac(file_key, text) + b"\n"
    raise BundleError(f"no stanza of model.age opens with {key.public.fingerprint}")


def _unwrapped(stanza: bytes, key: PrivateKey) -> bytes | None:
    """The file key; None when the stanza is not for this key."""
    body = b"".join(stanza.split(b"\n")[1:])
    try:
        wrapped = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL)
        file_key = key.rsa.decrypt(wrapped, oaep)
    except ValueError:  # binascii.Error is one
        return None
    return file_key if len(file_key) == _FILE_KEY_BYTES else None


def _mac(file_key: bytes, text: bytes) -> bytes:
    derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"header").derive(file_key)
    return base64.b64encode(hmac.digest(derived, text, "sha256")).rstrip(b"=")
