"""What a coordinator does: judge, count, conduct rounds, release. Over a store and a bench, whatever these are.

    Store   the history with its models: files and a signed ledger at Charity, arrays in an experiment
    Bench   what says how good a model is: a process with Keras, or a network in this one

Everything is decided under the store's lock on the newest state; what takes its time, scoring, is done before, with
nothing locked, and again when another model has become current meanwhile. A model is kept before the record that names
it, so every step may be done again after a crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from fedssh.errors import JudgeError
from fedssh.rules import records, site_scores
from fedssh.rules.events import Blob, Counted, Event, GroupSum, Masks, Metrics, Record, Scored, Work
from fedssh.rules.federation import Federation, Slot
from fedssh.rules.gate import Decision, ahead, decide, gone_on, told
from fedssh.rules.masking import Masking
from fedssh.rules.records import Bearing, Over, Sent
from fedssh.rules.rounds import Due, Round, Update

if TYPE_CHECKING:
    from fedssh.rules.soundness import Finding  # with NumPy, which who reads a history does not need

Model = TypeVar("Model")  # a model wherever it is: a file's path, or arrays
Taken = TypeVar("Taken", contravariant=True)


class Store(Protocol[Taken]):
    """A history, and the models that it names."""

    @property
    def state(self) -> Federation:
        """The state as of the newest record that was read or added."""

    def refresh(self) -> Federation:
        """The newest state."""

    def locked(self) -> AbstractContextManager[Federation]:
        """Keep everybody else from adding to the history; gives the newest state. Does not nest."""

    def append(
        self, event: Event, model: Taken | None = None, sets: Sequence[Taken] = (), sent: Taken | None = None
    ) -> Record:
        """Add a record, durably, publish it, and let go of what no step starts from any more. The caller has the lock.

        Args:
            event: What it says.
            model: What it names as its `model`; is kept, durably, before the record that names it.
            sets: What it names as its `state`, likewise.
            sent: What it names as its `candidate`, where later steps start from it, or it waits for others; likewise.
        """

    def blob(self, model: Taken) -> Blob:
        """What a model's file is called."""

    def end_round(self) -> None:
        """Let go of the updates of a round that is over, and of old states of the server optimizer."""

    def drop(self, model: Taken) -> None:
        """Let go of a model that came in or was made, unless it was kept."""


@dataclass(frozen=True)
class Combined(Generic[Model]):
    """A round's result.

    Attributes:
        metrics: What it scored.
        shares: How much of each update is in it.
        sets: The server optimizer's state.
        bearing: Where evidence was agreed, how the updates lie to each other, see `averaging.bearing`.
        examples: Under masks: how many images all updates were trained on.
        groups: Under masks with several groups: what came of each.
    """

    model: Model
    metrics: Metrics
    shares: Sequence[float]
    sets: Sequence[Model] = ()
    bearing: Bearing | None = None
    examples: int | None = None
    groups: Sequence[GroupSum] = ()


@dataclass(frozen=True)
class Joined(Generic[Model]):
    """A network whose two parts were trained in two rooms.

    Attributes:
        metrics: What it scored; None where the site's part is for sites alone.
        sets: The optimizer's state, of the coordinator's part and of the site's.
        work: What it took.
    """

    model: Model
    metrics: Metrics | None
    sets: Sequence[Model]
    work: Work


class Bench(Protocol[Model]):
    """What judges models; every method raises JudgeError for what it cannot do."""

    def score(
        self,
        state: Federation,
        model: Model,
        shares: Sequence[float],
        base: Blob | None = None,
        others: Sequence[Slot] = (),
    ) -> Sequence[Metrics]:
        """What mixes of a candidate with the current model score; a share of 1 is the candidate itself.

        Args:
            base: What the candidate was trained from, where its step is to be added instead; a share is then a part of
                the step.
            others: With them a share is a part of the mean of the candidate's step and theirs; without a base, the
                candidate's starts from the current model.
        """

    def mix(
        self, state: Federation, model: Model, share: float, base: Blob | None = None, others: Sequence[Slot] = ()
    ) -> Model:
        """Such a mix, or the current model with such a part of the step."""

    def combine(self, state: Federation, updates: Sequence[Update]) -> Combined[Model]:
        """The result of the open round, of its updates in this order."""

    def join(self, state: Federation, sent: Sent, model: Model) -> Joined[Model]:
        """The network of a turn under `split` that is over: the site's layers, in `model`, and the coordinator's."""

    def check(self, state: Federation, model: Model) -> Finding:
        """Whether sites can go on from a model that is about to become current."""


