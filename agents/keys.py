"""RSA keys in OpenSSH formats: the site keys and the coordinator's key.

One key per site and one for the coordinator, 3072 bits unless made elsewhere with 4096; smaller is refused.
The same key logs in, signs, and opens what is sealed for it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fedssh.errors import SettingsError
from fedssh.files import fsync_folder, part_of, write_whole
from fedssh.forms import fingerprint

BITS = (3072, 4096)
_MAX_LOGIN_BITS = 8192
_MAX_TEXT = 1 << 14
_POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_LOGIN_TYPES = ("ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")


@dataclass(frozen=True)
class PublicKey:
    """An RSA public key; `line` is `ssh-rsa AAAA…` without a comment, so equal keys compare equal."""

    line: str

    @property
    def blob(self) -> bytes:
        """The key as it stands in SSH messages and signatures."""
        return base64.b64decode(self.line.split()[1])

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` prints it."""
        return fingerprint(self.line)

    @functools.cached_property
    def rsa(self) -> rsa.RSAPublicKey:
        """The key for arithmetic."""
        key = serialization.load_ssh_public_key(self.line.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        return key


@dataclass(frozen=True)
class PrivateKey:
    """An RSA private key and the file it came from."""

    path: Path
    rsa: rsa.RSAPrivateKey
    pem: bytes
    public: PublicKey


def make_key(path: Path, comment: str) -> PrivateKey:
    """Make an RSA key of 3072 bits at `path` (mode 0600) and its public half at `path`.pub.

    Killed in between, it leaves the private half alone, and the next call makes the public half from it. Of two calls
    at the same moment only one makes a key.

    Raises:
        SettingsError: A key is there already, or a public half without its key; keys are never overwritten.
    """
    public_path = path.with_name(path.name + ".pub")
    if public_path.exists():
        raise _exists(path if path.exists() else public_path)
    if path.exists():
        found = load_private(path)
        _write_public(public_path, found.public, comment)
        return found
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS[0])
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = PublicKey(_line(key.public_key()))
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_new(path, pem)
    _write_public(public_path, public, comment)
    return PrivateKey(path, key, pem, public)


def _write_new(path: Path, pem: bytes) -> None:
    part = part_of(path)
    try:
        write_whole(part, pem, mode=0o600)
        os.link(part, path)  # a rename would replace a key that was made at the same moment
    except FileExistsError:
        raise _exists(path) from None
    finally:
        part.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _write_public(path: Path, public: PublicKey, comment: str) -> None:
    write_whole(path, f"{public.line} {comment}\n".encode(), mode=0o644)


def _exists(path: Path) -> SettingsError:
    return SettingsError(f"{path} exists, and keys are never overwritten", "use it, or move it away first")


