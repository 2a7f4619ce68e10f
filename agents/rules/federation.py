"""Where the federation stands, derived from its history. Pure: records in, state out.

The state is a fold: `advance(state, record)` for every record in order. So a vault that has read up to record n, or
has a `snapshot` of the state after it, only reads what came after it, and whatever reads the whole history arrives at
the same state.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedssh.errors import LedgerError, MaskError
from fedssh.forms import fingerprint
from fedssh.rules import rates
from fedssh.rules.events import (
    Accepted,
    Blob,
    Counted,
    Event,
    Finished,
    Garbage,
    Genesis,
    Invalid,
    Masks,
    Metrics,
    Record,
    Refused,
    Released,
    Reopened,
    Report,
    RolledBack,
    RoundAccepted,
    RoundAgreed,
    RoundClosing,
    RoundExtended,
    RoundOpened,
    RoundPartners,
    RoundRefused,
    SiteAdded,
    SiteRevoked,
    Spent,
    Tagged,
    TurnPassed,
    Untagged,
    Verdict,
)
from fedssh.rules.gate import Gate
from fedssh.rules.masking import Advert, Answer, Masking, Roster, Shares
from fedssh.rules.metrics import best as better_of
from fedssh.rules.policies import Policy, read_policy
from fedssh.rules.rounds import Round, Update, ends_waiting
from fedssh.rules.standing import LastRound, Layers, OpenRound, Standing, Started
from fedssh.rules.typed import ABSENT, known


@dataclass(frozen=True)
class Member:
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
        model: Its file.
        metrics: What it scored on the holdout, as the federation knows it.
        makers: Who changed the current model each time, this time included: sites by name, "" for rounds and rollbacks.
        bar: The best value of the main metric since genesis or the last rollback.
        layers: Where the site's layers are, where they are for sites alone; then `metrics` are of the last model that
            was scored.
        server: Files of the server optimizer's state, under `split` of that of the network's two parts; none after
            genesis and rollback.
    """

    of: int
    model: Blob
    metrics: Metrics
    makers: tuple[str, ...] = ()
    bar: float = 0.0
    server: tuple[Blob, ...] = ()
    layers: Layers | None = None

    @property
    def version(self) -> int:
        """How often the current model has changed; genesis is 0."""
        return len(self.makers)

    def staleness(self, site: str, version: int) -> int:
        """How often others than a site have changed the current model since a version."""
        return sum(maker != site for maker in self.makers[version:])


_One = TypeVar("_One")


@dataclass(frozen=True)
class Taken:
    """What was last taken of a site's running session, under a policy that steps.

    Attributes:
        session, builds_on: Of what it was the newest.
        model: What the site sent.
    """

    session: int
    builds_on: int
    model: Blob


@dataclass(frozen=True)
class Slot:
    """What a site learned that was refused, and waits to be tried with others, under a policy that gathers.

    Attributes:
        record: Which refused it.
        session, builds_on: Of what.
        candidate: What the site sent.
        base: What its step starts from.
    """

    record: int
    session: int
    builds_on: int
    candidate: Blob
    base: Blob


@dataclass(frozen=True)
class Spending:
    """What a site has spent of its privacy, as its verdicts tell.

    Attributes:
        charges: Rate and steps of what it trained here, each rate once, ascending.
        spent, next, budget: As it said last, see `events.Spent`.
    """

    charges: tuple[tuple[float, int], ...]
    spent: float
    next: float
    budget: float


