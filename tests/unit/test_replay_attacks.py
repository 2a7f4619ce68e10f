"""What a coordinator could record that her own rules do not give, one by one: refused, or counted by a word."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from fedssh.errors import DecisionError, LedgerError
from fedssh.forms import canonical
from fedssh.rules import records, replay, stored
from fedssh.rules.events import (
    Accepted,
    Blob,
    Event,
    Finished,
    Garbage,
    Genesis,
    Invalid,
    Local,
    Record,
    Refused,
    Released,
    Reopened,
    Report,
    RolledBack,
    RoundAccepted,
    RoundClosed,
    RoundRefused,
    SiteAdded,
    SiteRevoked,
    Verdict,
)
from fedssh.rules.federation import Federation
from fedssh.rules.gate import PAIRED, Decision, decide, standard_error
from fedssh.rules.options import server_start
from fedssh.rules.records import Sent
from fedssh.rules.replay import Replay
from fedssh.rules.typed import ABSENT

Fields = dict[str, Any]


@dataclasses.dataclass
class Played:
    """A federation whose records are made by the rules, or by a liar."""

    held: Replay
    agreed: Fields
    time: datetime.datetime = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    history: list[Record] = dataclasses.field(default_factory=list)
    sent: int = 0

    @property
    def state(self) -> Federation:
        assert self.held.state
        return self.held.state

    def record(self, said: Event | Fields, event: str = "") -> Record:
        self.time += datetime.timedelta(seconds=1)
        fields = said.fields() if isinstance(said, Event) else said
        number, name = len(self.history) + 1, event or (said.name if isinstance(said, Event) else "")
        head = {
            "sequence": number,
            "previous": "",
            "event": name,
            "time": self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        return Record(number, f"{number:064}", canonical(fields | head), "")

    def add(self, said: Event | Fields | None, event: str = "") -> Record:
        """What the rules must give."""
        assert said is not None
        record = self.record(said, event)
        self.held.follow(record)
        self.history.append(record)
        return record

    def lie(self, said: Event | Fields | None, why: str, event: str = "") -> None:
        """What they must not; nothing is changed by it."""
        assert said is not None
        before, record = self.held.state, self.record(said, event)
        with pytest.raises((DecisionError, LedgerError), match=why) as caught:
            self.held.follow(record)
        assert f"record {record.sequence}" in str(caught.value) and self.held.state is before

    def word(self, said: Event | Fields | None, word: str, event: str = "") -> Record:
        """What they cannot tell; it is counted under a word that says so."""
        before = self.held.unchecked[word]
        record = self.add(said, event)
        assert self.held.unchecked[word] == before + 1
        return record

    def enrol(self, site: str, role: str = "site", key: str = "") -> None:
        self.word(SiteAdded(site=site, role=role, key=key or key_of(site)), replay.OPERATOR)

    def release(self) -> None:
        self.add(self.state.due_release())

    def submission(self, site: str = "alice-1", **changes: Any) -> Sent:
        said = self.state.release and self.state.release.said
        assert isinstance(said, Released) and self.state.release
        self.sent += 1
        fields: Fields = {
            "site": site, "submission": f"{self.sent:036}", "session": 1, "epoch": 1, "examples": 9,
            "builds_on": self.state.release.sequence, "started": said.federation.started,
            "claim": Local(loss=0.5, accuracy=0.5), "model": blob(self.sent), "architecture": "ab" * 32,
            "released": said.model,
        }  # fmt: skip
        return Sent(**fields | changes)

    def verdict(self, sent: Sent, accuracy: float, share: float = 1.0, error: float = 0.0) -> Verdict:
        """What the rules give when it scores so, and this mix of it best."""
        state = self.state
        if state.policy.rounds:
            return records.counted(state, sent)
        if reason := state.objection(sent.site, sent.started):
            return records.verdict(state, sent, Decision(False, reason))
        staleness = state.current.staleness(sent.site, sent.started.version)
        wanted = sorted(state.policy.shares(staleness), key=lambda one: abs(one - share))
        mixes = (
            [(one, scores(accuracy) | {PAIRED: error}) for one in wanted]
            if state.gate.paired
            else [(one, scores(accuracy)) for one in wanted]
        )
        decided = decide(state.policy, state.gate, state.metric, state.current.metrics, state.current.bar, mixes)
        whole = records.as_sent(state, sent, decided)
        same = whole or not decided.accept
        return records.verdict(state, sent, decided, staleness, sent.model if same else blob(9000 + self.sent))

    def gathered(self, sent: Sent, accuracy: float, part: float = 1.0) -> Verdict:
        """What the rules give when the mean of its step and of those that wait scores so."""
        state, current = self.state, self.state.current
        mixes, waited = [(part, scores(accuracy))], len(records.waiting(state, sent)) or 1
        decided = decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes, waited)
        staleness = current.staleness(sent.site, sent.started.version)
        return records.verdict(state, sent, decided, staleness, blob(9500 + self.sent))

    def closing(self, accuracy: float, model: int = 8000, error: float = 0.0) -> RoundClosed:
        state = self.state
        assert state.round
        if few := records.too_few(state, state.round):
            return records.closed_empty(state, state.round, few)
        decided = records.gated(state, len(state.round.updates), scores(accuracy) | {PAIRED: error})
        shares = state.policy.shares_of([update.examples for update in records.in_order(state.round)])
        assert shares
        sets = [blob(model + place + 1) for place in range(len(server_start(state.policy.values)))]
        if decided.accept:
            return records.closed(state, state.round, decided, shares, blob(model), sets)
        return records.closed_empty(state, state.round, decided, shares)


def blob(number: int) -> Blob:
    return Blob(sha256=f"{number:064}", size=99)


def scores(accuracy: float) -> Fields:
    return {"accuracy": accuracy, "loss": round(1 - accuracy, 6) if isinstance(accuracy, float) else 0.5}


def key_of(site: str) -> str:
    return f"ssh-rsa {base64.b64encode(site.encode()).decode()}"


def begin(sites: Sequence[str] = ("alice-1", "alice-2"), **agreed: Any) -> Played:
    said: Fields = {
        "federation": "test", "spec": {}, "plan": {"metric": "accuracy"}, "policy": "best", "gate": "on",
        "margin": 0.01, "schedule": "free", "sessions": None, "coordinator": key_of("charity"),
        "architecture": "ab" * 32, "model": blob(1), "metrics": scores(0.5), "examples": 9, "seed": 0,
    } | agreed  # fmt: skip
    played = Played(Replay(), said)
    played.add(Genesis(**said))
    for site in sites:
        played.enrol(site)
    if played.state.policy.rounds and sites:
        played.add(records.opening(played.state))
    if sites:
        played.release()
    return played


ROUNDS: Fields = {"policy": "fedavg", "schedule": "rounds"}


@pytest.mark.parametrize(("agreed", "why"), [
    ({"policy": "worst"}, "no policy is called"),
    ({"gate": "maybe"}, "no gate is called"),
    ({"schedule": "rounds"}, "the policy best has no rounds"),
    ({"policy": "fedavg"}, "the policy fedavg has another schedule than free"),
    ({"schedule": "whenever"}, "another schedule than whenever"),
    ({"plan": {"metric": "f1"}}, "lacks 'f1'"),
    ({"metrics": scores(1.5)}, "no model can score the accuracy 1.5"),
    ({"gate": "parameter-free-ladder"}, "the margin of the gate is 0.01, but"),
    ({"gate": "parameter-free-ladder", "margin": 0.0, "plan": {"metric": "auc"}, "metrics": scores(0.5) | {"auc": 0.5}},
     "is for accuracy, not for auc"),
    ({"gate": "parameter-free-ladder", "margin": 0.0, "spec": {"task": "labels"}}, "is for classes"),
    ({"rates": {"submissions_per_hour": -1}}, "rates are whole numbers from 0"),
])  # fmt: skip
def test_what_cannot_be_agreed(agreed: Fields, why: str) -> None:
    with pytest.raises((DecisionError, LedgerError), match=why) as caught:
        begin((), **agreed)
    assert "record 1" in str(caught.value)


def test_nothing_goes_before_a_beginning_and_there_is_one() -> None:
    played = begin()
    played.lie(Genesis(**played.agreed), "a history has one beginning")
    with pytest.raises(LedgerError, match="begins with finished, expected genesis"):
        Replay().follow(played.record(Finished(reason="enough")))


@pytest.mark.parametrize("value", [1.5, -0.5, 10**400, "0.9", True, [0.9]])
def test_a_score_that_no_model_can_have(value: Any) -> None:
    played = begin()
    said = played.verdict(played.submission(), 0.6).fields()
    played.lie(
        said | {"metrics": scores(value), "reason": said["reason"]}, "no model can score the accuracy", "accepted"
    )
    played.lie(said | {"metrics": {"accuracy": 0.6}}, "nothing can be decided from it: 'loss'", "accepted")


def test_a_submission_is_judged_once() -> None:
    played = begin()
    sent = played.submission()
    refused = played.verdict(sent, 0.4)
    played.add(refused)
    played.lie(refused, "what was sent is judged already: alice-1 0+1$")
    played.lie(played.verdict(sent, 0.9), "judged already")
    played.add(played.verdict(dataclasses.replace(sent, site="alice-2"), 0.4))  # another's may be called the same
    over = Report(
        site="alice-1", submission="over", session=1, epochs=2, checkpoints=1, examples=9, builds_on=4, metrics=None
    )
    for said in (over, Invalid(site="alice-1", submission=None, bundle="ab" * 32, reason="no bundle")):
        played.add(said)
        played.lie(said, "judged already")  # else it would count as another session, or end another round's waiting


def test_somebody_who_submits_nothing() -> None:
    played = begin()
    played.enrol("auditor-1", "auditor")
    played.lie(Accepted(**vars(played.verdict(played.submission(), 0.9)) | {"site": "auditor-1"}),
               "refused: auditor-1 is enrolled as auditor, which submits nothing")  # fmt: skip
    played.lie(Accepted(**vars(played.verdict(played.submission(), 0.9)) | {"site": "mallory"}), "refused: revoked")
    played.lie(Invalid(site="mallory", submission=None, bundle=None, reason="no bundle"), "mallory was never enrolled")


def test_a_model_of_another_architecture() -> None:
    played = begin()
    played.lie(played.verdict(played.submission(architecture="cd" * 32), 0.9), "another architecture is invalid")


def test_what_it_builds_on_must_be_a_release() -> None:
    played = begin()
    for number in (0, 1, 2, 5, 6, 999):
        played.lie(
            played.verdict(played.submission(builds_on=number), 0.9), f"builds on record {number}, which is no re"
        )


def test_staleness_and_share_of_a_mix() -> None:
    played = begin(policy="merge:steps=3,staleness=0.5")
    early = played.submission("alice-2")
    for accuracy in (0.6, 0.7, 0.8):
        played.add(played.verdict(played.submission(), accuracy))
        played.release()
    said = played.verdict(early, 0.9, share=1 / 6)  # a third, halved by three changes of others since
    assert said.staleness == 3 and said.share == pytest.approx(1 / 6)
    for staleness in (0, 1, 2, 4):
        played.lie(dataclasses.replace(said, staleness=staleness), f"staleness is 3, the record says {staleness}")
    for share in (0.0, 0.5, 2 / 3, 1.5):
        played.lie(dataclasses.replace(said, share=share), f"its share is {share}, by the policy one of 1.0, 0.333")
    whole = played.verdict(early, 0.9, share=1.0)
    played.lie(dataclasses.replace(whole, model=blob(7000)), "model is .*, the record says")  # not what was sent
    played.lie(dataclasses.replace(whole, candidate=blob(7000)), "model is .*, the record says")
    played.lie(whole.fields() | {"share": None}, "its share is None", "accepted")
    before = played.held.unchecked[replay.CHOSEN]
    played.word(said, replay.MADE)
    assert played.held.unchecked[replay.CHOSEN] == before + 1


def test_what_waits_and_what_is_gathered() -> None:
    played = begin(policy="gather:parts=2,slots=1")
    sites = ("alice-1", "alice-2", "alice-1")
    first, second, third = (played.submission(site, model=blob(70 + at)) for at, site in enumerate(sites))
    begun = first.released
    assert begun is not None
    played.lie(played.gathered(first, 0.6), "no step of another site waits")
    refused = played.add(played.verdict(first, 0.4))
    assert played.state.slots["alice-1"].record == refused.sequence
    assert played.state.kept == {first.model.sha256, begun.sha256}
    assert records.waiting(played.state, third) == ()  # a site's own does not wait for it
    both = played.gathered(second, 0.6, part=2.0)
    assert both.slots == (refused.sequence,) and both.share == 2.0
    played.lie(dataclasses.replace(both, slots=()), "slots is")
    played.lie(dataclasses.replace(both, slots=(refused.sequence - 1,)), "slots is")
    played.lie(dataclasses.replace(both, share=0.25), "its share is 0.25, by the policy one of 1.0, 0.5, 2.0")
    played.lie(dataclasses.replace(both, slots=ABSENT), "its share is 2.0, by the policy one of 1.0, 0.5")
    played.lie(dataclasses.replace(both, model=second.model, slots=ABSENT, share=1.0), "reason is")
    kept = json.loads(canonical(stored.to_value(played.state)))
    assert stored.from_value(kept, played.state.sequence, played.state.head) == played.state
    played.add(both)
    assert played.state.slots == {} and set(played.state.taken) == {"alice-1", "alice-2"}
    later = played.verdict(played.submission(epoch=2, model=blob(61)), 0.65)
    assert later.base == first.model  # what waited of this session is in the model now
    played.add(played.verdict(played.submission("alice-2", epoch=2, model=blob(62)), 0.2))
    assert set(played.state.slots) == {"alice-2"}
    played.word(SiteRevoked(site="alice-2", reason="it left"), replay.OPERATOR)
    assert played.state.slots == {}


def test_what_changes_nothing_does_not_wait() -> None:
    played = begin(policy="gather:parts=1,slots=1")
    sent = played.submission()
    assert sent.released is not None
    same = played.submission(model=sent.released)
    played.add(played.verdict(same, 0.4))
    assert played.state.slots == {}


def test_so_many_of_the_newest_that_wait_are_gathered() -> None:
    played = begin(policy="gather:parts=1,slots=1")
    played.enrol("alice-3")
    for site in ("alice-1", "alice-2"):
        played.add(played.verdict(played.submission(site, model=blob(70)), 0.4))
    newest = played.state.slots["alice-2"].record
    assert [slot.record for slot in records.waiting(played.state, played.submission("alice-3"))] == [newest]
    assert set(played.state.slots) == {"alice-1", "alice-2"}
    played.add(played.verdict(played.submission("alice-3"), 0.4))
    assert set(played.state.slots) == {"alice-2", "alice-3"}  # no more than can ever be tried together


def test_what_a_step_starts_from() -> None:
    played = begin(policy="step:parts=2,staleness=0.5")
    first, later = (played.submission(epoch=epoch, model=blob(50 + epoch)) for epoch in (1, 2))
    other = played.submission("alice-2")
    begun = first.released
    assert begun is not None
    whole = played.verdict(first, 0.6)
    assert whole.base is ABSENT and whole.model == first.model  # the current model is what it started from
    played.add(whole)
    after = played.verdict(later, 0.65)
    assert after.base is ABSENT and after.model == later.model  # the rest of the session, from what was taken of it
    stale = played.verdict(other, 0.65, share=0.5)
    assert (stale.base, stale.staleness) == (begun, 1)
    played.lie(dataclasses.replace(stale, base=blob(77)), "base is")
    played.lie(dataclasses.replace(stale, base=ABSENT), "base is")
    played.lie(dataclasses.replace(after, base=begun), "base is")
    before = played.held.unchecked[replay.MADE]
    played.add(stale)
    assert played.held.unchecked[replay.MADE] == before + 1
    own = played.verdict(later, 0.68)
    assert (own.base, own.staleness) == (first.model, 1)  # what was taken of this session, and not what it began from
    played.lie(dataclasses.replace(own, base=begun), "base is")
    played.add(own)
    again = Replay()
    again.remember(json.loads(canonical(played.held.remembered())))
    assert again.remembered() == played.held.remembered()
    played.add(Report(
        site="alice-1", submission="f" * 36, session=1, epochs=2, checkpoints=2, examples=9,
        builds_on=later.builds_on, metrics=None,
    ))  # fmt: skip
    assert set(played.state.taken) == {"alice-2"}


def test_a_share_whose_last_digit_another_machine_computes_otherwise() -> None:
    played = begin(policy="merge:steps=3,staleness=0.3")
    early = played.submission("alice-2")
    played.add(played.verdict(played.submission(), 0.6))
    said = played.verdict(early, 0.9, share=1 / 3)
    assert isinstance(said.share, float)
    played.add(dataclasses.replace(said, share=math.nextafter(said.share, 0)))


def test_what_is_better_is_refused_only_for_what_the_judge_finds() -> None:
    played = begin()
    better = vars(played.verdict(played.submission(), 0.9))
    beats = "accuracy 0.9000 beats 0.5000"
    for reason in (
        beats,
        "not good enough",
        "revoked",
        f"{beats}.",
        f"{beats} but not by much",
        "accuracy 0.9000 is below",
    ):
        played.lie(Refused(**better | {"reason": reason}), "the policy best accepts it: accuracy 0.9000 beats 0.5000")
    for reason in (beats, "revoked", "round 1 is closed", "2 of 3 updates, and no site is left that could send one"):
        played.lie(Refused(**better | {"reason": reason, "metrics": None}), "no judge says")
    played.word(Refused(**better | {"reason": f"{beats}, but nobody can go on from it"}), replay.UNSOUND)
    played.word(Refused(**better | {"submission": "another", "reason": "it fell over", "metrics": None}), replay.JUDGE)


def test_what_a_ladder_hides() -> None:
    played = begin(gate="ladder", margin=0.05)
    low, high = played.verdict(played.submission(), 0.52), played.verdict(played.submission(), 0.58)
    assert (low.name, low.metrics, high.name) == ("refused", None, "accepted") and high.metrics
    played.lie(dataclasses.replace(low, metrics=scores(0.5)), "metrics is null")  # a refusal is all that is told
    played.lie(dataclasses.replace(high, metrics=scores(0.5)), "the policy best refuses it")
    played.lie(dataclasses.replace(high, metrics=scores(0.58)), "metrics is .*0.6.*, the record says .*0.58")
    played.lie(Refused(**vars(high)), "the policy best accepts it")
    played.lie(Accepted(**vars(low)), "nothing is accepted without a score")
    played.word(low, replay.HIDDEN)
    beats = "accuracy beats 0.5000 by more than 0.05, but it learns nothing"
    played.word(Refused(**vars(high) | {"metrics": None, "reason": beats}), replay.UNSOUND)
    again = vars(high) | {"submission": "again", "metrics": None}
    played.word(Refused(**again | {"reason": "it fell over"}), replay.JUDGE)
    played.word(dataclasses.replace(high, submission="at last"), replay.HIDDEN)


FREE_LADDER: Fields = {"gate": "parameter-free-ladder", "margin": 0.0}
HUNDRED: Fields = FREE_LADDER | {"holdout": {"examples": 100, "sha256": "cd" * 32}}


def test_what_a_parameter_free_ladder_hides_and_what_it_has_to_say() -> None:
    played = begin(**HUNDRED)  # genesis is right on 50 of 100 images
    error = standard_error(10, 15, 100)  # and this one on 15 others, but not on 10 of them: 5^2 is just 25
    low, high = (played.verdict(played.submission(), 0.55, error=error), played.verdict(played.submission(), 0.58,
                 error=standard_error(10, 18, 100)))  # fmt: skip
    assert (low.name, low.metrics, low.margin) == ("refused", None, ABSENT)
    assert low.reason == "accuracy does not beat 0.5000 by more than the standard error of the difference"
    assert (high.name, high.metrics, high.margin) == ("accepted", scores(0.58), standard_error(10, 18, 100))
    played.lie(dataclasses.replace(low, margin=error), "margin is null")  # a refusal tells nothing
    played.lie(dataclasses.replace(low, metrics=scores(0.55)), "what is refused tells no score")
    played.lie(dataclasses.replace(low, reason="accuracy does not beat 0.5000 by more than 0.05"), "no judge says")
    played.lie(Accepted(**vars(low)), "nothing is accepted without a score")
    played.lie(dataclasses.replace(high, margin=ABSENT), "nothing is accepted without its margin")
    played.lie(dataclasses.replace(high, metrics=scores(0.55), margin=error), "the policy best refuses it")
    played.lie(Accepted(**vars(high) | {"metrics": scores(0.4), "margin": standard_error(20, 10, 100)}), "refuses it")
    found = standard_error(10, 18, 100)
    for margin in (0.0, error, found + 1e-6, -found, 0.5, 1e300):  # what no 100 images can give
        played.lie(dataclasses.replace(high, margin=margin), "cannot have the standard error")
    played.lie(dataclasses.replace(high, metrics=scores(0.585)), "on 100 images cannot have the standard error")
    played.lie(dataclasses.replace(high, reason="accuracy beats 0.5000 by more than 0.05"), "reason is")
    played.word(low, replay.HIDDEN)
    unsound = f"{high.reason}, but it learns nothing"
    played.lie(Refused(**vars(high) | {"metrics": None, "reason": unsound}), "margin is null")
    played.word(Refused(**vars(high) | {"metrics": None, "reason": unsound, "margin": ABSENT}), replay.UNSOUND)
    fewer = standard_error(4, 12, 100)  # her word: other images might have differed
    played.word(dataclasses.replace(high, submission="at last", margin=fewer), replay.HIDDEN)


def test_where_nobody_says_how_many_images_there_are_a_margin_has_a_bound() -> None:
    played = begin(**FREE_LADDER)
    said = played.verdict(played.submission(), 0.9, error=0.1)
    played.lie(dataclasses.replace(said, margin=0.45), "the policy best refuses it")
    played.lie(dataclasses.replace(said, margin=0.7), "accuracies of 0.5 and 0.9 cannot have the standard error 0.7")
    played.word(said, replay.HIDDEN)


def test_the_margin_of_a_round() -> None:
    played = begin(**ROUNDS, **HUNDRED)
    for site in ("alice-1", "alice-2"):
        played.add(played.verdict(played.submission(site), 0.0))
    low = played.closing(0.55, error=standard_error(10, 15, 100))
    assert (low.name, low.metrics, low.margin) == ("round-refused", None, ABSENT)
    played.lie(dataclasses.replace(low, margin=0.05), "margin is null")
    high = played.closing(0.58, error=standard_error(10, 18, 100))
    assert high.margin == standard_error(10, 18, 100)
    played.lie(dataclasses.replace(high, margin=ABSENT), "nothing is accepted without its margin")
    played.lie(dataclasses.replace(high, margin=0.06), "cannot have the standard error 0.06")
    played.word(high, replay.HIDDEN)


def test_no_other_gate_finds_a_margin() -> None:
    for agreed in ({}, {"gate": "ladder", "margin": 0.05}, {"gate": "off"}):
        played = begin(**agreed)
        high = played.verdict(played.submission(), 0.6)
        assert high.margin is ABSENT
        played.lie(dataclasses.replace(high, margin=0.05), "margin is null, the record says 0.05")


def test_a_ladder_refuses_a_mix_as_a_mix() -> None:
    played = begin(policy="merge:steps=2", gate="ladder", margin=0.05)
    low = played.verdict(played.submission(), 0.52)
    assert (low.staleness, low.share) == (0, None)
    played.lie(low.fields() | {"share": 0.5}, "share is null", "refused")
    untold = {name: value for name, value in low.fields().items() if name not in ("candidate", "share", "staleness")}
    played.lie(untold, "candidate is .*, the record says null", "refused")  # as if it had not been scored
    played.add(low)
    sent = played.submission()
    high = played.verdict(sent, 0.58, share=0.5)
    beats = "accuracy beats 0.5000 by more than 0.05 (share 0.5 of the candidate), but it learns nothing"
    played.word(Refused(**vars(high) | {"model": sent.model, "metrics": None, "share": None, "reason": beats}),
                replay.UNSOUND)  # fmt: skip


def test_a_round_ends_when_the_rules_or_an_operator_end_it() -> None:
    played = begin(**ROUNDS)
    assert played.state.round
    played.add(played.verdict(played.submission(), 0.0))
    empty = vars(records.closed_empty(played.state, played.state.round, Decision(False, "")))
    for reason in (
        "the federation was finished, or so",
        "rolled back to record",
        "rolled back to record 1",
        "rolled back to record 2",
        "rolled back to record 99",
        "1 of 2 updates, and no site is left that could send one",
        "it fell over",
    ):
        played.lie(RoundRefused(**empty | {"reason": reason}), "not due to close|nobody can roll back to record")
    played.lie(Finished(reason="enough"), "round 1 ends first")
    played.word(RoundRefused(**empty | {"reason": "the federation was finished"}), replay.OPERATOR)
    played.word(Finished(reason="enough"), replay.OPERATOR)
    played.lie(Finished(reason="enough"), "finished already")
    for sessions in (0, 1):
        played.lie(Reopened(sessions=sessions, reason="more"), "1 rounds have closed already")
    played.word(Reopened(sessions=2, reason="more"), replay.OPERATOR)
    played.lie(Reopened(sessions=3, reason="more"), "the federation is open")


def test_a_round_has_all_its_updates_and_no_others() -> None:
    played = begin(**ROUNDS)
    for site in ("alice-2", "alice-1"):
        played.add(played.verdict(played.submission(site), 0.0))
    closing = played.closing(0.6)
    assert isinstance(closing, RoundAccepted)
    one, two = closing.updates
    for updates, why in (
        ((), "those of records 7, 6, the record says none"),
        ((one,), "the record says 7"),
        ((two, one), "the record says 6, 7"),
        ((one, two, two), "the record says 7, 6, 6"),
        ((dataclasses.replace(one, share=0.4), dataclasses.replace(two, share=0.6)), "updates is "),
        ((dataclasses.replace(one, examples=99), two), "updates is "),
        ((dataclasses.replace(one, site="alice-3"), two), "updates is "),
    ):
        played.lie(dataclasses.replace(closing, updates=updates), why)
    played.lie(dataclasses.replace(closing, missing=("alice-1",)), "missing is")
    played.lie(
        dataclasses.replace(closing, state=(blob(1),)), "the server optimizer's state has 1 sets, by the policy 0"
    )
    played.lie(RoundRefused(**{name: value for name, value in vars(closing).items() if name not in ("model", "state")}),
               "the policy fedavg accepts it")  # fmt: skip
    played.word(closing, replay.MADE)
    played.lie(closing, "no round is open")


def test_what_a_deadline_decides_is_her_clocks() -> None:
    played = begin(policy="fedavg:deadline=600", schedule="rounds")
    played.add(played.verdict(played.submission(), 0.0))
    played.lie(played.closing(0.6), "not due to close")
    played.time += datetime.timedelta(minutes=10)
    played.word(played.closing(0.6), replay.CLOCK)
    played.add(records.opening(played.state))
    played.release()
    for site in ("alice-1", "alice-2"):
        played.add(played.verdict(played.submission(site), 0.0))
    before = played.held.unchecked[replay.CLOCK]
    played.add(played.closing(0.7))
    assert played.held.unchecked[replay.CLOCK] == before  # all are in


def test_a_round_opens_for_those_who_are_drawn() -> None:
    played = begin(tuple(f"alice-{n}" for n in range(1, 7)), policy="fedavg:fraction=0.5", schedule="rounds")
    assert played.state.round
    for site in played.state.round.sites:
        played.add(played.verdict(played.submission(site), 0.0))
    played.add(played.closing(0.6))
    opening = records.opening(played.state)
    assert opening and len(opening.sites) == 3
    for sites in (
        opening.sites[:2],
        opening.sites[::-1],
        ("alice-1", "alice-2", "alice-3"),
        ("alice-4", "alice-5", "alice-6"),
    ):
        if sites != opening.sites:
            played.lie(dataclasses.replace(opening, sites=sites), "sites is")
    played.lie(dataclasses.replace(opening, round=3), "round is 2, the record says 3")
    played.add(opening)
    played.lie(opening, "nothing of the kind is due")


def test_a_rollback_is_to_what_was_current() -> None:
    played = begin(**ROUNDS)
    for site in ("alice-1", "alice-2"):
        played.add(played.verdict(played.submission(site), 0.0))
    played.add(played.closing(0.6))
    first: Fields = {"model": blob(1), "metrics": scores(0.5), "reason": "it was better"}
    for to in (0, 2, 5, 9, 999):
        played.lie(RolledBack(to=to, **first), f"record {to} did not make this model current")
    for other in ({"model": blob(2)}, {"metrics": scores(0.6)}):
        played.lie(RolledBack(to=1, **first | other), "record 1 did not make this model current")
    played.lie(
        RolledBack(to=8, **first | {"model": blob(8000), "metrics": scores(0.6)}),
        "the model of record 8 is the current one",
    )
    played.add(records.opening(played.state))
    played.lie(RolledBack(to=1, **first), "round 2 ends first")
    assert played.state.round
    ended = records.closed_empty(played.state, played.state.round, Decision(False, "rolled back to record 1"))
    played.word(ended, replay.OPERATOR)
    played.word(RolledBack(to=1, **first), replay.OPERATOR)


def test_a_turn_that_passes_is_no_session() -> None:
    played = begin(schedule="relay", sessions=1)
    turns = played.state.turns
    passed = Report(
        site="alice-1", submission="passes", session=1, epochs=0, checkpoints=0, examples=0, metrics=None, passed=True,
        builds_on=played.state.sequence,
    )  # fmt: skip
    assert played.add(passed).fields["passed"] is True
    assert (played.state.turn, played.state.turns) == ("alice-2", turns + 1)
    assert [site.sessions for site in played.state.sites] == [0, 0]
    played.release()
    again = dataclasses.replace(passed, submission="again", builds_on=played.state.sequence)
    played.lie(again, "by the federation's own")
    report = dataclasses.replace(again, site="alice-2", epochs=1, checkpoints=1, passed=ABSENT)
    assert "passed" not in played.add(report).fields
    assert [site.sessions for site in played.state.sites] == [0, 1]
    assert (played.state.turn, played.state.all_sessions_done()) == ("alice-1", False)


def test_who_is_enrolled() -> None:
    played = begin()
    played.lie(SiteAdded(site="alice-1", role="site", key="ssh-rsa AAAA"), "alice-1 is enrolled already")
    played.lie(SiteAdded(site="alice-3", role="judge", key="ssh-rsa AAAA"), "the roles are site and auditor")
    for holder, whose in (("alice-2", "alice-2's"), ("charity", "the coordinator's")):
        played.lie(SiteAdded(site="alice-3", role="site", key=key_of(holder)), f"this key is {whose} already")
    played.lie({"site": "mallory", "reason": "x"}, "mallory is not enrolled", "site-revoked")
    played.word({"site": "alice-2", "reason": "x"}, replay.OPERATOR, "site-revoked")
    played.lie({"site": "alice-2", "reason": "x"}, "alice-2 is not enrolled", "site-revoked")
    played.enrol("alice-3", key=key_of("alice-2"))
    played.lie({"site": "alice-1", "reason": "x"}, "it is not alice-1's turn", "turn-passed")


def test_bundles_above_the_rate_that_was_agreed_are_counted() -> None:
    played = begin(rates={"submissions_per_hour": 600, "invalid_per_hour": 1})
    garbage = Garbage(site="alice-1", count=9, seconds=60.0, reason="dropped")
    for number in range(2):
        invalid = Invalid(site="alice-1", submission=f"{number}", bundle=None, reason="no bundle")
        before = played.held.unchecked[replay.RATE]
        played.add(invalid)
        assert played.held.unchecked[replay.RATE] == before + (number > 0)
    played.time += datetime.timedelta(hours=3)
    played.add(dataclasses.replace(invalid, submission="later"))
    assert played.held.unchecked[replay.RATE] == 1
    played.add(garbage)
    played.word(garbage, replay.RATE)  # it is told of once an hour
    played = begin()
    played.lie(garbage, "no rate of invalid bundles was agreed")


def test_the_end_comes_before_the_release_that_tells_of_it() -> None:
    played = begin(("alice-1",), sessions=1)
    played.add(Report(site="alice-1", submission="over", session=1, epochs=2, checkpoints=1, examples=9, builds_on=3,
                      metrics=None))  # fmt: skip
    finished, words = records.finished(played.state), dict(played.held.unchecked)
    played.lie(played.state.wanted_release(), "first comes the end: every site has trained 1 session")
    played.add(finished)
    assert dict(played.held.unchecked) == words  # agreed, and nobody's word
    played.release()
    played.lie(played.state.wanted_release(), "nothing of the kind is due")


def test_a_release_tells_what_is_and_an_older_version_told_less() -> None:
    played = begin(())
    played.enrol("alice-1")
    due = played.state.due_release()
    assert due
    older = dataclasses.replace(due, federation=dataclasses.replace(due.federation, last=ABSENT, gate=ABSENT))
    played.lie(dataclasses.replace(older, recipients=()), "recipients is")
    played.word(older, replay.OLDER)
    played.word(dataclasses.replace(due, federation=dataclasses.replace(due.federation, last=ABSENT)), replay.OLDER)
    played.release()  # the newer version tells all
    played.enrol("alice-2")
    due = played.state.due_release()
    assert due
    played.lie(dataclasses.replace(due, federation=dataclasses.replace(due.federation, last=ABSENT)), "federation is")
    played.release()


def test_what_a_newer_version_writes_is_counted_and_changes_nothing() -> None:
    played = begin()
    before = played.state
    played.word({"vote": "yes"}, replay.NEWER, "voted")
    assert dataclasses.replace(played.state, sequence=before.sequence, head=before.head) == before
    sent = played.verdict(played.submission(), 0.6).fields()
    played.word(sent | {"colour": "red"}, replay.NEWER, "accepted")
    due = played.state.due_release()
    assert due
    told = due.fields()
    played.word(told | {"federation": told["federation"] | {"colour": "red"}}, replay.NEWER, "release")


def test_what_is_remembered_no_more_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "REMEMBERED", 3)
    played, asked = begin(), list[int]()

    def look_up(number: int) -> Record:
        asked.append(number)
        return played.history[number - 1]

    played.held.look_up = look_up
    early = played.submission()
    for accuracy in (0.6, 0.7, 0.8, 0.85):
        played.add(played.verdict(played.submission(), accuracy))
        played.release()
    assert not asked
    played.add(played.verdict(early, 0.4))
    played.lie(
        played.verdict(dataclasses.replace(early, submission="2", builds_on=2), 0.4), "record 2, which is no release"
    )
    played.lie(
        RolledBack(to=2, model=blob(2), metrics=scores(0.5), reason="x"), "record 2 did not make this model current"
    )
    played.add(RolledBack(to=1, model=blob(1), metrics=scores(0.5), reason="x"))
    assert asked == [4, 2, 2, 1]
    assert all(len(one) == 3 for one in played.held.remembered().values() if isinstance(one, list))
    played.held.look_up = None
    played.lie(
        played.verdict(dataclasses.replace(early, submission="3"), 0.4), "needs record 4, which cannot be asked for"
    )
