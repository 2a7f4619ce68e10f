"""Holding a history against its own rules: every decision recomputed from what its record says the judge found.

What follows from the records before is computed anew and compared, member for member: who is refused for what, what a
score is compared with, which share of a candidate counts, who is drawn for a round and when it closes, what a release
says, when the federation is over. What does not follow is somebody's word and is counted as unchecked (`WORDS`).

So a coordinator cannot record a verdict, a round or a release that her own policy does not give for what she says,
without whoever reads the history seeing it. What stays hers:

    a score             she may say another one than the judge found, and the verdict follows from it
    the judge           she may say that it could not score a model, or that sites cannot go on from one (`but ...`)
    under a ladder      she need not say what a refused model scored
    a bundle            she may say that it was damaged, or drop it; its site gets no other receipt then
    a mix               she may say that another of several scored best, that Krum found others to be near, and that a
                        model is the mix or mean of what it names: nobody else has the weights of all
    what sites say      she may repeat it wrongly; a site that looks finds it in its own verdict
    the operator        she may revoke, enrol, pass a turn, roll back, finish, reopen or end a round at any time
    the clock           she may write another time, so a deadline is hers
    silence, order      she may take her time, and judge in any order, and twice after many others

Everything of this but scores, silence and order is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fedssh.errors import DecisionError, LedgerError
from fedssh.forms import canonical
from fedssh.rules import rates, records
from fedssh.rules.events import (
    Accepted,
    Counted,
    Event,
    Finished,
    Garbage,
    Genesis,
    Invalid,
    Metrics,
    Record,
    Released,
    Reopened,
    Report,
    RolledBack,
    RoundAccepted,
    RoundClosed,
    RoundExtended,
    RoundOpened,
    RoundRefused,
    SiteAdded,
    SiteRevoked,
    TurnPassed,
    Unknown,
    Verdict,
)
from fedssh.rules.federation import Federation, advance
from fedssh.rules.gate import Decision, decide, impossible
from fedssh.rules.options import server_start
from fedssh.rules.records import Over, Sent
from fedssh.rules.rounds import Due, Round
from fedssh.rules.standing import Standing, Started
from fedssh.rules.terms import SCHEDULES, schedule_of
from fedssh.rules.typed import ABSENT, Typed, known, plain

REMEMBERED = 1024  # releases and models whose records are not asked for again, and what was judged that is known
STEP_SECONDS = 60.0  # as far a clock may be put back between a look at a deadline or a rate and the record
ENDED = re.compile(
    r"the federation was finished|rolled back to record ([1-9][0-9]{0,15})"
)  # how an operator ends a round
NO_JUDGE = (
    "revoked",
    "round ",
    "the federation was finished",
    "rolled back to record ",
)  # other reasons than a judge's
TOO_FEW = re.compile(r"[0-9]+ of [0-9]+ updates")
ROLES = ("site", "auditor")

JUDGE, UNSOUND, HIDDEN, CHOSEN, NEAR, MADE, BUNDLE, OPERATOR, CLOCK, RATE, OLDER, NEWER = WORDS = (
    "that the judge could not do it",
    "whether sites can go on from a model",
    "what the ladder hides",
    "that no other mix scores better",
    "shares that depend on the weights",
    "that a model is made of what it says",
    "what was wrong with a bundle",
    "what an operator decided",
    "what time it was",
    "bundles above the rate that was agreed",
    "what an older version left out",
    "what this program does not know",
)

LookUp = Callable[[int], Record]
Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Replay:
    """A history, followed from its beginning or from a state.

    Args:
        state: Where to begin; None is the beginning.
        look_up: As the attribute.

    Attributes:
        state: After the newest record; None before the first.
        look_up: Finds an earlier record by its number, once more than `REMEMBERED` have gone by; None where none can
            be asked for.
        unchecked: How often somebody's word had to do, by `WORDS`.
    """

    def __init__(self, state: Federation | None = None, look_up: LookUp | None = None) -> None:
        self.state = state
        self.unchecked: Counter[str] = Counter()
        self.look_up = look_up
        self._started: dict[int, Started] = {}
        self._made: dict[int, str] = {}
        self._judged: dict[str, None] = {}  # "site subject"; a set that knows what came first

    def follow(self, record: Record) -> Federation:
        """Check one more record and go on from it; that it is signed and linked is checked elsewhere.

        Raises:
            DecisionError: It says something that the rules do not give; the state stays as it was.
            LedgerError: It cannot follow.
        """
        try:
            if self.state is None:
                _check_genesis(record, record.said)
            else:
                self._check(self.state, record, record.said)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise _wrong(record, f"nothing can be decided from it: {error}") from None
        return self.go_on(record)

    def go_on(self, record: Record) -> Federation:
        """Go on from one more record without a check.

        Raises:
            LedgerError: It cannot follow.
        """
        said = record.said
        self.state = advance(self.state, record)
        if isinstance(said, Released):
            _remember(self._started, record.sequence, said.federation.started)
        if (made := _made_current(said)) is not None:
            _remember(self._made, record.sequence, made)
        if subject := _subject(said):
            _remember(self._judged, subject, None)
        return self.state

    def remembered(self) -> dict[str, object]:
        """What `remember` needs to go on another day, as JSON, beside the state."""
        started = [[n, one.version, one.turn, one.turns] for n, one in self._started.items()]
        return {"started": started, "made": list(self._made.items()), "judged": list(self._judged)}

    def remember(self, value: Mapping[str, Any]) -> None:
        """Take in what `remembered` gave."""
        self._started = {int(n): Started(version, turn, turns) for n, version, turn, turns in value["started"]}
        self._made = {int(n): str(one) for n, one in value["made"]}
        self._judged = dict.fromkeys(map(str, value["judged"]))

    def _check(self, state: Federation, record: Record, said: Event) -> None:
        """Compare a record with what the rules give."""
        self._word(NEWER, isinstance(said, Unknown) or _says_more(said))
        if (subject := _subject(said)) is not None and subject in self._judged:
            raise _wrong(record, f"what was sent is judged already: {subject}")
        self._check_rates(state, record, said)
        match said:
            case Report():
                self._check_report(state, record, said)
            case Verdict():
                self._check_verdict(state, record, said)
            case RoundOpened():
                _same(record, records.opening(state))
            case RoundExtended():
                expected = records.extension(state, _until(record))
                self._word(CLOCK, expected is not None and records.extension(state, -math.inf) is None)
                _same(record, expected)
            case RoundClosed():
                self._check_round(state, record, said)
            case Released():
                self._check_release(state, record, said)
            case Invalid() | Garbage():
                if state.member(said.site) is None:
                    raise _wrong(record, f"{said.site} was never enrolled")
                if isinstance(said, Garbage) and not state.rates[rates.INVALID]:
                    raise _wrong(record, "no rate of invalid bundles was agreed")
                self._word(BUNDLE)
            case _:
                self._check_operator(state, record, said)

    def _check_operator(self, state: Federation, record: Record, said: Event) -> None:
        match said:
            case SiteAdded():
                _check_added(state, record, said)
            case SiteRevoked():
                before = state.member(said.site)
                if before is None or before.revoked:
                    raise _wrong(record, f"{said.site} is not enrolled")
            case TurnPassed():
                if state.turn != said.site:
                    raise _wrong(record, f"it is not {said.site}'s turn")
            case RolledBack():
                self._check_rollback(state, record, said)
            case Finished():
                if state.finished:
                    raise _wrong(record, "the federation is finished already")
                if said == records.finished(state):
                    return
                _no_round(state, record)
            case Reopened():
                _check_reopened(state, record, said)
            case Genesis():
                raise _wrong(record, "a history has one beginning")
            case Unknown():
                return
        self._word(OPERATOR)

    def _check_rollback(self, state: Federation, record: Record, said: RolledBack) -> None:
        _no_round(state, record)
        if said.model == state.current.model:
            raise _wrong(record, "this model is the current one")
        if self._made_by(record, said.to) != _made_current(said):
            raise _wrong(record, f"record {said.to} did not make this model current")

    def _can_go_back(self, state: Federation, record: Record, number: int) -> bool:
        made, current = self._made_by(record, number), self._made_by(record, state.current.of)
        return made is not None and made != current

    def _made_by(self, record: Record, number: int) -> str | None:
        """The model that an earlier record made current, as `_made_current` tells it."""
        if (made := self._made.get(number)) is not None:
            return made
        earlier = self._earlier(record, number)
        return _made_current(earlier) if earlier else None

    def _check_release(self, state: Federation, record: Record, said: Released) -> None:
        if (end := records.finished(state)) is not None:
            raise _wrong(record, f"first comes the end: {end.reason}")
        due = state.due_release()
        if due is not None and (less := _left_out(state, said)):
            self._word(OLDER)
            due = dataclasses.replace(due, federation=dataclasses.replace(due.federation, **less))
        _same(record, due)

    def _check_rates(self, state: Federation, record: Record, said: Event) -> None:
        """Count what is above a rate, but for what a clock that was put back explains."""
        if not any(state.rates) or not isinstance(said, Verdict | Report | Invalid | Garbage):
            return
        used, now = state.used.get(said.site, rates.NEVER), rates.seconds(record.time) + STEP_SECONDS
        if isinstance(said, Garbage):  # told of once an hour
            self._word(RATE, used[rates.GARBAGE] <= now < used[rates.GARBAGE] + rates.HOUR)
        else:
            self._word(RATE, any(rates.waits(used, now, state.rates)))

    def _check_report(self, state: Federation, record: Record, said: Report) -> None:
        started = self._started_from(record, said.builds_on)
        own = {name: value for name, value in vars(said).items() if name != "more"}
        _same(record, records.reported(state, Over(**own, started=started)))

    def _check_verdict(self, state: Federation, record: Record, said: Verdict) -> None:
        if said.builds_on is ABSENT:
            raise _wrong(record, "it does not say what it builds on")
        started = self._started_from(record, said.builds_on)
        if said.model is None:
            self._check_refused_report(state, record, said, started)
            return
        sent = _sent(record, said, started)
        if reason := state.objection(sent.site, sent.started):
            _same(record, records.verdict(state, sent, Decision(False, reason)))
            return
        if sent.architecture != known(state.genesis.architecture, sent.architecture):
            raise _wrong(record, "a model of another architecture is invalid")
        if state.policy.rounds:
            _same(record, records.counted(state, sent))
        else:
            self._check_scored(state, record, said, sent)

    def _check_refused_report(self, state: Federation, record: Record, said: Verdict, started: Started) -> None:
        over = Over(
            site=said.site,
            submission=known(said.submission, ""),
            session=said.session,
            epochs=said.epoch,
            checkpoints=0,
            examples=said.examples,
            builds_on=known(said.builds_on, 0),
            started=started,
            metrics=known(said.claim, None),
        )
        _same(record, records.reported(state, over))

    def _check_scored(self, state: Federation, record: Record, said: Verdict, sent: Sent) -> None:
        """A candidate that was held against the current model, for a policy without rounds."""
        if isinstance(said, Counted):
            raise _wrong(record, f"the policy {state.policy.name} has no rounds")
        staleness = state.current.staleness(sent.site, sent.started.version)
        wanted = state.policy.shares(staleness)
        if said.metrics is None:
            possible = [functools.partial(_decided, state, wanted, share) for share in wanted]
            decided, scored = self._unscored(state, record, said, possible)
        else:
            _check_scores(record, state, said.metrics)
            share = _share(state, record, said, wanted)
            self._word(CHOSEN, len(wanted) > 1)
            decided = self._gone_on(state, record, said, _decided(state, wanted, share, _possible(state, said.metrics)))
            scored = True
        if not isinstance(said, Accepted):
            _same(record, records.verdict(state, sent, decided, staleness if scored else None))
            return
        self._word(MADE, decided.share != 1)
        model = sent.model if decided.share == 1 else said.model
        _same(record, records.verdict(state, sent, decided, staleness, model))

    def _unscored(
        self,
        state: Federation,
        record: Record,
        said: Verdict | RoundClosed,
        possible: Sequence[Callable[[Metrics], Decision]],
    ) -> tuple[Decision, bool]:
        """What was refused without telling a score: by the ladder, or because the judge could not do it.

        Args:
            possible: What the policy may make of what was scored.

        Returns:
            The decision, and whether there were scores.
        """
        if isinstance(said, Accepted | RoundAccepted):
            raise _wrong(record, "nothing is accepted without a score")
        decided = Decision(False, said.reason)
        low, high = ({state.metric: end * math.inf, "loss": 0.0} for end in (-1, 1))
        for made_of in possible if state.gate.kind == "ladder" else ():
            unsound = said.reason.startswith(f"{made_of(high).reason}, but ")
            if unsound or said.reason == made_of(low).reason:
                self._word(UNSOUND, unsound)
                self._word(HIDDEN)
                return decided, True
        rules = (f"{state.metric} ", f"{state.policy.name} of ", *NO_JUDGE)
        if said.reason.startswith(rules) or TOO_FEW.match(said.reason):
            raise _wrong(record, f"no judge says {_short(said.reason)}")
        self._word(JUDGE)
        return decided, False

    def _gone_on(self, state: Federation, record: Record, said: Verdict | RoundClosed, decided: Decision) -> Decision:
        """The decision, with what the judge found when it tried the model; that is her word."""
        accept, reason = isinstance(said, Accepted | RoundAccepted), decided.reason
        if decided.accept and said.reason.startswith(f"{reason}; " if accept else f"{reason}, but "):
            reason = said.reason
            self._word(UNSOUND)
        elif decided.accept != accept:
            by = "accepts" if decided.accept else "refuses"
            raise _wrong(record, f"the policy {state.policy.name} {by} it: {reason}")
        self._word(HIDDEN, state.gate.kind == "ladder")
        return dataclasses.replace(decided, accept=accept, reason=reason, metrics=said.metrics)

    def _check_round(self, state: Federation, record: Record, said: RoundClosed) -> None:
        current = state.round
        if current is None:
            raise _wrong(record, "no round is open")
        if isinstance(said, RoundRefused) and (ended := ENDED.fullmatch(said.reason)):
            if ended[1] and not self._can_go_back(state, record, int(ended[1])):
                raise _wrong(record, f"nobody can roll back to record {ended[1]}")
            self._word(OPERATOR)
            _same(record, records.closed_empty(state, current, Decision(False, said.reason)))
            return
        if records.due_now(state, _until(record)) is not Due.CLOSE:
            raise _wrong(record, "the round is not due to close")
        self._word(CLOCK, records.due_now(state, -math.inf) is not Due.CLOSE)
        _check_updates(record, said, current)
        if (decided := records.too_few(state, current)) is not None:
            _same(record, records.closed_empty(state, current, decided))
            return
        gated = functools.partial(records.gated, state, len(current.updates))
        if said.metrics is None:
            decided, scored = self._unscored(state, record, said, [gated])
        else:
            _check_scores(record, state, said.metrics)
            decided, scored = self._gone_on(state, record, said, gated(_possible(state, said.metrics))), True
        shares = self._shares(state, record, said) if scored else None
        if not isinstance(said, RoundAccepted):
            _same(record, records.closed_empty(state, current, decided, shares))
            return
        sets = len(server_start(state.policy.values))
        if len(said.state) != sets:
            raise _wrong(record, f"the server optimizer's state has {len(said.state)} sets, by the policy {sets}")
        self._word(MADE)
        _same(record, records.closed(state, current, decided, shares or (), said.model, said.state))

    def _shares(self, state: Federation, record: Record, said: RoundClosed) -> list[float]:
        """The updates' shares, by the policy; where they depend on the weights, those that are told, if they can be."""
        policy = state.policy
        try:
            computed = policy.shares_of([part.examples for part in said.updates])
        except ValueError as error:
            raise _wrong(record, str(error)) from None
        if computed is not None:
            return computed
        found = [-1.0 if part.share is None else part.share for part in said.updates]
        if not policy.plausible_shares(found):
            raise _wrong(record, f"the shares {', '.join(map(str, found))} cannot be those of {policy.text}")
        self._word(NEAR)
        return found

    def _started_from(self, record: Record, release: int) -> Started:
        """What a submission started from."""
        if (started := self._started.get(release)) is not None:
            return started
        said = self._earlier(record, release)
        if not isinstance(said, Released):
            raise _wrong(record, f"it builds on record {release}, which is no release")
        return said.federation.started

    def _earlier(self, record: Record, number: int) -> Event | None:
        """What an earlier record says that is not remembered; None where there is none.

        Raises:
            LedgerError: It cannot be asked for.
        """
        if not 1 <= number < record.sequence:
            return None
        if self.look_up is not None:
            return self.look_up(number).said
        if len(self._started) < REMEMBERED and len(self._made) < REMEMBERED:
            return None  # nothing was forgotten, so it is not of the kind that is looked for
        raise LedgerError(f"record {record.sequence} needs record {number}, which cannot be asked for")

    def _word(self, what: str, said: bool = True) -> None:
        if said:
            self.unchecked[what] += 1


