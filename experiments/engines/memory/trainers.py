"""The training of a run in memory: Alice's own, `fedssh.alice.fitting`, in a few networks that all sites share.

The images of all sites are resident, and the networks stay compiled for the runs that follow in the same process.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from experiments.definition.config import Prepared, Run
from experiments.engines.memory.controls import Control, Controls
from experiments.engines.memory.models import ModelFiles, Weights
from experiments.engines.memory.simulation import Checkpoint, Session
from fedssh.alice.fitting import Epoch, fit, made_for, new_trainer
from fedssh.alice.leaving import GUARD, too_bad
from fedssh.alice.session import session_seed
from fedssh.forms import canonical
from fedssh.models import batch_normalisation, tasks, tensors_of
from fedssh.models.data.images import Images, hold_out
from fedssh.models.pool import Pool
from fedssh.models.training import Examples, Interrupted, Trainer, resident
from fedssh.rules.events import Local
from fedssh.rules.plan import Plan, read_plan

_pools: dict[bytes, Pool] = {}


def pool_for(spec: dict[str, Any], plan: Plan, size: int, directed: bool = False) -> Pool:
    """Trainers for an architecture and an optimizer; those of the run before, where they are the same."""
    key = canonical([spec, made_for(plan), plan.loss, size, directed])
    if key not in _pools:
        for pool in _pools.values():
            pool.close()
        _pools.clear()
        _pools[key] = Pool(lambda: _warm(new_trainer(spec, plan, directed), plan), size)
    return _pools[key]


def _warm(trainer: Trainer, plan: Plan) -> Trainer:
    """Train once on nothing of worth, so that no session pays for what TensorFlow does only at the first call."""
    shape = tuple(trainer.spec["input"])
    labels = np.array([0, 1])
    if trainer.task in tasks.SEVERAL:
        labels = np.zeros((2, tasks.number_of(trainer.spec)))
    pixels = np.zeros((2, *shape), np.float32)
    nothing = resident(
        Images(pixels, labels, np.arange(2)), trainer.spec, pixels if plan.unlabelled != "none" else None
    )
    trainer.epoch(nothing, np.arange(2), plan.batch_size)
    trainer.evaluate(nothing)
    return trainer


def divided(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """What a site trains on and what it holds out, as `alice train --validation SHARE --seed SEED` divides it."""
    if not share:
        return images, images
    kept, held = hold_out(images.labels, share, seed, images.patients)
    return images.take(kept), images.take(held)


class TimedTrainer:
    """A trainer that counts the seconds of its epochs; scoring and copying weights are not training.

    Weights are copied once an epoch, however often they are asked for.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.seconds, self.measure, self.task = 0.0, trainer.measure, trainer.task
        self._weights: dict[str, np.ndarray] | None = None
        self.fresh = trainer.fresh
        self.evaluate, self.confusion = trainer.evaluate, trainer.confusion

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        """As `Trainer.epoch`; its time counts also when it is interrupted."""
        self._weights = None
        begun = time.perf_counter()
        try:
            return self._trainer.epoch(examples, order, batch_size, stop)
        finally:
            self.seconds += time.perf_counter() - begun

    def weights(self) -> dict[str, np.ndarray]:
        """As `Trainer.weights`, of the end of the newest epoch."""
        if self._weights is None:
            self._weights = self._trainer.weights()
        return self._weights


