"""How a site comes into a federation, with the agents' own commands; done again, it does what is missing.

On real machines every site does its own part: docs/how-to/invite.md.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fedssh.bob import peers
from fedssh.bob.site import Folder

# Runs an agent's command by its words, as ("bob", "keygen", "--state=…"), and returns what it printed.
Command = Callable[..., str]


def enrol_site(command: Command, coordinator: Path, site: Path) -> bool:
    """Make a site's key, enrol it, let its Bob join by the invitation, and hand its Alice the same invitation.

    She joins by it when she starts. It holds no secret, so it may lie where her data does, which Bob never sees.

    Args:
        coordinator: Her state.
        site: The site's folder, of the site's name: gets bob/ and data/invitation.json.

    Returns:
        Whether it joined just now.
    """
    bob, hers = site / "bob", site / "data" / "invitation.json"
    state = f"--state={bob}"
    if not (bob / "site_key").exists():
        command("bob", "keygen", state)
    joins = not (bob / "site.json").exists()
    if joins or not hers.exists():
        invitation = invite(command, coordinator, site.name, bob / "site_key.pub", "site")
        if joins:
            command("bob", "join", state, "--offline", str(invitation))  # the door opens later
        hers.parent.mkdir(parents=True, exist_ok=True)
        part = hers.with_suffix(".part")
        part.write_bytes(invitation.read_bytes())
        part.replace(hers)
    return joins


def name_peers(sites: Mapping[str, Path]) -> None:
    """Name each site's key to all others, as people there would by `bob peers add`: for sums under masks.

    Args:
        sites: The folder of each, which has bob/, by name.
    """
    for (_, site), (other, there) in itertools.permutations(sites.items(), 2):
        peers.add(Folder(site / "bob"), other, there / "bob" / "site_key.pub")


def enrol_auditor(command: Command, coordinator: Path, keys: Path, places: Iterable[str], port: int | None) -> None:
    """Make the key with which the person at this machine reads the history over SSH, and pin the door's host key.

    Args:
        keys: Gets the key and known_hosts.
        places: Where that person may find the door.
        port: And at which port; None is the one that sites are told.
    """
    key = keys / "auditor"
    if not key.exists():
        new = keys / "new"
        if not (new / "site_key").exists():
            command("bob", "keygen", f"--state={new}")
        (new / "site_key.pub").replace(key.with_suffix(".pub"))
        (new / "site_key").replace(key)
        new.rmdir()
    invitation = json.loads(invite(command, coordinator, "auditor", key.with_suffix(".pub"), "auditor").read_bytes())
    known = (f"[{place}]:{port or invitation['port']} {invitation['host_key']}\n" for place in sorted(set(places)))
    (keys / "known_hosts").write_text("".join(known))


def invite(command: Command, coordinator: Path, name: str, public: Path, role: str) -> Path:
    """Enrol somebody, unless an interrupted run has done so already, and return the invitation, beside their key."""
    state = f"--state={coordinator}"
    nodes = json.loads(command("charity", "nodes", "list", state, "--json"))
    if any(node["site"] == name for node in nodes):
        said = command("charity", "nodes", "invite", state, name)
    else:
        said = command("charity", "nodes", "add", state, name, str(public), f"--role={role}")
    path = public.with_name("invitation.json")
    path.write_text(said)
    return path
