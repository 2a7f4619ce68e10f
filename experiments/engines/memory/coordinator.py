"""The coordinator without processes: `fedssh.rules.coordinator`, over arrays in memory.

What Charity does with files, keys and a judge process is done here with arrays; what is decided, and what is written
down of it, is the same code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from experiments.engines.memory import masked
from experiments.engines.memory.history import SECONDS_PER_IMAGE, History, seconds
from experiments.engines.memory.models import ModelFiles, Scores, Weights, identifier, site_key
from experiments.engines.memory.turned import Turned, whole
from fedssh.charity.judge.probe import Probe
from fedssh.errors import JudgeError
from fedssh.rules import averaging, coordinator, private_claims, records
from fedssh.rules.coordinator import Combined, Done, Joined
from fedssh.rules.events import (
    Accepted,
    Blob,
    Counted,
    Event,
    Genesis,
    Invalid,
    Local,
    Metrics,
    Record,
    Refused,
    Released,
    SiteAdded,
    Spent,
)
from fedssh.rules.federation import Federation, Slot
from fedssh.rules.gate import Gate, told
from fedssh.rules.masking import Masking
from fedssh.rules.privacy import POISSON, charge_of, epsilon
from fedssh.rules.records import Over
from fedssh.rules.rounds import Update, seconds_left
from fedssh.rules.soundness import Finding
from fedssh.rules.standing import Standing
from fedssh.rules.typed import ABSENT, Absent, known
from fedssh.rules.vocabulary import MAKES_CURRENT
from fedssh.weights import architecture_hash

if TYPE_CHECKING:
    from fedssh.models.data.images import Images


@dataclass(frozen=True)
class Sent:
    """A model that a site sends.

    Attributes:
        session, epoch: What it came out of.
        examples: How many images the site trains on.
        release: The record of the release that the session started from.
        claim: What the site measured.
        base: The release's weights; a policy that steps asks for them.
        model: The file that the weights would be; None: it is still to be told.
    """

    site: str
    session: int
    epoch: int
    examples: int
    release: Record
    claim: Local
    weights: Weights
    base: Weights | None = None
    model: Blob | None = None


@dataclass(frozen=True)
class Became:
    """A model that became the current one.

    Attributes:
        metrics: What it scored on the holdout, whatever of it the federation is told.
        site: Whose candidate it was; None for a round.
    """

    record: Record
    weights: Weights
    metrics: Metrics
    site: str | None


class ArrayStore:
    """The store of `rules.coordinator` in memory: a history, the current model, and the open round's updates.

    Args:
        history: Empty; gets every record.
        spec: The architecture.
        first: The first model.

    Attributes:
        clock: When the next record is made, in images since the run began.
        first, weights: The first model and the current one.
        updates, examples: Of the open round, by site.
        server: The server optimizer's state.
        bases: What steps start from, by the hash of its file: the release of what is judged, and what was last taken.
        brought: How many releases the sites have brought in, all of them together.
    """

    def __init__(self, history: History, spec: dict[str, Any], first: Weights) -> None:
        self._history = history
        self._spec = spec
        self._others: dict[tuple[str, ...], ModelFiles] = {}
        self.files = ModelFiles(first, spec)
        self.clock = 0.0
        self.first = self.weights = first
        self.updates: dict[str, Weights] = {}
        self.examples: dict[str, int] = {}
        self.server: Sequence[Weights] = ()
        self.bases: dict[str, Weights] = {}
        self.brought = 0

    @property
    def state(self) -> Federation:
        """Where the federation stands."""
        return self._history.state

    def refresh(self) -> Federation:
        """Nobody else adds to the history."""
        return self._history.state

    @contextlib.contextmanager
    def locked(self) -> Iterator[Federation]:
        """Nobody else is there to be kept away."""
        yield self._history.state

    def append(
        self, event: Event, model: Weights | None = None, sets: Sequence[Weights] = (), sent: Weights | None = None
    ) -> Record:
        """Add a record, and take the model that it names as an update or as the current one."""
        if isinstance(event, Accepted) and self.state.policy.steps and model is not None:
            self.bases[known(event.candidate, event.model).sha256] = model if sent is None else sent
        if isinstance(event, Refused) and event.model is not None and sent is not None:
            self.bases[known(event.candidate, event.model).sha256] = sent
        if isinstance(event, Released):
            self.brought += len(event.recipients)
        if isinstance(event, Counted) and model is not None:
            self.updates[event.site] = model
        elif model is not None:
            self.weights, self.server = model, tuple(sets)
        record = self._history.append(event.name, self.clock, **event.fields())
        if self.state.policy.steps:
            self.bases = {name: self.bases[name] for name in self.state.kept & self.bases.keys()}
        return record

    def blob(self, model: Weights) -> Blob:
        """The hash and size of the file that weights, or an optimizer's state, would be."""
        names = tuple(model)
        if names == tuple(self.first):
            return self.files.blob(model)
        if names not in self._others:
            self._others[names] = ModelFiles(model, self._spec)
        return self._others[names].blob(model)

    def base(self, blob: Blob) -> Weights:
        """What a step starts from, or a candidate that waits."""
        return self.bases[blob.sha256]

    def end_round(self) -> None:
        """Let go of the updates."""
        self.updates.clear()

    def drop(self, model: Weights) -> None:
        """Nothing to do: memory is given back by itself."""