def _sent(record: Record, said: Verdict, started: Started) -> Sent:
    """What a submission said, as far as its verdict repeats it."""
    claim, model, architecture = known(said.claim, None), known(said.candidate, said.model), said.architecture
    if claim is None or model is None or not isinstance(architecture, str):
        raise _wrong(record, "a submission has a claim, a model and an architecture")
    return Sent(
        site=said.site,
        submission=known(said.submission, ""),
        session=said.session,
        epoch=said.epoch,
        examples=said.examples,
        builds_on=known(said.builds_on, 0),
        started=started,
        claim=claim,
        model=model,
        architecture=architecture,
    )


def _share(state: Federation, record: Record, said: Verdict, wanted: Sequence[float]) -> float:
    """The candidate's share in what is decided about, as it is told; powers may differ in the last digit elsewhere."""
    share = 1.0 if not state.policy.mixes else known(said.share, None)
    if share is None or not any(math.isclose(share, one) for one in wanted):
        raise _wrong(record, f"its share is {share}, by the policy one of {', '.join(map(repr, wanted))}")
    return share


def _decided(state: Federation, wanted: Sequence[float], share: float, metrics: Metrics) -> Decision:
    """What the policy makes of a candidate, when this of its shares scored best."""
    others = [(other, metrics) for other in wanted if not math.isclose(other, share)]
    current, mixes = state.current, [(share, metrics), *others]
    return decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes)


