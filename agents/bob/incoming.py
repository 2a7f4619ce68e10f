"""Releases, brought in: opened, checked against the history, and laid out for Alice.

    exchange/incoming/genesis.json              the first record of the history: one signed line
    exchange/incoming/<sequence>.layers.safetensors, where the site's layers are for sites alone
    exchange/incoming/<sequence>.safetensors, then <sequence>.json
        {"site": NAME, "manifest": {…}, "signature": the manifest's, armored, "record": the release's, a signed line}
    exchange/incoming/status.json               see standing.py
    state/seen.json                             {"sequence", "head"}
    state/followed.json                         where the history stood then, see followed.py
    state/genesis.json                          the first record of the history

With the coordinator's public key and the hash of the genesis whoever reads this folder can check all of it without
believing Bob. The json comes last and says who this site is; the newest two releases are kept. `seen.json` follows
them, so after a kill in between the same release is brought in once more; so is one that an older Bob laid out
without its signature.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedssh import bundle, chain, files, weights
from fedssh.bob.board import Board
from fedssh.bob.followed import Followed
from fedssh.bob.lines import Lines, earlier, judge, line_of, read_lines
from fedssh.bob.receipts import Receipts
from fedssh.bob.shared import SharedFolder
from fedssh.bob.site import Folder, Site, read_genesis
from fedssh.bob.standing import Standing
from fedssh.errors import LedgerError, SettingsError, UntrustedError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey, parse_public
from fedssh.manifest import Release, Submission
from fedssh.rules.events import Record
from fedssh.rules.metrics import headline
from fedssh.rules.replay import Replay
from fedssh.rules.standing import Standing as FederationStanding
from fedssh.rules.typed import known
from fedssh.rules.vocabulary import JUDGED
from fedssh.transport import Answer

KEEP = 2
MAX_HISTORY_BYTES = 1 << 30
MAX_NOTE_BYTES = 4 * chain.MAX_LINE_BYTES  # a line, escaped once more, and a manifest
FINISHED_WAIT_SECONDS = 20  # an Alice who has just started believes in the end as soon as the door has said so again
_GENESIS, _NOTE, _MODEL = "genesis.json", ".json", ".safetensors"
_LAYERS = ".layers.safetensors"
_OTHER_GENESIS = "ask the coordinator's operator for the hash of record 1; if it is not this one, stop here"


class Door(Lines, Protocol):
    """What bringing in a release needs of a connection."""

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
        refuse: Whether a release is refused when a record on the way to it is not what the federation's own rules
            give; else it is only told.
        board: Has records after the newest release already, where updates are masked.

    Attributes:
        standing: What Alice is told about the door.
        finished: Whether the newest release that was brought in says that the federation is finished.
    """

    def __init__(
        self,
        exchange: Path,
        folder: Folder,
        site: Site,
        key: PrivateKey,
        say: Callable[..., None],
        max_bytes: int,
        refuse: bool = True,
        board: Board | None = None,
    ) -> None:
        self.path = exchange / "incoming"
        self.standing = Standing(folder.status, self.path)
        self.finished = False
        self._state = folder
        self._site = site
        self._key = key
        self._say = say
        self._max_bytes = max_bytes
        self._refuse = refuse
        self._followed = Followed(folder.followed)
        self._told: object = None  # the last round whose end was told
        self._board = board

    def tidy(self) -> None:
        """Remove what a killed Bob left unfinished. Only at start."""
        files.sweep(self._state.path)
        newest = read_seen(self._state.seen).sequence
        with SharedFolder(self.path) as folder:
            folder.sweep()
            for name in folder.names():
                stem, _, suffix = name.rpartition(".")
                # Newer than what was seen: of a former coordinator, or to be brought in once more. Alice would take
                # the first for the newest.
                stem = stem.removesuffix(".layers")
                if stem.isdecimal() and suffix in ("json", "safetensors") and int(stem) > newest:
                    folder.remove(name)
            note = _note(folder, newest)
            if note is None:
                folder.remove(f"{newest:08}{_NOTE}")
            self.finished = _is_finished(note)
            self._lay_out_genesis(folder, read_genesis(self._state))
        self.standing.begin(newest or None)

    def after(self) -> int:
        """The sequence to ask beyond: that of the newest release, unless Alice's copy of it is gone."""
        seen = read_seen(self._state.seen)
        with SharedFolder(self.path) as folder:
            there = folder.stat(f"{seen.sequence:08}{_NOTE}")
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
            after = self.after()
            words = ("release", "--after", after, "--wait", wait_seconds)
            limit = self._max_bytes + (bundle.MAX_BYTES - weights.MAX_BYTES)
            answer = door.stream(*words, into=sealed, max_bytes=limit, timeout=wait_seconds + patience)
            if answer.nothing_yet:
                if not answer.busy:
                    self.standing.confirm(after or None)
                return False
            if answer.status:
                raise answer.error(door.address, "release")
            self._bring_in(sealed, door)
        finally:
            sealed.unlink(missing_ok=True)
        return True

    def _bring_in(self, sealed: Path, door: Door) -> None:
        with SharedFolder(self.path) as folder, folder.new() as plain, bundle.read(sealed) as arrived:
            release = arrived.verify(self._site.coordinator, Release)
            arrived.extract(plain.file, self._key, self._max_bytes)
            seen = read_seen(self._state.seen)
            new = chain.check_order(seen, release)
            replay = self._followed.at(seen, lambda number: earlier(door, number, self._site.coordinator))
            lines, about = self._follow(replay, seen, release, door) if new else ({}, {})
            genesis = self._genesis(lines.get(1), door)
            record = lines.get(release.sequence) or line_of(door, release.sequence)
            coordinator = self._site.coordinator
            chain.check_release(release, chain.read_line(record, coordinator), chain.read_line(genesis, coordinator))
            if read_genesis(self._state) != genesis:
                files.write_whole(self._state.genesis, genesis, mode=0o644)
            self._lay_out_genesis(folder, genesis)
            note = {
                "site": self._site.name,
                "manifest": json.loads(release.to_bytes()),
                "signature": arrived.signature,
                "record": record.decode().rstrip("\n"),
            }
            self._bring_in_layers(folder, replay, release, door)
            plain.adopt(f"{release.sequence:08}{_MODEL}", 0o640)
            folder.write(f"{release.sequence:08}{_NOTE}", canonical(note), 0o640)
            if new:
                seen = chain.Seen(release.sequence, release.head)
                files.write_whole(self._state.seen, canonical(dataclasses.asdict(seen)) + b"\n", mode=0o644)
                self._followed.keep(replay, about)
            _prune(folder)
        self.standing.brought(release.sequence)
        self.finished = release.federation.get("state") == "finished"
        self._tell(release)

    def _bring_in_layers(self, folder: SharedFolder, replay: Replay, release: Release, door: Door) -> None:
        """Bring in the site's layers, where they are for sites alone: signed by the site they came from."""
        standing = FederationStanding.read(release.federation, "the release's federation")
        layers = known(standing.layers, None)
        if layers is None:
            return
        member = replay.state.member(layers.site) if replay.state else None
        if member is None:
            raise LedgerError(f"the layers of release {release.sequence} are of {layers.site}, who was never enrolled")
        sealed = files.part_of(self._state.path / "layers.bundle")
        try:
            limit = self._max_bytes + (bundle.MAX_BYTES - weights.MAX_BYTES)
            answer = door.stream("layers", layers.submission, into=sealed, max_bytes=limit)
            if answer.status:
                raise answer.error(door.address, "layers")
            with bundle.read(sealed) as arrived, folder.new() as plain:
                manifest = arrived.verify(parse_public(member.key, f"the key of {layers.site}"), Submission)
                found = manifest.id, manifest.sender, manifest.model.sha256, manifest.model.size
                if found != (layers.submission, layers.site, layers.sha256, layers.size):
                    raise LedgerError(f"the layers that came are not those of release {release.sequence}")
                arrived.extract(plain.file, self._key, self._max_bytes, several=True)
                plain.adopt(f"{release.sequence:08}{_LAYERS}", 0o640)
        finally:
            sealed.unlink(missing_ok=True)

    def wait_seconds(self, most: int) -> int:
        """How long to let the door hold the next question, at most so many seconds."""
        return min(most, FINISHED_WAIT_SECONDS) if self.finished else most

    def _follow(
        self, replay: Replay, seen: chain.Seen, release: Release, door: Door
    ) -> tuple[dict[int, bytes], dict[int, str]]:
        """Check that the history leads from what was seen to the release, and by the rules that were agreed.

        Args:
            replay: The history after what was seen, or before its first record; goes on to the release.

        Returns:
            The signed lines of record 1, where it was among those that came, and of the release; and the hashes of the
            records that are verdicts on this site, by their number.
        """
        history = files.part_of(self._state.path / "history.jsonl")
        begin = chain.Seen() if replay.state is None else seen
        try:
            ahead = self._board.lines(begin.sequence) if self._board else []
            words = ("history", "--export", "--after", begin.sequence + len(ahead))
            answer = door.stream(*words, into=history, max_bytes=MAX_HISTORY_BYTES)
            if answer.status:
                raise answer.error(door.address, "history")
            before = self._followed.verdicts
            verdicts = {
                receipt["sequence"]: receipt["record"]
                for receipt in Receipts(self._state.receipts)
                if receipt.get("record")
                and (receipt["sequence"] > begin.sequence or receipt["sequence"] in before)
                and receipt["recipient"] == self._site.coordinator.fingerprint  # not a former coordinator's
            }
            for number, hash in before.items():  # it may have been given since
                chain.check_given(verdicts, number, hash)
            kept: dict[int, bytes] = {}
            about: dict[int, str] = {}

            def lines() -> Iterator[bytes]:
                for number, line in enumerate(itertools.chain(ahead, read_lines(history)), begin.sequence + 1):
                    if number in (1, release.sequence):
                        kept[number] = line
                    yield line

            def each(record: Record) -> None:
                if record.event in JUDGED and record.fields.get("site") == self._site.name:
                    about[record.sequence] = record.hash
                if record.sequence > seen.sequence:
                    judge(replay, record, self._refuse, self._say)
                else:  # followed before, by a Bob who did not keep where it stood
                    replay.go_on(record)
                    chain.check_seen(seen, record)

            chain.follow(lines(), begin, release, self._site.coordinator, verdicts, each)
            return kept, about
        finally:
            history.unlink(missing_ok=True)

    def _genesis(self, line: bytes | None, door: Door) -> bytes:
        """The line of record 1: just followed, or kept from then, or asked for once where an older Bob followed it.

        Raises:
            LedgerError: It is not the genesis that this site was invited to.
        """
        line = line or read_genesis(self._state) or line_of(door, 1)
        found = chain.read_line(line, self._site.coordinator).hash
        if self._site.genesis not in (None, found):
            raise LedgerError(
                f"the history begins with {found}, this site was invited to {self._site.genesis}", _OTHER_GENESIS
            )
        return line

    def _lay_out_genesis(self, folder: SharedFolder, line: bytes | None) -> None:
        """Let Alice have the genesis of the federation that this site is in, and no former one's."""
        if line is None:
            folder.remove(_GENESIS)
        elif _read(folder, _GENESIS) != line:
            folder.write(_GENESIS, line, 0o640)

    def _tell(self, release: Release) -> None:
        state = release.federation.get("state")
        name, value = headline(release.metrics) or ("accuracy", None)
        scored = f": holdout {name} {value:.4f}" if value is not None else ""
        over = "; the federation is finished" if state == "finished" else ""
        self._say(
            "release", f"release {release.sequence}{scored}{over}", sequence=release.sequence,
            state=state, bytes=release.model.size, **{name: value},
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


def _prune(folder: SharedFolder) -> None:
    notes = [name for name in folder.names(_NOTE) if name.removesuffix(_NOTE).isdecimal()]
    folder.remove(*notes[:-KEEP])
    kept = {name.removesuffix(_NOTE) for name in notes[-KEEP:]}
    folder.remove(*(name for name in folder.names(_MODEL) if name.partition(".")[0] not in kept))


def _note(folder: SharedFolder, sequence: int) -> dict[str, Any] | None:
    """The note of a release with all that Alice needs to check it; an older Bob left two fields out."""
    text = _read(folder, f"{sequence:08}{_NOTE}")
    try:
        note = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) and {"site", "manifest", "signature", "record"} <= note.keys() else None


def _is_finished(note: Mapping[str, Any] | None) -> bool:
    try:
        return bool(note and note["manifest"]["federation"]["state"] == "finished")
    except (KeyError, TypeError):
        return False


def _read(folder: SharedFolder, name: str) -> bytes | None:
    """What a file says that this or a former Bob has written; None where it is gone, or something else stands there."""
    try:
        return folder.read(name, MAX_NOTE_BYTES)
    except (FileNotFoundError, UntrustedError):
        return None
