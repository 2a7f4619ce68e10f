"""Reading a history as it grows: each record checked as Bob does before anybody sees it.

What was seen on an earlier day must be in it; where a connection ends, the next one begins at the record that was read
last, which must be there and the same. So neither a cut-off nor a forked history is taken for a new one.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedssh import chain
from fedssh.chain import Seen
from fedssh.errors import AgentError, LedgerError, RollbackError, SettingsError, UnreachableError, UntrustedError
from fedssh.history.published import NoRecord, Published
from fedssh.keys import PublicKey, parse_public
from fedssh.manifest import now
from fedssh.rules.events import Record
from fedssh.rules.replay import Replay
from fedssh.watch import remembered
from fedssh.watch.board import Board
from fedssh.watch.remembered import Remembered
from fedssh.watch.ssh import NotUnderstoodError
from fedssh.watch.trust import Trust

Row = dict[str, Any]
FIRST_SECONDS, MOST_SECONDS = 1.0, 30.0  # until the next try
POLL_SECONDS = 3.0  # where the door cannot say when there is more
KEEP_SECONDS = 5.0  # between two times that what was seen is written down
_COMPARE = "compare it with the coordinator's"


class Source(Protocol):
    """Where the lines of a history come from."""

    def lines(self, after: int, *, follow: bool = False) -> Iterator[bytes]:
        """The lines above a number: those there are, or also those that come."""

    def stop(self) -> None:
        """End what waits, from any thread; nothing begins any more."""


@dataclass(frozen=True)
class Standing:
    """How the reading stands.

    Attributes:
        connection: What there is to say of it.
        connected: Whether there is one.
        caught_up: Whether all that there was has been read.
        checked: What was checked, and by whose key.
        records: How many records were.
    """

    connection: str = "connecting"
    connected: bool = False
    caught_up: bool = False
    checked: str = "read"
    records: int = 0


# What code of ours may come to where a record, though signed, is of a kind that nobody has thought of.
STRAY = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


class Follower:
    """Reads and checks a history, in a thread of its own, and hands out what it says.

    Args:
        source: Where from.
        trust: Whom to believe.
        memory: The file of what is remembered of this history; None remembers nothing.

    Attributes:
        error: What ended the reading; None while it goes on, or was stopped.
    """

    def __init__(self, source: Source, trust: Trust, memory: Path | None) -> None:
        self.error: AgentError | OSError | None = None
        self._source, self._trust, self._memory = source, trust, memory
        self._known = remembered.read(memory) if memory else None
        self._since = self._known.since if self._known else now()
        self._key = self._pinned()
        self._first = self._known is None
        self._genesis: str | None = None
        self._at = Seen()
        self._lock = threading.Lock()
        self._board = Board()
        self._kept = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by `stop`
        self._replay = Replay(look_up=self._looked_up)
        self._standing = Standing()
        self._stop = threading.Event()
        self._polls = False
        self._written = 0.0

    # what others see

    @property
    def standing(self) -> Standing:
        """How it stands."""
        return self._standing

    def value(self) -> Row | None:
        """What the records say that were checked so far; None before the first, and where there is an `error`."""
        try:
            with self._lock:
                return self._board.value(self._row)
        except STRAY as stray:
            self.error = LedgerError(f"what the first {self._at.sequence} records say cannot be shown: {stray!r}")
            return None

    def run(self) -> None:
        """Read until it is stopped, or something is not as it must be, which is then in `error`."""
        try:
            self.follow()
        except (AgentError, OSError) as error:
            self.error = error
        except STRAY as stray:  # a thread that ends in silence would leave "connected" on the screen
            self.error = LedgerError(f"record {self._at.sequence + 1} cannot be followed: {stray!r}")

    def stop(self) -> None:
        """End the reading, from any thread."""
        self._stop.set()
        self._source.stop()

    def close(self) -> None:
        """Keep what was seen; the reading has ended."""
        with contextlib.suppress(SettingsError):  # the disk is full, and was said to be so
            self._remember()
        self._kept.close()

    # reading

    def follow(self) -> None:
        """Read until it is stopped, and begin anew where the connection ends.

        Raises:
            AgentError: All but an `UnreachableError`, which is told and tried again.
        """
        wait = FIRST_SECONDS
        while not self._stop.is_set():
            try:
                self.catch_up()
                wait = FIRST_SECONDS
                self._go_on()
            except UnreachableError as error:
                why = str(error).removeprefix(f"{self._source}: ")
                self._tell(connection=f"not connected, next try in {wait:.0f} s: {why}", connected=False)
                self._stop.wait(wait)
                wait = min(2 * wait, MOST_SECONDS)
                if not self._stop.is_set():
                    self._tell(connection="connecting")

    def catch_up(self, progress: Callable[[int], None] = lambda records: None) -> None:
        """Read what there is.

        Args:
            progress: Called with the number of each record that was checked.

        Raises:
            UntrustedError: A record is not what it must be; the message names it.
            AgentError: As `Source.lines`.
        """
        again = self._at.sequence > 0
        for line in self._source.lines(max(self._at.sequence - 1, 0)):
            if not self._standing.caught_up:
                self._tell(connection="reading")
            if again:
                self._check_same(line)
                again = False
            else:
                self._take(line)
                progress(self._at.sequence)
        if self._stop.is_set():
            return
        if again:
            raise self._cut_off(self._at.sequence)
        if self._known and self._at.sequence < self._known.seen.sequence:
            raise self._cut_off(self._known.seen.sequence)
        if not self._at.sequence:
            raise UnreachableError("the history is empty")
        self._remember()
        asking = f", asking every {POLL_SECONDS:.0f} s: its door is an older one" if self._polls else ""
        self._tell(connection=f"connected{asking}", connected=True, caught_up=True)

    def _go_on(self) -> None:
        """Read what comes, until the connection ends."""
        if self._polls:
            self._stop.wait(POLL_SECONDS)
            return
        try:
            for line in self._source.lines(self._at.sequence, follow=True):
                self._take(line)
                if time.monotonic() - self._written > KEEP_SECONDS:
                    self._remember()
        except NotUnderstoodError:
            self._polls = True
            return
        self._stop.wait(FIRST_SECONDS)  # the door ended it

    def _take(self, line: bytes) -> None:
        """Check one record, and only then add it."""
        number = self._at.sequence + 1
        try:
            key = self._key or _named_in(line)
            record = chain.next_record(self._at, line, key)
            if number == 1:
                self._check_first(record, key)
            if self._known:
                chain.check_seen(self._known.seen, record)
            self._replay.follow(record)
            row = {**record.fields, "hash": record.hash, "signature": record.signature}
            with self._lock:
                self._kept.seek(0, 2)
                self._kept.write(line)
                self._kept.flush()
                self._board.add(row)
        except UntrustedError as error:
            told = str(error) if f"record {number}" in str(error) else f"record {number}: {error}"
            hint = error.hint or (self._stop_here() if number == 1 and self._known else None)
            raise type(error)(told, hint) from None
        except STRAY as error:
            raise LedgerError(f"record {number} says what cannot be: {error!r}") from None
        self._key, self._at = key, Seen(record.sequence, record.hash)
        self._tell(connected=True, records=number, checked=self._checked())

    def _check_first(self, record: Record, key: PublicKey) -> None:
        chain.check_genesis(record, key)
        invited, known = self._trust.genesis, self._known and self._known.genesis
        if invited not in (None, record.hash):
            raise RollbackError(f"record 1 has the hash {record.hash}, {self._trust.source} names {invited}")
        if known not in (None, record.hash):
            raise RollbackError(f"record 1 has the hash {record.hash}, it was {known} before", self._stop_here())
        self._genesis = record.hash

    def _check_same(self, line: bytes) -> None:
        """See that the record that was read last is still there."""
        assert self._key is not None
        record = chain.read_line(line, self._key)
        if record.sequence != self._at.sequence:
            raise RollbackError(f"record {record.sequence} stands where record {self._at.sequence} is expected")
        if record.hash != self._at.head:
            raise RollbackError(f"record {record.sequence} is another one than before: the history was forked")

    def _cut_off(self, sequence: int) -> RollbackError:
        hint = "the coordinator was restored from an old copy, or shows different histories; ask its operator"
        return RollbackError(f"the history does not reach record {sequence}, which was seen before", hint)

    # whom it believes

    def _pinned(self) -> PublicKey | None:
        told, known = self._trust.coordinator, self._known
        if told and known and told != known.coordinator:
            raise UntrustedError(
                f"{self._trust.source} names the coordinator's key {told.fingerprint}, it was "
                f"{known.coordinator.fingerprint} before", self._stop_here(),
            )  # fmt: skip
        return told or (known.coordinator if known else None)

    def _stop_here(self) -> str:
        return (
            "stop here, and ask the coordinator's operator by another way which key and which first record are right; "
            f"what was seen since {self._since[:10]} is kept in {self._memory}, and nothing but their word is a reason "
            "to put it aside"
        )

    def _checked(self) -> str:
        assert self._key is not None
        if self._trust.coordinator:
            by = f"as {self._trust.source} says"
        else:
            by = f"seen first now: {_COMPARE}" if self._first else f"as since {self._since[:10]}"
        return f"checked (hash, link, signature, decision), signed by {self._key.fingerprint}, {by}"

    def _remember(self) -> None:
        if not self._memory or not self._key or not self._genesis:
            return
        remembered.write(self._memory, Remembered(self._key, self._genesis, self._at, self._since))
        self._written = time.monotonic()

    # what was read

    def _looked_up(self, number: int) -> Record:
        with self._lock:
            try:
                return chain.record_of(Published(self._kept).line(number))
            except (NoRecord, ValueError) as error:
                raise LedgerError(f"record {number} cannot be looked up: {error}") from None

    def _row(self, number: int) -> Row:
        return Published(self._kept).row(number)

    def _tell(self, **changes: Any) -> None:
        self._standing = replace(self._standing, **changes)


def _named_in(line: bytes) -> PublicKey:
    """The key that a first record names.

    Raises:
        LedgerError: It names none.
    """
    try:
        return parse_public(str(chain.record_of(line).fields.get("coordinator")), "the coordinator's key")
    except SettingsError as error:
        raise LedgerError(f"record 1: {error}") from None
