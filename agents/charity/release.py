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
from fedssh.manifest import Blob, Release, new_id, now
from fedssh.rules.events import Record
from fedssh.rules.records import why_finished

KEPT = 3


def release(vault: Vault) -> Record | None:
    """Record a release when one is due, and see that its bundle is there. Returns the record when it is new.

    Also ends the federation when all agreed sessions are done, because that is what the release will say.
    """
    with vault.locked() as state:
        record = None
        if not state.finished and state.all_sessions_done():
            vault.append("finished", reason=why_finished(state))
        if vault.state.release_is_due():
            wanted = vault.state.wanted_release()
            assert wanted is not None
            record = vault.append("release", **wanted)
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
    fields = record.fields
    members = {fingerprint(member.key): member for member in vault.state.members}
    keys = [PublicKey(one.key) for name in fields["recipients"] if vault.can_use(one := members[name])]
    if not keys:
        return
    manifest = Release(
        id=new_id(),
        sender=COORDINATOR,
        recipients=[],
        model=Blob(**fields["model"]),
        sealed=pending(),
        architecture=vault.state.genesis["architecture"],
        sequence=record.sequence,
        head=record.hash,
        metrics=fields["metrics"],
        plan=vault.state.genesis["plan"],
        federation=fields["federation"],
        created=now(),
    )
    model = vault.folders.model(fields["model"]["sha256"])
    part = part_of(path)
    try:
        seal(model, manifest, vault.key, keys, part)
        part.chmod(PUBLIC)  # the door may run as somebody else
        adopt(part, path)
    finally:
        part.unlink(missing_ok=True)
