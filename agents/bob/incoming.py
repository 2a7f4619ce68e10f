"""Releases, brought in: opened, checked against the history, and laid out for Alice.

    exchange/incoming/<sequence>.safetensors, then <sequence>.json   {"site": NAME, "manifest": {…}}
    state/seen.json                                                  {"sequence", "head"}

The json comes last and says who this site is; the newest two releases are kept. `seen.json` follows them, so
after a kill in between the same release is brought in once more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from agents import bundle, chain, files, weights
from agents.bob.receipts import Receipts
from agents.bob.site import Folder, Site
from agents.errors import LedgerError, SettingsError
from agents.keys import PrivateKey
from agents.manifest import Release, canonical
from agents.transport import Address, Answer

KEEP = 2
MAX_HISTORY_BYTES = 1 << 30


class Door(Protocol):
    """What bringing in a release needs of a connection."""

    address: Address

    def stream(self, *words: str | int, into: Path, max_bytes: int, timeout: float = ...) -> Answer:
        """Run a verb and write what it prints into a file."""


class Incoming:
    """Alice's other side of the exchange folder.

    Args:
        exchange: The folder shared with Alice.
        folder: This site's folder.
        site: Whose releases to accept.
        key: The site key, which opens them.
        say: Called with an event, its text and its fields.
        max_bytes: The largest model to accept.
    """

    def __init__(
        self, exchange: Path, folder: Folder, site: Site, key: PrivateKey, say: Callable[..., None], max_bytes: int
    ) -> None:
        self.folder = exchange / "incoming"
        self._state = folder
        self._site = site
        self._key = key
        self._say = say
        self._max_bytes = max_bytes
        self._told: object = None  # the last round whose end was told

    def tidy(self) -> None:
        """Remove what a killed Bob left unfinished. Only at start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.sweep(self.folder)
        files.sweep(self._state.path)
        # Newer than what was seen: of a former coordinator, or to be brought in once more. Alice would take the first
        # for the newest.
        newest = read_seen(self._state.seen).sequence
        for path in (*self.folder.glob("*.json"), *self.folder.glob("*.safetensors")):
            if path.stem.isdecimal() and int(path.stem) > newest:
                path.unlink(missing_ok=True)

    def after(self) -> int:
        """The sequence to ask beyond: that of the newest release, unless Alice's copy of it is gone."""
        seen = read_seen(self._state.seen)
        there = (self.folder / f"{seen.sequence:08}.json").exists()
        return seen.sequence if there else max(seen.sequence - 1, 0)

    def fetch(self, door: Door, wait_seconds: int, patience: float) -> bool:
        """Wait for a release newer than the last and bring it in; False when there is none yet.

        Raises:
            UntrustedError: What came is not a release that continues what this site has seen.
            UnreachableError: The network failed.
            OSError: The disk is full.
        """
        sealed = files.part_of(self._state.path / "release.bundle")
        try:
            words = ("release", "--after", self.after(), "--wait", wait_seconds)
            limit = self._max_bytes + (bundle.MAX_BYTES - weights.MAX_BYTES)
            answer = door.stream(*words, into=sealed, max_bytes=limit, timeout=wait_seconds + patience)
            if answer.nothing_yet:
                return False
            if answer.status:
                raise answer.error(door.address, "release")
            self._bring_in(sealed, door)
        finally:
            sealed.unlink(missing_ok=True)
        return True

    def _bring_in(self, sealed: Path, door: Door) -> None:
        opened = files.part_of(self.folder / "release.safetensors")
        try:
            release = bundle.open_bundle(sealed, opened, Release, self._site.coordinator, self._key, self._max_bytes)
            seen = read_seen(self._state.seen)
            new = chain.check_order(seen, release)
            if new:
                seen = self._follow(seen, release, door)
            self._lay_out(opened, release)
        finally:
            opened.unlink(missing_ok=True)
        if new:
            files.write_whole(self._state.seen, canonical(dataclasses.asdict(seen)) + b"\n", mode=0o644)
        self._prune()
        self._tell(release)

    def _follow(self, seen: chain.Seen, release: Release, door: Door) -> chain.Seen:
        history = files.part_of(self._state.path / "history.jsonl")
        words = ("history", "--export", "--after", seen.sequence)
        try:
            answer = door.stream(*words, into=history, max_bytes=MAX_HISTORY_BYTES)
            if answer.status:
                raise answer.error(door.address, "history")
            verdicts = {
                receipt["sequence"]: receipt["record"]
                for receipt in Receipts(self._state.receipts)
                if receipt.get("record")
                and receipt["sequence"] > seen.sequence
                and receipt["recipient"] == self._site.coordinator.fingerprint  # not a former coordinator's
            }
            return chain.follow(_lines(history), seen, release, self._site.coordinator, verdicts)
        finally:
            history.unlink(missing_ok=True)

    def _lay_out(self, opened: Path, release: Release) -> None:
        model = self.folder / f"{release.sequence:08}.safetensors"
        opened.chmod(0o640)
        files.adopt(opened, model)
        note = {"site": self._site.name, "manifest": json.loads(release.to_bytes())}
        files.write_whole(model.with_suffix(".json"), canonical(note), mode=0o640)

    def _prune(self) -> None:
        notes = sorted(self.folder.glob("*.json"))
        for note in notes[:-KEEP]:
            note.unlink(missing_ok=True)
        kept = {note.stem for note in notes[-KEEP:]}
        for model in self.folder.glob("*.safetensors"):
            if model.stem not in kept:
                model.unlink(missing_ok=True)

    def _tell(self, release: Release) -> None:
        state = release.federation.get("state")
        accuracy = release.metrics.get("accuracy")
        scored = f": holdout accuracy {accuracy:.4f}" if isinstance(accuracy, float | int) else ""
        over = "; the federation is finished" if state == "finished" else ""
        self._say(
            "release", f"release {release.sequence}{scored}{over}", sequence=release.sequence, accuracy=accuracy,
            state=state, bytes=release.model.size,
        )  # fmt: skip
        self._tell_round(release.federation.get("last"))

    def _tell_round(self, last: object) -> None:
        """Say how the last round ended, once; several releases may tell of it."""
        if not isinstance(last, dict) or last == self._told:
            return
        self._told = last
        event, reason = str(last.get("event")), last.get("reason")
        text = f"round {last.get('round')} {event.removeprefix('round-')}: {reason}"
        self._say("round", text, round=last.get("round"), verdict=event, reason=reason)


def read_seen(path: Path) -> chain.Seen:
    """The newest release this site has seen; before the first, the very beginning.

    Raises:
        SettingsError: The file is damaged. It protects against going back, so it is not guessed anew.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        return chain.Seen(int(fields["sequence"]), str(fields["head"]))
    except FileNotFoundError:
        return chain.Seen()
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{path} is damaged", "restore it, or remove it to check the whole history anew") from None


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while line := file.readline(chain.MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) == chain.MAX_LINE_BYTES:
                    raise LedgerError(f"a line of the history is longer than {chain.MAX_LINE_BYTES:,} bytes")
                return
            yield line
