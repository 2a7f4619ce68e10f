"""The coordinator without processes: what `charity serve` decides, from the same rules, on arrays in memory.

The rules are those of `fedssh.charity`: `policy` and `rounds` decide, `averaging` combines, `records` says what is
written, and the fold of the history says where the federation stands. What `settle`, `conduct` and `release` do around
them with files, keys and a judge process is done here with arrays; a test holds both to the same history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.engines.memory.history import SECONDS_PER_IMAGE, History, seconds
from experiments.engines.memory.models import ModelFiles, Scores, Weights, identifier, site_key
from fedssh.charity.judge.probe import Probe
from fedssh.manifest import Local
from fedssh.rules import averaging, records
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation
from fedssh.rules.gate import Decision, Gate, decide, gone_on, shares, told
from fedssh.rules.rounds import Due, Round, due, seconds_left, why_not
from fedssh.weights import architecture_hash

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A model that a site sends.

    Attributes:
        session, epoch: What it came out of.
        examples: How many images the site trains on.
        release: The record of the release that the session started from.
        claim: What the site measured.
    """

    site: str
    session: int
    epoch: int
    examples: int
    release: Record
    claim: Local
    weights: Weights


@dataclass(frozen=True)
class Became:
    """A model that became the current one.

    Attributes:
        metrics: What it scored on the holdout, whatever of it the federation is told.
        site: Whose candidate it was; None for a round.
    """

    record: Record
    weights: Weights
    metrics: Mapping[str, Any]
    site: str | None


