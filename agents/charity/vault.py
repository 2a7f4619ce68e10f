"""The vault: the history with its state, the stored models, and what the door may show of them.

`charity serve` and the commands work on it at the same time. Whoever adds to the history holds the vault's lock
from reading the state until the record is in the outbox, so every decision is made on the newest state and the
outbox never runs ahead or aside. The outbox is derived: whatever is missing there is written again from the
history.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.charity.federation import Federation, advance, derive
from agents.charity.folders import Folders, locked
from agents.errors import LedgerError
from agents.files import move_whole, sweep, write_whole
from agents.keys import PrivateKey, load_private, parse_public
from agents.ledger import JUDGED, Ledger, Record
from agents.signature import allowed_signers

COORDINATOR = "charity"  # her name as a sender and in allowed_signers
PUBLIC = 0o644
MAKES_CURRENT = ("genesis", "accepted", "round-accepted", "rollback")
_TAIL = 1 << 20


class Vault:
    """An initialised coordinator.

    Args:
        folders: Where it lies.

    Raises:
        LedgerError: There is none, or its history is damaged.
        SettingsError: The coordinator's key is missing or unusable.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.ledger = Ledger(folders.ledger)
        self.key: PrivateKey = load_private(folders.key)
        self.state: Federation = derive(self.ledger.records())

    @contextlib.contextmanager
    def locked(self) -> Iterator[Federation]:
        """Keep everybody else from adding to the history; yields the newest state. Do not nest."""
        with locked(self.folders.vault / "lock"):
            yield self.refresh()

    def refresh(self) -> Federation:
        """The state after what others have added."""
        for record in self.ledger.records(after=self.state.sequence):
            self.state = advance(self.state, record)
        return self.state

    def append(self, event: str, **fields: Any) -> Record:
        """Add a record and publish it. The caller holds the lock."""
        record = self.ledger.append(event, fields, self.key)
        self.refresh()
        self.publish(record)
        return record

    def publish(self, record: Record) -> None:
        """Bring one record's consequences to the outbox, the release excepted. Doing it again changes nothing."""
        publish_history(self.folders, self.ledger)
        self.publish_verdict(record)
        if record.event.startswith("site-"):
            self.publish_sites()

    def publish_verdict(self, record: Record) -> None:
        """Write the verdict's file, where the record is one and names its submission."""
        submission = record.fields.get("submission")
        if record.event not in JUDGED or submission is None:
            return
        path = self.folders.verdict(record.fields["site"], submission)
        if not _has(path, record.line()):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, record.line(), PUBLIC)

    def publish_sites(self) -> None:
        """Say who may log in and whose signature counts, and make the folders that a new site needs."""
        outbox, state = self.folders.outbox, self.state
        rows = [{"site": one.name, "role": one.role, "key": one.key} for one in state.enrolled]
        for site in state.sites:
            (self.folders.inbox / site.name).mkdir(parents=True, exist_ok=True)
        signers = {site.name: parse_public(site.key) for site in state.sites} | {COORDINATOR: self.key.public}
        files = {
            "sites.json": json.dumps({"sites": rows}, indent=2) + "\n",
            "allowed_signers": allowed_signers(dict(signers)),
            "coordinator_key.pub": f"{self.key.public.line} {COORDINATOR}\n",
        }
        for name, text in files.items():
            if not _has(outbox / name, text.encode()):
                write_whole(outbox / name, text.encode(), PUBLIC)

    def repair(self) -> None:
        """Make the outbox what the history says, and remove what killed processes left unfinished.

        Raises:
            LedgerError: The outbox tells another history than the ledger.
        """
        folders = self.folders
        vault = (folders.vault, folders.models, folders.opened, folders.updates, folders.server)
        for folder in (*vault, folders.outbox, folders.releases):
            sweep(folder)
        for folder in (*(folders.outbox / "verdicts").iterdir(), *folders.claimed.iterdir()):
            sweep(folder)
        with self.locked():
            check_history(folders, self.ledger)
            publish_history(folders, self.ledger)
            self.publish_sites()
            for record in self.ledger.judged():
                self.publish_verdict(record)

    def keep(self, opened: Path, sha256: str) -> None:
        """Store an accepted model under its hash, durably, before the record that names it."""
        move_whole(opened, self.folders.model(sha256))

    def sweep_rounds(self) -> None:
        """Let go of updates that are not of the open round, and of old states of the server optimizer.

        The caller holds the lock.
        """
        current = self.state.round
        wanted = {
            self.folders.updates: {update.model["sha256"] for update in current.updates} if current else set(),
            self.folders.server: {blob["sha256"] for blob in self.state.current.server},
        }
        for folder, named in wanted.items():
            for path in folder.glob("*.safetensors"):
                if path.stem not in named:
                    path.unlink()

    def sweep_models(self) -> None:
        """Remove models that no record names: a crash came between storing one and recording it."""
        with self.locked():
            self.sweep_rounds()
            named = {record.fields["model"]["sha256"] for record in model_records(self.ledger.records())}
            for path in self.folders.models.glob("*.safetensors"):
                if path.stem not in named:
                    path.unlink()


def model_records(records: list[Record]) -> list[Record]:
    """The records that made a model current; their model files are kept."""
    return [record for record in records if record.event in MAKES_CURRENT]


def publish_history(folders: Folders, ledger: Ledger) -> None:
    """Append to the outbox's history what it lacks. The caller holds the lock.

    The file is not synced: it is derived from the ledger, which is. A line cut off by a crash is cut away first.
    """
    path = folders.outbox / "ledger.jsonl"
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC), "r+b") as file:
        sequence = _last_published(file.fileno())
        lines = b"".join(record.line() for record in ledger.records(after=sequence))
        file.seek(0, os.SEEK_END)
        file.write(lines)


def _last_published(handle: int) -> int:
    """The sequence on the last whole line of an export, after cutting away what follows that line."""
    size = os.fstat(handle).st_size
    start = max(0, size - _TAIL)
    tail = os.pread(handle, size - start, start)
    end = tail.rfind(b"\n") + 1
    if end < len(tail):
        os.ftruncate(handle, start + end)
    if end == 0:
        return 0
    line = tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]
    try:
        return int(json.loads(line)["sequence"])
    except (ValueError, KeyError, TypeError):
        os.ftruncate(handle, start + end - len(line))
        return _last_published(handle)


def check_history(folders: Folders, ledger: Ledger) -> None:
    """Compare the published history with the ledger, line for line; cut it off where a crash damaged it.

    Raises:
        LedgerError: It is intact and tells something else: the ledger was put back to an older or another one.
    """
    path = folders.outbox / "ledger.jsonl"
    if not path.exists():
        return
    good = 0
    records = iter(ledger.records())
    with open(path, "r+b") as file:
        for line in file:
            record = next(records, None)
            if record is not None and record.line() == line:
                good += len(line)
                continue
            if _is_whole(line):
                raise LedgerError(
                    f"{path} and the ledger part after record {_sequence_before(record, ledger)}",
                    "an older ledger.db was put back: restore a newer one, or the sites will refuse what follows",
                )
            break
        file.truncate(good)


def _sequence_before(record: Record | None, ledger: Ledger) -> int:
    head = ledger.head()
    return record.sequence - 1 if record else head.sequence if head else 0


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line)["record"], str)
    except (ValueError, KeyError, TypeError):
        return False


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
