"""Pinned host keys, in the form of OpenSSH's known_hosts."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from pathlib import Path

from fedssh.address import Address
from fedssh.errors import HostKeyError, SettingsError

_REBUILT = "if the host was rebuilt, compare the new fingerprint with its operator; if not, stop here"
_UNKNOWN = "compare it with the coordinator's operator, then `bob join` the invitation that names it"
_JUMP = "compare it with whoever runs the jump host, then `bob join INVITATION --via … --via-host-key 'TYPE KEY'`"


def pinned_keys(known_hosts: Path, host: str) -> list[tuple[str, bytes]]:
    """The types and blobs of all keys that an OpenSSH known_hosts file gives a host; hashed names are understood.

    Lines with a marker (`@revoked`, `@cert-authority`) and patterns pin nothing here.

    Raises:
        SettingsError: There is no such file.
    """
    try:
        lines = known_hosts.read_text().splitlines()
    except FileNotFoundError:
        raise SettingsError(f"{known_hosts} does not exist", "`bob join INVITATION` writes it") from None
    found = []
    for line in lines:
        words = line.split()
        if len(words) < 3 or words[0].startswith(("#", "@")):
            continue
        if any(_same_host(name, host) for name in words[0].split(",")):
            with contextlib.suppress(ValueError):
                found.append((words[1], base64.b64decode(words[2], validate=True)))
    return found


def _same_host(name: str, host: str) -> bool:
    if not name.startswith("|1|"):
        return name == host
    salt, _, digest = name[3:].partition("|")
    with contextlib.suppress(ValueError):
        return hmac.digest(base64.b64decode(salt), host.encode(), "sha1") == base64.b64decode(digest)
    return False


def check_host_key(address: Address, offered: bytes, pinned: list[bytes], who: str = "") -> None:
    """Refuse a host whose key is not pinned.

    Args:
        address: The host.
        offered: What it showed.
        pinned: What it may show.
        who: What it is, where it is not the door.

    Raises:
        HostKeyError: The key is unknown or has changed; shows both fingerprints.
    """
    if any(hmac.compare_digest(offered, blob) for blob in pinned):
        return
    expected = " or ".join(fingerprint(blob) for blob in pinned) or "none for it"
    raise HostKeyError(
        f"{who}{' ' if who else ''}{address} answered with host key {fingerprint(offered)}, known_hosts has {expected}",
        _REBUILT if pinned else _JUMP if who else _UNKNOWN,
    )


def fingerprint(blob: bytes) -> str:
    """`SHA256:…` of a public key's blob, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
