"""`backup` and `restore`: what cannot be made again, sealed before it leaves its machine."""

from __future__ import annotations

import datetime
import os
import threading
from pathlib import Path
from typing import IO, Any

from fedssh.errors import AgentError, SettingsError, UntrustedError
from fleet.fleet import Fleet, raise_first
from fleet.inventory import Host


def backup(fleet: Fleet, now: datetime.datetime) -> dict[str, Any]:
    """Fetch a sealed copy of keys, history and data of every chosen host; the rooms stop for as long as that takes.

    Raises:
        SettingsError: The inventory names nobody who may open it.
    """
    recipients = fleet.inventory.recipients
    if not recipients:
        raise SettingsError(
            "nobody is named who may open a backup",
            'write [backup] and recipients = ["age1…"] or the line of an ssh-ed25519 or ssh-rsa key into the inventory',
        )
    with fleet.home.locked():
        made = fleet.made()

        def one(host: Host) -> tuple[Path, int]:
            connection = fleet.connect(host, "backup", True, made.get(fleet.inventory.label(host)))
            path = fleet.home.backup(host.name, now.strftime("%Y%m%dT%H%M%SZ"))
            part = path.with_suffix(".part")
            fleet.say(f"{host.name}: sealing a backup")
            try:
                with part.open("wb") as sink:
                    service = "charity" if host.role == "coordinator" else "bob"
                    connection.run("backup", service, *recipients, into=sink, seconds=24 * 3600.0)
                    os.fsync(sink.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            connection.close()
            return path, path.stat().st_size

        done, errors = fleet.each(fleet.chosen, one)
        files = {name: {"file": str(path), "size": size} for name, (path, size) in done.items()}
        raise_first(errors, fleet.say)
        return {"federation": fleet.inventory.federation, "backups": files}


def restore(fleet: Fleet, name: str, file: Path, identity: Path) -> dict[str, Any]:
    """Put a backup in the place of what a host has; it is opened at home and its contents only pass through.

    Raises:
        SettingsError: The key cannot be read.
        UntrustedError: The file is not sealed for it, or damaged; nothing on the host was changed.
    """
    with fleet.home.locked():
        (host,) = fleet.inventory.chosen(name)
        key = _identity(identity)
        fleet.say(f"{name}: checking {file.name}")
        with open(os.devnull, "wb") as nowhere:
            _open(file, key, nowhere)  # all of it, before anything is stopped
        connection = fleet.connect(host, "restore", True, fleet.made().get(fleet.inventory.label(host)))
        fleet.say(f"{name}: restoring {file.name}")
        reader, writer = os.pipe()
        thread = threading.Thread(target=_pour, args=(file, key, writer))
        thread.start()
        try:
            with os.fdopen(reader, "rb") as source:
                service = "charity" if host.role == "coordinator" else "bob"
                done = connection.run("restore", service, give=source, seconds=24 * 3600.0)
        finally:
            thread.join()
        connection.close()
        return {"federation": fleet.inventory.federation, "host": name, "aside": done.text.splitlines()[-1]}


def _identity(path: Path) -> Any:
    from pyrage import ssh, x25519

    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if "PRIVATE KEY" in text:
            return ssh.Identity.from_buffer(text.encode())
        return x25519.Identity.from_str(next(line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-")))
    except (ValueError, StopIteration, Exception) as error:  # noqa: BLE001 - the library has no error of its own for it
        raise SettingsError(
            f"{path} is neither an age identity nor an SSH key without a passphrase: {error}",
            "decrypt with `age -d`, and give the tar archive's own way in docs/how-to/virtual-machines.md",
        ) from None


def _open(file: Path, key: Any, sink: IO[bytes]) -> None:
    from pyrage import DecryptError, decrypt_io

    try:
        source = file.open("rb")
    except OSError as error:
        raise AgentError(f"{file}: {error.strerror}") from None
    with source:
        try:
            decrypt_io(source, sink, [key])
        except DecryptError as error:
            raise UntrustedError(f"{file.name} cannot be opened with this key: {error}") from None
        except OSError as error:  # so the library says what is damaged, too
            raise UntrustedError(f"{file.name} is cut off or damaged: {error}") from None


def _pour(file: Path, key: Any, descriptor: int) -> None:
    try:
        with os.fdopen(descriptor, "wb") as sink:
            _open(file, key, sink)
    except (AgentError, OSError):
        return  # the machine sees an archive that is cut off, and says so
