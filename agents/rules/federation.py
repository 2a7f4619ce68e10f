"""Where the federation stands, derived from its history. Pure: records in, state out.

The state is a fold: `advance(state, record)` for every record in order. So a vault that has read up to record n, or
has a `snapshot` of the state after it, only reads what came after it, and whatever reads the whole history arrives at
the same state.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedssh.errors import LedgerError
from fedssh.forms import fingerprint
from fedssh.rules import rates
from fedssh.rules.events import Record
from fedssh.rules.gate import Gate
from fedssh.rules.policies import Policy, read_policy
from fedssh.rules.rounds import Round, Update, ends_waiting


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
        of: Sequence of the record that made it current: genesis, accepted, round-accepted or rollback.
        model: Its file: {"sha256", "size"}.
        metrics: What it scored on the holdout, as the federation knows it.
        makers: Who changed the current model each time, this time included: sites by name, "" for rounds and rollbacks.
        bar: The best value of the main metric since genesis or the last rollback.
        server: Files of the server optimizer's state, each {"sha256", "size"}; none after genesis and rollback.
    """

    of: int
    model: dict[str, Any]
    metrics: dict[str, Any]
    makers: tuple[str, ...] = ()
    bar: float = 0.0
    server: tuple[dict[str, Any], ...] = ()

    @property
    def version(self) -> int:
        """How often the current model has changed; genesis is 0."""
        return len(self.makers)

    def staleness(self, site: str, version: int) -> int:
        """How often others than a site have changed the current model since a version."""
        return sum(maker != site for maker in self.makers[version:])


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
        sessions: How many sessions each site shall train, or how many rounds there shall be; None is without end.
        release: The newest release record, if there was one.
        round: The round that is open.
        rounds: How many rounds have closed.
        last: The last round that closed: {"round", "event", "reason"}.
        used: What each site has used of its rates, see `rates`; empty where none were agreed.
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
    round: Round | None = None
    rounds: int = 0
    last: dict[str, Any] | None = None
    used: Mapping[str, rates.Used] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[int, int]:
        """Bundles and invalid bundles per site and hour, as agreed; 0 is no limit."""
        return rates.agreed(self.genesis)

    @property
    def policy(self) -> Policy:
        """The policy as agreed."""
        return _policy(self.genesis["policy"])

    @property
    def gate(self) -> Gate:
        """The gate as agreed; a federation that began without one had none."""
        return Gate(self.genesis.get("gate", "off"), self.genesis.get("margin", 0.0))

    @property
    def metric(self) -> str:
        """The main metric as agreed."""
        return str(self.genesis["plan"]["metric"])

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
            "gate": self.gate.kind,
            "margin": self.gate.margin,
            "version": self.current.version,
            "schedule": self.genesis["schedule"],
            "turn": self.turn,
            "turns": self.turns,
            "round": self._round_block(),
            "last": self.last,
            "state": "finished" if self.finished else "open",
            "sessions": None if self.policy.rounds else self.sessions,
            "sites": [site.name for site in self.sites],
        }

    def _round_block(self) -> dict[str, Any] | None:
        if self.round is None:
            return None
        return {"number": self.round.number, "sites": list(self.round.sites), "of": self.sessions}

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

    def out_of_turn(self, site: str, released: Mapping[str, Any]) -> str:
        """Why nothing is taken from a site now, in the schedule `relay`; empty when it is, and in every other schedule.

        A site ships all checkpoints of a session before its report, which ends its turn. So what comes later comes from
        a turn that ended without it, because its time was up, or from no turn at all.

        Args:
            released: What the release that the site started from says of the federation. Without `turns`, as an older
                version made it, only whose turn it is counts.
        """
        if self.genesis["schedule"] != "relay":
            return ""
        same = released.get("turns", self.turns) == self.turns
        if self.turn == site:
            return "" if same else f"it was trained in an earlier turn of {site}"
        whose = f"it is {self.turn}'s turn" if self.turn else "it is nobody's turn"
        return f"the turn of {site} is over; {whose}" if released.get("turn") == site else whose

    def all_sessions_done(self) -> bool:
        """Whether every site has trained as many sessions as agreed, or as many rounds have closed."""
        if self.policy.rounds:
            return self.sessions is not None and self.rounds >= self.sessions
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
            bar = _bar(fields, fields["metrics"])
            current = Current(record.sequence, fields["model"], fields["metrics"], bar=bar)
            return Federation(fields, record.sequence, record.hash, current, fields["sessions"])
        changed = _after(state, record, fields)
    except KeyError as error:
        raise LedgerError(f"record {record.sequence} lacks {error}") from None
    used = rates.follow(state.used, fields, state.rates)
    changed = dataclasses.replace(changed, sequence=record.sequence, head=record.hash, used=used)
    return _with_turn(state, changed, record.event, fields)


