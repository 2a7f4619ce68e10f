"""One session of training: how many epochs, in which order, when it ends early, and what is worth publishing.

Knows neither files nor the federation, so a simulation of many sites trains by exactly these rules: the same weights,
examples, plan and seed give the same session, bit for bit. A private plan
is the exception: its draws and noise are nobody's to repeat, see `models.private`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Protocol

import numpy as np

from fedssh import models
from fedssh.alice.session import Patience, finite, improved
from fedssh.errors import SettingsError
from fedssh.models import autoencoder, fixmatch, score, tasks
from fedssh.models.autoencoder import EncodingTrainer
from fedssh.models.private import PrivateTrainer
from fedssh.models.recipe import Recipe
from fedssh.models.training import Examples, Trainer
from fedssh.rules.events import Local
from fedssh.rules.metrics import CLASSES, OF_TASK
from fedssh.rules.plan import Plan
from fedssh.rules.terms import BY_CLASS


class Trains(Protocol):
    """What a session needs of a trainer: `models.training.Trainer`, or one that spreads over several GPUs."""

    @property
    def task(self) -> str:
        """What the network is for, see `models.tasks`."""
        ...

    @property
    def measure(self) -> str:
        """What is told of weights beside the loss: `accuracy` or `mae`."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by variable path, in build order: float32, and nobody else's to change."""
        ...

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """Begin a session of so many epochs of so many steps: the optimizer as new, all randomness from `seed`."""
        ...

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        """Train once through `order`; mean loss and `measure`. `Interrupted` once `stop` is set."""
        ...

    def evaluate(self, examples: Examples, stop: threading.Event | None = None) -> tuple[float, float]:
        """Mean loss and `measure` of all examples; changes no weight. `Interrupted` once `stop` is set."""
        ...

    def confusion(self, examples: Examples, stop: threading.Event | None = None) -> np.ndarray:
        """Counts with a row per true and a column per predicted class. `Interrupted` once `stop` is set."""
        ...


@dataclass(frozen=True)
class Epoch:
    """How an epoch ended.

    Attributes:
        number: From 1.
        training: Loss and accuracy, or mean absolute error, on the training images, each as its batch found it.
        metrics: On the validation images; None when they are not scored. May be infinite or NaN after a divergence.
        better: Whether these weights are better than the best of the session so far, the start included: by loss and
            accuracy, or what the plan's metric puts in its place.
        due: Whether the plan wants these weights published.
        diverged: They are due, but a weight or, without privacy, a score is not a finite number: nobody may get them.
    """

    number: int
    training: Local
    metrics: Local | None
    better: bool
    due: bool
    diverged: bool

    @property
    def publish(self) -> bool:
        """Whether the weights as they are now are to be published."""
        return self.due and not self.diverged


def new_trainer(spec: Mapping[str, Any], plan: Plan, directed: bool = False) -> Trainer:
    """The trainer for a plan.

    Args:
        directed: As of `Trainer`; no plan asks for it.

    Raises:
        SettingsError: The plan's loss, or its class weights, do not fit the network, or it cannot be trained privately.
    """
    loss = loss_of(spec, plan)
    rate, recipe = plan.learning_rate, recipe_of(plan)
    if (privacy := plan.privacy) is not None:
        if directed:
            raise SettingsError("a private training is not directed")
        try:
            return PrivateTrainer(
                spec, plan.optimizer, rate, plan.momentum, plan.proximal, loss, recipe, unit=privacy.unit,
                clip=privacy.clip, noise=privacy.noise, rate=privacy.rate,
            )  # fmt: skip
        except ValueError as error:
            raise SettingsError(str(error), "ask the coordinator for a federation without it") from None
    if autoencoder.read(plan.unlabelled) is None:
        return Trainer(spec, plan.optimizer, rate, plan.momentum, plan.proximal, loss, recipe, directed)
    try:
        return EncodingTrainer(spec, plan.optimizer, rate, plan.momentum, plan.proximal, loss, recipe, directed)
    except ValueError as error:
        raise SettingsError(f"the plan's {error}", "ask the coordinator for a federation without it") from None


def recipe_of(plan: Plan) -> Recipe:
    """What a plan has beyond optimizer, rate and loss."""
    return Recipe(**{field.name: getattr(plan, field.name) for field in fields(Recipe)})


def made_for(plan: Plan) -> tuple[Any, ...]:
    """What of a plan is built into a trainer: where it is the same, so is the trainer."""
    private = astuple(plan.privacy) if plan.privacy else ()
    return plan.optimizer, plan.learning_rate, plan.momentum, plan.proximal, private, *astuple(recipe_of(plan))