@dataclass(frozen=True)
class Done:
    """What was written down.

    Attributes:
        metrics: What the model scored, also where the record may not tell; None where nothing was scored.
    """

    record: Record
    metrics: Metrics | None = None


@dataclass(frozen=True)
class _Weighed(Generic[Model]):
    """What is decided about a candidate, as far as the bench has a say in it.

    Attributes:
        scored: Whether it was held against the current model.
        chosen: The candidate or a mix that would become current; None where none would.
        sound: Whether sites could go on from it.
    """

    decided: Decision
    scored: bool = False
    staleness: int = 0
    chosen: Model | None = None
    sound: bool = True


def judge(
    store: Store[Model], bench: Bench[Model], sent: Sent, model: Model, lap: Callable[[], None] = lambda: None
) -> Done:
    """Score a submission and decide about it; in rounds, take it into the open one.

    Args:
        lap: Called when it is scored.
    """
    if store.state.policy.split:
        return _turned(store, bench, sent, model, lap)
    while True:
        against = store.state  # as of just now: it is compared with the newest under the lock
        weighed = _weighed(bench, against, sent, model)
        lap()
        with store.locked() as state:
            # With another model than the current one, or held against it: what was scored tells nothing any more.
            if (state.current.of, state.slots) == (against.current.of, against.slots) or not weighed.scored:
                return _settled(store, state, sent, model, weighed)
        if weighed.chosen is not None and weighed.chosen is not model:
            store.drop(weighed.chosen)


def refuse(store: Store[Model], sent: Sent) -> Done | None:
    """Refuse a submission of which nothing is taken, its model unopened; None where something is taken by now."""
    with store.locked() as state:
        if not (reason := state.objection(sent.site, sent.started)):
            return None
        return Done(store.append(records.verdict(state, sent, Decision(False, reason))))


def report(store: Store[Model], over: Over) -> Record:
    """Record that a session is over, or why its report does not count."""
    with store.locked() as state:
        return store.append(records.reported(state, over))


def scored(store: Store[Model], said: Scored) -> tuple[Record | None, str]:
    """Record what a release scores at a site; else nothing, and why not."""
    with store.locked() as state:
        if reason := site_scores.objection(state, said):
            return None, reason
        return store.append(said), ""


def masks(store: Store[Model], said: Masks) -> tuple[Record | None, str]:
    """Record what a site says about masks; else nothing, and why not."""
    with store.locked() as state:
        if reason := records.masks_objection(state, said):
            return None, reason
        return store.append(records.masks(state, said)), ""


def conduct(store: Store[Model], bench: Bench[Model], now: float) -> Done | None:
    """Do what the rounds are due for next: open one, extend it, close it. None when that is nothing.

    Args:
        now: In seconds since 1970.
    """
    state = store.refresh()
    if not state.policy.rounds or state.finished:
        return None
    if state.round is not None and records.due_now(state, now) is Due.CLOSE:
        return _close(store, bench, state, state.round, now)
    if _next_step(state, now) is None:
        return None
    with store.locked() as state:
        event = _next_step(state, now)
        return Done(store.append(event)) if event else None


def of_groups(
    state: Federation,
    groups: Sequence[Masking],
    able: Sequence[Masking],
    means: Sequence[Model],
    open_group: Callable[[Masking, Model], int],
    score: Callable[[Model], Metrics],
    combine: Callable[[Sequence[tuple[Model, int]]], Combined[Model]],
) -> Combined[Model]:
    """The result of a round whose updates are summed under masks, for a bench.

    Args:
        able: The groups of which enough have answered.
        means: Where the mean of each group goes.
        open_group: Takes off the masks; of how many images the mean is.
        score: What a mean scores, asked where there are several groups.
        combine: The result of these means, each of so many images.

    Raises:
        JudgeError: Nothing came out of any group, or nothing can be made of it.
    """
    found: list[tuple[int, Metrics | None] | None] = []
    trouble: JudgeError | None = None
    for masking, mean in zip(groups, means, strict=True):
        try:
            examples = open_group(masking, mean) if masking in able else None
            found.append(None if examples is None else (examples, score(mean) if len(groups) > 1 else None))
        except JudgeError as error:
            trouble = error
            found.append(None)
    opened = [(mean, one[0]) for mean, one in zip(means, found, strict=True) if one is not None]
    if not opened:
        raise trouble or JudgeError("no sum came out")
    if len(groups) == 1:
        return dataclasses.replace(combine([(opened[0][0], 1)]), examples=opened[0][1])
    shares = records.holding(state, [one or (0, None) for one in found])
    parts = [(mean, one[0]) for mean, one, share in zip(means, found, shares, strict=True) if one and share]
    told_of = [
        GroupSum(
            sites=masking.arrived or (),
            examples=one[0] if one else None,
            share=share,
            metrics=told(state.gate, one[1]) if one and not state.gate.is_ladder else None,
        )
        for masking, one, share in zip(groups, found, shares, strict=True)
    ]
    return dataclasses.replace(combine(parts), examples=sum(count for _, count in parts), groups=told_of)


