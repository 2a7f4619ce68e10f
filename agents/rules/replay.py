"""Holding a history against its own rules: every decision recomputed from what its record says the judge found.

What follows from the records before is computed anew and compared, member for member: who is refused for what, what a
score is compared with, which share of a candidate counts, who is drawn for a round and when it closes, what a release
says, when the federation is over. What does not follow is somebody's word and is counted as unchecked (`WORDS`): that a
model scores so, that the judge could not score it or sites cannot go on from it, what a ladder hides, which of several
mixes scored best, the shares that Krum gives, what was wrong with a bundle, and whatever an operator decides.

So a coordinator may still lie about a score; she cannot record a verdict, a round or a release that her own policy does
not give for what she says, without whoever reads the history seeing it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from fedssh.errors import DecisionError
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
    Verdict,
)
from fedssh.rules.federation import Federation, advance
from fedssh.rules.gate import Decision, decide
from fedssh.rules.options import server_start
from fedssh.rules.records import Over, Sent
from fedssh.rules.rounds import Due, Round
from fedssh.rules.standing import Started
from fedssh.rules.typed import ABSENT, known

REMEMBERED = 1024  # releases and models whose records are not asked for again
CLOCK_SECONDS = 0.002  # times are written in milliseconds, and cut, not rounded
ENDED = ("the federation was finished", "rolled back to record ")  # how an operator ends a round

JUDGE, UNSOUND, HIDDEN, CHOSEN, NEAR, BUNDLE, OPERATOR, OLD, NEWER = WORDS = (
    "that the judge could not do it",
    "that sites cannot go on from a model",
    "what the ladder hides",
    "that no other mix scores better",
    "shares that depend on the weights",
    "what was wrong with a bundle",
    "what an operator decided",
    "what began from a release long ago",
    "a record of a kind that this program does not know",
)

LookUp = Callable[[int], Record]
Kept = TypeVar("Kept")


class Replay:
    """A history, followed from its beginning or from a state.

    Args:
        state: Where to begin; None is the beginning.
        look_up: Finds an earlier record by its number; None where only what is remembered can be asked.

    Attributes:
        state: After the newest record; None before the first.
        unchecked: How often somebody's word had to do, by `WORDS`.
    """

    def __init__(self, state: Federation | None = None, look_up: LookUp | None = None) -> None:
        self.state = state
        self.unchecked: Counter[str] = Counter()
        self._look_up = look_up
        self._started: dict[int, Started] = {}
        self._made: dict[int, str] = {}

    def follow(self, record: Record) -> Federation:
        """Check one more record and go on from it; that it is signed and linked is checked elsewhere.

        Raises:
            DecisionError: It says something that the rules do not give; the state stays as it was.
            LedgerError: It cannot follow.
        """
        if self.state is not None:
            self._check(self.state, record, record.said)
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
        elif (made := _made_current(said)) is not None:
            _remember(self._made, record.sequence, made)
        return self.state

    def remembered(self) -> dict[str, object]:
        """What `remember` needs to go on another day, as JSON, beside the state."""
        return {"started": [[n, *dataclasses.astuple(one)] for n, one in self._started.items()], "made": self._made}

    def remember(self, value: dict[str, object]) -> None:
        """Take in what `remembered` gave."""
        started, made = value["started"], value["made"]
        assert isinstance(started, list) and isinstance(made, dict)
        self._started = {int(n): Started(version, turn, turns) for n, version, turn, turns in started}
        self._made = {int(n): str(one) for n, one in made.items()}

    def _check(self, state: Federation, record: Record, said: Event) -> None:
        """Compare a record with what the rules give."""
        match said:
            case Report():
                self._check_report(state, record, said)
            case Verdict():
                self._check_verdict(state, record, said)
            case RoundOpened() | RoundExtended():
                now = rates.seconds(record.time) + CLOCK_SECONDS
                _same(record, records.opening(state) if said.name == "round-opened" else records.extension(state, now))
            case RoundClosed():
                self._check_round(state, record, said)
            case Released():
                if (end := records.finished(state)) is not None:
                    raise _wrong(record, f"first comes the end: {end.reason}")
                _same(record, state.due_release())
            case Finished():
                if state.finished:
                    raise _wrong(record, "the federation is finished already")
                self._word(OPERATOR, said != records.finished(state))
            case Invalid() | Garbage():
                if state.member(said.site) is None:
                    raise _wrong(record, f"{said.site} was never enrolled")
                self._word(BUNDLE)
            case RolledBack():
                self._check_rollback(record, said)
            case _:
                self._check_operator(state, record, said)

    def _check_operator(self, state: Federation, record: Record, said: Event) -> None:
        match said:
            case SiteAdded():
                before = state.member(said.site)
                if before is not None and not before.revoked:
                    raise _wrong(record, f"{said.site} is enrolled already")
            case SiteRevoked():
                before = state.member(said.site)
                if before is None or before.revoked:
                    raise _wrong(record, f"{said.site} is not enrolled")
            case TurnPassed():
                if state.turn != said.site:
                    raise _wrong(record, f"it is not {said.site}'s turn")
            case Reopened():
                if not state.finished:
                    raise _wrong(record, "the federation is open")
            case Genesis():
                raise _wrong(record, "a history has one beginning")
            case _:
                self._word(NEWER)
                return
        self._word(OPERATOR)

    def _check_rollback(self, record: Record, said: RolledBack) -> None:
        made = self._made.get(said.to)
        if made is None and self._look_up is not None and said.to < record.sequence:
            made = _made_current(self._look_up(said.to).said) or ""
        if made is None:
            self._word(OLD)
        elif made != _made_current(said):
            raise _wrong(record, f"record {said.to} did not make this model current")
        self._word(OPERATOR)

    def _check_report(self, state: Federation, record: Record, said: Report) -> None:
        if (started := self._started_from(record, said.builds_on)) is None:
            return
        own = {name: value for name, value in vars(said).items() if name != "more"}
        _same(record, records.reported(state, Over(**own, started=started)))

    def _check_verdict(self, state: Federation, record: Record, said: Verdict) -> None:
        if said.builds_on is ABSENT:
            raise _wrong(record, "it does not say what it builds on")
        started = self._started_from(record, said.builds_on)
        if started is None:
            return
        if said.model is None:
            self._check_refused_report(state, record, said, started)
            return
        sent = _sent(record, said, started)
        if reason := state.objection(sent.site, sent.started):
            _same(record, records.verdict(state, sent, Decision(False, reason)))
        elif state.policy.rounds:
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
        accept = isinstance(said, Accepted)
        if said.metrics is None:
            self._check_unscored(state, record, said, accept)
            decided = Decision(False, said.reason)
        else:
            share = 1.0 if not state.policy.mixes or said.share is ABSENT else said.share
            if share not in wanted:
                raise _wrong(record, f"its share is {share}, by the policy one of {', '.join(map(repr, wanted))}")
            self._word(CHOSEN, len(wanted) > 1)
            decided = self._as_scored(state, record, said, float(share or 0), wanted)
        scored = state.policy.mixes and said.staleness is not ABSENT
        if accept:
            model = said.model if state.policy.mixes and decided.share != 1 else sent.model
            assert model is not None
            _same(record, records.verdict(state, sent, decided, staleness, model))
        else:
            _same(record, records.verdict(state, sent, decided, staleness if scored else None))

    def _check_unscored(self, state: Federation, record: Record, said: Verdict | RoundClosed, accept: bool) -> None:
        """What was refused without telling a score: by the ladder, or because the judge could not do it."""
        if accept:
            raise _wrong(record, "nothing is accepted without a score")
        self._word(HIDDEN if state.gate.kind == "ladder" else JUDGE)

    def _as_scored(
        self, state: Federation, record: Record, said: Verdict, share: float, wanted: tuple[float, ...]
    ) -> Decision:
        """What the policy makes of what a candidate scored."""
        metrics = _possible(state, said)
        others = [(other, metrics) for other in wanted if other != share]
        current, mixes = state.current, [(share, metrics), *others]
        decided = decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes)
        return self._gone_on(state, record, said, decided)

    def _gone_on(self, state: Federation, record: Record, said: Verdict | RoundClosed, decided: Decision) -> Decision:
        """The decision, with what the judge found when it tried the model; that is her word."""
        accept, reason = isinstance(said, Accepted | RoundAccepted), decided.reason
        if decided.accept and accept and said.reason.startswith(f"{reason}; "):
            reason = said.reason
        elif decided.accept and not accept and said.reason.startswith(f"{reason}, but "):
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
        if isinstance(said, RoundRefused) and said.reason.startswith(ENDED):
            self._word(OPERATOR)
            _same(record, records.closed_empty(state, current, Decision(False, said.reason)))
            return
        if records.due_now(state, rates.seconds(record.time) + CLOCK_SECONDS) is not Due.CLOSE:
            raise _wrong(record, "the round is not due to close")
        if (decided := records.too_few(state, current)) is not None:
            _same(record, records.closed_empty(state, current, decided))
        elif said.metrics is None:
            self._check_unscored(state, record, said, isinstance(said, RoundAccepted))
            shares = self._shares(state, record, said) if said.updates and said.updates[0].share is not None else None
            _same(record, records.closed_empty(state, current, Decision(False, said.reason), shares))
        else:
            self._check_result(state, record, said, current)

    def _check_result(self, state: Federation, record: Record, said: RoundClosed, current: Round) -> None:
        decided = records.gated(state, len(current.updates), _possible(state, said))
        decided = self._gone_on(state, record, said, decided)
        shares = self._shares(state, record, said)
        if not isinstance(said, RoundAccepted):
            _same(record, records.closed_empty(state, current, decided, shares))
            return
        sets = len(server_start(state.policy.values))
        if len(said.state) != sets:
            raise _wrong(record, f"the server optimizer's state has {len(said.state)} sets, by the policy {sets}")
        _same(record, records.closed(state, current, decided, shares, said.model, said.state))

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

    def _started_from(self, record: Record, release: int) -> Started | None:
        """What a submission started from; None where nobody can say any more."""
        if (known_one := self._started.get(release)) is not None:
            return known_one
        if self._look_up is None and self._started and release < min(self._started):
            self._word(OLD)
            return None
        said = self._look_up(release).said if self._look_up and release < record.sequence else None
        if not isinstance(said, Released):
            raise _wrong(record, f"it builds on record {release}, which is no release")
        return said.federation.started

    def _word(self, what: str, said: bool = True) -> None:
        self.unchecked[what] += said


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


def _possible(state: Federation, said: Verdict | RoundClosed) -> Metrics:
    """What a model may have scored: what is told, or under a ladder the most that is told in the same way."""
    metrics = said.metrics
    assert metrics is not None
    if state.gate.kind != "ladder" or metrics.get(state.metric) is None:
        return metrics
    return {**metrics, state.metric: metrics[state.metric] + state.gate.margin / 2 + 1e-9}


def _same(record: Record, expected: Event | None) -> None:
    """Compare a record with what it should be.

    Raises:
        DecisionError: Names the first member that is another one.
    """
    said = record.said
    if expected is None:
        raise _wrong(record, "nothing of the kind is due")
    if said.name != expected.name:
        reason = expected.fields().get("reason")
        raise _wrong(record, f"it is {expected.name}" + (f": {reason}" if reason else ""))
    found, wanted = said.fields(), expected.fields()
    for name in sorted(found.keys() | wanted.keys()):
        if name in said.more:
            continue
        if canonical(found.get(name)) != canonical(wanted.get(name)) or (name in found) != (name in wanted):
            raise _wrong(record, f"{name} is {_short(wanted.get(name))}, the record says {_short(found.get(name))}")


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


def _remember(found: dict[int, Kept], sequence: int, one: Kept) -> None:
    found[sequence] = one
    if len(found) > REMEMBERED:
        del found[next(iter(found))]
