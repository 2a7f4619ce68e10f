"""The history: an append-only, signed hash chain in SQLite. The only place for sqlite3.

    record     canonical JSON {"sequence":n,"previous":hex,"event":name,"time":…, the event's own fields}
    hash       SHA-256 of those bytes; the next record's "previous". The first record's is 64 zeros
    signature  SSHSIG by the coordinator over those bytes, namespace ledger@fedssh
    line       {"hash":hex,"record":"<the canonical JSON>","sequence":n,"signature":"…"}, one per line: the export

A line is all that is needed to check a record with `jq`, `sha256sum` and `ssh-keygen -Y verify`; its form is that of
`chain`. A record has at most 64 kB, because that is what every reader reads: a larger one is refused before it is
written. Whatever goes through the whole history goes through it record by record, so memory does not grow with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssh.chain import record_of
from fedssh.errors import BundleError, LedgerError, SignatureError
from fedssh.forms import MAX_BYTES, canonical, parse
from fedssh.keys import PrivateKey, PublicKey
from fedssh.manifest import judged_once, now
from fedssh.rules.events import START, Record
from fedssh.rules.vocabulary import JUDGED
from fedssh.signature import LEDGER, sign
from fedssh.signature import verify as verify_signature

_BATCH = 64  # records of at most 64 kB: at most 4 MB at once

# `subject` is what is judged once per site, see `judged_once`.
_SCHEMA = """
CREATE TABLE record (
    sequence  INTEGER PRIMARY KEY,
    hash      TEXT NOT NULL UNIQUE,
    text      BLOB NOT NULL,
    signature TEXT NOT NULL,
    event     TEXT NOT NULL,
    site      TEXT,
    subject   TEXT
) STRICT;
CREATE UNIQUE INDEX judged_once ON record (site, subject) WHERE subject IS NOT NULL;
CREATE TRIGGER no_update BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON record BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""


class Ledger:
    """A history on disk. Several processes may read and append at once; appends are serialised by SQLite.

    Args:
        path: The database. Its folder also holds SQLite's write-ahead log.

    Raises:
        LedgerError: The database is missing, of another version, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise LedgerError(f"there is no ledger at {path}", "is --state right? `charity init` makes a new one")
        with self._guard():
            self._database = _connect(path)
            # As sqlite3 does by itself when nobody holds the ledger any more; from Python 3.13 on it warns of that.
            weakref.finalize(self, self._database.close).atexit = False
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version != 1:
                self._database.close()
                raise LedgerError(f"the ledger at {path} has version {version}, this program reads version 1")

    @classmethod
    def create(cls, path: Path) -> Ledger:
        """Make an empty history; one that exists is opened as it is."""
        with contextlib.closing(_connect(path)) as database:
            path.chmod(0o600)
            if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        return cls(path)

    def append(self, event: str, fields: Mapping[str, Any], key: PrivateKey) -> Record:
        """Sign one event and add it to the end, durably.

        Raises:
            LedgerError: The site's submission already has its verdict, the record is too large, or the database is
                damaged.
            OSError: The disk is full, failing or read-only; the history is as it was.
        """
        with self._guard():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                record = _next(self._last(), event, fields, key)
                self._database.execute(
                    "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        record.sequence,
                        record.hash,
                        record.text,
                        record.signature,
                        event,
                        fields.get("site"),
                        subject_of(event, fields),
                    ),
                )
                self._database.commit()
            except BaseException:
                self._database.rollback()
                raise
        return record

    def records(self, after: int = 0) -> list[Record]:
        """All records with a sequence above `after`, in order; `iterate` where they may be many."""
        return list(self.iterate(after))

    def iterate(self, after: int = 0, end: int | None = None) -> Iterator[Record]:
        """The records with a sequence above `after`, in order, a few at a time.

        Args:
            end: The last; None is the newest, those added meanwhile included.
        """
        where = "WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?"
        while found := self._select(where, after, 2**63 - 1 if end is None else end, _BATCH):
            yield from found
            after = found[-1].sequence

    def record(self, sequence: int) -> Record:
        """One record.

        Raises:
            LedgerError: There is none of that number.
        """
        found = self._select("WHERE sequence = ?", sequence)
        if not found:
            raise LedgerError(f"the history has no record {sequence}")
        return found[0]

    def head(self) -> Record | None:
        """The newest record, or None at the very beginning."""
        with self._guard():
            return self._last()

    def find(self, site: str, subject: str) -> Record | None:
        """The verdict on a site's submission or report, if there is one."""
        found = self._select("WHERE site = ? AND subject = ?", site, subject)
        return found[0] if found else None

    def judged(self, after: int = 0) -> list[Record]:
        """All verdicts with a sequence above `after`, in order."""
        return list(self.of(JUDGED, after))

    def of(self, events: Sequence[str], after: int = 0) -> Iterator[Record]:
        """The records of some events with a sequence above `after`, in order, a few at a time."""
        marks = ", ".join("?" * len(events))
        where = f"WHERE sequence > ? AND event IN ({marks}) ORDER BY sequence LIMIT ?"
        while found := self._select(where, after, *events, _BATCH):
            yield from found
            after = found[-1].sequence

    def check(self) -> None:
        """Have SQLite check the file itself.

        Raises:
            LedgerError: Pages or indexes are damaged.
        """
        with self._guard():
            found = self._database.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _last(self) -> Record | None:
        rows = self._database.execute(f"{_COLUMNS} ORDER BY sequence DESC LIMIT 1").fetchall()
        return Record(*rows[0]) if rows else None

    def _select(self, where: str, *values: Any) -> list[Record]:
        with self._guard():
            return [Record(*row) for row in self._database.execute(f"{_COLUMNS} {where}", values)]

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise LedgerError(f"the ledger refuses the record: {error}") from None
        except sqlite3.OperationalError as error:
            if number := _DISK.get(getattr(error, "sqlite_errorcode", 0) & 0xFF):
                raise OSError(number, str(error), str(self.path)) from None
            raise LedgerError(f"the ledger at {self.path} cannot be used: {error}") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            hint = "restore it from a backup that is not older than outbox/ledger.jsonl"
            raise LedgerError(f"the ledger at {self.path} is damaged: {error}", hint) from None