def _possible(state: Federation, metrics: Metrics) -> Metrics:
    """What a model may have scored: what is told, or under a ladder the most that is told in the same way."""
    if state.gate.kind != "ladder" or metrics.get(state.metric) is None:
        return metrics
    return {**metrics, state.metric: metrics[state.metric] + state.gate.margin / 2 + 1e-9}


def _check_genesis(record: Record, said: Event) -> None:
    """Check that what is agreed goes together."""
    if not isinstance(said, Genesis):
        return  # it cannot follow, says the state
    state = advance(None, record)
    if said.schedule not in ("rounds", *SCHEDULES) or schedule_of(said.schedule, state.policy) != said.schedule:
        raise _wrong(record, f"the policy {state.policy.name} has another schedule than {said.schedule}")
    if said.schedule == "rounds" and not state.policy.rounds:
        raise _wrong(record, f"the policy {state.policy.name} has no rounds")
    if min(state.rates) < 0:
        raise _wrong(record, "rates are whole numbers from 0")
    _check_scores(record, state, said.metrics)


def _check_scores(record: Record, state: Federation, metrics: Metrics) -> None:
    if (name := impossible(metrics, state.gate.most)) is not None:
        raise _wrong(record, f"no model can score the {name} {_short(metrics[name])}")


def _check_added(state: Federation, record: Record, said: SiteAdded) -> None:
    before = state.member(said.site)
    if before is not None and not before.revoked:
        raise _wrong(record, f"{said.site} is enrolled already")
    if said.role not in ROLES:
        raise _wrong(record, f"the roles are {' and '.join(ROLES)}")
    if said.key in (state.genesis.coordinator, *(one.key for one in state.enrolled)):
        raise _wrong(record, "everybody has a key of their own")


