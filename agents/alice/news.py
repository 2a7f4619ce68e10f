"""What has come from the coordinator: the newest release that may be trained from, and how Bob stands with the door."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedssh.alice import terms as agreement
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Older, Received, Status, Unready, read_offer, read_status
from fedssh.alice.limits import Limits
from fedssh.alice.memory import Memory
from fedssh.alice.terms import Terms
from fedssh.chain import Seen
from fedssh.errors import RollbackError, SettingsError
from fedssh.manifest import now
from fedssh.rules.plan import read_plan

OLDER_SECONDS = 60.0  # a killed Bob may have taken the newest away and brings it again
REFUSED_SECONDS = 600.0  # a door whose operator is at work on it may refuse everybody for a while
REVOKED = ("revoked", "not enrolled")  # as the door says it
Shapes = Callable[[dict[str, Any]], Mapping[str, tuple[int, ...]]]


class News:
    """What Alice may believe of what Bob brought, by the terms pinned in her folder and this site's own limits.

    Args:
        exchange: The folder shared with Bob.
        state: Alice's own folder.
        limits: What this site allows.
        shapes: The shapes of a network's weights, without building it.
    """

    def __init__(self, exchange: Exchange, state: Path, limits: Limits, shapes: Shapes) -> None:
        self._exchange = exchange
        self._state = state
        self._limits = limits
        self._shapes = shapes
        self._began = time.time()
        self._began_at = now()
        self._at_start = exchange.newest_sequence()
        self._allowed: str | None = None
        self._older_since: float | None = None

    def look(self, memory: Memory) -> tuple[Terms, Received] | None:
        """The newest release and what was agreed, everything checked; None while there is none.

        Raises:
            Unready: It cannot be judged yet.
            SettingsError: This site has agreed to nothing, or cannot build the network.
            UntrustedError: It is not what was agreed, not signed, beyond a limit, or leads back.
        """
        agreed, site = self._agreed()
        self._allow(agreed)
        seen = memory.seen if memory.genesis == agreed.hash else Seen()
        try:
            received = self._exchange.newest(agreed, self._state, site, seen)
        except Older as reason:
            self._older_since = self._older_since or time.monotonic()
            if time.monotonic() - self._older_since >= OLDER_SECONDS:
                text, _, _ = str(reason).partition(";")
                hint = "if the coordinator was restored from an old copy, `alice accept HASH` agrees to go back with it"
                raise RollbackError(text, hint) from None
            raise
        self._older_since = None
        return (agreed, received) if received else None

    def is_the_newest(self, sequence: int) -> bool:
        """Whether the door has said since Alice began that nothing is newer: by bringing it, or by Bob's asking."""
        if sequence != self._at_start:
            return True
        status = self._status()
        return status.newest == sequence and status.confirmed is not None and status.confirmed > self._began_at

    def shut_out(self, memory: Memory) -> str | None:
        """Why waiting has no end: the door does not let this site in any more. None while it does, or may soon."""
        status = self._status()
        if status.refused_since is None:
            return None
        since = datetime.datetime.fromisoformat(status.refused_since).timestamp()
        reason = (status.reason or "the login is refused")[:200]
        text = f"the coordinator does not let this site in any more, since {status.refused_since}: {reason}"
        if any(word in reason.lower() for word in REVOKED) and status.written >= self._began:
            return text
        waited = time.time() - max(since, self._began)
        return text if memory.seen.sequence and waited >= REFUSED_SECONDS else None

    def _status(self) -> Status:
        return read_status(self._exchange.incoming)

    def _agreed(self) -> tuple[Terms, str | None]:
        pin = agreement.load_pin(self._state)
        if pin is None:
            raise not_agreed(self._state)
        terms = agreement.agreed(pin, read_offer(self._exchange.incoming))
        if terms is None:
            raise Unready(f"waiting for a release in {self._exchange.incoming}")
        if pin.record is None:
            agreement.save_pin(self._state, dataclasses.replace(pin, record=terms.line))
        return terms, pin.site

    def _allow(self, terms: Terms) -> None:
        """Hold the terms against this site's own limits, once."""
        if self._allowed == terms.hash:
            return
        self._limits.check(terms.spec, read_plan(terms.plan))
        shapes = self._shapes(terms.spec)
        self._limits.check_weights(count(shapes))
        self._allowed = terms.hash


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many weights there are."""
    return sum(math.prod(shape) for shape in shapes.values())


def not_agreed(state: Path) -> SettingsError:
    """What to say to a site that has agreed to nothing."""
    return SettingsError(
        f"this site has agreed to no federation yet: {state / agreement.FILE} does not exist",
        "`alice join INVITATION` agrees by bob's invitation; or `alice terms`, then `alice accept HASH`",
    )
