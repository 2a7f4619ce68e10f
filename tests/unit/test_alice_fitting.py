"""The rules of a session, with a trainer in which every epoch ends as the table says."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from fedssh.alice.fitting import Epoch, epoch_order, fit
from fedssh.models.training import Examples
from fedssh.rules.events import Local
from fedssh.rules.plan import Plan

NAN = float("nan")
TRAIN, VAL = Examples(None, None, 5), Examples(None, None, 3)


class Scripted:
    """A trainer whose epochs score what they are told to."""

    measure, task = "accuracy", "classes"

    def __init__(self, scores: list[tuple[float, float]], weight: float = 1.0) -> None:
        self.scores = scores
        self.weight = weight
        self.orders: list[list[int]] = []
        self.seeds: list[int] = []
        self.scored = 0
        self.confusions: list[list[list[int]]] = []

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": np.array([0.0, self.weight], np.float32)}

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        self.epochs, self.steps = epochs, steps
        self.seeds.append(seed)

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        assert examples is TRAIN
        self.orders.append(order.tolist())
        return 9.0, 0.1

    def evaluate(self, examples: Examples, stop: threading.Event | None = None) -> tuple[float, float]:
        assert examples is VAL
        self.scored += 1
        return self.scores[len(self.orders) - 1]

    def confusion(self, examples: Examples, stop: threading.Event | None = None) -> np.ndarray:
        """In the order of the epochs, the start before them."""
        assert examples is VAL
        return np.array(self.confusions[len(self.orders)])


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {"batch_size": 2, "epochs": 4, "patience": 2, "optimizer": "adam", "learning_rate": 0.1}
    return Plan(**{**fields, "loss": "auto", **changes})


def run(
    trainer: Scripted, settings: Plan, start: Local | None = None, published: bool = True, val: Examples | None = VAL
) -> tuple[list[Epoch], bool]:
    seen: list[Epoch] = []

    def ended(epoch: Epoch) -> bool:
        seen.append(epoch)
        return published

    return seen, fit(trainer, TRAIN, val, settings, 7, start, ended)


BETTER_AND_WORSE = [(0.5, 0.6), (0.6, 0.7), (0.4, 0.7), (0.3, 0.65)]


def test_what_improved_is_published() -> None:
    seen, early = run(Scripted(BETTER_AND_WORSE), plan(), Local(0.7, 0.5))
    assert [epoch.publish for epoch in seen] == [True, False, True, False]
    assert [epoch.metrics for epoch in seen] == [Local(*score) for score in BETTER_AND_WORSE]
    assert seen[0].training == Local(9.0, 0.1)
    assert not early


@pytest.mark.parametrize(
    ("metric", "published"), [("balanced_accuracy", [True, False]), ("f1", [True, False]), ("auc", [False, True])]
)
def test_the_agreed_metric_tells_what_improved_where_it_weighs_classes_alike(
    metric: str, published: list[bool]
) -> None:
    """The first epoch recognises half of the rare class and loses accuracy for it, the second takes all for class 0."""
    trainer = Scripted([(0.5, 0.85), (0.4, 0.95)])
    trainer.confusions = [[[90, 0], [10, 0]], [[80, 10], [5, 5]], [[90, 0], [10, 0]]]
    seen, _ = run(trainer, plan(epochs=2, metric=metric), Local(0.7, 0.9))
    assert [epoch.publish for epoch in seen] == published
    assert [epoch.metrics for epoch in seen] == [Local(0.5, 0.85), Local(0.4, 0.95)], "what is claimed is the same"


def test_what_could_not_be_published_is_not_the_best() -> None:
    """The third epoch is worse than the first, but better than the release."""
    scores = [(0.3, 0.8), (0.9, 0.1), (0.4, 0.7)]
    seen, _ = run(Scripted(scores), plan(epochs=3, patience=9), Local(0.5, 0.6), published=False)
    assert [epoch.publish for epoch in seen] == [True, False, True]
    seen, _ = run(Scripted(scores), plan(epochs=3, patience=9), Local(0.5, 0.6), published=True)
    assert [epoch.publish for epoch in seen] == [True, False, False]


def test_patience_ends_a_session_that_publishes_what_improves() -> None:
    seen, early = run(Scripted([(0.5, 0.5), (0.6, 0.5), (0.6, 0.5), (0.1, 0.9)]), plan(), Local(0.7, 0.4))
    assert len(seen) == 3
    assert early


def test_a_session_as_a_whole_is_published_once_whatever_it_scores() -> None:
    """Patience is no matter: every site trains the same number of epochs."""
    scores = [(0.5, 0.6), (0.6, 0.5), (0.7, 0.4), (0.8, 0.3)]
    seen, early = run(Scripted(scores), plan(publish="session", patience=1), Local(0.1, 0.9))
    assert [epoch.publish for epoch in seen] == [False, False, False, True]
    assert not early


def test_a_session_as_a_whole_needs_no_scores() -> None:
    """And is the same training with and without."""
    without, scored = Scripted([]), Scripted(BETTER_AND_WORSE)
    seen, _ = run(without, plan(publish="session"), val=None)
    run(scored, plan(publish="session"))
    assert [(epoch.metrics, epoch.publish) for epoch in seen] == [(None, False)] * 3 + [(None, True)]
    assert (without.scored, scored.scored) == (0, 4)
    assert (without.orders, without.seeds) == (scored.orders, scored.seeds)
    with pytest.raises(ValueError, match="without validation images"):
        run(Scripted([]), plan(), val=None)


@pytest.mark.parametrize(
    ("last", "weight", "diverged"),
    [((0.5, 0.5), 1.0, False), ((0.5, 0.5), NAN, True), ((0.5, 0.5), float("inf"), True), ((NAN, 0.5), 1.0, True)],
)
def test_what_diverged_is_not_published(last: tuple[float, float], weight: float, diverged: bool) -> None:
    trainer = Scripted([(0.5, 0.5), last], weight)
    seen, _ = run(trainer, plan(publish="session", epochs=2))
    assert [epoch.diverged for epoch in seen] == [False, diverged]
    assert seen[-1].publish is not diverged


def test_a_finite_score_with_broken_weights_is_not_published() -> None:
    seen, _ = run(Scripted([(0.1, 0.9)], NAN), plan(epochs=1), Local(0.5, 0.5))
    assert seen[0].better
    assert seen[0].diverged
    assert not seen[0].publish


def test_a_trainer_is_told_how_long_the_session_is() -> None:
    trainer = Scripted(BETTER_AND_WORSE)
    run(trainer, plan(epochs=3))
    assert (trainer.epochs, trainer.steps) == (3, 3), "5 images in batches of 2"


def test_every_epoch_has_an_order_of_its_own_from_seed_and_number() -> None:
    trainer = Scripted(BETTER_AND_WORSE)
    run(trainer, plan(), Local(0.7, 0.5))
    assert trainer.orders == [epoch_order(7, number, 5).tolist() for number in (1, 2, 3, 4)]
    assert all(sorted(order) == list(range(5)) for order in trainer.orders)
    assert trainer.seeds == [7]
    assert epoch_order(7, 1, 100).tolist() == np.random.default_rng([7, 1]).permutation(100).tolist()
    assert epoch_order(7, 1, 100).tolist() != epoch_order(8, 1, 100).tolist()
