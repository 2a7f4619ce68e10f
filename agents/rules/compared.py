"""What a record says, compared with what the rules give: the parts of `replay` that know the state alone. Pure.

Whatever is named `check_…`, and `same`, raises DecisionError, which names the record and what the rules give instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from fedssh.errors import DecisionError
from fedssh.forms import canonical
from fedssh.rules import rates, records, thresholds
from fedssh.rules.events import (
    Accepted,
    Blob,
    Event,
    Genesis,
    Metrics,
    Record,
    Released,
    RoundAccepted,
    RoundClosed,
    Verdict,
)
from fedssh.rules.federation import Federation, advance
from fedssh.rules.gate import PAIRED, Decision, decide, impossible, pairs
from fedssh.rules.metrics import CLASSES, gain, task_of
from fedssh.rules.records import Sent
from fedssh.rules.rounds import Round
from fedssh.rules.standing import Standing, Started
from fedssh.rules.terms import SCHEDULES, schedule_of
from fedssh.rules.typed import ABSENT, Typed, known, plain

STEP_SECONDS = 60.0  # as far a clock may be put back between a look at a deadline or a rate and the record


def sent_of(record: Record, said: Verdict, started: Started, released: Blob | None) -> Sent:
    """What a submission said, as far as its verdict repeats it.

    Args:
        released: The model of the release that it started from.
    """
    claim, model, architecture = known(said.claim, None), known(said.candidate, said.model), said.architecture
    if model is None or not isinstance(architecture, str):
        raise wrong(record, "a submission has a model and an architecture")
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
        released=released,
        privacy=said.privacy,
    )


def share_of(state: Federation, record: Record, said: Verdict, wanted: Sequence[float]) -> float:
    """The candidate's share in what is decided about, as it is told; powers may differ in the last digit elsewhere."""
    share = 1.0 if not state.policy.mixes else known(said.share, None)
    if share is None or not any(math.isclose(share, one) for one in wanted):
        raise wrong(record, f"its share is {share}, by the policy one of {', '.join(map(repr, wanted))}")
    return share


def decided_on(state: Federation, wanted: Sequence[float], share: float, metrics: Metrics, waited: int = 0) -> Decision:
    """What the policy makes of a candidate, when this of its shares scored best, or this part of a mean."""
    others = [(other, metrics) for other in wanted if not math.isclose(other, share)]
    current, mixes = state.current, [(share, metrics), *others]
    return decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes, waited)


def could_score(state: Federation, metrics: Metrics) -> Metrics:
    """What a model may have scored: what is told, or under a ladder of steps the best that is told in the same way."""
    if state.gate.kind != "ladder" or metrics.get(state.metric) is None:
        return metrics
    better = gain(state.metric, state.gate.margin / 2 + 1e-9)
    return {**metrics, state.metric: metrics[state.metric] + better}


def paired_with(record: Record, state: Federation, said: Verdict | RoundClosed) -> Metrics:
    """What is told of a model that was accepted, with what it was found to have to beat the current one by."""
    metrics, margin = said.metrics or {}, known(said.margin, None)
    if not state.gate.paired:
        return metrics
    if not isinstance(said, Accepted | RoundAccepted):
        raise wrong(record, f"what is refused tells no score, it says {short(metrics)}")
    if margin is None:
        raise wrong(record, "nothing is accepted without its margin")
    holdout = known(state.genesis.holdout, None) or {}
    current, candidate, images = state.current.metrics[state.metric], metrics[state.metric], holdout.get("examples")
    if not pairs(margin, current, candidate, images):
        of = f" on {images} images" if images else ""
        raise wrong(record, f"accuracies of {current} and {candidate}{of} cannot have the standard error {margin}")
    return {**metrics, PAIRED: margin}