def load_private(path: Path) -> PrivateKey:
    """Load an RSA private key in OpenSSH format.

    Raises:
        SettingsError: No such file, readable by others, protected by a passphrase, not RSA, or too small.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist", "make it with keygen or init") from None
    if os.stat(path).st_mode & 0o077:
        raise SettingsError(f"{path} can be read by others", f"chmod 600 {path}")
    try:
        key = serialization.load_ssh_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} is not an OpenSSH private key without passphrase: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SettingsError(f"{path} is not an RSA key")
    return PrivateKey(path, key, pem, parse_public(_line(key.public_key()), str(path)))


def load_public(path: Path) -> PublicKey:
    """Load an RSA public key from a `.pub` file.

    Raises:
        SettingsError: No such file, or not one RSA key of 3072 or 4096 bits.
    """
    return parse_public(read_public(path), str(path))


def load_login(path: Path) -> str:
    """Load any public key that may log in; see `login_line`.

    Raises:
        SettingsError: No such file, or not one such key.
    """
    return login_line(read_public(path), str(path))


def read_public(path: Path) -> str:
    """The text of a `.pub` file, of bounded size, with nothing looked at yet.

    Raises:
        SettingsError: No such file, or no text.
    """
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_TEXT).decode()
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise SettingsError(f"{path} is not a public key") from None


def parse_public(text: str, source: str = "public key") -> PublicKey:
    """Read `ssh-rsa AAAA… [comment]`, and only what every part can use: SSH, the signatures and age.

    Args:
        text: One line.
        source: Where it came from, for the message.

    Raises:
        SettingsError: Not one well-formed RSA key of 3072 or 4096 bits.
    """
    return PublicKey(_checked_line(text, source, ("ssh-rsa",), BITS, "3072 or 4096"))


def login_line(text: str, source: str = "public key") -> str:
    """The type and the key of a public key that may log in (RSA, Ed25519 or ECDSA), without its comment.

    Raises:
        SettingsError: Not one public key of a form that every SSH program reads and the door lets in.
    """
    return _checked_line(text, source, _LOGIN_TYPES, range(BITS[0], _MAX_LOGIN_BITS + 1), f"3072 to {_MAX_LOGIN_BITS}")


def _checked_line(text: str, source: str, types: tuple[str, ...], sizes: Collection[int], expected: str) -> str:
    words = text.split(None, 2)
    if len(words) < 2 or words[0] not in _LOGIN_TYPES or not text.strip().replace("\t", " ").isprintable():
        raise SettingsError(f"{source} is not one OpenSSH public key", "it should read `ssh-rsa AAAA… comment`")
    if words[0] not in types:
        raise SettingsError(f"{source} is of type {words[0]}, expected {types[0]}", "make one with `bob keygen`")
    line = " ".join(words[:2])
    try:
        blob = base64.b64decode(words[1], validate=True)
        if base64.b64encode(blob).decode() != words[1]:
            raise ValueError("its base64 ends in bits that mean nothing")
        bits = _check_form(words[0], _strings(blob))
        if bits is not None and bits not in sizes:
            raise SettingsError(f"{source} has {bits} bits, expected {expected}")
        serialization.load_ssh_public_key(line.encode())
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{source} is not a well-formed public key: {error}") from None
    return line


def _check_form(kind: str, parts: list[bytes]) -> int | None:
    """Refuse a key that some program would read and another would not; the size of an RSA key.

    Raises:
        ValueError: Says what is wrong with it.
    """
    if parts[0] != kind.encode() or len(parts) != (2 if kind == "ssh-ed25519" else 3):
        raise ValueError(f"what it holds is not a key of type {kind}")
    if kind == "ssh-ed25519":
        if len(parts[1]) != 32:
            raise ValueError(f"it has {len(parts[1])} bytes, expected 32")
        return None
    if kind != "ssh-rsa":
        curve = kind.removeprefix("ecdsa-sha2-")
        if parts[1] != curve.encode() or len(parts[2]) != _POINT_BYTES[curve] or parts[2][0] != 4:
            raise ValueError(f"what it holds is not an uncompressed point of {curve}")
        return None
    exponent, modulus = _mpint(parts[1]), _mpint(parts[2])
    # age's library takes exponents below 2^33, OpenSSL up to 64 bits; ssh-keygen has made 65537, and 35 long ago.
    if exponent % 2 == 0 or not 3 <= exponent < 2**32:
        raise ValueError("its exponent is not an odd number from 3 to 2^32")
    root = math.isqrt(modulus)
    if math.gcd(modulus, _small_primes()) != 1 or root * root == modulus:
        raise ValueError("its modulus is not the product of two large primes")
    return modulus.bit_length()


def _strings(blob: bytes) -> list[bytes]:
    """The length-prefixed strings of which a key consists."""
    found = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            raise ValueError("it is truncated, or bytes follow it")
        found.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return found or [b""]


def _mpint(value: bytes) -> int:
    """A positive number in the one form that it has (RFC 4251, section 5)."""
    if not value or value[0] & 0x80 or (value[0] == 0 and (len(value) == 1 or not value[1] & 0x80)):
        raise ValueError("a number in it is not written as SSH writes numbers")
    return int.from_bytes(value, "big")


@functools.cache
def _small_primes() -> int:
    """The product of the primes below 2,000."""
    return math.prod(n for n in range(2, 2000) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))


def _line(key: rsa.RSAPublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
