"""The door's host key: Ed25519, made once, pinned at every site before first contact."""

from __future__ import annotations

import os
from pathlib import Path

from fedssh.errors import SettingsError
from fedssh.files import fsync_folder, part_of, write_whole


def make_host_key(path: Path) -> str:
    """Make the host key at `path` (mode 0600) and `path`.pub, unless it is there; returns `ssh-ed25519 AAAA…`.

    Two processes may call this at once: both return the same key. An existing key is never overwritten.

    Raises:
        SettingsError: What stands there is not an Ed25519 key in OpenSSH format.
    """
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        _make(path, public)
    words = public.read_text().split()
    if len(words) < 2 or words[0] != "ssh-ed25519":
        raise SettingsError(f"{public} is not an Ed25519 key", "move it and the key beside it away to make new ones")
    return " ".join(words[:2])


def _make(path: Path, public: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    part = part_of(path)
    write_whole(part, fresh, mode=0o600)
    try:
        os.link(part, path)  # a rename would replace the key that another process has just made
    except FileExistsError:
        pass
    finally:
        part.unlink()
    fsync_folder(path.parent)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise SettingsError(f"{path} is not an OpenSSH private key: {error}") from None
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_whole(public, line + b" host key of the door\n", mode=0o644)