def _check_reopened(state: Federation, record: Record, said: Reopened) -> None:
    if not state.finished:
        raise _wrong(record, "the federation is open")
    done = state.rounds if state.policy.rounds else min((site.sessions for site in state.sites), default=0)
    if said.sessions is not None and said.sessions <= done:
        raise _wrong(record, f"{said.sessions} are done already")


def _check_updates(record: Record, said: RoundClosed, current: Round) -> None:
    wanted, found = [one.record for one in records.in_order(current)], [part.record for part in said.updates]
    if found != wanted:
        numbers = (", ".join(map(str, one)) or "none" for one in (wanted, found))
        raise _wrong(record, "its updates are those of records {}, the record says {}".format(*numbers))


def _no_round(state: Federation, record: Record) -> None:
    if state.round is not None:
        raise _wrong(record, f"round {state.round.number} ends first")


def _left_out(state: Federation, said: Released) -> dict[str, Any]:
    """What a release does not say of the federation, as far as no release before it did: an older version made it."""
    before = state.release.said if state.release else None
    told = before.federation if isinstance(before, Released) else None
    names = (field.name for field in dataclasses.fields(Standing))
    less = [name for name in names if getattr(said.federation, name) is ABSENT]
    return {name: ABSENT for name in less if told is None or getattr(told, name) is ABSENT}


