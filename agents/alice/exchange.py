"""The folder shared with Bob: releases in, checkpoints and reports out.

    incoming/                                               see `incoming`
    outgoing/<id>.safetensors, then <id>.json               a checkpoint and its claim
    outgoing/<id>.json                                      the report of a finished session, or a release's scores

The json comes last and goes first, so whatever has its json is whole. Bob removes what he took and keeps only the
newest releases, so any file may be gone by the time it is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.alice.incoming import Received, newest_sequence, read_release
from fedssh.alice.terms import Terms
from fedssh.chain import Seen
from fedssh.errors import UntrustedError
from fedssh.files import check_folder, fsync_folder, is_part, read_shared, sweep, write_whole
from fedssh.forms import MAX_BYTES
from fedssh.manifest import Claim, SessionOver, SiteScored
from fedssh.weights import Header, architecture_hash, write_weights, write_words

if TYPE_CHECKING:
    import numpy as np

KEEP_OF_SESSION = 2  # Bob may be sealing the newest but one while the newest is written
KEEP = 8  # while Bob is away for days, the disk must not fill up
_NOTHING = Seen()


class Exchange:
    """Alice's view of the exchange folder. She is the one writer of `outgoing/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.outgoing = folder / "outgoing"

    def tidy(self) -> None:
        """Make the folders, and remove what a killed Alice left unfinished. Only at start.

        Raises:
            SettingsError: One of them is a link, or no folder.
        """
        for folder in (self.incoming, self.outgoing):
            if not os.path.lexists(folder):
                folder.mkdir(parents=True, exist_ok=True)
            check_folder(folder)
        sweep(self.outgoing)
        for model in self.outgoing.glob("*.safetensors"):
            if not model.with_suffix(".json").exists():
                _remove(model)

    def newest_sequence(self) -> int | None:
        """The sequence of the newest release, without opening it."""
        return newest_sequence(self.incoming)

    def newest(self, terms: Terms, private: Path, site: str | None = None, seen: Seen = _NOTHING) -> Received | None:
        """The newest release, or None before the first.

        Args:
            terms: What this site has agreed to.
            private: Alice's own folder, which gets a copy of the model.
            site: This site's name, where an invitation said it.
            seen: The newest release that this site has taken.

        Raises:
            Unready: It cannot be judged yet.
            UntrustedError: As `incoming.read_release`.
        """
        while (sequence := self.newest_sequence()) is not None:
            try:
                return read_release(self.incoming, sequence, terms, site, seen, private)
            except FileNotFoundError:
                if self.newest_sequence() == sequence:  # not pruned for a newer one: only its model is missing
                    raise
        return None

    def publish(self, claim: Claim, weights: Mapping[str, np.ndarray], spec: dict[str, Any]) -> int:
        """Lay a checkpoint out for Bob, whole or not at all; returns its size in bytes.

        Raises:
            OSError: The disk is full or read-only. Nothing is left behind.
            SettingsError: `outgoing` has become a link.
        """
        assert claim.architecture == architecture_hash(spec)
        return self._publish(claim, lambda path: write_weights(path, weights, spec))

    def publish_words(self, claim: Claim, vector: bytes, release: Header) -> int:
        """The same of an update that is summed under masks: the words that Bob masks.

        Args:
            vector: uint32 [n + 1], little-endian, see `masks.numbers`.
            release: The header of the model that it starts from.
        """
        return self._publish(claim, lambda path: write_words(path, vector, release.tensors, release.spec))

    def _publish(self, claim: Claim, write: Callable[[Path], Header]) -> int:
        check_folder(self.outgoing)
        model = self.outgoing / f"{claim.id}.safetensors"
        try:
            size = write(model).size
            model.chmod(0o640)
            write_whole(model.with_suffix(".json"), claim.to_bytes(), mode=0o640)
        except OSError:
            model.unlink(missing_ok=True)
            raise
        self.prune(claim.session)
        return size

    def report(self, report: SessionOver) -> None:
        """Lay the report of a finished session out for Bob. Doing it again changes nothing."""
        check_folder(self.outgoing)
        write_whole(self.outgoing / f"{report.id}.json", report.to_bytes(), mode=0o640)

    def say_scores(self, scores: SiteScored) -> None:
        """Lay out for Bob what a release scores here."""
        check_folder(self.outgoing)
        write_whole(self.outgoing / f"{scores.id}.json", scores.to_bytes(), mode=0o640)

    def waiting(self) -> list[Path]:
        """The checkpoints that Bob has not taken yet, oldest first (an id begins with its time)."""
        return sorted(model for model in self.outgoing.glob("*.safetensors") if not is_part(model))

    def prune(self, session: int) -> None:
        """Remove what is no longer worth sending: all but the newest checkpoints of a session, and of all sessions."""
        waiting = self.waiting()
        of_session = [model for model in waiting if _session(model) == session]
        superseded = {*of_session[:-KEEP_OF_SESSION], *waiting[:-KEEP]}
        for model in superseded:
            _remove(model.with_suffix(".json"))
            _remove(model)
        if superseded:
            fsync_folder(self.outgoing)


def _remove(path: Path) -> None:
    """Remove a file. What somebody else put there under its name may be a folder, which stays."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def _session(model: Path) -> int | None:
    try:
        return int(json.loads(read_shared(model.with_suffix(".json"), MAX_BYTES))["session"])
    except FileNotFoundError:  # Bob has just taken it
        return None
    except (UntrustedError, ValueError, KeyError, TypeError, RecursionError):  # somebody else wrote here
        return None