def loss_of(spec: Mapping[str, Any], plan: Plan) -> str:
    """The name of the loss that a plan means for a network.

    Raises:
        SettingsError: It, the metric, the class weights, the label shares or how images without labels are learned from
            do not fit the network.
    """
    fitting, task = models.loss_name(spec), tasks.task_of(spec)
    if plan.loss not in ("auto", fitting):
        raise SettingsError(f"the loss {plan.loss} does not fit a network that {tasks.shown(spec)}")
    if plan.metric not in OF_TASK[task]:
        raise SettingsError(f"the metric {plan.metric} does not fit a network that {tasks.shown(spec)}")
    if plan.class_weights != "none" and task != CLASSES:
        raise SettingsError(f"class weights do not fit a network that {tasks.shown(spec)}")
    if plan.calibrate != "none" and (task != CLASSES or len(plan.label_shares) != spec["classes"]):
        shares = len(plan.label_shares)
        raise SettingsError(f"label shares of {shares} classes do not fit a network that {tasks.shown(spec)}")
    if plan.unlabelled != "none":
        try:
            (autoencoder if autoencoder.read(plan.unlabelled) else fixmatch).check_spec(spec)
        except ValueError as error:
            raise SettingsError(f"the plan's {error}") from None
    return fitting


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """In which order an epoch (from 1) of a session with this seed goes through its examples: int64 [examples]."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def fit(
    trainer: Trains,
    train: Examples,
    val: Examples | None,
    plan: Plan,
    seed: int,
    start: Local | None,
    ended: Callable[[Epoch], bool],
    stop: threading.Event | None = None,
) -> bool:
    """Train one session from the weights that the trainer has loaded.

    Args:
        train: What it is trained on.
        val: What it is scored on after each epoch. None leaves scoring out, when `plan.publish` is `session`; the
            weights are the same with and without.
        seed: Of this session: order of the examples, and dropout.
        start: What the loaded weights score on `val`: the best so far. Without it, the first finite epoch is better.
        ended: Called after each epoch, while the trainer has its weights. Returns whether weights to be published
            (`Epoch.publish`) were; if not, they do not count as the best. Ignored for other epochs.
        stop: When it is set, training ends within about a second, or after the batch at hand if that takes longer.

    Returns:
        Whether patience ended it early.

    Raises:
        ValueError: `val` is None, and the plan publishes what improved.
        models.training.Interrupted: `stop` was set.
    """
    by_session = plan.publish == "session"
    if val is None and not by_session:
        raise ValueError("what improved cannot be told without validation images")
    private, steps = plan.privacy, -(-len(train) // plan.batch_size)
    trainer.fresh(seed, plan.epochs, private.steps_of(len(train), plan.batch_size) if private else steps)
    best, patience = _ranked(trainer, val, plan, start, stop), Patience(plan.patience)
    for number in range(1, plan.epochs + 1):
        training = trainer.epoch(train, epoch_order(seed, number, len(train)), plan.batch_size, stop)
        metrics = Local.of(trainer.measure, *trainer.evaluate(val, stop)) if val is not None else None
        ranked = _ranked(trainer, val, plan, metrics, stop)
        better = ranked is not None and (improved(ranked, best) if best else finite(ranked))
        due = number == plan.epochs if by_session else better
        measured = None if plan.privacy else metrics  # what images say decides nothing about private weights
        diverged = due and not ((measured is None or finite(measured)) and _all_finite(trainer.weights()))
        epoch = Epoch(number, Local.of(trainer.measure, *training), metrics, better, due, diverged)
        if (ended(epoch) and epoch.publish) or (by_session and better):
            best = ranked
        if not by_session and metrics is not None and patience.over(metrics.loss):
            return True
    return False


def _ranked(
    trainer: Trains, val: Examples | None, plan: Plan, metrics: Local | None, stop: threading.Event | None
) -> Local | None:
    """What the weights at hand score as the rules of what improved take it: with the plan's metric for accuracy."""
    if metrics is None or val is None or plan.metric not in BY_CLASS or trainer.task != CLASSES:
        return metrics
    measure = {"balanced_accuracy": score.balanced_accuracy, "f1": score.f1}[plan.metric]
    return Local(metrics.loss, measure(trainer.confusion(val, stop)))


def _all_finite(weights: Mapping[str, np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in weights.values())
