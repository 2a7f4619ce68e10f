"""RSA keys in OpenSSH formats: the site keys and the coordinator's key.

One key per site and one for the coordinator, 3072 bits unless made elsewhere with 4096; smaller is refused.
The same key logs in, signs, and opens what is sealed for it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agents.errors import SettingsError
from agents.files import fsync_folder, part_of, write_whole

BITS = (3072, 4096)
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
    try:
        return parse_public(path.read_text(), str(path))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not a public key") from None


def parse_public(text: str, source: str = "public key") -> PublicKey:
    """Read `ssh-rsa AAAA… [comment]`.

    Args:
        text: One line.
        source: Where it came from, for the message.

    Raises:
        SettingsError: Not one RSA key of 3072 or 4096 bits.
    """
    line = login_line(text, source)
    if not line.startswith("ssh-rsa "):
        raise SettingsError(f"{source} is of type {line.split()[0]}, expected ssh-rsa", "make one with `bob keygen`")
    key = serialization.load_ssh_public_key(line.encode())
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in BITS:
        raise SettingsError(f"{source} has {getattr(key, 'key_size', 0)} bits, expected 3072 or 4096")
    return PublicKey(line)


def login_line(text: str, source: str = "public key") -> str:
    """The type and the key of a public key that may log in (RSA, Ed25519 or ECDSA), without its comment.

    Raises:
        SettingsError: Not one well-formed public key.
    """
    words = text.split(None, 2)
    if len(words) < 2 or "\n" in text.strip() or words[0] not in _LOGIN_TYPES:
        raise SettingsError(f"{source} is not one OpenSSH public key", "it should read `ssh-rsa AAAA… comment`")
    line = " ".join(words[:2])
    try:
        base64.b64decode(words[1], validate=True)
        serialization.load_ssh_public_key(line.encode())
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{source} is not a well-formed public key: {error}") from None
    return line


@functools.lru_cache(maxsize=4096)  # a release asks for every site's
def fingerprint(line: str) -> str:
    """`SHA256:…` of any public key line, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _line(key: rsa.RSAPublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
