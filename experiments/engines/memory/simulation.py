"""The sites of a run without processes: who trains when, from which release, and when what it sends arrives.

Each site has a clock that counts the images it has trained on. What a session gives depends only on the release it
began from, so it is trained at once, and what it sends waits in a queue until its time; the queue is worked through in
the order of (clock, site). Whether a site may train is decided by `fedssh.alice.session`, as at a real one, on the
newest release of that moment; and as at a real one, its next session begins after it has reported the last one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from experiments.definition.attack import KNOW_THE_OTHERS, Attack, forge
from experiments.engines.memory.controls import Controls
from experiments.engines.memory.coordinator import Coordinator, Sent, standing_of
from experiments.engines.memory.models import Weights
from fedssh.alice.session import Trained, is_over, may_start, session_seed
from fedssh.models.tasks import measure_of
from fedssh.rules.events import Blob, Local, Record


@dataclass(frozen=True)
class Checkpoint:
    """What a session publishes.

    Attributes:
        epoch: From 1.
        claim: What it scores on the images that the site holds out.
        model: The file that the weights would be, where the trainer has told it already.
    """

    epoch: int
    claim: Local
    weights: Weights
    model: Blob | None = None


@dataclass(frozen=True)
class Session:
    """A session that was trained.

    Attributes:
        epochs: How many there were.
        seconds: How long the training took, on the machine's clock.
        control: What has become of the site's control variate, where it has one and sends something.
    """

    checkpoints: tuple[Checkpoint, ...]
    epochs: int
    seconds: float = 0.0
    control: Weights | None = None


class Trainers(Protocol):
    """Who trains."""

    def examples(self, site: str) -> int:
        """How many images a site trains on, without those it holds out."""

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        """Train a session of a site from a release's weights."""


@runtime_checkable
class OverChannels(Protocol):
    """Who trains turns of split learning.

    Attributes:
        bytes: That went through channels so far.
    """

    bytes: int

    @property
    def layer_bytes(self) -> int:
        """The size of a file of a site's layers."""


@dataclass
class Site:
    """A site in the simulation.

    Attributes:
        seed: As for `alice train --seed`.
        pace: How many times as long it takes per image as the others.
        attack: What it does instead of sending what it trained.
        free: Whether it trains nothing now.
        done: Images it has trained on, as far as the coordinator has heard.
    """

    name: str
    seed: int
    examples: int
    pace: float = 1.0
    attack: Attack | None = None
    trained: Trained = field(default_factory=Trained)
    free: bool = True
    done: int = 0


@dataclass
class _Running:
    """A session whose result may not be there yet.

    Attributes:
        epoch_images: How many images an epoch takes.
        sent: How many checkpoints have reached the coordinator.
        heard: Of how many epochs she knows.
    """

    site: Site
    begun: float
    release: Record
    number: int
    weights: Weights
    result: Future[Session]
    epoch_images: int
    sent: int = 0
    heard: int = 0

    def after(self, epochs: int) -> float:
        """The clock when so many epochs are over."""
        return self.begun + epochs * self.epoch_images * self.site.pace

    def hear(self, epochs: int) -> None:
        """Count the images of the epochs that are new."""
        self.site.done += (epochs - self.heard) * self.epoch_images
        self.heard = epochs


@dataclass(frozen=True, order=True)
class _Event:
    """A checkpoint, or with None the report, that reaches the coordinator."""

    clock: float
    site: str
    number: int
    running: _Running = field(compare=False)
    checkpoint: Checkpoint | None = field(compare=False)


