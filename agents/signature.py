"""SSHSIG signatures, as `ssh-keygen -Y sign` makes and `ssh-keygen -Y verify` checks them.

    armored    -----BEGIN SSH SIGNATURE-----, base64 of the blob, -----END SSH SIGNATURE-----
    blob       "SSHSIG" uint32 1  string public key  string namespace  string ""  string "sha512"  string signature
    signature  string "rsa-sha2-512"  string RSASSA-PKCS1-v1_5 over the following
    signed     "SSHSIG"  string namespace  string ""  string "sha512"  string SHA-512(message)

Source: OpenSSH, PROTOCOL.sshsig. Only this one combination of algorithms is made or accepted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from fedssh.errors import SettingsError, SignatureError
from fedssh.keys import PrivateKey, PublicKey, parse_public

SUBMISSION = "submission@fedssh"
RELEASE = "release@fedssh"
REPORT = "report@fedssh"
SCORES = "scores@fedssh"
LEDGER = "ledger@fedssh"
CHANNEL = "channel@fedssh"
MASKS = "masks@fedssh"
ADVERT = "advert@fedssh"
AGREED = "agreed@fedssh"

MAX_BYTES = 8192
_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


def sign(message: bytes, key: PrivateKey, namespace: str) -> str:
    """Sign bytes for one purpose; returns the armored signature."""
    raw = key.rsa.sign(_signed(message, namespace), padding.PKCS1v15(), hashes.SHA512())
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + b"".join(
            _string(part)
            for part in (key.public.blob, namespace.encode(), b"", b"sha512", _string(b"rsa-sha2-512") + _string(raw))
        )
    )
    return _armored(blob)


def verify(message: bytes, signature: str, namespace: str, signer: PublicKey) -> None:
    """Check that `signer` signed exactly these bytes for this purpose.

    Raises:
        SignatureError: Malformed, for another purpose, by another key, or over other bytes.
    """
    reader = _Reader(_unarmor(signature))
    if reader.take(len(_MAGIC)) != _MAGIC or reader.take(4) != struct.pack(">I", 1):
        raise SignatureError("the signature is not an SSHSIG of version 1")
    public, found_namespace, reserved, hash_name, inner = (reader.string() for _ in range(5))
    inner_reader = _Reader(inner)
    algorithm, raw = inner_reader.string(), inner_reader.string()
    if reader.rest or inner_reader.rest or reserved:
        raise SignatureError("the signature has trailing bytes")
    if public != signer.blob:
        found = "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
        raise SignatureError(f"signed by key {found}, expected {signer.fingerprint}")
    if found_namespace != namespace.encode():
        raise SignatureError(f"signed for {found_namespace[:80].decode(errors='replace')!r}, expected {namespace!r}")
    if (hash_name, algorithm) != (b"sha512", b"rsa-sha2-512"):
        raise SignatureError("the signature does not use sha512 with rsa-sha2-512")
    try:
        signer.rsa.verify(raw, _signed(message, namespace), padding.PKCS1v15(), hashes.SHA512())
    except InvalidSignature:
        raise SignatureError(f"the signature by {signer.fingerprint} does not match the signed bytes") from None


def allowed_signers(signers: Mapping[str, PublicKey]) -> str:
    """An OpenSSH allowed_signers file: one line per name."""
    return "".join(f"{name} {key.line}\n" for name, key in sorted(signers.items()))


def read_allowed_signers(text: str) -> dict[str, PublicKey]:
    """The keys of an allowed_signers file by name; lines with options are not understood and refused.

    Raises:
        SettingsError: A line is not `name ssh-rsa AAAA…`, or a name stands twice.
    """
    signers: dict[str, PublicKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, key = line.partition(" ")
        if name in signers:
            raise SettingsError(f"allowed_signers line {number} names {name} again")
        signers[name] = parse_public(key, f"allowed_signers line {number}")
    return signers


def _signed(message: bytes, namespace: str) -> bytes:
    parts = (namespace.encode(), b"", b"sha512", hashlib.sha512(message).digest())
    return _MAGIC + b"".join(_string(part) for part in parts)


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _armored(blob: bytes) -> str:
    text = base64.b64encode(blob).decode()
    body = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"{_BEGIN}\n{body}\n{_END}\n"


def _unarmor(text: str) -> bytes:
    if len(text) > MAX_BYTES:
        raise SignatureError(f"the signature has {len(text)} characters, expected at most {MAX_BYTES}")
    lines = text.strip().split("\n")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise SignatureError(
            "there is no signature" if not text.strip() else "the signature is not armored as SSH SIGNATURE"
        )
    try:
        blob = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("the signature is not base64") from None
    if _armored(blob) != text:  # one signature, one text: nothing can be changed about it unnoticed
        raise SignatureError("the signature is not armored as ssh-keygen does it")
    return blob


class _Reader:
    """Takes length-prefixed strings off a byte string, never past its end."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise SignatureError("the signature is truncated")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))
