"""The folder shared with Bob: releases in, checkpoints and reports out.

    incoming/<sequence, 8 digits>.safetensors, then .json   {"site": NAME, "manifest": {a release's manifest}}
    outgoing/<id>.safetensors, then <id>.json               a checkpoint and its claim
    outgoing/<id>.json                                      the report of a finished session

The json comes last and goes first, so whatever has its json is whole. Bob removes what he took and keeps only the
newest releases, so any file may be gone by the time it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.errors import BundleError, WeightsError
from agents.files import fsync_folder, is_part, sha256_file, sweep, write_whole
from agents.manifest import Claim, Release, SessionOver, canonical, check_site
from agents.weights import Header, architecture_hash, read_header, write_weights

if TYPE_CHECKING:
    import numpy as np

KEEP_OF_SESSION = 2  # Bob may be sealing the newest but one while the newest is written
_FEDERATION = ("name", "schedule", "turn", "state", "sessions", "sites")
_METRICS = ("loss", "accuracy")
KEEP = 8  # while Bob is away for days, the disk must not fill up


@dataclass(frozen=True)
class Received:
    """A release that Bob brought in.

    Attributes:
        site: Who this site is, as the coordinator knows it.
        release: Its manifest, whose signature Bob has checked.
        model: The plain model file.
        header: Of `model`.
    """

    site: str
    release: Release
    model: Path
    header: Header


class Exchange:
    """Alice's view of the exchange folder. She is the one writer of `outgoing/`."""

    def __init__(self, folder: Path) -> None:
        self.incoming = folder / "incoming"
        self.outgoing = folder / "outgoing"

    def tidy(self) -> None:
        """Make the folders, and remove what a killed Alice left unfinished. Only at start."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.outgoing.mkdir(parents=True, exist_ok=True)
        sweep(self.outgoing)
        for model in self.outgoing.glob("*.safetensors"):
            if not model.with_suffix(".json").exists():
                model.unlink(missing_ok=True)

    def newest_sequence(self) -> int | None:
        """The sequence of the newest release, without opening it."""
        notes = [path.stem for path in self.incoming.glob("*.json") if not is_part(path) and path.stem.isdecimal()]
        return max(map(int, notes), default=None)

    def newest(self) -> Received | None:
        """The newest release, or None before the first.

        Raises:
            BundleError: The note beside a release is malformed.
            WeightsError: The model file is not the one that the release names.
        """
        while (sequence := self.newest_sequence()) is not None:
            try:
                return self._read(self.incoming / f"{sequence:08}.json")
            except FileNotFoundError:
                if self.newest_sequence() == sequence:  # not pruned for a newer one: only its model is missing
                    raise
        return None

    def _read(self, path: Path) -> Received:
        try:
            note = json.loads(path.read_bytes())
            site = check_site(note["site"])
            release = Release.from_bytes(canonical(note["manifest"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path} is not the note of a release: {error}") from None
        for where, names in (("federation", _FEDERATION), ("metrics", _METRICS)):
            if missing := [name for name in names if name not in getattr(release, where)]:
                raise BundleError(f"{path}: the release's {where} lacks {missing[0]!r}")
        if release.federation["schedule"] == "rounds":
            _check_rounds(path, release.federation)
        model = path.with_suffix(".safetensors")
        if model.stat().st_size != release.model.size or sha256_file(model) != release.model.sha256:
            raise WeightsError(f"{model} is not the model that release {release.sequence} names")
        header = read_header(model)
        if header.architecture != release.architecture:
            raise WeightsError(f"{model} has another architecture than release {release.sequence} names")
        return Received(site, release, model, header)

    def publish(self, claim: Claim, weights: Mapping[str, np.ndarray], spec: dict[str, Any]) -> int:
        """Lay a checkpoint out for Bob, whole or not at all; returns its size in bytes.

        Raises:
            OSError: The disk is full or read-only. Nothing is left behind.
        """
        assert claim.architecture == architecture_hash(spec)
        model = self.outgoing / f"{claim.id}.safetensors"
        try:
            size = write_weights(model, weights, spec).size
            model.chmod(0o640)
            write_whole(model.with_suffix(".json"), claim.to_bytes(), mode=0o640)
        except OSError:
            model.unlink(missing_ok=True)
            raise
        self.prune(claim.session)
        return size

    def report(self, report: SessionOver) -> None:
        """Lay the report of a finished session out for Bob. Doing it again changes nothing."""
        write_whole(self.outgoing / f"{report.id}.json", report.to_bytes(), mode=0o640)

    def waiting(self) -> list[Path]:
        """The checkpoints that Bob has not taken yet, oldest first (an id begins with its time)."""
        return sorted(model for model in self.outgoing.glob("*.safetensors") if not is_part(model))

    def prune(self, session: int) -> None:
        """Remove what is no longer worth sending: all but the newest checkpoints of a session, and of all sessions."""
        waiting = self.waiting()
        of_session = [model for model in waiting if _session(model) == session]
        superseded = {*of_session[:-KEEP_OF_SESSION], *waiting[:-KEEP]}
        for model in superseded:
            model.with_suffix(".json").unlink(missing_ok=True)
            model.unlink(missing_ok=True)
        if superseded:
            fsync_folder(self.outgoing)


def _check_rounds(path: Path, federation: Mapping[str, Any]) -> None:
    """Check what Alice reads of rounds.

    Raises:
        BundleError: Something is missing.
    """
    now, last = federation.get("round"), federation.get("last")
    if "turns" not in federation or "round" not in federation:
        raise BundleError(f"{path}: the release's federation lacks 'turns' or 'round', with the schedule 'rounds'")
    for block, needed in ((now, {"number", "sites", "of"}), (last, {"round", "event", "reason"})):
        if block is not None and not (isinstance(block, dict) and needed <= block.keys()):
            raise BundleError(f"{path}: the release's federation tells a round without {', '.join(sorted(needed))}")


def _session(model: Path) -> int | None:
    try:
        return int(json.loads(model.with_suffix(".json").read_bytes())["session"])
    except FileNotFoundError:  # Bob has just taken it
        return None
