"""The short training that tells whether sites can go on from a model: the arithmetic of `soundness`, with Keras.

Only a candidate that is about to become current, and whose norms are conspicuous, is trained: for STEPS steps of the
plan, on at most IMAGES images of the coordinator's split `train`. Which images, in which order and with which random
numbers is always the same, so the same models give the same finding. The holdout is not touched, and of the losses on
the coordinator's images the finding tells nothing but whether they are as they should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models import tasks
from fedssh.models.data.images import Images
from fedssh.models.recipe import Recipe
from fedssh.models.training import Examples, Trainer, resident
from fedssh.rules import soundness
from fedssh.rules.soundness import Finding, Norms, Trial

if TYPE_CHECKING:
    from fedssh.rules.averaging import Weights

STEPS = 8
BATCH = 32  # at most; a plan may have a smaller one
IMAGES = 128
REMEMBERED = 4  # models whose norms and trial are kept: the current and the first one, and those before


class Probe:
    """Tries models of one architecture under one plan. Builds its network when it first needs it, and keeps it.

    Args:
        spec: The architecture.
        plan: As in a release.
        train: Loads the coordinator's own images to train on; None where she has none.
    """

    def __init__(self, spec: Mapping[str, Any], plan: Mapping[str, Any], train: Callable[[], Images | None]) -> None:
        self._spec = spec
        self._plan = plan
        self._load = train
        self._trainer: Trainer | None = None
        self._examples: tuple[Examples, Examples] | None = None
        self._norms: dict[str, Norms] = {}
        self._trials: dict[str, Trial] = {}

    def check(self, candidate: Weights, current: tuple[str, Weights], first: tuple[str, Weights]) -> Finding:
        """Whether sites can go on from a candidate.

        Args:
            candidate: Finite weights of the architecture.
            current, first: The current and the first model, each with a name that no other model has.
        """
        norms = soundness.layer_norms(candidate)
        change, since = (soundness.largest_change(norms, self._norms_of(*other)) for other in (current, first))
        conspicuous = soundness.suspect(change, since)
        if not conspicuous:
            return Finding()
        if soundness.beyond(change):
            return Finding(False, f"{conspicuous}; more than {soundness.BOUND:,.0f} times is refused untried")
        if not self._ready():
            return Finding(True, f"{conspicuous}; not tried, the coordinator has no images to train on")
        others = [self._trial_of(*other) for other in (current, first)]
        return soundness.concluded(
            conspicuous, soundness.tried(self._trial(candidate), others, tasks.guessing(self._spec))
        )

    def _norms_of(self, name: str, weights: Weights) -> Norms:
        if name not in self._norms:
            _forget(self._norms)
            self._norms[name] = soundness.layer_norms(weights)
        return self._norms[name]

    def _trial_of(self, name: str, weights: Weights) -> Trial:
        if name not in self._trials:
            _forget(self._trials)
            self._trials[name] = self._trial(weights)
        return self._trials[name]

    def _ready(self) -> bool:
        """Make images and network ready; whether there are images."""
        if self._examples is not None:
            return True
        found = self._load()
        if found is None or not len(found):
            return False
        chosen = np.sort(np.random.default_rng(0).permutation(len(found))[:IMAGES])
        kept = found.take(chosen)
        moved = Images(kept.images, _moved(kept.labels, self._spec))
        plan = self._plan
        recipe = Recipe(clip_norm=plan.get("clip_norm", 0.0), weight_decay=plan.get("weight_decay"))
        self._trainer = Trainer(
            self._spec, plan["optimizer"], plan["learning_rate"], plan.get("momentum", 0.0), recipe=recipe
        )
        self._examples = resident(kept, self._spec), resident(moved, self._spec)
        return True

    def _trial(self, weights: Weights) -> Trial:
        assert self._examples is not None
        kept, moved = (self._trained(weights, examples) for examples in self._examples)
        return Trial(kept, moved)

    def _trained(self, weights: Weights, examples: Examples) -> tuple[float, float]:
        """Loss before and after."""
        assert self._trainer is not None
        size = min(BATCH, self._plan["batch_size"])
        order = np.resize(np.random.default_rng(1).permutation(len(examples)), STEPS * size)
        self._trainer.load(weights)
        self._trainer.fresh(0)
        before, _ = self._trainer.evaluate(examples)
        self._trainer.epoch(examples, order, size)
        after, _ = self._trainer.evaluate(examples)
        return before, after if _finite(self._trainer.weights()) else math.nan


def _moved(labels: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Labels that a good model has much to learn from: the class after each, the other label, targets mirrored."""
    if tasks.task_of(spec) == tasks.CLASSES:
        after: np.ndarray = (labels + 1) % spec["classes"]
        return after
    if tasks.task_of(spec) == tasks.LABELS:
        others: np.ndarray = 1 - labels
        return others
    return tasks.in_units(-tasks.standardised(labels, spec), spec)


def _finite(weights: Weights) -> bool:
    return all(bool(np.isfinite(array).all()) for array in weights.values())


def _forget(known: dict[str, Any]) -> None:
    """Make room for one more."""
    while len(known) >= REMEMBERED:
        del known[next(iter(known))]