class Crew:
    """Trains sessions of a run's sites, several at the same time. A context manager.

    Args:
        plan: As it stands in a release.
        cores: How many at the same time.
        files: Tell the files that checkpoints would be, in the threads that trained them; None leaves that to others.
        controls: The sites' control variates, if they have any.
    """

    def __init__(
        self, run: Run, prepared: Prepared, plan: Mapping[str, Any], cores: int, files: ModelFiles | None = None,
        controls: Controls | None = None,
    ) -> None:  # fmt: skip
        self._controls = controls
        self._plan = read_plan(plan)
        self._files = files
        self._given: tuple[Weights, Mapping[str, Any]] = {}, {}  # of the newest release, as arrays and as tensors
        self._seeds = {name: run.site_seed(number) for number, name in enumerate(run.site_names, 1)}
        self._images: dict[str, tuple[Examples, Examples]] = {}
        for name, seed in self._seeds.items():
            train, held = divided(prepared.parts[name], run.validation, seed)
            others = prepared.unlabelled.get(name) if self._plan.unlabelled != "none" else None
            examples = resident(train, prepared.spec, others)
            self._images[name] = examples, (examples if held is train else resident(held, prepared.spec))
        self._guessing = tasks.guessing(prepared.spec)
        self._pool = pool_for(prepared.spec, self._plan, cores, controls is not None)
        self._asked = ThreadPoolExecutor(cores)
        self._stop = threading.Event()
        self._staying: dict[str, Weights] = {}  # at each site, of what it sent last; one of its sessions runs at a time

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._asked.shutdown(cancel_futures=True)

    def examples(self, site: str) -> int:
        """How many images a site trains on, without those it holds out."""
        return len(self._images[site][0])

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        """Train a session of a site from a release's weights; always the same, whoever trains beside it."""
        if self._given[0] is not weights:
            self._given = weights, tensors_of(weights)
        tensors = self._given[1]
        control = self._controls.begin(site) if self._controls else None  # in this thread: as of now

        def job(trainer: Trainer) -> Session:
            return self._session(trainer, site, session, tensors, control)

        return self._asked.submit(lambda: self._pool.run([job])[0])

    def _session(self, trainer: Trainer, site: str, session: int, weights: Weights, control: Control | None) -> Session:
        train, held = self._images[site]
        plan, checkpoints, epochs = self._plan, list[Checkpoint](), 0
        # Where nothing is held out, Alice scores on what she trained on; here that would be a third of the time for a
        # claim that nobody judges by, so it is what the batches found, but for a calibrated loss, which is no claim.
        found = plan.publish == "session" and plan.calibrate == "none"
        scored = None if held is train and found else held
        weights = {**weights, **self._staying.get(site, {})}
        trainer.load(weights)
        if control is not None:
            trainer.direct(control.direction)
        timed = TimedTrainer(trainer)
        start = Local.of(trainer.measure, *trainer.evaluate(held)) if plan.publish == "improved" else None

        def ended(epoch: Epoch) -> bool:
            nonlocal epochs
            if self._stop.is_set():
                raise Interrupted
            epochs = epoch.number
            if not epoch.publish or self._kept_back(trainer, epoch, weights, start, held):
                return False
            trained = timed.weights()
            model = self._files.blob(trained) if self._files else None
            checkpoints.append(Checkpoint(epoch.number, epoch.metrics or epoch.training, trained, model))
            return True

        seed = session_seed(self._seeds[site], session)
        fit(timed, train, scored, plan, seed, start, ended)
        if plan.local != "none" and checkpoints:
            last = checkpoints[-1].weights
            self._staying[site] = {name: last[name] for name in batch_normalisation(trainer.network)}
        own = None
        if control is not None and checkpoints:
            steps = epochs * math.ceil(len(train) / plan.batch_size)
            own = control.after(weights, checkpoints[-1].weights, steps, plan.learning_rate)
        return Session(tuple(checkpoints), epochs, timed.seconds, own)

    def _kept_back(self, trainer: Trainer, epoch: Epoch, begun: Weights, start: Local | None, held: Examples) -> bool:
        """Whether Alice would keep back what is due. While the loss is low she would not, and nothing is scored for it.

        What units tell of images, she asks of a release that somebody may have made for it, as nobody does here.
        """
        if self._plan.privacy is not None:
            return False  # nothing that is measured on images decides what leaves
        if (epoch.metrics or epoch.training).loss <= GUARD.max_worse * self._guessing:
            return False
        metrics = epoch.metrics or Local.of(trainer.measure, *trainer.evaluate(held))
        if start is None:  # the session is over, so the trainer need not go on from where it is
            trained = trainer.weights()
            trainer.load(begun)
            start = Local.of(trainer.measure, *trainer.evaluate(held))
            trainer.load(trained)
        return bool(too_bad(start, dataclasses.replace(epoch, metrics=metrics), self._guessing))
