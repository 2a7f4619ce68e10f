"""The way out that a site was told when it joined: kept, so that `bob watch` takes it without being told again.

    via.json          {"via": "socks5://…" or "@FILE", "key": FILE or null, "known_hosts": FILE or null}
    via_known_hosts   a jump host's pinned key

Both are for this site's account only: the URL may hold a password. A flag or a variable beats what is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from fedssh.address import Via, Way, read_via
from fedssh.bob.site import Folder
from fedssh.errors import HostKeyError, SettingsError
from fedssh.files import write_whole
from fedssh.forms import canonical, fingerprint
from fedssh.keys import login_line

_PIN = "give it with --via-host-key 'ssh-ed25519 AAAA…', or a file that has it with --via-known-hosts"


class Told(Protocol):
    """What a command was told."""

    @property
    def via(self) -> Via | None:
        """The proxy or jump host."""

    @property
    def via_key(self) -> Path | None:
        """What logs in there."""

    @property
    def via_known_hosts(self) -> Path | None:
        """What pins its key."""


def way_out(folder: Folder, told: Told) -> Way | None:
    """How to get to the door; None where nothing is in between.

    Raises:
        SettingsError: What is kept is damaged, or the file that it names is gone.
    """
    kept = _read(folder)
    via = told.via or _kept_via(folder, kept)
    if via is None or via.kind == "direct":
        return None
    return Way(via, told.via_key or kept["key"] or folder.key, _known_hosts(folder, told, kept))


def keep_way(folder: Folder, told: Told, host_key: str | None, again: bool) -> None:
    """Keep what `bob join` was told, and pin a jump host's key.

    Args:
        host_key: The jump host's key.
        again: Allow another one than before.

    Raises:
        HostKeyError: Another one is pinned.
        SettingsError: It is no key, or none is pinned for a jump host.
    """
    kept = _read(folder)
    via = told.via or _kept_via(folder, kept)
    if host_key is not None and told.via_known_hosts:
        raise SettingsError("--via-host-key and --via-known-hosts both pin the jump host", "give one of them")
    if host_key is not None:
        _pin(folder, via, login_line(host_key, "--via-host-key"), again)
    if via is None or via.kind == "direct":
        folder.via.unlink(missing_ok=True)
        return
    if via.kind == "ssh" and host_key is None and not _known_hosts(folder, told, kept).exists():
        raise SettingsError(f"the host key of {via} is not pinned", _PIN)
    key, known_hosts = told.via_key or kept["key"], told.via_known_hosts or kept["known_hosts"]
    value = {"via": via.told, "key": _absolute(key), "known_hosts": None if host_key else _absolute(known_hosts)}
    write_whole(folder.via, canonical(value) + b"\n")


def kept_via(folder: Folder) -> str | None:
    """What is kept, fit to be shown; a file that it names is not read.

    Raises:
        SettingsError: It is damaged.
    """
    words = _read(folder)["via"]
    return words if words is None or words.startswith("@") else str(_kept_via(folder, {"via": words}))


def _known_hosts(folder: Folder, told: Told, kept: dict[str, Any]) -> Path:
    return Path(told.via_known_hosts or kept["known_hosts"] or folder.via_known_hosts)


def _absolute(path: Path | None) -> str | None:
    return str(path.absolute()) if path else None


def _pin(folder: Folder, via: Via | None, line: str, again: bool) -> None:
    if via is None or via.kind != "ssh":
        raise SettingsError("--via-host-key is given without a jump host", "add --via ssh://user@host:port")
    name, file = via.at.known_as, folder.via_known_hosts
    before = dict(entry.split(" ", 1) for entry in file.read_text().splitlines()) if file.exists() else {}
    if not again and before.get(name, line) != line:
        raise HostKeyError(
            f"--via-host-key is {fingerprint(line)}, this site has pinned {fingerprint(before[name])} for {via}",
            "if its operator confirms the new fingerprint, use --again; if not, stop here",
        )
    write_whole(file, f"{name} {line}\n".encode())


def _read(folder: Folder) -> dict[str, Any]:
    try:
        value = json.loads(folder.via.read_bytes())
        files = {name: Path(value[name]) if value[name] is not None else None for name in ("key", "known_hosts")}
        return {"via": str(value["via"]), **files}
    except FileNotFoundError:
        return {"via": None, "key": None, "known_hosts": None}
    except (ValueError, KeyError, TypeError, RecursionError):  # not what it says: there may be a password in it
        raise SettingsError(f"{folder.via} is damaged", "run `bob join INVITATION --via …` again") from None


def _kept_via(folder: Folder, kept: dict[str, Any]) -> Via | None:
    try:
        return None if kept["via"] is None else read_via(kept["via"])
    except ValueError as error:
        raise SettingsError(f"{folder.via}: {error}", "run `bob join INVITATION --via …` again") from None