def release(store: Store[Model]) -> Record | None:
    """Record a release when one is due.

    Also ends the federation when all agreed sessions are done, because that is what the release will say.
    """
    with store.locked() as state:
        if (end := records.finished(state)) is not None:
            store.append(end)
        due = store.state.due_release()
        return store.append(due) if due else None


def _weighed(bench: Bench[Model], state: Federation, sent: Sent, model: Model) -> _Weighed[Model]:
    """Score a candidate; one that goes into a round, or that nothing is taken of, is not worth the bench's time."""
    if state.policy.rounds or state.objection(sent.site, sent.started):
        return _Weighed(Decision(False, "it was not scored"))
    staleness = state.current.staleness(sent.site, sent.started.version)
    base, others = records.base_of(state, sent), records.waiting(state, sent)
    try:
        own = _decided(bench, state, model, state.policy.shares(staleness), base)
        with contextlib.suppress(JudgeError):  # of what waits: that must not have everybody's refused
            if others:
                mean = _decided(bench, state, model, state.policy.gathered, base, others)
                if ahead(state.policy, state.gate, state.metric, mean, own):
                    looked_at = _looked_at(bench, state, sent, model, mean)
                    if looked_at.sound:
                        return looked_at
        return _looked_at(bench, state, sent, model, own)
    except JudgeError as error:
        return _Weighed(Decision(False, str(error)))


def _decided(
    bench: Bench[Model],
    state: Federation,
    model: Model,
    shares: Sequence[float],
    base: Blob | None,
    others: Sequence[Slot] = (),
) -> Decision:
    """What becomes of a candidate by what these shares of it score, or of its mean with others."""
    mixes = tuple(zip(shares, bench.score(state, model, shares, base, others), strict=True))
    current = state.current
    return decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes, len(others))


def _looked_at(bench: Bench[Model], state: Federation, sent: Sent, model: Model, decided: Decision) -> _Weighed[Model]:
    """Look once more at what would become current by a decision.

    Under a ladder that look comes first, and what sites cannot go on from is refused whatever it scored: a refusal that
    tells of a good score, of a model that any other can be made into, would answer questions without end.
    """
    staleness, ladder = state.current.staleness(sent.site, sent.started.version), state.gate.is_ladder
    if not decided.accept and not ladder:
        return _Weighed(decided, True, staleness)
    assert decided.share is not None
    chosen = model
    if not records.as_sent(state, sent, decided):
        others = records.waiting(state, sent) if decided.gathered else ()
        chosen = bench.mix(state, model, decided.share, records.base_of(state, sent), others)
    finding = bench.check(state, chosen)
    if ladder and not finding.sound:
        return _Weighed(Decision(False, finding.text), chosen=chosen, sound=False)
    if decided.accept:
        decided = gone_on(decided, finding.sound, finding.text)
    return _Weighed(decided, True, staleness, chosen, finding.sound)


def _settled(store: Store[Model], state: Federation, sent: Sent, model: Model, weighed: _Weighed[Model]) -> Done:
    """Record the verdict on a candidate. The caller holds the lock."""
    decided, chosen = weighed.decided, weighed.chosen
    if reason := state.objection(sent.site, sent.started):
        decided = Decision(False, reason)
        record = store.append(records.verdict(state, sent, decided))
    elif state.policy.rounds:
        event = records.counted(state, sent)
        record = store.append(event, model if isinstance(event, Counted) else None)
    elif decided.accept and chosen is not None:
        blob = sent.model if chosen is model else store.blob(chosen)
        event = records.verdict(state, sent, decided, weighed.staleness, blob)
        kept = model if state.policy.steps and chosen is not model else None
        record = store.append(event, chosen, sent=kept)
    else:
        staleness = weighed.staleness if weighed.scored else None
        waits = model if weighed.scored and state.policy.gathered else None
        record = store.append(records.verdict(state, sent, decided, staleness), sent=waits)
    for one in (model, chosen):
        if one is not None:
            store.drop(one)
    return Done(record, decided.metrics)


