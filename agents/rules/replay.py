"""Holding a history against its own rules: every decision recomputed from what its record says the judge found.

What follows from the records before is computed anew and compared, member for member: who is refused for what, what a
score is compared with, which share of a candidate counts, who is drawn for a round and when it closes, what a release
says, when the federation is over. What does not follow is somebody's word and is counted as unchecked (`WORDS`).

So a coordinator cannot record a verdict, a round or a release that her own policy does not give for what she says,
without whoever reads the history seeing it. What stays hers:

    a score             she may say another one than the judge found, and the verdict follows from it; on her test
                        split, too, where nothing follows from it
    a threshold         she may say another one than the agreed rule finds, as far as it keeps what the rule promises
    the judge           she may say that it could not score a model, or that sites cannot go on from one (`but ...`)
    under a ladder      she need not say what a refused model scored; by how much an accepted one had to be better is
                        her word, as far as it is what two models with these accuracies can differ by
    a bundle            she may say that it was damaged, or drop it; its site gets no other receipt then
    a turn              under `split` she may say that other steps were taken in it, and with other bytes
    a mix               she may say that another of several scored best, that Krum found others to be near, and that a
                        model is the mix or mean of what it names: nobody else has the weights of all
    what privacy costs  that a site's sessions come to what it says is the judge's word; that it fits the plan, never
                        falls and stays in its budget is recomputed
    what sites say      she may repeat it wrongly; a site that looks finds it in its own verdict
    the operator        she may revoke, enrol, pass a turn, roll back, finish, reopen or end a round at any time, and
                        call any model that was current what she likes
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

from fedssh.errors import LedgerError
from fedssh.forms import canonical
from fedssh.rules import orders, private_claims, rates, records, site_scores, tested
from fedssh.rules.compared import (
    STEP_SECONDS,
    check_genesis,
    check_scores,
    check_updates,
    could_score,
    decided_on,
    left_out,
    paired_with,
    same,
    says_more,
    sent_of,
    share_of,
    short,
    until,
    wrong,
)  # fmt: skip
from fedssh.rules.events import (
    Accepted,
    Blob,
    Counted,
    Event,
    Finished,
    Garbage,
    Genesis,
    GroupSum,
    Invalid,
    Masks,
    Metrics,
    Record,
    Released,
    Reopened,
    Report,
    RolledBack,
    RoundAccepted,
    RoundAgreed,
    RoundClosed,
    RoundClosing,
    RoundExtended,
    RoundOpened,
    RoundPartners,
    RoundRefused,
    Scored,
    SiteAdded,
    SiteRevoked,
    Tagged,
    Tested,
    TurnPassed,
    Unknown,
    Untagged,
    Verdict,
)
from fedssh.rules.federation import Federation, advance
from fedssh.rules.gate import PAIRED, Decision
from fedssh.rules.metrics import gain
from fedssh.rules.options import server_start
from fedssh.rules.orders import Order
from fedssh.rules.records import Over, Sent
from fedssh.rules.rounds import Due
from fedssh.rules.standing import Started
from fedssh.rules.typed import ABSENT, known

REMEMBERED = 1024  # releases and models whose records are not asked for again, and what was judged that is known
ENDED = re.compile(f"{orders.FINISHED}|{orders.ROLLED_BACK}([1-9][0-9]{{0,15}})")  # how an operator ends a round
NO_JUDGE = ("revoked", "round ", orders.FINISHED, orders.ROLLED_BACK)  # other reasons than a judge's
TOO_FEW = re.compile(r"[0-9]+ of [0-9]+ updates")

JUDGE, UNSOUND, HIDDEN, CHOSEN, CUT, NEAR, BEARING, MADE, TURN, BUNDLE, OPERATOR, CLOCK, RATE, PRICE, OLDER, NEWER = (
    WORDS
) = (
    "that the judge could not do it",
    "whether sites can go on from a model",
    "what the ladder hides",
    "that no other mix scores better",
    "that a threshold or temperature is what the holdout gives",
    "shares that depend on the weights",
    "how updates lie to each other",
    "that a model is made of what it says",
    "what went through a channel",
    "what was wrong with a bundle",
    "what an operator decided",
    "what time it was",
    "bundles above the rate that was agreed",
    "what a site's privacy costs",
    "what an older version left out",
    "what this program does not know",
)

_STEPS: Mapping[type[Event], Callable[[Federation, float], Event | None]] = {
    RoundOpened: records.opening,
    RoundExtended: records.extension,
    RoundPartners: records.partners,
    RoundClosing: records.closing,
    RoundAgreed: records.agreed,
}
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
        self._whole = state is None  # so that no older version has passed over anything
        self.unchecked: Counter[str] = Counter()
        self.look_up = look_up
        self._started: dict[int, Started] = {}
        self._released: dict[int, Blob] = {}  # under a policy that steps
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
                check_genesis(record, record.said)
                self._word(CUT, _decided(record.said))
            else:
                self._check(self.state, record, record.said)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise wrong(record, f"nothing can be decided from it: {error}") from None
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
            if self.state.policy.steps:
                _remember(self._released, record.sequence, said.model)
        if (made := _made_current(said)) is not None:
            _remember(self._made, record.sequence, made)
        if subject := _subject(said):
            _remember(self._judged, subject, None)
        return self.state

    def remembered(self) -> dict[str, object]:
        """What `remember` needs to go on another day, as JSON, beside the state."""
        started = [[n, one.version, one.turn, one.turns] for n, one in self._started.items()]
        released = [[n, one.sha256, one.size] for n, one in self._released.items()]
        value = {"started": started, "made": list(self._made.items()), "judged": list(self._judged)}
        return value | ({"released": released} if released else {})

    def remember(self, value: Mapping[str, Any]) -> None:
        """Take in what `remembered` gave."""
        self._started = {int(n): Started(version, turn, turns) for n, version, turn, turns in value["started"]}
        self._released = {int(n): Blob(sha256=sha256, size=size) for n, sha256, size in value.get("released", ())}
        self._made = {int(n): str(one) for n, one in value["made"]}
        self._judged = dict.fromkeys(map(str, value["judged"]))

    def _check(self, state: Federation, record: Record, said: Event) -> None:
        """Compare a record with what the rules give."""
        self._word(NEWER, isinstance(said, Unknown) or says_more(said))
        if (subject := _subject(said)) is not None and subject in self._judged:
            raise wrong(record, f"what was sent is judged already: {subject}")
        self._check_rates(state, record, said)
        match said:
            case Report():
                self._check_report(state, record, said)
            case Scored():
                if why := site_scores.objection(state, said):
                    raise wrong(record, why)
                self._started_from(record, said.builds_on)
            case Verdict():
                self._check_verdict(state, record, said)
            case Masks():
                if why := records.masks_objection(state, said):
                    raise wrong(record, why)
                self._started_from(record, said.builds_on)
                taken = records.masks(state, dataclasses.replace(said, late=ABSENT, more={}))
                if taken.late is not ABSENT:
                    raise wrong(record, f"it came too late: {', '.join(taken.late)}")
                same(record, dataclasses.replace(taken, late=said.late))
            case RoundOpened() | RoundExtended() | RoundPartners() | RoundClosing() | RoundAgreed():
                self._check_step(state, record, said)
            case RoundClosed():
                self._check_round(state, record, said)
            case Released():
                self._check_release(state, record, said)
            case Invalid() | Garbage():
                if state.member(said.site) is None:
                    raise wrong(record, f"{said.site} was never enrolled")
                if isinstance(said, Garbage) and not state.rates[rates.INVALID]:
                    raise wrong(record, "no rate of invalid bundles was agreed")
                self._word(BUNDLE)
            case Genesis():
                raise wrong(record, "a history has one beginning")
            case SiteAdded() | SiteRevoked() | TurnPassed() | RolledBack() | Finished() | Reopened():
                self._check_order(state, record, said)
            case Untagged() if said.tag not in state.names and not self._whole:
                self._word(OLDER)  # who followed by an older version passed over where the name was given
            case Tagged() | Untagged():
                self._check_order(state, record, said)
            case Tested():
                self._check_tested(record, said)
            case _:
                self._word(OPERATOR, not isinstance(said, Unknown))

    def _check_step(self, state: Federation, record: Record, said: Event) -> None:
        """How an open round goes on, or the next one begins: by the rules, at a time that is her word."""
        way = _STEPS[type(said)]
        expected = way(state, until(record))
        self._word(CLOCK, expected is not None and way(state, -math.inf) is None)
        same(record, expected)

    def _check_order(self, state: Federation, record: Record, order: Order) -> None:
        """What an operator decided: it has to be possible, not wise."""
        if order == records.finished(state):
            return
        if why := orders.objection(state, order):
            raise wrong(record, why)
        if isinstance(order, Finished | RolledBack) and state.round is not None:
            raise wrong(record, f"round {state.round.number} ends first")
        if isinstance(order, RolledBack) and self._made_by(record, order.to) != _made_current(order):
            raise wrong(record, f"record {order.to} did not make this model current")
        if isinstance(order, Tagged) and self._made_by(record, order.of) is None:
            raise wrong(record, f"record {order.of} made no model current")
        self._word(OPERATOR)

    def _check_tested(self, record: Record, said: Tested) -> None:
        """What a model scored where nothing is decided by it."""
        if self._made_by(record, said.of) is None:
            raise wrong(record, f"record {said.of} made no model current")
        if why := tested.objection(said):
            raise wrong(record, why)

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
            raise wrong(record, f"first comes the end: {end.reason}")
        due = state.due_release()
        if due is not None and (less := left_out(state, said)):
            self._word(OLDER)
            due = dataclasses.replace(due, federation=dataclasses.replace(due.federation, **less))
        same(record, due)

    def _check_rates(self, state: Federation, record: Record, said: Event) -> None:
        """Count what is above a rate, but for what a clock that was put back explains."""
        if not any(state.rates) or not isinstance(said, Verdict | Report | Scored | Masks | Invalid | Garbage):
            return
        used, now = state.used.get(said.site, rates.NEVER), rates.seconds(record.time) + STEP_SECONDS
        if isinstance(said, Garbage):  # told of once an hour
            self._word(RATE, used[rates.GARBAGE] <= now < used[rates.GARBAGE] + rates.HOUR)
        else:
            self._word(RATE, any(rates.waits(used, now, state.rates)))

    def _check_report(self, state: Federation, record: Record, said: Report) -> None:
        started = self._started_from(record, said.builds_on)
        own = {name: value for name, value in vars(said).items() if name != "more"}
        same(record, records.reported(state, Over(**own, started=started)))

    def _check_verdict(self, state: Federation, record: Record, said: Verdict) -> None:
        if said.builds_on is ABSENT:
            raise wrong(record, "it does not say what it builds on")
        started = self._started_from(record, said.builds_on)
        if said.model is None:
            self._check_refused_report(state, record, said, started)
            return
        sent = sent_of(record, said, started, self._released_by(record, state, said.builds_on))
        if why := private_claims.objection(state, sent.site, sent.examples, sent.epoch, sent.claim, sent.privacy):
            raise wrong(record, why)
        self._word(PRICE, sent.privacy is not ABSENT)
        if reason := state.objection(sent.site, sent.started):
            same(record, records.verdict(state, sent, Decision(False, reason)))
            return
        if sent.architecture != known(state.genesis.architecture, sent.architecture):
            raise wrong(record, "a model of another architecture is invalid")
        if state.policy.rounds and state.policy.split:
            self._check_joined_in_round(state, record, said, sent)
        elif state.policy.rounds:
            same(record, records.counted(state, sent))
        elif state.policy.split:
            self._check_joined(state, record, said, sent)
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
        same(record, records.reported(state, over))

    def _check_scored(self, state: Federation, record: Record, said: Verdict, sent: Sent) -> None:
        """A candidate that was held against the current model, for a policy without rounds."""
        if isinstance(said, Counted):
            raise wrong(record, f"the policy {state.policy.name} has no rounds")
        staleness = state.current.staleness(sent.site, sent.started.version)
        wanted, parts = state.policy.shares(staleness), state.policy.gathered
        waits = records.waiting(state, sent)
        if said.metrics is None:
            possible = [functools.partial(decided_on, state, wanted, share) for share in wanted]
            if waits:
                possible += [functools.partial(decided_on, state, wanted, share, waited=len(waits)) for share in parts]
            decided, scored = self._unscored(state, record, said, possible)
        else:
            check_scores(record, state, said.metrics)
            self._word(CUT, _decided(said))
            gathered = said.slots is not ABSENT
            if gathered and not waits:
                raise wrong(record, "no step of another site waits")
            share = share_of(state, record, said, parts if gathered else wanted)
            self._word(CHOSEN, len(wanted) > 1 or bool(waits))
            scores = could_score(state, paired_with(record, state, said))
            decided = self._gone_on(
                state, record, said, decided_on(state, wanted, share, scores, waited=gathered * len(waits))
            )
            scored = True
        if not isinstance(said, Accepted):
            same(record, records.verdict(state, sent, decided, staleness if scored else None))
            return
        whole = records.as_sent(state, sent, decided)
        self._word(MADE, not whole)
        model = sent.model if whole else said.model
        same(record, records.verdict(state, sent, decided, staleness, model))

    def _check_joined(self, state: Federation, record: Record, said: Verdict, sent: Sent) -> None:
        """The end of a turn under `split`: what it took, and that the whole is made of both parts, is her word."""
        if state.policy.for_sites and isinstance(said, Accepted):
            self._check_handed_on(state, record, said, sent)
            return
        gated = functools.partial(decided_on, state, (1.0,), 1.0)
        if said.metrics is None:
            decided, scored = self._unscored(state, record, said, [gated])
        else:
            check_scores(record, state, said.metrics)
            self._word(CUT, _decided(said))
            scores = could_score(state, paired_with(record, state, said))
            decided, scored = self._gone_on(state, record, said, gated(scores)), True
        work = known(said.work, None) if scored else None
        if scored and work is None:
            raise wrong(record, "it does not say what the turn took")
        self._word(TURN, work is not None)
        if not isinstance(said, Accepted):
            same(record, records.joined(state, sent, decided, work))
            return
        sets = known(said.state, ())
        if len(sets) != 2:
            raise wrong(record, f"the optimizer's state has {len(sets)} sets, of two parts there are 2")
        self._word(MADE)
        same(record, records.joined(state, sent, decided, work, said.model, sets))

    def _check_handed_on(self, state: Federation, record: Record, said: Accepted, sent: Sent) -> None:
        """The end of a turn whose site's layers are for sites alone."""
        work, sets = known(said.work, None), known(said.state, ())
        if work is None or len(sets) != 1:
            raise wrong(
                record, "it says what the turn took, and names the optimizer's state of the coordinator's layers"
            )
        self._word(TURN)
        self._word(MADE)
        same(record, records.joined(state, sent, Decision(True, records.NOBODY), work, said.model, sets))

    def _check_joined_in_round(self, state: Federation, record: Record, said: Verdict, sent: Sent) -> None:
        """A site's part in a round under `splitfed`."""
        work = known(said.work, None)
        if isinstance(said, Counted) and work is not None:
            self._word(TURN)
            self._word(MADE)
            same(record, records.counted_joined(state, sent, work, said.model))
        elif isinstance(expected := records.counted(state, sent), Counted):
            if isinstance(said, Counted):
                raise wrong(record, "it does not say what the turn took")
            self._word(JUDGE)  # that nothing could be joined
            same(record, records.verdict(state, sent, Decision(False, said.reason)))
        else:
            same(record, expected)

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
            raise wrong(record, "nothing is accepted without a score")
        decided = Decision(False, said.reason)
        low, high = ({state.metric: gain(state.metric, end * math.inf), "loss": 0.0, PAIRED: 0.0} for end in (-1, 1))
        for made_of in possible if state.gate.is_ladder else ():
            unsound = said.reason.startswith(f"{made_of(high).reason}, but ")
            if unsound or said.reason == made_of(low).reason:
                self._word(UNSOUND, unsound)
                self._word(HIDDEN)
                return decided, True
        rules = (f"{state.metric} ", "loss ", f"{state.policy.name} of ", *NO_JUDGE)
        if said.reason.startswith(rules) or TOO_FEW.match(said.reason):
            raise wrong(record, f"no judge says {short(said.reason)}")
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
            raise wrong(record, f"the policy {state.policy.name} {by} it: {reason}")
        self._word(HIDDEN, state.gate.is_ladder)
        metrics = paired_with(record, state, said) if accept else said.metrics
        return dataclasses.replace(decided, accept=accept, reason=reason, metrics=metrics)

    def _check_round(self, state: Federation, record: Record, said: RoundClosed) -> None:
        current = state.round
        if current is None:
            raise wrong(record, "no round is open")
        if isinstance(said, RoundRefused) and (ended := ENDED.fullmatch(said.reason)):
            if ended[1] and not self._can_go_back(state, record, int(ended[1])):
                raise wrong(record, f"nobody can roll back to record {ended[1]}")
            self._word(OPERATOR)
            same(record, records.closed_empty(state, current, Decision(False, said.reason)))
            return
        if records.due_now(state, until(record)) is not Due.CLOSE:
            raise wrong(record, "the round is not due to close")
        self._word(CLOCK, records.due_now(state, -math.inf) is not Due.CLOSE)
        check_updates(record, said, current)
        if (decided := records.too_few(state, current)) is not None:
            same(record, records.closed_empty(state, current, decided))
            return
        gated = functools.partial(records.gated, state, len(current.updates))
        if said.metrics is None:
            decided, scored = self._unscored(state, record, said, [gated])
        else:
            check_scores(record, state, said.metrics)
            self._word(CUT, _decided(said))
            scores = could_score(state, paired_with(record, state, said))
            decided, scored = self._gone_on(state, record, said, gated(scores)), True
        shares = self._shares(state, record, said) if scored else None
        bearing = self._bearing(state, record, said) if scored else None
        examples = self._summed(state, record, said) if scored else None
        groups = self._groups(state, record, said) if scored else ()
        if not isinstance(said, RoundAccepted):
            same(record, records.closed_empty(state, current, decided, shares, bearing, examples, groups))
            return
        sets = len(server_start(state.policy.values))
        if len(said.state) != sets:
            raise wrong(record, f"the server optimizer's state has {len(said.state)} sets, by the policy {sets}")
        self._word(MADE)
        same(
            record,
            records.closed(state, current, decided, shares or (), said.model, said.state, bearing, examples, groups),
        )

    def _summed(self, state: Federation, record: Record, said: RoundClosed) -> int | None:
        """How many images a sum under masks is of, as it is told: who is in it has not said so of itself."""
        if not state.policy.masked:
            return None
        examples = known(said.examples, 0)
        if not len(said.updates) <= examples <= len(said.updates) * state.policy.cap:
            raise wrong(record, f"{examples:,} images of {len(said.updates)} sites cannot be")
        self._word(MADE)
        return examples

    def _groups(self, state: Federation, record: Record, said: RoundClosed) -> Sequence[GroupSum]:
        """What came of each group, as it is told, with what follows from that."""
        current = state.round
        assert current is not None
        if len(current.groups) < 2:
            return ()
        told, opened = known(said.groups, ()), records.opened(current)
        if [one.sites for one in told] != [one.arrived for one in current.groups]:
            raise wrong(record, f"its groups are {short([one.arrived for one in current.groups])}")
        if any(
            one.examples is not None and group not in opened for one, group in zip(told, current.groups, strict=True)
        ):
            raise wrong(record, "too few have answered for the sum of a group")
        hidden, gone = state.gate.is_ladder, [one.examples is None for one in told]
        self._word(JUDGE, any(none and group in opened for none, group in zip(gone, current.groups, strict=True)))
        for one in told:
            if (one.metrics is None) != (hidden or one.examples is None):
                raise wrong(record, "the mean of each group is scored, and a ladder tells none of these scores")
            if one.metrics is not None:
                check_scores(record, state, one.metrics)
        counts = [one.examples or 0 for one in told]
        if sum(count for one, count in zip(told, counts, strict=True) if one.share) != known(said.examples, 0):
            raise wrong(record, "its images are those of the groups in its result")
        if hidden:
            self._word(NEAR)
            shares = _parts([count if one.share else 0 for one, count in zip(told, counts, strict=True)])
        else:
            shares = records.holding(state, [(count, one.metrics) for one, count in zip(told, counts, strict=True)])
        return [dataclasses.replace(one, share=share) for one, share in zip(told, shares, strict=True)]

    def _shares(self, state: Federation, record: Record, said: RoundClosed) -> list[float]:
        """The updates' shares, by the policy; where they depend on the weights, those that are told, if they can be."""
        policy = state.policy
        if policy.masked:
            return []
        try:
            computed = policy.shares_of([part.examples for part in said.updates])
        except ValueError as error:
            raise wrong(record, str(error)) from None
        if computed is not None:
            return computed
        found = [-1.0 if part.share is None else part.share for part in said.updates]
        if not policy.plausible_shares(found):
            raise wrong(record, f"the shares {', '.join(map(str, found))} cannot be those of {policy.text}")
        self._word(NEAR)
        return found

    def _bearing(self, state: Federation, record: Record, said: RoundClosed) -> records.Bearing | None:
        """How the updates lie to each other, as it is told; only who has them can say otherwise."""
        if not records.evidence_agreed(state):
            return None
        found = [(known(part.length, -1.0), known(part.cosine, math.nan)) for part in said.updates]
        for length, cosine in found:
            if not 0 <= length < math.inf or not (cosine is None or -1 <= cosine <= 1):
                raise wrong(record, f"no update has the length {length} and the cosine {cosine}")
        self._word(BEARING)
        return found

    def _started_from(self, record: Record, release: int) -> Started:
        """What a submission started from."""
        if (started := self._started.get(release)) is not None:
            return started
        said = self._earlier(record, release)
        if not isinstance(said, Released):
            raise wrong(record, f"it builds on record {release}, which is no release")
        return said.federation.started

    def _released_by(self, record: Record, state: Federation, release: int) -> Blob | None:
        """The model of a release; None under a policy that does not ask for it."""
        if not state.policy.steps:
            return None
        if (model := self._released.get(release)) is not None:
            return model
        said = self._earlier(record, release)
        return said.model if isinstance(said, Released) else None

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


def _parts(counts: Sequence[int]) -> list[float]:
    return [count / max(1, sum(counts)) for count in counts]


def _subject(said: Event) -> str | None:
    """Whose it is, and what is judged once; None of what is no verdict."""
    match said:
        case Verdict() | Report() | Scored() | Masks() | Invalid():
            id = known(said.submission, None)
            bundle = f"bundle {said.bundle}" if isinstance(said, Invalid) and said.bundle else None
            return f"{said.site} {id or bundle}" if id or bundle else None
    return None


def _decided(said: Event) -> bool:
    """Whether a record says more of a score than the score."""
    metrics = getattr(said, "metrics", None) or {}
    return "threshold" in metrics or "temperature" in metrics


def _made_current(said: Event) -> str | None:
    """What tells a model that became current, with its scores, from every other; None where a record makes none."""
    if (made := orders.made_current(said)) is None:
        return None
    model, metrics = made
    return hashlib.sha256(canonical([model.fields(), dict(metrics)])).hexdigest()


def _remember(found: dict[Key, Kept], key: Key, one: Kept) -> None:
    found[key] = one
    if len(found) > REMEMBERED:
        del found[next(iter(found))]
