"""The vault: the history with its state, the stored models, and what the door may show of them.

`charity serve` and the commands work on it at the same time. Whoever adds to the history holds the vault's lock
from reading the state until the record is in the outbox, so every decision is made on the newest state and the
outbox never runs ahead or aside. The outbox is derived: whatever is missing there is written again from the
history. A start reads what came after the newest `snapshot`, and what is done for every record costs the same at the
millionth as at the first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fedssh.bundle import check_recipient
from fedssh.charity import inbox, snapshot
from fedssh.charity.bench import mixed_beside
from fedssh.charity.folders import Folders
from fedssh.commands import tell
from fedssh.errors import AgentError, LedgerError
from fedssh.files import locked, move_whole, sha256_file, sweep, write_whole
from fedssh.history import totals
from fedssh.history.published import NoRecord, Published
from fedssh.keys import PrivateKey, PublicKey, load_private, login_line, parse_public
from fedssh.ledger import Ledger, checked
from fedssh.rules.events import START, Accepted, Blob, Counted, Event, Record, Refused, RoundAccepted
from fedssh.rules.federation import Federation, Member, advance, derive
from fedssh.rules.typed import known
from fedssh.rules.vocabulary import JUDGED, MAKES_CURRENT
from fedssh.signature import allowed_signers

COORDINATOR = "charity"  # her name as a sender and in allowed_signers
PUBLIC = 0o644
KEPT_VERDICTS = 1000  # per site; whoever asks for an older one sends the bundle again, and is told it again
_TAIL = 1 << 20

logger = logging.getLogger("charity")


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
        known = snapshot.read(folders.snapshot, self.key.public, self.ledger)
        self.covered = (known.sequence, known.head) if known else (0, START)  # by the snapshot on disk
        self.checked = self.covered  # up to here every hash, link and signature was found right
        self.state: Federation = known or derive(self.ledger.iterate())
        self.refresh()
        self._summed = 0  # the record of which there is a summary, as far as this process knows
        self._unusable: set[str] = set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[Federation]:
        """Keep everybody else from adding to the history; yields the newest state. Do not nest."""
        with locked(self.folders.vault / "lock"):
            yield self.refresh()

    def refresh(self) -> Federation:
        """The state after what others have added."""
        for record in self.ledger.iterate(after=self.state.sequence):
            self.state = advance(self.state, record)
        return self.state

    def check(self) -> None:
        """Check the history as far as no snapshot covers it; without one, also the database itself.

        Raises:
            LedgerError: The history is damaged; names the first record that is not what it must be.
        """
        if not self.checked[0]:
            self.ledger.check()
        after, previous = self.checked
        for record in checked(self.ledger.iterate(after), self.key.public, after, previous):
            self.checked = (record.sequence, record.hash)

    def append(
        self, event: Event, model: Path | None = None, sets: Sequence[Path] = (), sent: Path | None = None
    ) -> Record:
        """Add a record and publish it. The caller holds the lock.

        Args:
            model: The file that it names, which is moved to where such files are kept before the record names it: an
                update's, or that of what becomes current.
            sets: Those of a server optimizer's state, or under `split` of the two parts' optimizers.
            sent: The candidate's file, where later steps of its session start from it, or where it waits for others.
        """
        if sent is not None:
            assert isinstance(event, Accepted | Refused), "no other record names what is stepped from"
            name = known(event.candidate, event.model)
            assert name is not None, "a report has no model"
            move_whole(sent, self.folders.update(name.sha256))
        if model is not None:
            assert isinstance(event, Accepted | Counted | RoundAccepted), "no other record names a new model"
            folder = self.folders.update if isinstance(event, Counted) else self.folders.model
            move_whole(model, folder(event.model.sha256))
            named = () if isinstance(event, Counted) else known(event.state, ())
            for path, blob in zip(sets, named, strict=True):
                move_whole(path, self.folders.server_state(blob.sha256))
        kept = self.state.kept
        record = self.ledger.append(event.name, event.fields(), self.key)
        self.refresh()
        if sent is not None or sets or kept - self.state.kept:
            self.end_round()
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
        able = [one for one in state.enrolled if self.can_use(one)]
        rows = [{"site": one.name, "role": one.role, "key": one.key} for one in able]
        for site in state.sites:
            inbox.make_folder(self.folders, site.name)
        signers = {one.name: PublicKey(one.key) for one in able if one.role == "site"} | {COORDINATOR: self.key.public}
        files = {
            "sites.json": json.dumps({"sites": rows}, indent=2) + "\n",
            "allowed_signers": allowed_signers(dict(signers)),
            "coordinator_key.pub": f"{self.key.public.line} {COORDINATOR}\n",
        }
        for name, text in files.items():
            if not _has(outbox / name, text.encode()):
                write_whole(outbox / name, text.encode(), PUBLIC)

    def can_use(self, member: Member) -> bool:
        """Whether a key can be used; says once of each that cannot.

        Enrolling refuses such a key, but older versions looked less closely, and what is in the history stays there.
        """
        try:
            _check_key(member.key, member.role)
        except AgentError as error:
            if member.key not in self._unusable:
                self._unusable.add(member.key)
                text = f"{member.name} is left out, because its key cannot be used: {error}; revoke it"
                tell(logger, "unusable-key", text, logging.WARNING, site=member.name, reason=str(error))
            return False
        return True

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
        with self.locked() as state:
            check_history(folders, self.ledger, self.covered[0])
            publish_history(folders, self.ledger)
            self.publish_sites()
            newest = max(0, state.sequence - KEPT_VERDICTS)
            for record in self.ledger.of(JUDGED, after=min(self.covered[0], newest)):
                self.publish_verdict(record)

    def keep_up(self) -> None:
        """Renew the snapshot and the summary when they have become old, and let go of old verdicts.

        Raises:
            LedgerError: The history is damaged, so no snapshot of it is made.
        """
        newest = self.state.sequence
        if newest - self.covered[0] < snapshot.EVERY and newest - self._summed < totals.EVERY:
            return
        with self.locked() as state:
            if state.sequence - self.covered[0] >= snapshot.EVERY:
                self.check()
                snapshot.write(self.folders.snapshot, state, self.key)
                self.covered = (state.sequence, state.head)
                self._prune_verdicts()
            if state.sequence - self._summed >= totals.EVERY:
                self._summed = publish_summary(self.folders, self.ledger)

    def _prune_verdicts(self) -> None:
        for folder in (self.folders.outbox / "verdicts").iterdir():
            with os.scandir(folder) as entries:
                found = sorted((entry.stat().st_mtime_ns, entry.path) for entry in entries)
            for _, path in found[:-KEPT_VERDICTS]:
                os.unlink(path)

    def blob(self, model: Path) -> Blob:
        """The hash and size of a file."""
        return Blob(sha256=sha256_file(model), size=model.stat().st_size)

    def drop(self, model: Path) -> None:
        """Remove an opened model, unless it was moved to where it is kept, and its mix."""
        model.unlink(missing_ok=True)
        mixed_beside(model).unlink(missing_ok=True)

    def end_round(self) -> None:
        """Let go of updates and candidates that nothing starts from, and of old states of the server optimizer.

        The caller holds the lock.
        """
        current = self.state.round
        updates = {update.model.sha256 for update in current.updates} if current else set()
        wanted = {
            self.folders.updates: updates | self.state.kept,
            self.folders.server: {blob.sha256 for blob in self.state.current.server},
        }
        for folder, named in wanted.items():
            for path in folder.glob("*.safetensors"):
                if path.stem not in named:
                    path.unlink()

    def sweep_models(self) -> None:
        """Remove models that no record names: a crash came between storing one and recording it."""
        with self.locked():
            self.end_round()
            for path in self._unknown_models():
                path.unlink()

    def _unknown_models(self) -> list[Path]:
        """Stored models that no record names. Those older than the snapshot were looked at before it was made."""
        since = self.folders.snapshot.stat().st_mtime_ns if self.covered[0] else 0
        with os.scandir(self.folders.models) as entries:
            found = {entry.name: Path(entry.path) for entry in entries if entry.stat().st_ctime_ns >= since}
        for after in (self.covered[0], 0):  # what remains then may be an old one, copied here with the folder
            for record in self.ledger.of(MAKES_CURRENT, after) if found else ():
                found.pop(self.folders.model(record.fields["model"]["sha256"]).name, None)
        return list(found.values())


@functools.lru_cache(maxsize=4096)  # a release asks for every site's
def _check_key(line: str, role: str) -> None:
    if role == "site":
        check_recipient(parse_public(line, "it"))
    else:
        login_line(line, "it")


def publish_history(folders: Folders, ledger: Ledger) -> None:
    """Append to the outbox's history what it lacks. The caller holds the lock.

    The file is not synced: it is derived from the ledger, which is. A line cut off by a crash is cut away first.
    """
    handle = os.open(folders.published, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
    with open(handle, "r+b", buffering=_TAIL) as file:  # a few records are one write, so that nobody sees half a line
        sequence = _last_published(file.fileno())
        file.seek(0, os.SEEK_END)
        file.writelines(record.line() for record in ledger.iterate(after=sequence))


def publish_summary(folders: Folders, ledger: Ledger) -> int:
    """Bring the totals of the views up to the newest record, whose number is returned. The caller holds the lock."""
    known = totals.read(folders.summary.read_bytes()) if folders.summary.exists() else None
    head = ledger.head()
    if known and (head is None or head.sequence < known["sequence"]):
        known = None
    if known and ledger.record(known["sequence"]).hash != known["hash"]:
        known = None
    found = totals.fold(map(row, ledger.iterate(known["sequence"] if known else 0)), known)
    assert found is not None, "the caller has read the first record"
    if head is None or not known or head.sequence != known["sequence"]:
        write_whole(folders.summary, totals.write(found), PUBLIC)
    return int(found["sequence"])


def row(record: Record) -> dict[str, Any]:
    """A record as the views want it."""
    return record.fields | {"hash": record.hash, "signature": record.signature}


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


def check_history(folders: Folders, ledger: Ledger, known: int = 0) -> None:
    """Compare the published history with the ledger, line for line; cut it off where a crash damaged it.

    Args:
        known: The number of a record up to which it was compared before: when that record stands where it must, what
            stands before it is not read again.

    Raises:
        LedgerError: It is intact and tells something else: the ledger was put back to an older or another one.
    """
    path = folders.published
    if not path.exists():
        return
    with open(path, "r+b") as file:
        good, known = _compared(file, ledger, known)
        records = ledger.iterate(known)
        file.seek(good)
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


def _compared(file: BinaryIO, ledger: Ledger, known: int) -> tuple[int, int]:
    """The place after the line of a record, and its number; the beginning, when that line is not there."""
    try:
        published = Published(file)
        line = published.line(known)
        return (published.start_of(known) + len(line), known) if line == ledger.record(known).line() else (0, 0)
    except (NoRecord, ValueError):  # not there, or damaged on the way to it
        return 0, 0


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