def _until(record: Record) -> float:
    """The latest time at which it can have been made, in seconds since 1970."""
    return rates.seconds(record.time) + STEP_SECONDS


def _subject(said: Event) -> str | None:
    """Whose it is, and what is judged once; None of what is no verdict."""
    match said:
        case Verdict() | Report() | Invalid():
            id = known(said.submission, None)
            bundle = f"bundle {said.bundle}" if isinstance(said, Invalid) and said.bundle else None
            return f"{said.site} {id or bundle}" if id or bundle else None
    return None


def _same(record: Record, expected: Event | None) -> None:
    """Compare a record with what it should be; members that this program does not know are left out.

    Raises:
        DecisionError: Names the first member that is another one.
    """
    said = record.said
    if expected is None:
        raise _wrong(record, "nothing of the kind is due")
    if said.name != expected.name:
        reason = expected.fields().get("reason")
        raise _wrong(record, f"it is {expected.name}" + (f": {reason}" if reason else ""))
    found, wanted = _known(said), _known(expected)
    for name in sorted(found.keys() | wanted.keys()):
        if canonical(found.get(name)) != canonical(wanted.get(name)) or (name in found) != (name in wanted):
            raise _wrong(record, f"{name} is {_short(wanted.get(name))}, the record says {_short(found.get(name))}")


