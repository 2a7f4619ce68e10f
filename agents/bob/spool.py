"""Bundles on their way: what Bob has sealed and Charity has not judged yet.

    <id>.bundle   signed and sealed; its name is the commit: from here on the checkpoint is Bob's
    <id>.json     what it is: {"id","kind","session","epoch","created","published","attempts","shipped"}

A bundle leaves the spool when its verdict is in the receipts. The bundle goes first, so a json alone is a
leftover; a bundle alone is described anew from its own manifest.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedssh import bundle
from fedssh.files import fsync_folder, sweep, write_whole
from fedssh.forms import canonical

_PLAIN = {"scores": "scores of a release", "masks": "a word for sums under masks"}


@dataclass(frozen=True)
class Entry:
    """A bundle in the spool.

    Attributes:
        id: Given by Alice; sorts by time.
        kind: `submission`, `report`, `scores` or `masks`.
        session: 0 for scores and masks, which belong to none.
        epoch: None for all but a submission.
        published: When Alice's claim got its name, in seconds since 1970.
        attempts: How often it was sent without success.
        shipped: When the door had it, in seconds since 1970; None before that.
    """

    id: str
    kind: str
    session: int
    epoch: int | None
    created: str
    published: float
    attempts: int = 0
    shipped: float | None = None

    def __str__(self) -> str:
        if self.kind in _PLAIN:
            return _PLAIN[self.kind]
        return (
            f"session {self.session} epoch {self.epoch}"
            if self.epoch is not None
            else f"report of session {self.session}"
        )


@dataclass(frozen=True)
class Plan:
    """What to do with the spool next: drop what is superseded (by whom), then ship one."""

    superseded: list[tuple[Entry, Entry]]
    next: Entry | None


def plan(entries: Iterable[Entry], under_way: str | None = None) -> Plan:
    """Decide what to ship next.

    In order of ids, except that of several checkpoints of one session only the newest is worth sending, and a
    report comes after its session's checkpoints. What the door already has is never superseded, for its verdict
    is due; nor is what is being sent (`under_way`).
    """
    entries = sorted(entries, key=lambda entry: entry.id)
    newest = {entry.session: entry for entry in entries if entry.kind == "submission"}
    superseded, left = [], []
    for entry in entries:
        newer = newest.get(entry.session, entry)
        free = entry.shipped is None and entry.id != under_way
        if entry.kind == "submission" and newer is not entry and free:
            superseded.append((entry, newer))
        else:
            left.append(entry)
    left.sort(key=lambda entry: _turn(entry, newest))
    return Plan(superseded, left[0] if left else None)


def _turn(entry: Entry, newest: dict[int, Entry]) -> tuple[str, bool]:
    is_report = entry.kind == "report"
    if is_report and entry.session in newest:
        return max(entry.id, newest[entry.session].id), is_report
    return entry.id, is_report


class Spool:
    """The spool folder. One thread adds, another marks and removes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tidy(self) -> None:
        """Remove what a killed Bob left unfinished. Only at start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        for path in self.folder.glob("*.json"):
            if not path.with_suffix(".bundle").exists():
                path.unlink()

    def bundle(self, id: str) -> Path:
        """Where the bundle of this id is, or would be."""
        return self.folder / f"{id}.bundle"

    def __contains__(self, id: str) -> bool:
        return self.bundle(id).exists()

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.bundle")))

    def entries(self) -> list[Entry]:
        """All bundles, oldest first."""
        return [self._read(path) for path in sorted(self.folder.glob("*.bundle")) if path.exists()]

    def describe(self, entry: Entry) -> None:
        """Write or rewrite what a bundle is. For a new bundle, before it has its name."""
        write_whole(self.bundle(entry.id).with_suffix(".json"), canonical(dataclasses.asdict(entry)))

    def mark(self, entry: Entry, **changes: object) -> Entry:
        """Change what is known of an entry, durably."""
        entry = dataclasses.replace(entry, **changes)  # type: ignore[arg-type]
        self.describe(entry)
        return entry

    def remove(self, entry: Entry) -> None:
        """Take a bundle out, after its receipt is written."""
        path = self.bundle(entry.id)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        fsync_folder(self.folder)

    def _read(self, path: Path) -> Entry:
        try:
            return Entry(**json.loads(path.with_suffix(".json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            with bundle.read(path) as sealed:
                said = sealed.said
            return Entry(
                path.stem, said["kind"], said.get("session", 0), said.get("epoch"), said["created"], time.time()
            )