# Primary result codes that mean what OSError means everywhere else: nothing is wrong with the history, try later.
_DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO, sqlite3.SQLITE_READONLY: errno.EROFS}

_COLUMNS = "SELECT sequence, hash, text, signature FROM record"


def _connect(path: Path) -> sqlite3.Connection:
    """Write-ahead log: a commit costs one fsync, and readers never wait. FULL: a commit survives a power cut."""
    database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _next(last: Record | None, event: str, fields: Mapping[str, Any], key: PrivateKey) -> Record:
    sequence, previous = (last.sequence + 1, last.hash) if last else (1, START)
    text = canonical({**fields, "sequence": sequence, "previous": previous, "event": event, "time": now()})
    if len(text) > MAX_BYTES:
        raise LedgerError(
            f"the {event} record {sequence} would have {len(text):,} bytes, every reader takes at most {MAX_BYTES:,}",
            "nothing was written; with fewer sites enrolled it has room",
        )
    return Record(sequence, hashlib.sha256(text).hexdigest(), text, sign(text, key, LEDGER))


def subject_of(event: str, fields: Mapping[str, Any]) -> str | None:
    """What this event judges once and for all, if it judges anything."""
    if event not in JUDGED:
        return None
    return judged_once(fields["submission"], lambda: str(fields["bundle"]))


def verify(records: Iterable[Record], coordinator: PublicKey) -> int:
    """Check a whole history: every number, hash, link and signature. Returns how many records there are.

    Raises:
        LedgerError: Names the first record that is not what it must be.
    """
    return sum(1 for _ in checked(records, coordinator))


def checked(
    records: Iterable[Record], coordinator: PublicKey, after: int = 0, previous: str = START
) -> Iterator[Record]:
    """The records of a history, each checked before it is given on.

    Args:
        after, previous: Number and hash of the record before the first, where what came before is known to be good.

    Raises:
        LedgerError: Names the first record that is not what it must be.
    """
    for record in records:
        _verify_one(record, after + 1, previous, coordinator)
        after, previous = record.sequence, record.hash
        yield record


def _verify_one(record: Record, sequence: int, previous: str, coordinator: PublicKey) -> None:
    if record.sequence != sequence:
        raise LedgerError(f"record {record.sequence} stands where record {sequence} is expected")
    found = hashlib.sha256(record.text).hexdigest()
    if found != record.hash:
        raise LedgerError(f"record {sequence} hashes to {found}, its hash is given as {record.hash}")
    try:
        fields = parse(record.text)
        verify_signature(record.text, record.signature, LEDGER, coordinator)
    except (BundleError, SignatureError) as error:
        raise LedgerError(f"record {sequence}: {error}") from None
    if type(fields.get("sequence")) is not int or fields["sequence"] != sequence:
        raise LedgerError(f"record {sequence} calls itself {str(fields.get('sequence'))[:40]}")
    if fields.get("previous") != previous:
        raise LedgerError(f"record {sequence} follows {fields.get('previous')}, the record before it is {previous}")


def read_export(lines: Iterable[bytes], *, growing: bool = True) -> Iterator[Record]:
    """Read what `Record.line` wrote, line by line; check it with `checked` or `verify`.

    Args:
        growing: Whether a last line without its newline is one still being written, and left out.

    Raises:
        LedgerError: A line is not a ledger line.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            if growing:
                return
            raise LedgerError(f"line {number} of the history has no end: what came after it is missing")
        try:
            yield record_of(line)
        except LedgerError:
            raise LedgerError(f"line {number} of the history is not a ledger line") from None
