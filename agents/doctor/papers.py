"""What a site was invited with, against the key it has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedssh.address import Address
from fedssh.doctor.finding import FAILED, OK, SKIPPED, Finding
from fedssh.doctor.subject import Subject, read
from fedssh.errors import AgentError, SettingsError

if TYPE_CHECKING:
    from fedssh.bob.site import Folder, Site


@dataclass(frozen=True)
class Door:
    """A door, and the host key that it must have.

    Attributes:
        source: Where that stands.
    """

    address: Address
    host_key: str
    source: str


def door_of(subject: Subject) -> Door | None:
    """The door that this machine was invited to; None where it was to none.

    Raises:
        SettingsError: The file that says it is damaged.
    """
    from fedssh.bob.site import Folder, load_site
    from fedssh.keys import login_line

    if subject.invitation is None:
        folder = Folder(subject.state)
        if not folder.site.exists():
            return None
        site = load_site(folder)
        return Door(site.door, site.host_key, folder.site.name)
    try:
        fields = json.loads(_text(subject.invitation))
        address = Address(str(fields["user"]), str(fields["host"]), int(fields["port"]))
        return Door(address, login_line(str(fields["host_key"]), "its host key"), "the invitation")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SettingsError(f"{subject.invitation} is not an invitation: {error}") from None


def _text(path: Path) -> str:
    try:
        return read(path).decode()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}", "is the name right?") from None


def invitation(subject: Subject) -> Finding:
    """Whether an invitation, or what was written down of it, is for the key that lies here."""
    from fedssh.bob.site import Folder, load_key, load_site, read_invitation

    folder = Folder(subject.state)
    if subject.role == "auditor":
        return Finding("invitation", SKIPPED, "an auditor's key is a key of ssh, which is not looked at")
    if (subject.state / "terms.json").exists() and not folder.key.exists():
        return Finding("invitation", SKIPPED, "this is Alice's folder, who has no key; see `alice terms`")
    if not folder.key.exists():
        found = f"there is no site key in {subject.state}"
        return Finding("invitation", FAILED, found, f"make one: bob keygen --state {subject.state}")
    try:
        key = load_key(folder).public
        site = read_invitation(_text(subject.invitation), key) if subject.invitation else _joined(folder)
        joined = load_site(folder) if subject.invitation and folder.site.exists() else None
    except AgentError as error:
        return Finding("invitation", FAILED, str(error), error.hint or "ask the coordinator's operator for another one")
    if site is None:
        found = f"site key {key.fingerprint}; not joined yet"
        return Finding("invitation", FAILED, found, "bob join INVITATION, or look at it here with --invitation FILE")
    if joined and joined.host_key != site.host_key:
        found = f"{subject.invitation} names another host key than the one this site has pinned"
        return Finding("invitation", FAILED, found, "ask the operator before `bob join --again`", untrusted=True)
    return Finding("invitation", OK, f"{site.name}, site key {key.fingerprint}, to {site.address}")


def _joined(folder: Folder) -> Site | None:
    from fedssh.bob.site import load_site

    return load_site(folder) if folder.site.exists() else None
