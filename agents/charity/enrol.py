"""Who takes part: enrolling and revoking sites and auditors, and the invitation that a site joins with.

Both take effect at once: the door reads sites.json at every login and while it waits, and a running `charity serve`
notices the new record and releases to the sites that are left.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from fedssh.address import parse_address
from fedssh.bundle import check_recipient
from fedssh.charity.capacity import check_room
from fedssh.charity.folders import Folders
from fedssh.charity.vault import COORDINATOR, Vault
from fedssh.errors import BundleError, SettingsError
from fedssh.forms import check_site, fingerprint
from fedssh.keys import PublicKey, load_login, load_public
from fedssh.rules import orders
from fedssh.rules.events import Record, SiteAdded, SiteRevoked


def add(vault: Vault, name: str, key_file: Path, role: str) -> Record:
    """Enrol a site, or an auditor who only reads.

    Args:
        name: 1 to 32 lower-case letters, digits and inner dashes.
        key_file: Their public key. A site's is RSA of 3072 or 4096 bits; an auditor's may be any OpenSSH key, RSA from
            3072 bits.

    Raises:
        SettingsError: The name or the key cannot be used or is taken.
    """
    check_name(name)
    key = load_public(key_file).line if role == "site" else load_login(key_file)
    _try_key(key, role)
    with vault.locked() as state:
        order = SiteAdded(site=name, role=role, key=key)
        if why := orders.objection(state, order):
            raise SettingsError(why, "revoke it first, or take another name; every site needs a key of its own")
        if role == "site":
            check_room(state, name, key)
        return vault.append(order)


def revoke(vault: Vault, name: str, reason: str) -> Record:
    """End somebody's enrolment: no new login, running sessions ended, pending submissions refused.

    Raises:
        SettingsError: Nobody of that name is enrolled.
    """
    with vault.locked() as state:
        order = SiteRevoked(site=name, reason=reason)
        if why := orders.objection(state, order):
            raise SettingsError(why, f"enrolled: {', '.join(one.name for one in state.enrolled) or 'nobody'}")
        return vault.append(order)


def invitation(vault: Vault, name: str, address: str) -> dict[str, Any]:
    """All that a site needs to join, and nothing secret: send it by any channel that nobody can change.

    Args:
        address: `user@host:port` or `host`; the user is `charity` and the port 22 unless given.

    Raises:
        SettingsError: The address is malformed, or the door has no host key here.
    """
    member = vault.state.member(name)
    if member is None or member.revoked:
        raise SettingsError(f"{name} is not enrolled")
    user, host, port = parse_address(address)
    return {
        "fedssh": 1,
        "site": name,
        "role": member.role,
        "user": user,
        "host": host,
        "port": port,
        "host_key": host_key(vault.folders),
        "coordinator": vault.key.public.line,
        "site_key": fingerprint(member.key),
        "genesis": vault.ledger.record(1).hash,
    }


def check_name(name: str) -> None:
    """Refuse what cannot be a site's name.

    Raises:
        SettingsError: Not of the form, or the coordinator's own name.
    """
    try:
        check_site(name)
    except BundleError:
        raise SettingsError(f"{name!r} cannot be a site's name", "1 to 32 of a-z, 0-9 and inner dashes") from None
    if name == COORDINATOR:
        raise SettingsError(f"{name!r} is the coordinator's own name")


def host_key(folders: Folders) -> str:
    """The door's public host key, without its comment.

    Raises:
        SettingsError: The door has none here.
    """
    path = folders.host_key.with_name(folders.host_key.name + ".pub")
    if not path.exists():
        raise SettingsError(f"{path} does not exist", "`charity init` makes the door's host key")
    if not stat.S_ISREG(path.lstat().st_mode):  # the folder is the door's, and a FIFO would be waited for
        raise SettingsError(f"{path} is not a file", "look at the door: it should be the host key's public half")
    return load_login(path)


def _try_key(line: str, role: str) -> None:
    """Try a key in every part that will use it, so that it fails here and not in a running coordinator.

    Raises:
        SettingsError: One of them does not take it.
    """
    try:
        if role == "site":
            check_recipient(PublicKey(line))
        if command := shutil.which("ssh-keygen"):
            words = [command, "-l", "-f", "-"]
            told = subprocess.run(words, input=line.encode(), capture_output=True, check=False, timeout=30)
            if told.returncode:
                raise SettingsError(f"ssh-keygen does not take {fingerprint(line)}", "let the site make a new key")
    except BundleError as error:
        raise SettingsError(str(error), "let the site make a new key with `bob keygen`") from None