def _turned(
    store: Store[Model], bench: Bench[Model], sent: Sent, model: Model, lap: Callable[[], None] = lambda: None
) -> Done:
    """Join what a site trained in its turn with the coordinator's part, score the whole and decide about it."""
    before = store.state
    decided, result = _joined(bench, before, sent, model)
    lap()
    if before.policy.rounds:
        return _taken_into_round(store, sent, model, decided, result)
    with store.locked() as state:
        reason = state.objection(sent.site, sent.started)
        if not reason and state.current.of != before.current.of:
            decided = Decision(False, f"it was trained from record {before.current.of}, which is current no more")
        counts = decided.metrics is not None or state.policy.for_sites
        scored = result.work if result is not None and counts else None
        if reason:
            record = store.append(records.verdict(state, sent, Decision(False, reason)))
        elif decided.accept and result is not None:
            blobs = [store.blob(one) for one in result.sets]
            event = records.joined(state, sent, decided, scored, store.blob(result.model), blobs)
            record = store.append(event, result.model, result.sets)
        else:
            record = store.append(records.joined(state, sent, decided, scored))
    for one in (model, *((result.model, *result.sets) if result else ())):
        store.drop(one)
    return Done(record, decided.metrics)


def _taken_into_round(
    store: Store[Model], sent: Sent, model: Model, decided: Decision, result: Joined[Model] | None
) -> Done:
    """Take a network that was joined into the open round; what nobody could join is refused."""
    with store.locked() as state:
        if reason := state.objection(sent.site, sent.started):
            record = store.append(records.verdict(state, sent, Decision(False, reason)))
        elif result is None:
            record = store.append(records.verdict(state, sent, decided))
        else:
            event = records.counted_joined(state, sent, result.work, store.blob(result.model))
            record = store.append(event, result.model if isinstance(event, Counted) else None)
    for one in (model, *((result.model, *result.sets) if result else ())):
        store.drop(one)
    return Done(record)


def _joined(bench: Bench[Model], state: Federation, sent: Sent, model: Model) -> tuple[Decision, Joined[Model] | None]:
    """What becomes of a turn, and its network where there is one."""
    if reason := state.objection(sent.site, sent.started):
        return Decision(False, reason), None
    result = None
    try:
        result = bench.join(state, sent, model)
        if state.policy.rounds:  # it is scored with the others, when the round closes
            return Decision(True, "it is joined"), result
        if result.metrics is None:
            return Decision(True, records.NOBODY), result
        current = state.current
        mixes = ((1.0, result.metrics),)
        decided = decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes)
        if decided.accept or state.gate.is_ladder:
            finding = bench.check(state, result.model)
            if state.gate.is_ladder and not finding.sound:
                decided = Decision(False, finding.text)
            elif decided.accept:
                decided = gone_on(decided, finding.sound, finding.text)
    except JudgeError as error:
        decided = Decision(False, str(error))
    return decided, result


def _next_step(state: Federation, now: float) -> Event | None:
    """How the rounds go on without a result."""
    ways = (records.opening, records.extension, records.partners, records.closing, records.agreed)
    return next((event for way in ways if (event := way(state, now)) is not None), None)


def _close(store: Store[Model], bench: Bench[Model], before: Federation, current: Round, now: float) -> Done | None:
    decided, result = _combined(bench, before, current)
    with store.locked() as state:
        moved = state.round != current or state.current.of != before.current.of
        if moved or records.due_now(state, now) is not Due.CLOSE:
            return None  # somebody was revoked or enrolled, or the model rolled back; the next call looks again
        if decided.accept and result is not None:
            blobs = [store.blob(one) for one in result.sets]
            model = store.blob(result.model)
            event = records.closed(
                state, current, decided, result.shares, model, blobs, result.bearing, result.examples, result.groups
            )
            record = store.append(event, result.model, result.sets)
        else:
            scored = result is not None and decided.metrics is not None
            shares = result.shares if result and scored else None
            bearing = result.bearing if result and scored else None
            examples = result.examples if result and scored else None
            groups = result.groups if result and scored else ()
            record = store.append(records.closed_empty(state, current, decided, shares, bearing, examples, groups))
        store.end_round()
    for one in (result.model, *result.sets) if result else ():
        store.drop(one)
    return Done(record, decided.metrics)


def _combined(bench: Bench[Model], state: Federation, current: Round) -> tuple[Decision, Combined[Model] | None]:
    """What becomes of a round, and its result where there is one."""
    if decided := records.too_few(state, current):
        return decided, None
    result = None
    try:
        result = bench.combine(state, records.in_order(current))
        decided = records.gated(state, len(current.updates), result.metrics)
        if decided.accept or state.gate.is_ladder:
            finding = bench.check(state, result.model)
            if state.gate.is_ladder and not finding.sound:
                decided = Decision(False, finding.text)  # as of a candidate, see `_tried`
            elif decided.accept:
                decided = gone_on(decided, finding.sound, finding.text)
    except JudgeError as error:
        decided = Decision(False, str(error))
    return decided, result