def _says_more(value: object) -> bool:
    """Whether something is said that this program does not know."""
    if isinstance(value, Typed):
        return bool(value.more) or any(map(_says_more, vars(value).values()))
    return isinstance(value, tuple) and any(map(_says_more, value))


def _known(value: Any) -> Any:
    """What is said, as JSON, without members that this program does not know."""
    if isinstance(value, Typed):
        found = {name: one for name, one in vars(value).items() if name != "more" and one is not ABSENT}
        return {name: _known(one) for name, one in found.items()}
    if isinstance(value, tuple):
        return [_known(one) for one in value]
    return plain(value)


def _wrong(record: Record, why: str) -> DecisionError:
    return DecisionError(
        f"record {record.sequence} is {record.event}, by the federation's own rules {why}",
        "its operator decided otherwise than was agreed, or uses another version of fedssh; ask before you go on",
    )


def _short(value: object) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 120 else f"{text[:119]}…"


def _made_current(said: Event) -> str | None:
    """What tells a model that became current, with its scores, from every other; None where a record makes none."""
    if not isinstance(said, Genesis | Accepted | RoundAccepted | RolledBack) or said.metrics is None:
        return None
    return hashlib.sha256(canonical([said.model.fields(), dict(said.metrics)])).hexdigest()


def _remember(found: dict[Key, Kept], key: Key, one: Kept) -> None:
    found[key] = one
    if len(found) > REMEMBERED:
        del found[next(iter(found))]