class Simulation:
    """A federation at work.

    Args:
        coordinator: Has begun.
        sites: In the order of their names.
        trainers: Train the sites' sessions, several at once perhaps; the result does not depend on it.
        told: Called after every event with the number of sessions that are over.
        keep_last: Whether to keep what each site trained last.
        controls: The sites' control variates, which the trainers ask, too; None where there are none.

    Attributes:
        clock: In images, of a site that never waits.
        sent: Models sent to the coordinator.
        seconds: Spent in training, of the machine's time, for `timed` images.
        last_trained: What each site published last, before it forged anything.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        sites: Mapping[str, Site],
        trainers: Trainers,
        told: Callable[[int], None] = lambda sessions: None,
        keep_last: bool = False,
        controls: Controls | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._sites = sites
        self._trainers = trainers
        self._told = told
        self._queue: list[_Event] = []
        self._waiting: list[tuple[float, int, _Running]] = []  # a heap; of equal clocks the first started comes first
        self._started = 0
        self._asked: Record | None = None  # the release that every site has looked at
        self._freed: list[Site] = []  # who has to look at it again
        self._over = 0
        self._controls = controls
        self.keep_last = keep_last
        self.clock = 0.0
        self.sent = 0
        self.seconds = 0.0
        self.timed = 0
        self.last_trained: dict[str, Weights] = {}
        known = any(site.attack is not None and site.attack.kind in KNOW_THE_OTHERS for site in sites.values())
        self._newest: dict[str, _Running] | None = {} if known else None  # of honest sites, where somebody wants it

    @property
    def examples(self) -> int:
        """Images that all sites together have trained on, as far as the coordinator has heard."""
        return sum(site.done for site in self._sites.values())

    @property
    def bytes(self) -> int:
        """Of models: each one sent, and each release brought in by each site; with each its control variate."""
        models = self.sent + self._coordinator.brought
        if isinstance(self._trainers, OverChannels):  # what a site sends at the end of a turn is its layers only
            whole = self._coordinator.model_bytes * self._coordinator.brought
            return whole + self._trainers.layer_bytes * self.sent + self._trainers.bytes
        return self._coordinator.model_bytes * models * (2 if self._controls else 1)

    def run(self) -> None:
        """Work until nobody has anything left to do."""
        self._start_sites()
        while (event := self._next()) is not None or self._deadline_passes():
            if event is None:
                continue
            self.clock = event.clock
            self._arrive(event)
            self._coordinator.settle(self.clock)
            self._start_sites()
            self._tell()

    def _next(self) -> _Event | None:
        """The next event, unless the open round has its deadline before."""
        while self._waiting:
            if self._queue and self._queue[0].clock < self._waiting[0][0]:
                break
            self._expand(heapq.heappop(self._waiting)[2])
        deadline = self._deadline()
        if not self._queue or (deadline is not None and deadline < self._queue[0].clock):
            return None
        return heapq.heappop(self._queue)

    def _deadline(self) -> float | None:
        """The deadline of the open round, when it is still to come."""
        deadline = self._coordinator.deadline()
        return None if deadline is None or deadline <= self.clock else deadline

    def _deadline_passes(self) -> bool:
        """Let the deadline of the open round pass, when there is one."""
        deadline = self._deadline()
        if deadline is None:
            return False
        self.clock = deadline
        self._coordinator.settle(self.clock)
        self._start_sites()
        self._tell()
        return True

    def _tell(self) -> None:
        self._told(self._over)

    # sessions

    def _start_sites(self) -> None:
        release = self._coordinator.state.release
        if release is None:
            return
        # What a site may do depends on the release and on what it has trained, so few have to be asked again.
        asked = self._freed if release is self._asked else list(self._sites.values())
        if self._controls and release is not self._asked:
            self._controls.release()
        self._asked, self._freed = release, []
        standing = standing_of(release)
        for site in asked:
            if not site.free or is_over(standing, site.trained):
                continue
            if may_start(standing, site.name, site.trained):
                self._start(site, release)

    def _start(self, site: Site, release: Record) -> None:
        number, weights = site.trained.sessions + 1, self._coordinator.weights
        if site.attack is not None and site.attack.kind == "perturb":  # it only adds noise, in no time worth naming
            result: Future[Session] = Future()
            measure = measure_of(self._coordinator.state.genesis.spec)
            result.set_result(Session((Checkpoint(1, Local.of(measure, 0.0, 0.0), weights),), 1))
            images = 1
        else:
            result, images = self._trainers.train(site.name, number, weights), site.examples
        site.free = False
        running = _Running(site, self.clock, release, number, weights, result, images)
        if self._newest is not None and site.attack is None:
            self._newest[site.name] = running
        self._started += 1  # nothing of a session comes before an epoch is over
        heapq.heappush(self._waiting, (running.after(1), self._started, running))

    def _expand(self, running: _Running) -> None:
        """Put what a session sends into the queue."""
        session = running.result.result()
        if session.seconds:
            self.seconds += session.seconds
            self.timed += session.epochs * running.epoch_images
        events = [(running.after(checkpoint.epoch), checkpoint) for checkpoint in session.checkpoints]
        for place, (clock, checkpoint) in enumerate([*events, (running.after(session.epochs), None)]):
            heapq.heappush(self._queue, _Event(clock, running.site.name, place, running, checkpoint))

    def _arrive(self, event: _Event) -> None:
        running, site, checkpoint = event.running, event.running.site, event.checkpoint
        if checkpoint is None:
            self._report(running, event.clock)
            return
        running.hear(checkpoint.epoch)
        running.sent += 1
        self.sent += 1
        control = running.result.result().control
        if self._controls and control is not None:
            self._controls.keep(site.name, control)
        if self.keep_last:
            self.last_trained[site.name] = checkpoint.weights
        sent = Sent(
            site=site.name,
            session=running.number,
            epoch=checkpoint.epoch,
            examples=site.examples,
            release=running.release,
            claim=checkpoint.claim,
            weights=self._forged(running, checkpoint),
            base=running.weights,
            model=checkpoint.model if site.attack is None else None,
        )
        self._coordinator.receive(sent, event.clock)

    def _forged(self, running: _Running, checkpoint: Checkpoint) -> Weights:
        site = running.site
        if site.attack is None:
            return checkpoint.weights
        seed = session_seed(session_seed(site.seed, running.number), checkpoint.epoch)
        honest = self._honest_steps(checkpoint.epoch) if site.attack.kind in KNOW_THE_OTHERS else ()
        return forge(site.attack, running.weights, checkpoint.weights, seed, honest)

    def _honest_steps(self, epoch: int) -> list[Weights]:
        """What each honest site's newest session has trained up to an epoch, less what it began from."""
        steps: list[Weights] = []
        for _, running in sorted((self._newest or {}).items()):
            sent = [one for one in running.result.result().checkpoints if one.epoch <= epoch]
            if sent:
                steps.append({name: array - running.weights[name] for name, array in sent[-1].weights.items()})
        return steps

    def _report(self, running: _Running, clock: float) -> None:
        site, session = running.site, running.result.result()
        running.hear(session.epochs)
        best = session.checkpoints[-1].claim if session.checkpoints else None
        self._coordinator.report(
            site.name, clock, session=running.number, epochs=session.epochs, checkpoints=running.sent,
            examples=site.examples, release=running.release, claim=best,
        )  # fmt: skip
        turns = standing_of(running.release).started.turns
        site.trained = Trained(running.number, turns, passed=False)
        site.free = True
        self._over += 1
        self._freed.append(site)