def _after(state: Federation, record: Record, fields: dict[str, Any]) -> Federation:
    match record.event:
        case "accepted" | "rollback":
            return dataclasses.replace(state, current=_next(state, record, fields))
        case "round-opened":
            opened = datetime.datetime.fromisoformat(fields["time"]).timestamp()
            sites = tuple(fields["sites"])
            began = Round(fields["round"], sites, sites, opened, record.sequence)
            return dataclasses.replace(state, round=began, turns=fields["round"])
        case "counted":
            return _with_update(state, record, fields)
        case "round-extended":
            extended = dataclasses.replace(_open_round(state, record), sites=tuple(fields["sites"]))
            return dataclasses.replace(state, round=extended)
        case "round-accepted" | "round-refused":
            last = {name: fields[name] for name in ("round", "event", "reason")}
            closed = dataclasses.replace(state, round=None, rounds=state.rounds + 1, last=last)
            if record.event == "round-refused":
                return closed
            return dataclasses.replace(closed, current=_next(state, record, fields))
        case "site-added":
            others = tuple(member for member in state.members if member.name != fields["site"])
            before = state.member(fields["site"])  # with a new key perhaps, but still the one that trained
            added = Site(fields["site"], fields["role"], fields["key"], before.sessions if before else 0)
            return dataclasses.replace(state, members=(*others, added))
        case "site-revoked":
            return _without(_with_member(state, fields["site"], revoked=True), fields["site"])
        case "report":
            member = state.member(fields["site"])
            done = member.sessions + 1 if member else 0
            reported = _with_member(state, fields["site"], sessions=done)
            return _with_empty(reported, fields)
        case "invalid" | "garbage":
            return _with_empty(state, fields)
        case "release":
            return dataclasses.replace(state, release=record)
        case "finished":
            return dataclasses.replace(state, finished=True, round=None)
        case "reopened":
            return dataclasses.replace(state, finished=False, sessions=fields["sessions"])
    return state


def _next(state: Federation, record: Record, fields: dict[str, Any]) -> Current:
    bar = _bar(state.genesis, fields["metrics"])
    if record.event != "rollback":  # after a rollback the bar is what the operator went back to
        bar = max(bar, state.current.bar)
    server = tuple(fields.get("state", ()))
    makers = (*state.current.makers, fields.get("site", ""))
    return Current(record.sequence, fields["model"], fields["metrics"], makers, bar, server)


def _bar(genesis: dict[str, Any], metrics: dict[str, Any]) -> float:
    value = metrics[genesis["plan"]["metric"]]
    return -1.0 if value is None else float(value)


def _with_update(state: Federation, record: Record, fields: dict[str, Any]) -> Federation:
    current = _open_round(state, record)
    update = Update(fields["site"], record.sequence, fields["model"], fields["examples"])
    return dataclasses.replace(state, round=dataclasses.replace(current, updates=(*current.updates, update)))


def _with_empty(state: Federation, fields: dict[str, Any]) -> Federation:
    """A site from which nothing of use comes in the open round is not waited for."""
    current, name = state.round, fields["site"]
    if current is None or name in current.empty or not ends_waiting(fields, current.record):
        return state
    return dataclasses.replace(state, round=dataclasses.replace(current, empty=(*current.empty, name)))


def _open_round(state: Federation, record: Record) -> Round:
    if state.round is None:
        raise LedgerError(f"record {record.sequence} is {record.event}, but no round is open")
    return state.round


def _without(state: Federation, name: str) -> Federation:
    """A site that is revoked has no part in the open round any more."""
    if state.round is None:
        return state
    sites, selected = (tuple(site for site in of if site != name) for of in (state.round.sites, state.round.selected))
    updates = tuple(update for update in state.round.updates if update.site != name)
    left = dataclasses.replace(
        state.round, sites=sites, selected=selected, updates=updates, empty=(*state.round.empty, name)
    )
    return dataclasses.replace(state, round=left)


@functools.lru_cache(maxsize=16)
def _policy(text: str) -> Policy:
    try:
        return read_policy(text)
    except ValueError as error:
        raise LedgerError(f"record 1: {error}", "this federation needs a newer fedssh") from None


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
