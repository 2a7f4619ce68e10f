"""What is kept at home, beside the inventory, in FEDERATION.fleet/: nothing secret.

pins.json, known_hosts   the machines' host keys
keys/NAME.pub            public site keys, as the machines made them
invitations/NAME.json    what the coordinator answered
backups/                 sealed for the recipients of the inventory
lock                     held by the one command that changes something
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedssh.commands import printable
from fedssh.errors import AgentError, SettingsError
from fedssh.files import write_whole
from fleet.compose import data_files
from fleet.inventory import Inventory
from fleet.pins import Pins
from fleet.ssh import who


class Home:
    """A federation's folder."""

    def __init__(self, inventory: Inventory) -> None:
        self.path = inventory.path.parent / f"{inventory.federation}.fleet"
        self.pins = Pins(self.path)

    def make(self) -> None:
        """Make the folder, if it is missing; git leaves it alone."""
        for folder in (self.path, self.path / "keys", self.path / "invitations", self.path / "backups"):
            if folder.is_symlink():
                raise SettingsError(
                    f"{folder} is a link, expected a folder", "what it leads to is not deploy's to change"
                )
            folder.mkdir(mode=0o700, exist_ok=True)
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            write_whole(ignore, b"*\n")

    def key(self, name: str) -> Path:
        """A site's public key."""
        return self.path / "keys" / f"{name}.pub"

    def invitation(self, name: str) -> Path:
        """What the coordinator answered to a site."""
        return self.path / "invitations" / f"{name}.json"

    def backup(self, name: str, time: str) -> Path:
        """Where a backup of that time goes."""
        return self.path / "backups" / f"{name}-{time}.tar.age"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes something from this folder.

        Raises:
            AgentError: Another command is at it.
        """
        self.make()
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = printable(os.read(handle, 200).decode(errors="replace").strip()) or "another command"
            os.close(handle)
            raise AgentError(f"{holder} works on {self.path.name} at the moment", "wait for it") from None
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"{who()}, process {os.getpid()},\n".encode())
            yield
        finally:
            os.close(handle)


def mark_of(path: Path) -> str:
    """By which data is known on its machine: SHA-256 of the names and contents of all files."""
    digest = hashlib.sha256()
    for file in data_files(path):
        name = file.name if file == path else str(file.relative_to(path))
        try:
            with file.open("rb") as source:
                content = hashlib.file_digest(source, "sha256").hexdigest()
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
        digest.update(os.fsencode(name) + f"\0{content}\n".encode())
    return digest.hexdigest()


def pack(path: Path, sink: IO[bytes]) -> None:
    """Write a file, or the contents of a folder, as a tar archive; names and contents, nobody's accounts."""
    with tarfile.open(fileobj=sink, mode="w|", bufsize=1 << 18) as archive:
        for file in data_files(path):
            info = tarfile.TarInfo(file.name if file == path else str(file.relative_to(path)))
            with file.open("rb") as source:
                info.size = os.fstat(source.fileno()).st_size
                archive.addfile(info, source)