def check_genesis(record: Record, said: Event) -> None:
    """Check that what is agreed goes together."""
    if not isinstance(said, Genesis):
        return  # it cannot follow, says the state
    state = advance(None, record)
    if said.schedule not in ("rounds", *SCHEDULES) or schedule_of(said.schedule, state.policy) != said.schedule:
        raise wrong(record, f"the policy {state.policy.name} has another schedule than {said.schedule}")
    if said.schedule == "rounds" and not state.policy.rounds:
        raise wrong(record, f"the policy {state.policy.name} has no rounds")
    if min(state.rates) < 0:
        raise wrong(record, "rates are whole numbers from 0")
    if state.gate.paired and task_of(said.spec) != CLASSES:
        raise wrong(record, f"the gate {state.gate.kind} is for classes")
    check_scores(record, state, said.metrics)


def check_scores(record: Record, state: Federation, metrics: Metrics) -> None:
    """Check that a model can score so."""
    if (name := impossible(metrics, state.gate.most)) is not None:
        raise wrong(record, f"no model can score the {name} {short(metrics[name])}")
    agreed = known(state.genesis.decision, None)
    if why := thresholds.objection(agreed, metrics, steps=state.gate.is_ladder):
        raise wrong(record, why)


def check_updates(record: Record, said: RoundClosed, current: Round) -> None:
    """Check that a round has all its updates and no others."""
    wanted, found = [one.record for one in records.in_order(current)], [part.record for part in said.updates]
    if found != wanted:
        numbers = (", ".join(map(str, one)) or "none" for one in (wanted, found))
        raise wrong(record, "its updates are those of records {}, the record says {}".format(*numbers))


def left_out(state: Federation, said: Released) -> dict[str, Any]:
    """What a release does not say of the federation, as far as no release before it did: an older version made it."""
    before = state.release.said if state.release else None
    told = before.federation if isinstance(before, Released) else None
    names = (field.name for field in dataclasses.fields(Standing) if field.name != "layers")  # mostly there are none
    less = [name for name in names if getattr(said.federation, name) is ABSENT]
    return {name: ABSENT for name in less if told is None or getattr(told, name) is ABSENT}


def until(record: Record) -> float:
    """The latest time at which it can have been made, in seconds since 1970."""
    return rates.seconds(record.time) + STEP_SECONDS


def same(record: Record, expected: Event | None) -> None:
    """Compare a record with what it should be; members that this program does not know are left out.

    Raises:
        DecisionError: Names the first member that is another one.
    """
    said = record.said
    if expected is None:
        raise wrong(record, "nothing of the kind is due")
    if said.name != expected.name:
        reason = expected.fields().get("reason")
        raise wrong(record, f"it is {expected.name}" + (f": {reason}" if reason else ""))
    found, wanted = _known(said), _known(expected)
    for name in sorted(found.keys() | wanted.keys()):
        if canonical(found.get(name)) != canonical(wanted.get(name)) or (name in found) != (name in wanted):
            raise wrong(record, f"{name} is {short(wanted.get(name))}, the record says {short(found.get(name))}")


def says_more(value: object) -> bool:
    """Whether something is said that this program does not know."""
    if isinstance(value, Typed):
        return bool(value.more) or any(map(says_more, vars(value).values()))
    return isinstance(value, tuple) and any(map(says_more, value))


def _known(value: Any) -> Any:
    """What is said, as JSON, without members that this program does not know."""
    if isinstance(value, Typed):
        found = {name: one for name, one in vars(value).items() if name != "more" and one is not ABSENT}
        return {name: _known(one) for name, one in found.items()}
    if isinstance(value, tuple):
        return [_known(one) for one in value]
    return plain(value)


def wrong(record: Record, why: str) -> DecisionError:
    """The error for a record that is not what the rules give."""
    return DecisionError(
        f"record {record.sequence} is {record.event}, by the federation's own rules {why}",
        "its operator decided otherwise than was agreed, or uses another version of fedssh; ask before you go on",
    )


def short(value: object) -> str:
    """A value in a message."""
    text = canonical(value).decode()
    return text if len(text) <= 120 else f"{text[:119]}…"