class ArrayBench:
    """The bench of `rules.coordinator` in memory.

    Args:
        judge: Scores weights on the holdout; raises ValueError for what cannot be scored.
        probe: Tries models that are about to become current.
        statistics: The names of the tensors that no gradient changes.
        turned: What came of a site's newest turn, under `split`.
    """

    def __init__(
        self, store: ArrayStore, judge: Scores, probe: Probe, statistics: Collection[str],
        turned: Callable[[str], Turned] | None = None,
    ) -> None:  # fmt: skip
        self._turned = turned
        self._store = store
        self._judge = judge
        self._probe = probe
        self._statistics = statistics

    def score(
        self,
        state: Federation,
        model: Weights,
        shares: Sequence[float],
        base: Blob | None = None,
        others: Sequence[Slot] = (),
    ) -> Sequence[Metrics]:
        """What mixes of a candidate with the current model score, or steps from it."""
        with _said_as_judge():
            return [self._scored(state, self.mix(state, model, share, base, others)) for share in shares]

    def mix(
        self, state: Federation, model: Weights, share: float, base: Blob | None = None, others: Sequence[Slot] = ()
    ) -> Weights:
        """Such a mix, of which all of the candidate is the candidate; or such a step."""
        store = self._store
        if others:
            own = model, store.weights if base is None else store.base(base)
            steps = [own, *((store.base(slot.candidate), store.base(slot.base)) for slot in others)]
            return averaging.gathered(store.weights, steps, share, self._statistics)
        if base is not None:
            return averaging.step(store.weights, model, store.base(base), share, self._statistics)
        return model if share == 1 else averaging.mix(store.weights, model, share)

    def combine(self, state: Federation, updates: Sequence[Update]) -> Combined[Weights]:
        """The result of the open round."""
        store = self._store
        weights = [store.updates[update.site] for update in updates]
        examples = [update.examples for update in updates]
        if state.policy.masked:
            return self._summed(state, updates, weights)
        with _said_as_judge():
            result = averaging.round_result(
                state.policy, store.weights, weights, examples, store.server, self._statistics
            )
            bearing = averaging.bearing(store.weights, weights) if records.evidence_agreed(state) else None
            return Combined(result.weights, self._scored(state, result.weights), result.shares, result.state, bearing)

    def _summed(self, state: Federation, updates: Sequence[Update], weights: Sequence[Weights]) -> Combined[Weights]:
        """The result of updates whose sum alone is seen."""
        store, current = self._store, state.round
        assert current is not None
        sites = sum(len(one.roster.sites) for one in current.groups)
        sent = dict(zip((update.site for update in updates), weights, strict=True))
        means: list[dict[str, np.ndarray]] = [{} for _ in current.groups]

        def open_group(masking: Masking, mean: Weights) -> int:
            arrived = masking.arrived or ()
            counts = [store.examples[site] for site in arrived]
            found, of = masked.summed(state.policy, sites, store.weights, [sent[site] for site in arrived], counts)
            cast(dict[str, np.ndarray], mean).update(found)
            return of

        def combine(parts: Sequence[tuple[Weights, int]]) -> Combined[Weights]:
            parted, counts = [mean for mean, _ in parts], [count for _, count in parts]
            policy = state.policy.of_sums
            result = averaging.round_result(policy, store.weights, parted, counts, store.server, self._statistics)
            return Combined(result.weights, self._scored(state, result.weights), (), result.state)

        with _said_as_judge():
            able = records.opened(current)
            score = functools.partial(self._scored, state)
            return coordinator.of_groups(state, current.groups, able, means, open_group, score, combine)

    def join(self, state: Federation, sent: records.Sent, model: Weights) -> Joined[Weights]:
        """The network of the turn that is over."""
        assert self._turned is not None, "nobody sends the layers of a site but who trains them"
        turned = self._turned(sent.site)
        joined = whole(turned, model, self._store.first)
        if state.policy.for_sites:
            return Joined(
                {**joined, **{name: self._store.first[name] for name in model}}, None, turned.sets[:1], turned.work
            )
        with _said_as_judge():
            return Joined(joined, self._scored(state, joined), turned.sets, turned.work)

    def _scored(self, state: Federation, weights: Weights) -> Metrics:
        return self._judge(weights, self._store.weights) if state.gate.paired else self._judge(weights)

    def check(self, state: Federation, model: Weights) -> Finding:
        """Whether sites can go on from a model."""
        current = str(state.current.of), self._store.weights
        with _said_as_judge():
            return self._probe.check(model, current, ("1", self._store.first))


