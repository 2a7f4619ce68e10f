"""From the spool to the verdict: one bundle at a time, in order, each until it is judged.

    ship            the door has the bundle; noted in the spool, so that it is not sent again without need
    verdict         one signed ledger line; checked: whose signature, which site, id, model and bytes
    receipt         appended to receipts.jsonl
    remove          only now does the bundle leave the spool

Killed between any two, Bob begins at the last one that is on disk. A bundle that arrives twice is harmless: its id
is judged once, and the same verdict is there to be read.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedssh import bundle, chain
from fedssh.bob.outgoing import fields_of, in_megabytes
from fedssh.bob.receipts import Receipts
from fedssh.bob.site import Site
from fedssh.bob.spool import Entry, Spool, plan
from fedssh.errors import BundleError, UnreachableError
from fedssh.files import sha256_file
from fedssh.manifest import now
from fedssh.rules.events import Record
from fedssh.rules.gate import is_number
from fedssh.rules.metrics import headline
from fedssh.rules.vocabulary import PLAIN
from fedssh.transport import Call, Connection

SEND_AGAIN_SECONDS = 3600.0
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 1.0


@dataclass
class _Trip:
    """One bundle's way, as far as it came."""

    entry: Entry
    size: int
    started: float = field(default_factory=time.time)
    ship_ms: float | None = None
    call: Call | None = None