class Coordinator:
    """A federation with its current model.

    Args:
        history: Empty; gets every record.
        spec: The architecture.
        judge: Scores weights on the holdout; raises ValueError for what cannot be scored.
        became: Called for every model that becomes the current one after the first.
        statistics: The names of the tensors that no gradient changes.
        train: The coordinator's own images to train on; None where she has none.

    Attributes:
        weights: The current model.
        brought: How many releases the sites have brought in, all of them together.
    """

    weights: Weights

    def __init__(
        self,
        history: History,
        spec: dict[str, Any],
        judge: Scores,
        became: Callable[[Became, float], None],
        statistics: Collection[str] = (),
        train: Images | None = None,
    ) -> None:
        self._history = history
        self._spec = spec
        self._judge = judge
        self._became = became
        self._statistics = statistics
        self._train = train
        self._server: list[Weights] = []
        self._updates: dict[str, Weights] = {}
        self._received = 0
        self._told: tuple[Any, ...] = ()
        self.brought = 0

    @property
    def state(self) -> Federation:
        """Where the federation stands."""
        return self._history.state

    def begin(
        self, agreement: dict[str, Any], seed: int, weights: Weights, examples: int, sites: Sequence[str]
    ) -> Metrics:
        """Record the first model and enrol the sites; returns what the model scores on the holdout."""
        self.weights = self._first = weights
        self._probe = Probe(self._spec, agreement["plan"], lambda: self._train)
        self._files = ModelFiles(weights, self._spec)
        metrics = self._judge(weights)
        architecture = architecture_hash(self._spec)
        self._history.append(
            "genesis", 0, **agreement, architecture=architecture, model=self._files.blob(weights),
            metrics=told(Gate(agreement["gate"], agreement["margin"]), metrics), examples=examples, seed=seed,
        )  # fmt: skip
        for site in sites:
            self._history.append("site-added", 0, site=site, role="site", key=site_key(site))
        self.settle(0)
        return metrics

    @property
    def model_bytes(self) -> int:
        """The size of a model file."""
        return self._files.size

    def receive(self, sent: Sent, clock: float) -> Record:
        """Give the verdict on a model, as `fedssh.charity.settle` does."""
        self._received += 1
        bad = sum(array.size - int(np.count_nonzero(np.isfinite(array))) for array in sent.weights.values())
        if bad:
            total = sum(array.size for array in sent.weights.values())
            return self._history.append(
                "invalid", clock, site=sent.site, submission=identifier(self._received), bundle=None,
                reason=f"{bad:,} of {total:,} weights are not finite",
            )  # fmt: skip
        return self._count(sent, clock) if self.state.policy.rounds else self._judged(sent, clock)

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
        metrics = vars(claim) if claim else None
        shared = {"site": site, "submission": identifier(self._received), "session": session, "examples": examples}
        if reason := self.state.out_of_turn(site, release.fields["federation"]):
            said = {**shared, "epoch": epochs, "builds_on": release.sequence, "claim": metrics}
            return self._history.append("refused", clock, **records.refused_report(self.state, said, reason))
        counts = {"epochs": epochs, "checkpoints": checkpoints, "builds_on": release.sequence}
        return self._history.append("report", clock, **shared, **counts, metrics=metrics)

    def settle(self, clock: float) -> None:
        """Open, extend and close rounds, and release, until nothing is due."""
        self._release(clock)
        while self._conduct(clock):
            pass
        self._release(clock)

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

    # without rounds

    def _judged(self, sent: Sent, clock: float) -> Record:
        state = self.state
        said = self._told_of(sent)
        if reason := state.out_of_turn(sent.site, sent.release.fields["federation"]):
            return self._refuse(said, Decision(False, reason), clock)
        staleness = state.current.staleness(sent.site, int(sent.release.fields["federation"]["version"]))
        try:
            decision, mixed = self._mixed(sent.weights, staleness)
        except ValueError as error:
            return self._refuse(said, _cannot(error), clock)
        if not decision.accept:
            return self._refuse(said, decision, clock, staleness)
        fields = records.verdict(state, said, decision, staleness)
        if mixed is not sent.weights:
            fields["model"] = self._files.blob(mixed)
        record = self._history.append("accepted", clock, **fields)
        self._make_current(record, mixed, decision, sent.site, clock)
        return record

    def _mixed(self, candidate: Weights, staleness: int) -> tuple[Decision, Weights]:
        """What is decided of a candidate, and the weights that would be released."""
        state = self.state
        scored = [(share, self._judge(self._mix(candidate, share))) for share in shares(state.policy, staleness)]
        decision = decide(state.policy, state.gate, state.metric, state.current.metrics, state.current.bar, scored)
        assert decision.share is not None
        mixed = self._mix(candidate, decision.share)
        return self._checked(decision, mixed), mixed

    def _checked(self, decision: Decision, weights: Weights) -> Decision:
        """A decision, after it was looked at whether sites can go on from the model."""
        if not decision.accept:
            return decision
        current = str(self.state.current.of), self.weights
        return gone_on(decision, **vars(self._probe.check(weights, current, ("1", self._first))))

    def _mix(self, candidate: Weights, share: float) -> Weights:
        return candidate if share == 1 else averaging.mix(self.weights, candidate, share)

    def _refuse(self, said: dict[str, Any], decision: Decision, clock: float, staleness: int | None = None) -> Record:
        return self._history.append("refused", clock, **records.verdict(self.state, said, decision, staleness))

    def _told_of(self, sent: Sent) -> dict[str, Any]:
        """What a record repeats of a submission."""
        return {
            "site": sent.site,
            "submission": identifier(self._received),
            "session": sent.session,
            "epoch": sent.epoch,
            "examples": sent.examples,
            "builds_on": sent.release.sequence,
            "claim": vars(sent.claim),
            "model": self._files.blob(sent.weights),
            "architecture": self.state.genesis["architecture"],
        }

    def _make_current(
        self, record: Record, weights: Weights, decision: Decision, site: str | None, clock: float
    ) -> None:
        assert decision.metrics is not None
        self.weights = weights
        self._became(Became(record, weights, decision.metrics, site), clock)

    # in rounds

    def _count(self, sent: Sent, clock: float) -> Record:
        said = self._told_of(sent)
        if reason := why_not(self.state.round, sent.site, int(sent.release.fields["federation"]["turns"])):
            return self._refuse(said, Decision(False, reason), clock)
        self._updates[sent.site] = sent.weights
        return self._history.append("counted", clock, **records.counted(self.state, said))

    def _conduct(self, clock: float) -> Record | None:
        state = self.state
        if not state.policy.rounds or state.finished:
            return None
        if state.round is None:
            fields = records.opening(state)
            return None if fields is None else self._history.append("round-opened", clock, **fields)
        if fields := records.extension(state, seconds(clock)):
            return self._history.append("round-extended", clock, **fields)
        sites = [site.name for site in state.sites]
        closes = due(state.policy, state.round, sites, seconds(clock)) is Due.CLOSE
        return self._close(state.round, clock) if closes else None

    def _close(self, current: Round, clock: float) -> Record:
        state = self.state
        result: averaging.RoundResult | None = None
        if (decision := records.too_few(state, current)) is None:
            try:
                result = self._combined(current)
                decision = records.gated(state, len(current.updates), self._judge(result.weights))
                decision = self._checked(decision, result.weights)
            except ValueError as error:
                decision = _cannot(error)
        self._updates.clear()
        fields = records.closing(state, current, decision, result.shares if decision.metrics and result else None)
        if not decision.accept or result is None:
            return self._history.append("round-refused", clock, **fields)
        fields["state"] = [self._files.blob(tensors) for tensors in result.state]
        fields["model"] = self._files.blob(result.weights)
        record = self._history.append("round-accepted", clock, **fields)
        self._server = list(result.state)
        self._make_current(record, result.weights, decision, None, clock)
        return record

    def _combined(self, current: Round) -> averaging.RoundResult:
        updates = records.in_order(current)
        weights = [self._updates[update.site] for update in updates]
        examples = [update.examples for update in updates]
        policy = self.state.policy
        return averaging.round_result(policy, self.weights, weights, examples, self._server, self._statistics)

    # releases

    def _release(self, clock: float) -> None:
        state = self.state
        if not state.finished and state.all_sessions_done():
            self._history.append("finished", clock, reason=records.why_finished(state))
        told = _told(self.state)
        if told != self._told and self.state.release_is_due():  # asking a hundred sites' keys takes its time
            wanted = self.state.wanted_release()
            assert wanted is not None
            self._history.append("release", clock, **wanted)
            self.brought += len(wanted["recipients"])
        self._told = told


def _cannot(error: ValueError) -> Decision:
    """What becomes of what the judge cannot score or combine."""
    return Decision(False, f"the judge cannot do it: {error}")


def _told(state: Federation) -> tuple[Any, ...]:
    """All that a release can tell of a state: where it is the same, no release is due."""
    members = tuple((member.name, member.key, member.role, member.revoked) for member in state.members)
    last = tuple((state.last or {}).values())
    current = state.round and (state.round.number, state.round.sites)
    return state.current.of, state.turn, state.turns, state.finished, state.sessions, last, current, members