@contextlib.contextmanager
def _said_as_judge() -> Iterator[None]:
    """What cannot be scored or combined, in the words of the judge process."""
    try:
        yield
    except ValueError as error:
        raise JudgeError(f"the judge cannot do it: {error}") from None


class Coordinator:
    """A federation with its current model.

    Args:
        history: Empty; gets every record.
        spec: The architecture.
        judge: Scores weights on the holdout; raises ValueError for what cannot be scored.
        became: Called for every model that becomes the current one after the first.
        statistics: The names of the tensors that no gradient changes.
        train: The coordinator's own images to train on; None where she has none.
        turned: What came of a site's newest turn, under `split`.
    """

    def __init__(
        self,
        history: History,
        spec: dict[str, Any],
        judge: Scores,
        became: Callable[[Became, float], None],
        statistics: Collection[str] = (),
        train: Images | None = None,
        turned: Callable[[str], Turned] | None = None,
    ) -> None:
        self._turned = turned
        self._history = history
        self._spec = spec
        self._judge = judge
        self._became = became
        self._statistics = statistics
        self._train = train
        self._received = 0
        self._sites = masked.Sites()

    @property
    def state(self) -> Federation:
        """Where the federation stands."""
        return self._history.state

    @property
    def weights(self) -> Weights:
        """The current model."""
        return self._store.weights

    @property
    def server(self) -> Sequence[Weights]:
        """The server optimizer's state, or under `split` that of the network's two parts."""
        return self._store.server

    @property
    def brought(self) -> int:
        """How many releases the sites have brought in, all of them together."""
        return self._store.brought

    @property
    def model_bytes(self) -> int:
        """The size of a model file."""
        return self._store.files.size

    def begin(
        self, agreement: dict[str, Any], seed: int, weights: Weights, examples: int, sites: Sequence[str]
    ) -> Metrics:
        """Record the first model and enrol the sites; returns what the model scores on the holdout."""
        probe = Probe(self._spec, agreement["plan"], lambda: self._train)
        self._store = ArrayStore(self._history, self._spec, weights)
        self._bench = ArrayBench(self._store, self._judge, probe, self._statistics, self._turned)
        metrics = self._judge(weights)
        fields = {
            **agreement,
            "architecture": architecture_hash(self._spec),
            "model": self._store.blob(weights).fields(),
            "metrics": told(Gate(agreement["gate"], agreement["margin"], agreement["plan"]["metric"]), metrics),
            "examples": examples,
            "seed": seed,
        }
        self._store.append(Genesis.read(fields, "the genesis"))
        for site in sites:
            self._store.append(SiteAdded(site=site, role="site", key=site_key(site)))
        self.settle(0)
        return metrics

    def receive(self, sent: Sent, clock: float) -> Record:
        """Give the verdict on a model."""
        self._received += 1
        store, submission = self._store, identifier(self._received)
        store.clock = clock
        bad = sum(array.size - int(np.count_nonzero(np.isfinite(array))) for array in sent.weights.values())
        if bad:
            total = sum(array.size for array in sent.weights.values())
            reason = f"{bad:,} of {total:,} weights are not finite"
            return store.append(Invalid(site=sent.site, submission=submission, bundle=None, reason=reason))
        privacy, hidden = self._spent(sent), self.state.policy.masked
        store.examples[sent.site] = sent.examples
        said = records.Sent(
            site=sent.site,
            submission=submission,
            session=sent.session,
            epoch=sent.epoch,
            examples=0 if hidden else sent.examples,
            builds_on=sent.release.sequence,
            started=standing_of(sent.release).started,
            claim=sent.claim if privacy is ABSENT and not hidden else None,
            privacy=privacy,
            model=sent.model or store.blob(sent.weights),
            architecture=known(self.state.genesis.architecture, ""),
            released=_released(sent.release).model,
        )
        if self.state.policy.steps:
            assert sent.base is not None, "a step starts from the release"
            store.bases[_released(sent.release).model.sha256] = sent.base
        return self._done(coordinator.judge(store, self._bench, said, sent.weights), sent.site)

    def report(
        self,
        site: str,
        clock: float,
        *,
        release: Record,
        claim: Local | None,
        session: int,
        epochs: int,
        checkpoints: int,
        examples: int,
    ) -> Record:
        """Record that a site's session, begun from a release, is over."""
        self._received += 1
        self._store.clock = clock
        over = Over(
            site=site,
            submission=identifier(self._received),
            session=session,
            epochs=epochs,
            checkpoints=checkpoints,
            examples=0 if self.state.policy.masked else examples,
            builds_on=release.sequence,
            started=standing_of(release).started,
            metrics=None if private_claims.agreed(self.state.genesis.plan) or self.state.policy.masked else claim,
        )
        return coordinator.report(self._store, over)

    def _spent(self, sent: Sent) -> Spent | Absent:
        """What a site's account says, where privacy is agreed: it has trained what its history tells, and no more.

        Raises:
            ValueError: It is more than may be spent, so no site would have trained.
        """
        plan = self.state.genesis.plan
        privacy = private_claims.agreed(plan)
        if privacy is None:
            return ABSENT
        one = charge_of(privacy, sent.examples, int(plan["batch_size"]), sent.epoch)
        first = Spent(
            unit=privacy.unit, sampling=POISSON, clip=privacy.clip, noise=privacy.noise, rate=one.rate, steps=one.steps,
            delta=privacy.delta, spent=0.0, next=0.0, budget=privacy.budget,
        )  # fmt: skip
        spent, after = (epsilon(each, privacy.delta) for each in private_claims.owed(self.state, sent.site, first))
        if spent > privacy.budget:
            raise ValueError(f"a session of {sent.site} takes epsilon to {spent}, the budget is {privacy.budget:g}")
        return dataclasses.replace(first, spent=spent, next=after)

    def settle(self, clock: float) -> None:
        """Open, extend and close rounds, and release, until nothing is due."""
        self._store.clock = clock
        coordinator.release(self._store)
        while True:
            while done := coordinator.conduct(self._store, self._bench, seconds(clock)):
                self._done(done, None)
            if not self._say_masks():
                break
        coordinator.release(self._store)

    def _say_masks(self) -> bool:
        """Let a site say what is due so that updates are summed under masks; whether one had something to say."""
        if not self.state.policy.masked:
            return False
        said = self._sites.say(self.state, identifier(self._received + 1))
        if said is None:
            return False
        self._received += 1
        record, why = coordinator.masks(self._store, said)
        assert record is not None, why
        return True

    def deadline(self) -> float | None:
        """When the open round has to be looked at though nothing arrives, on the clock that counts images."""
        current = self.state.round
        if current is None:
            return None
        policy = self.state.policy
        until = current.opened + seconds_left(policy, current, current.opened)
        clock = round(until / SECONDS_PER_IMAGE)
        while seconds_left(policy, current, seconds(clock)) > 0:  # a sum of seconds may be a hair above
            clock += 1
        return clock

    def _done(self, done: Done, site: str | None) -> Record:
        """Tell of a model that became the current one."""
        if done.record.event in MAKES_CURRENT and done.metrics is not None:  # what nobody can score is no point
            self._became(Became(done.record, self._store.weights, done.metrics, site), self._store.clock)
        return done.record


def standing_of(release: Record) -> Standing:
    """What a release says of the federation."""
    return _released(release).federation


def _released(release: Record) -> Released:
    said = release.said
    assert isinstance(said, Released)
    return said
