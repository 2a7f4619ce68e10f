"""Handing the current model on: sealed once for all sites, signed, numbered by the history.

A release is a record first, and then a bundle in the outbox; whichever is missing after a crash is made again. A
new one is due whenever the model, the sites, the turn or the state of the federation changed.
"""

from __future__ import annotations

from pathlib import Path

from fedssh.bundle import pending, seal
from fedssh.charity.folders import Folders
from fedssh.charity.vault import COORDINATOR, PUBLIC, Vault
from fedssh.files import adopt, part_of
from fedssh.forms import fingerprint
from fedssh.keys import PublicKey
from fedssh.manifest import Release, new_id, now
from fedssh.rules import coordinator
from fedssh.rules.events import Blob, Record, Released

KEPT = 3


def release(vault: Vault) -> Record | None:
    """Record a release when one is due, and see that its bundle is there. Returns the record when it is new."""
    record = coordinator.release(vault)
    newest = vault.state.release
    if newest is not None:
        path = path_of(vault.folders, newest.sequence)
        if not path.exists():
            _seal(vault, newest, path)
        prune(vault.folders)
    return record


def path_of(folders: Folders, sequence: int) -> Path:
    """The bundle of a release."""
    return folders.releases / f"{sequence:08}.bundle"


def prune(folders: Folders) -> None:
    """Keep the newest releases only: a site that comes late wants the newest."""
    for path in sorted(folders.releases.glob("*.bundle"))[:-KEPT]:
        path.unlink()


def _seal(vault: Vault, record: Record, path: Path) -> None:
    """Seal the release for whom its record names; they are members still or again, else another would be due.

    Whose key cannot be used is left out; without anybody left there is no bundle.
    """
    released = record.said
    assert isinstance(released, Released)
    members = {fingerprint(member.key): member for member in vault.state.members if member.role == "site"}
    found = [members[name] for name in released.recipients if name in members]
    keys = [PublicKey(one.key) for one in found if vault.can_use(one)]
    if not keys:
        return
    manifest = Release(
        id=new_id(),
        sender=COORDINATOR,
        recipients=[],
        model=Blob(released.model.sha256, released.model.size),
        sealed=pending(),
        architecture=str(vault.state.genesis.architecture),
        sequence=record.sequence,
        head=record.hash,
        metrics=dict(released.metrics),
        plan=dict(vault.state.genesis.plan),
        federation=released.federation.fields(),
        created=now(),
    )
    model = vault.folders.model(released.model.sha256)
    part = part_of(path)
    try:
        seal(model, manifest, vault.key, keys, part)
        part.chmod(PUBLIC)  # the door may run as somebody else
        adopt(part, path)
    finally:
        part.unlink(missing_ok=True)