class Shipping:
    """Sends what is in the spool and brings back verdicts.

    Args:
        site: Who sends, and to whom.
        spool: What is to be sent.
        receipts: Where it is written down.
        say: Called with an event, its text and its fields.
        wait_seconds: How long the door may hold a question for a verdict.
    """

    def __init__(
        self, site: Site, spool: Spool, receipts: Receipts, say: Callable[..., None], wait_seconds: int
    ) -> None:
        self._site = site
        self._spool = spool
        self._receipts = receipts
        self._say = say
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._under_way: str | None = None

    def tidy(self) -> None:
        """Finish what a killed Bob had begun: what has its receipt leaves the spool. Only at start."""
        entries = {entry.id: entry for entry in self._spool.entries()}
        for id in self._receipts.ids(set(entries)):
            self._spool.remove(entries[id])

    def drop_superseded(self) -> None:
        """Write off checkpoints that a newer one of their session made pointless; also while there is no network."""
        with self._lock:
            self._next()

    def ship_next(self, connection: Connection, stop: threading.Event) -> bool:
        """See one bundle through to its verdict; False when the spool is empty.

        Raises:
            UntrustedError: The verdict is not what it claims to be. The bundle stays.
            SettingsError: The door does not serve this site any more. The bundle stays.
            UnreachableError: The network failed, or the door cannot take it now. The bundle stays.
            OSError: The disk is full. The bundle stays.
        """
        with self._lock:
            entry = self._next()
            self._under_way = entry.id if entry else None
        if entry is None:
            return False
        try:
            self._see_through(entry, connection, stop)
        finally:
            with self._lock:
                self._under_way = None
        return True

    def _next(self) -> Entry | None:
        entries = self._spool.entries()
        planned = plan(entries, self._under_way)
        for entry, newer in planned.superseded:
            self._receipts.append(
                self._receipt(entry, None, "superseded", f"epoch {newer.epoch} of the same session is newer")
            )
            self._spool.remove(entry)
            self._say("superseded", f"superseded {entry} by epoch {newer.epoch}", **fields_of(entry), by=newer.id)
        return planned.next

    def _see_through(self, entry: Entry, connection: Connection, stop: threading.Event) -> None:
        trip = _Trip(entry, self._spool.bundle(entry.id).stat().st_size)
        there = entry.shipped is not None and 0 <= time.time() - entry.shipped < SEND_AGAIN_SECONDS
        if not there and not self._ship(trip, connection):
            return
        digest = sha256_file(self._spool.bundle(entry.id))  # while Charity is at work
        line = self._wait_for_verdict(trip, connection, stop)
        if line is not None:
            self._receive(trip, line, digest)

    def _ship(self, trip: _Trip, connection: Connection) -> bool:
        def ask_for_verdict() -> None:
            trip.call = connection.begin("verdict", "--wait", self._wait_seconds, trip.entry.id)

        start = time.monotonic()
        try:
            connection.ship(self._spool.bundle(trip.entry.id), meanwhile=ask_for_verdict)
        except UnreachableError:
            self._let_go(trip)
            self._spool.mark(trip.entry, attempts=trip.entry.attempts + 1)
            raise
        except BundleError as refusal:
            self._let_go(trip)
            return self._judged_already(trip.entry, connection, refusal)
        seconds = time.monotonic() - start
        trip.ship_ms = 1000 * seconds
        trip.entry = self._spool.mark(trip.entry, shipped=time.time(), attempts=trip.entry.attempts + 1)
        self._say(
            "shipped", f"shipped {trip.entry}: {in_megabytes(trip.size)} in {seconds:.2f} s", **fields_of(trip.entry),
            bytes=trip.size, seconds=round(seconds, 3), ship_ms=round(trip.ship_ms, 1),
        )  # fmt: skip
        return True

    def _judged_already(self, entry: Entry, connection: Connection, refusal: BundleError) -> bool:
        """Whether a bundle that the door will never take has its verdict; if not, it is written off.

        Unless it is the site that the door refuses: then the question for the verdict is refused too.
        """
        answer = connection.ask("verdict", entry.id)
        if answer.status == 0:
            return True
        if not answer.nothing_yet:
            raise answer.error(connection.address, "verdict")
        digest = sha256_file(self._spool.bundle(entry.id))
        self._receipts.append(self._receipt(entry, digest, "refused at the door", str(refusal)))
        self._spool.remove(entry)
        self._say(
            "verdict", f"{entry}: {refusal}", **fields_of(entry), verdict="refused at the door", reason=str(refusal)
        )
        return False

    def _wait_for_verdict(self, trip: _Trip, connection: Connection, stop: threading.Event) -> bytes | None:
        """The verdict's line; None when it is time to stop or to send the bundle again."""
        shipped = trip.entry.shipped or trip.started
        try:
            while not stop.is_set() and time.time() - shipped < SEND_AGAIN_SECONDS:
                call = trip.call or connection.begin("verdict", "--wait", self._wait_seconds, trip.entry.id)
                trip.call, asked = None, time.monotonic()
                answer = call.answer(self._wait_seconds + PATIENCE_SECONDS)
                if answer.status == 0:
                    return answer.output
                if not answer.nothing_yet:
                    raise answer.error(connection.address, "verdict")
                if time.monotonic() - asked < PAUSE_SECONDS:  # the door is busy, not waiting
                    stop.wait(PAUSE_SECONDS)
        finally:
            self._let_go(trip)
        return None

    def _let_go(self, trip: _Trip) -> None:
        if trip.call:
            trip.call.close()
            trip.call = None

    def _receive(self, trip: _Trip, line: bytes, digest: str) -> None:
        entry = trip.entry
        record = chain.read_line(line, self._site.coordinator)
        with bundle.read(self._spool.bundle(entry.id)) as sent:
            chain.check_verdict(record, self._site.name, entry.id, sent.model_sha256, digest)
        arrived = time.time()
        verdict, reason, metrics = record.event, record.fields.get("reason"), record.fields.get("metrics")
        receipt = self._receipt(entry, digest, verdict, reason)
        self._receipts.append(receipt | {"metrics": metrics, "sequence": record.sequence, "record": record.hash})
        self._spool.remove(entry)
        self._say(
            "verdict", verdict_text(entry, record), **fields_of(entry), verdict=verdict, reason=reason, metrics=metrics,
            sequence=record.sequence, ship_ms=trip.ship_ms and round(trip.ship_ms, 1),
            return_ms=round(1000 * (arrived - _seconds(record.fields.get("time"), arrived)), 1),
            total_ms=round(1000 * (arrived - entry.published), 1),
        )  # fmt: skip

    def _receipt(self, entry: Entry, digest: str | None, verdict: str, reason: str | None) -> dict[str, Any]:
        return {
            "time": now(),
            **fields_of(entry),
            "size": self._spool.bundle(entry.id).stat().st_size,
            "sha256": digest or sha256_file(self._spool.bundle(entry.id)),
            "recipient": self._site.coordinator.fingerprint,
            "address": self._site.address,
            "attempts": entry.attempts,
            "verdict": verdict,
            "reason": reason,
            "metrics": None,
            "sequence": None,
            "record": None,
        }


def verdict_text(entry: Entry, record: Record) -> str:
    """A verdict for people."""
    metrics, reason = record.fields.get("metrics"), record.fields.get("reason")
    if record.event in PLAIN:
        return f"{entry} is on record as {record.sequence}"
    name, value = (headline(metrics) if isinstance(metrics, dict) else None) or ("", None)
    scored = f"holdout {name} {value:.4f}" if is_number(value) else ""
    return f"{record.event} {entry}: {reason or scored or 'no reason given'} (record {record.sequence})"


def _seconds(text: object, otherwise: float) -> float:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return otherwise