@dataclass(frozen=True)
class Federation:
    """The state after a record.

    Attributes:
        genesis: What the first record says.
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
        last: The last round that closed.
        used: What each site has used of its rates, see `rates`; empty where none were agreed.
        taken: Of each site's running session, what was last taken, see `Taken`.
        slots: Of each site, what waits; see `Slot`.
        spent: Of each site, what its privacy has cost, where that is agreed; no rollback changes it.
        adverts: Under masks, of each site, its keys for a round that has not opened yet.
        ready: Since when there are enough of these for the next round, in seconds since 1970.
        names: By what operators call models: the record that had made it current.
    """

    genesis: Genesis
    sequence: int
    head: str
    current: Current
    sessions: int | None
    members: tuple[Member, ...] = ()
    turn: str | None = None
    turns: int = 0
    finished: bool = False
    release: Record | None = None
    round: Round | None = None
    rounds: int = 0
    last: LastRound | None = None
    used: Mapping[str, rates.Used] = field(default_factory=dict)
    taken: Mapping[str, Taken] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    spent: Mapping[str, Spending] = field(default_factory=dict)
    adverts: Mapping[str, Advert] = field(default_factory=dict)
    ready: float | None = None
    names: Mapping[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> frozenset[str]:
        """The hashes of the models that steps start from, or that wait; they are needed, though none was current."""
        taken = (one.model for one in self.taken.values())
        waiting = itertools.chain.from_iterable((slot.candidate, slot.base) for slot in self.slots.values())
        return frozenset(blob.sha256 for blob in (*taken, *waiting))

    @property
    def rates(self) -> tuple[int, int]:
        """Bundles and invalid bundles per site and hour, as agreed; 0 is no limit."""
        return rates.agreed({"rates": known(self.genesis.rates, None)})

    @property
    def policy(self) -> Policy:
        """The policy as agreed."""
        return _policy(self.genesis.policy)

    @property
    def gate(self) -> Gate:
        """The gate as agreed; a federation that began without one had none."""
        try:
            return Gate(known(self.genesis.gate, "off"), known(self.genesis.margin, 0.0), self.metric)
        except ValueError as error:
            raise LedgerError(f"record 1: {error}", "this federation needs a newer fedssh") from None

    @property
    def metric(self) -> str:
        """The main metric as agreed."""
        return main_metric(self.genesis)

    @functools.cached_property
    def sites(self) -> tuple[Member, ...]:
        """The sites that train, in order of enrolment."""
        return tuple(member for member in self.members if member.role == "site" and not member.revoked)

    @functools.cached_property
    def able(self) -> tuple[str, ...]:
        """The sites that may be asked to train: all but those whose privacy budget another session would exceed."""
        return tuple(site.name for site in self.sites if not self._is_spent(site.name))

    @property
    def next_round(self) -> int:
        """The number of the round that opens next."""
        return self.rounds + 1 + (self.round is not None)

    @property
    def keyed(self) -> tuple[str, ...]:
        """Under masks, of those who may be asked to train, who has keys for the next round."""
        keyed = (self.adverts.get(site) for site in self.able)
        return tuple(one.site for one in keyed if one is not None and one.round == self.next_round)

    def _is_spent(self, site: str) -> bool:
        found = self.spent.get(site)
        return found is not None and found.next > found.budget

    @property
    def enrolled(self) -> tuple[Member, ...]:
        """Everybody who may log in, in order of enrolment."""
        return tuple(member for member in self.members if not member.revoked)

    def member(self, name: str) -> Member | None:
        """Who has this name now, or had it last."""
        return next((member for member in self.members if member.name == name), None)

    @functools.cached_property
    def _wanted(self) -> Released:
        """See `wanted_release`; kept, because it is asked for after every record."""
        return Released(
            of=self.current.of,
            model=self.current.model,
            metrics=self.current.metrics,
            federation=self.standing(),
            recipients=tuple(fingerprint(site.key) for site in self.sites),
        )

    def standing(self) -> Standing:
        """The state of the federation, as a release tells it."""
        now = self.round
        return Standing(
            name=self.genesis.federation,
            policy=self.genesis.policy,
            gate=self.gate.kind,
            margin=self.gate.margin,
            version=self.current.version,
            schedule=self.genesis.schedule,
            turn=self.turn,
            turns=self.turns,
            round=None if now is None else OpenRound(number=now.number, sites=now.sites, of=self.sessions),
            last=self.last,
            layers=self.current.layers or ABSENT,
            state="finished" if self.finished else "open",
            sessions=None if self.policy.rounds else self.sessions,
            sites=tuple(site.name for site in self.sites),
        )

    def wanted_release(self) -> Released | None:
        """What the newest release should say, or None while there is nobody to release to."""
        return self._wanted if self.sites else None

    def due_release(self) -> Released | None:
        """The next release: the model, the recipients or the state of the federation changed since the newest one."""
        wanted = self.wanted_release()
        return None if wanted is None or (self.release and self.release.said == wanted) else wanted

    def objection(self, site: str, started: Started) -> str:
        """Why nothing at all is taken from a site now; empty when something may be.

        Args:
            started: What the site started from.
        """
        member = self.member(site)
        if member is None or member.revoked:
            return "revoked"
        if member.role != "site":
            return f"{site} is enrolled as {member.role}, which submits nothing"
        return self.out_of_turn(site, started)

    def out_of_turn(self, site: str, started: Started) -> str:
        """Why nothing is taken from a site now, in the schedule `relay`; empty when it is, and in every other schedule.

        A site ships all checkpoints of a session before its report, which ends its turn. So what comes later comes from
        a turn that ended without it, because its time was up, or from no turn at all.

        Args:
            started: What the site started from. Without `turns`, from an older version, only whose turn it is counts.
        """
        if self.genesis.schedule != "relay":
            return ""
        same = started.turns in (None, self.turns)
        if self.turn == site:
            return "" if same else f"it was trained in an earlier turn of {site}"
        whose = f"it is {self.turn}'s turn" if self.turn else "it is nobody's turn"
        return f"the turn of {site} is over; {whose}" if started.turn == site else whose

    def all_sessions_done(self) -> bool:
        """Whether every site has trained as many sessions as agreed, or as many rounds have closed."""
        some = self.policy.rounds or bool(self.sites)
        return some and self.sessions is not None and self.done >= self.sessions

    @property
    def done(self) -> int:
        """How many rounds have closed, or how many sessions every site has trained."""
        return self.rounds if self.policy.rounds else min((site.sessions for site in self.sites), default=0)

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
    try:
        return _begun(record) if state is None else _advanced(state, record)
    except KeyError as error:
        raise LedgerError(f"record {record.sequence} lacks {error}") from None
    except (LookupError, TypeError, ValueError, ArithmeticError, MaskError) as error:
        raise LedgerError(f"record {record.sequence}: {error}") from None


def _begun(record: Record) -> Federation:
    said = record.said
    if not isinstance(said, Genesis) or record.sequence != 1:
        raise LedgerError(f"the history begins with {record.event}, expected genesis")
    current = Current(record.sequence, said.model, said.metrics, bar=_bar(said, said.metrics))
    return Federation(said, record.sequence, record.hash, current, said.sessions)


def _advanced(state: Federation, record: Record) -> Federation:
    _ = record.time  # has its form
    changed = _after(state, record, record.said)
    if isinstance(record.said, Verdict) and isinstance(record.said.privacy, Spent):
        changed = dataclasses.replace(changed, spent=_more_spent(state, record.said.site, record.said.privacy))
    used = rates.follow(state.used, record.fields, state.rates)
    changed = dataclasses.replace(changed, sequence=record.sequence, head=record.hash, used=used)
    if changed.policy.masked:
        changed = dataclasses.replace(changed, ready=_ready(changed, rates.seconds(record.time)))
    return _with_turn(state, changed, record.said)


def _after(state: Federation, record: Record, said: Event) -> Federation:
    match said:
        case Accepted():
            left = dataclasses.replace(state, taken=_taken(state, said), slots=_left_waiting(state, said))
            return dataclasses.replace(left, current=_next(state, record, said))
        case Refused():
            return dataclasses.replace(state, slots=_waiting(state, record, said))
        case RolledBack():
            return dataclasses.replace(state, current=_next(state, record, said), taken={}, slots={})
        case RoundOpened():
            opened = datetime.datetime.fromisoformat(record.time).timestamp()
            began = Round(said.round, said.sites, said.sites, opened, record.sequence)
            if state.policy.masked:
                dealt_out = known(said.groups, (said.sites,))
                groups = tuple(Masking(Roster.of([state.adverts[site] for site in names])) for names in dealt_out)
                state = dataclasses.replace(state, adverts=_later_than(state.adverts, said.round))
                began = dataclasses.replace(began, groups=groups, since=opened)
            return dataclasses.replace(state, round=began, turns=said.round)
        case Masks():
            return _more_masks(state, said)
        case RoundPartners():
            return _gone_on(state, record, "partners", said.sites)
        case RoundClosing():
            return _gone_on(state, record, "arrived", said.sites)
        case RoundAgreed():
            return _gone_on(state, record, "confirmed", said.sites)
        case Counted():
            current = _open_round(state, record)
            update = Update(said.site, record.sequence, said.model, said.examples)
            return dataclasses.replace(state, round=dataclasses.replace(current, updates=(*current.updates, update)))
        case RoundExtended():
            extended = dataclasses.replace(_open_round(state, record), sites=said.sites)
            return dataclasses.replace(state, round=extended)
        case RoundAccepted():
            return dataclasses.replace(_closed(state, said), current=_next(state, record, said))
        case RoundRefused():
            return _closed(state, said)
        case SiteAdded():
            others = tuple(member for member in state.members if member.name != said.site)
            before = state.member(said.site)  # with a new key perhaps, but still the one that trained
            added = Member(said.site, said.role, said.key, before.sessions if before else 0)
            return dataclasses.replace(state, members=(*others, added))
        case SiteRevoked():
            member = state.member(said.site)
            taken, slots = _all_but(state.taken, said.site), _all_but(state.slots, said.site)
            left = dataclasses.replace(state, taken=taken, slots=slots)
            return _without(_with_member(left, member and dataclasses.replace(member, revoked=True)), said.site)
        case Report():
            member = state.member(said.site)
            trained = not known(said.passed, False)
            more = member and dataclasses.replace(member, sessions=member.sessions + trained)
            left = dataclasses.replace(state, taken=_all_but(state.taken, said.site))
            return _with_empty(_with_member(left, more), record, said.site)
        case Invalid() | Garbage():
            return _with_empty(state, record, said.site)
        case Released():
            return dataclasses.replace(state, release=record)
        case Finished():
            return dataclasses.replace(state, finished=True, round=None, slots={})
        case Reopened():
            return dataclasses.replace(state, finished=False, sessions=said.sessions)
        case Tagged():
            return dataclasses.replace(state, names={**state.names, said.tag: said.of})
        case Untagged():
            return dataclasses.replace(state, names=_all_but(state.names, said.tag))
    return state


def _ready(state: Federation, now: float) -> float | None:
    """Since when the next round could open without those who have given no keys for it."""
    if state.round is not None or len(state.keyed) < state.policy.least:
        return None
    return now if state.ready is None else state.ready


def _more_masks(state: Federation, said: Masks) -> Federation:
    """What a site says about masks."""
    if isinstance(said.advert, Advert):
        state = dataclasses.replace(state, adverts={**state.adverts, said.site: said.advert})
    current = state.round
    masking = current.group(said.site) if current else None
    if current is None or masking is None:
        return state
    before = masking
    if isinstance(said.shares, Shares):
        masking = masking.given(said.shares)
    if isinstance(said.agreed, str):
        masking = masking.signed(said.site, said.agreed)
    if isinstance(said.answer, Answer):
        masking = masking.answered(said.answer)
    groups = tuple(masking if one is before else one for one in current.groups)
    return dataclasses.replace(state, round=dataclasses.replace(current, groups=groups))


def _gone_on(state: Federation, record: Record, name: str, sites: tuple[str, ...]) -> Federation:
    """The open round after it is settled who of each group is among some sites."""
    current = _open_round(state, record)
    if not current.groups:
        raise LedgerError(f"record {record.sequence} is {record.event}, but no masks were agreed")
    some: Any = [{name: tuple(site for site in one.roster.sites if site in sites)} for one in current.groups]
    groups = (dataclasses.replace(one, **changed) for one, changed in zip(current.groups, some, strict=True))
    went = dataclasses.replace(current, groups=tuple(groups), since=rates.seconds(record.time))
    return dataclasses.replace(state, round=went)


def _later_than(adverts: Mapping[str, Advert], number: int) -> Mapping[str, Advert]:
    return {site: advert for site, advert in adverts.items() if advert.round > number}


def _more_spent(state: Federation, site: str, said: Spent) -> Mapping[str, Spending]:
    before = state.spent.get(site)
    charges = dict(before.charges if before else ())
    charges[said.rate] = charges.get(said.rate, 0) + said.steps
    found = Spending(tuple(sorted(charges.items())), said.spent, said.next, said.budget)
    return {**state.spent, site: found}


def _taken(state: Federation, said: Accepted) -> Mapping[str, Taken]:
    """What was last taken of each running session, after one more."""
    if not state.policy.steps:
        return state.taken
    sent, builds_on = known(said.candidate, said.model), known(said.builds_on, 0)
    used = {site: slot for site, slot in state.slots.items() if slot.record in known(said.slots, ())}
    others = {site: Taken(slot.session, slot.builds_on, slot.candidate) for site, slot in used.items()}
    return {**state.taken, **others, said.site: Taken(said.session, builds_on, sent)}


def _left_waiting(state: Federation, said: Accepted) -> Mapping[str, Slot]:
    """What still waits after one more is taken: neither what is in it, nor what the same site sent before."""
    used = known(said.slots, ())
    return {site: slot for site, slot in state.slots.items() if site != said.site and slot.record not in used}


def _waiting(state: Federation, record: Record, said: Refused) -> Mapping[str, Slot]:
    """What waits after one more is refused: in its site's slot, where it was scored."""
    if not state.policy.gathered or said.staleness is ABSENT or said.candidate is ABSENT:
        return state.slots
    base = known(said.base, state.current.model)
    if base == said.candidate:
        return _all_but(state.slots, said.site)  # nothing was changed, so there is nothing to wait for
    slot = Slot(record.sequence, said.session, known(said.builds_on, 0), said.candidate, base)
    others = sorted(_all_but(state.slots, said.site).items(), key=lambda one: one[1].record)
    most = int(state.policy.values["slots"])  # as many are tried together, beside a site's own
    return {**dict(others[-most:]), said.site: slot}


def _all_but(of: Mapping[str, _One], left_out: str) -> Mapping[str, _One]:
    return {name: one for name, one in of.items() if name != left_out}


def _closed(state: Federation, said: RoundAccepted | RoundRefused) -> Federation:
    last = LastRound(round=said.round, event=said.name, reason=said.reason)
    return dataclasses.replace(state, round=None, rounds=state.rounds + 1, last=last)


def _next(state: Federation, record: Record, said: Accepted | RolledBack | RoundAccepted) -> Current:
    """The model that a record makes current."""
    if said.metrics is None and isinstance(said, Accepted) and state.policy.for_sites:
        return _handed_on(state, record, said)
    if said.metrics is None:
        raise LedgerError(f"record {record.sequence} makes a model current without scores")
    bar = _bar(state.genesis, said.metrics)
    if not isinstance(said, RolledBack):  # after a rollback the bar is what the operator went back to
        bar = better_of(main_metric(state.genesis), bar, state.current.bar)
    maker = said.site if isinstance(said, Accepted) else ""
    server = () if isinstance(said, RolledBack) else known(said.state, ())
    return Current(record.sequence, said.model, said.metrics, (*state.current.makers, maker), bar, server)


def _handed_on(state: Federation, record: Record, said: Accepted) -> Current:
    """The model of a turn whose site's layers are for sites alone."""
    sent = known(said.candidate, said.model)
    layers = Layers(
        record=record.sequence,
        site=said.site,
        submission=known(said.submission, ""),
        sha256=sent.sha256,
        size=sent.size,
    )
    makers = (*state.current.makers, said.site)
    before = state.current
    return Current(record.sequence, said.model, before.metrics, makers, before.bar, known(said.state, ()), layers)


def main_metric(genesis: Genesis) -> str:
    """What the policy compares first."""
    return str(genesis.plan["metric"])


def _bar(genesis: Genesis, metrics: Metrics) -> float:
    value = metrics[main_metric(genesis)]
    return -1.0 if value is None else float(value)


def _with_empty(state: Federation, record: Record, name: str) -> Federation:
    """A site from which nothing of use comes in the open round is not waited for."""
    current = state.round
    if current is None or name in current.empty or not ends_waiting(record.fields, current.record):
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


def _with_member(state: Federation, changed: Member | None) -> Federation:
    members = (changed if changed and one.name == changed.name else one for one in state.members)
    return dataclasses.replace(state, members=tuple(members))


def _with_turn(before: Federation, state: Federation, said: Event) -> Federation:
    """Pass the turn on: after its site's report, when its time is up, or when its site is gone."""
    if state.genesis.schedule != "relay":
        return state
    over = isinstance(said, Report | TurnPassed | SiteRevoked) and said.site == before.turn
    if before.turn is not None and not over:
        return state
    turn = state.turn_after(before.turn or "")
    if turn is None and before.turn is None:
        return state
    return dataclasses.replace(state, turn=turn, turns=state.turns + 1)
