"""Where the federation stands, derived from its history. Pure: records in, state out.

The state is a fold: `advance(state, record)` for every record in order. So a vault that has read up to record n
only reads what came after it, and whatever reads the whole history arrives at the same state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents.errors import LedgerError
from agents.keys import fingerprint
from agents.ledger import Record


@dataclass(frozen=True)
class Site:
    """Somebody who was enrolled: a site that trains, or an auditor who reads.

    Attributes:
        key: Their public key, one OpenSSH line.
        sessions: How many sessions they reported.
        revoked: Whether their key is not valid any more.
    """

    name: str
    role: str
    key: str
    sessions: int = 0
    revoked: bool = False


@dataclass(frozen=True)
class Current:
    """The model the federation holds now.

    Attributes:
        of: Sequence of the record that made it current: genesis, accepted or rollback.
        model: Its file: {"sha256", "size"}.
        metrics: What it scored on the holdout.
    """

    of: int
    model: dict[str, Any]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Federation:
    """The state after a record.

    Attributes:
        genesis: The fields of the first record.
        sequence: Number of the newest record.
        head: Its hash.
        members: Everybody ever enrolled, in order of enrolment; enrolled again means at the end again.
        turn: Whose turn it is to train, in the schedule `relay`.
        turns: How often the turn was passed. It tells a site's next turn from the one it has just used, also when the
            same site gets it again.
        sessions: How many sessions each site shall train; None is without end.
        release: The newest release record, if there was one.
    """

    genesis: dict[str, Any]
    sequence: int
    head: str
    current: Current
    sessions: int | None
    members: tuple[Site, ...] = ()
    turn: str | None = None
    turns: int = 0
    finished: bool = False
    release: Record | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that train, in order of enrolment."""
        return tuple(member for member in self.members if member.role == "site" and not member.revoked)

    @property
    def enrolled(self) -> tuple[Site, ...]:
        """Everybody who may log in, in order of enrolment."""
        return tuple(member for member in self.members if not member.revoked)

    def member(self, name: str) -> Site | None:
        """Who has this name now, or had it last."""
        return next((member for member in self.members if member.name == name), None)

    def block(self) -> dict[str, Any]:
        """The state of the federation, as a release tells it."""
        return {
            "name": self.genesis["federation"],
            "policy": self.genesis["policy"],
            "schedule": self.genesis["schedule"],
            "turn": self.turn,
            "turns": self.turns,
            "state": "finished" if self.finished else "open",
            "sessions": self.sessions,
            "sites": [site.name for site in self.sites],
        }

    def wanted_release(self) -> dict[str, Any] | None:
        """What the newest release should say, or None while there is nobody to release to."""
        if not self.sites:
            return None
        current = self.current
        return {
            "of": current.of,
            "model": current.model,
            "metrics": current.metrics,
            "federation": self.block(),
            "recipients": [fingerprint(site.key) for site in self.sites],
        }

    def release_is_due(self) -> bool:
        """Whether the model, the recipients or the state of the federation changed since the newest release."""
        wanted = self.wanted_release()
        if wanted is None:
            return False
        released = self.release.fields if self.release else {}
        return any(released.get(name) != value for name, value in wanted.items())

    def all_sessions_done(self) -> bool:
        """Whether every site has trained as many sessions as agreed."""
        return (
            self.sessions is not None
            and bool(self.sites)
            and all(site.sessions >= self.sessions for site in self.sites)
        )

    def turn_after(self, name: str) -> str | None:
        """Whose turn follows `name`'s: the next site in order of enrolment that has sessions left."""
        order = [member.name for member in self.members if member.role == "site"]
        start = order.index(name) + 1 if name in order else 0
        able = {site.name for site in self.sites if self.sessions is None or site.sessions < self.sessions}
        return next((other for other in order[start:] + order[:start] if other in able), None)


def derive(records: Iterable[Record]) -> Federation:
    """The state after all of `records`.

    Raises:
        LedgerError: There is no record, or the first one is not a genesis.
    """
    state: Federation | None = None
    for record in records:
        state = advance(state, record)
    if state is None:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    return state


def advance(state: Federation | None, record: Record) -> Federation:
    """The state after one more record.

    Raises:
        LedgerError: The record cannot follow.
    """
    fields = record.fields
    try:
        if state is None:
            if record.event != "genesis" or record.sequence != 1:
                raise LedgerError(f"the history begins with {record.event}, expected genesis")
            current = Current(record.sequence, fields["model"], fields["metrics"])
            return Federation(fields, record.sequence, record.hash, current, fields["sessions"])
        changed = _after(state, record, fields)
    except KeyError as error:
        raise LedgerError(f"record {record.sequence} lacks {error}") from None
    changed = dataclasses.replace(changed, sequence=record.sequence, head=record.hash)
    return _with_turn(state, changed, record.event, fields)


def _after(state: Federation, record: Record, fields: dict[str, Any]) -> Federation:
    match record.event:
        case "accepted" | "rollback":
            return dataclasses.replace(state, current=Current(record.sequence, fields["model"], fields["metrics"]))
        case "site-added":
            others = tuple(member for member in state.members if member.name != fields["site"])
            before = state.member(fields["site"])  # with a new key perhaps, but still the one that trained
            added = Site(fields["site"], fields["role"], fields["key"], before.sessions if before else 0)
            return dataclasses.replace(state, members=(*others, added))
        case "site-revoked":
            return _with_member(state, fields["site"], revoked=True)
        case "report":
            member = state.member(fields["site"])
            done = member.sessions + 1 if member else 0
            return _with_member(state, fields["site"], sessions=done)
        case "release":
            return dataclasses.replace(state, release=record)
        case "finished":
            return dataclasses.replace(state, finished=True)
        case "reopened":
            return dataclasses.replace(state, finished=False, sessions=fields["sessions"])
    return state


def _with_member(state: Federation, name: str, **changes: Any) -> Federation:
    members = (dataclasses.replace(one, **changes) if one.name == name else one for one in state.members)
    return dataclasses.replace(state, members=tuple(members))


def _with_turn(before: Federation, state: Federation, event: str, fields: dict[str, Any]) -> Federation:
    """Pass the turn on: after its site's report, when its time is up, or when its site is gone."""
    if state.genesis["schedule"] != "relay":
        return state
    over = event in ("report", "turn-passed", "site-revoked") and fields.get("site") == before.turn
    if before.turn is not None and not over:
        return state
    turn = state.turn_after(before.turn or "")
    if turn is None and before.turn is None:
        return state
    return dataclasses.replace(state, turn=turn, turns=state.turns + 1)
