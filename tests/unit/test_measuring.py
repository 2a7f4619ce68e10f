"""What a site tells of its scores on a release: in few digits, once, and nothing of single images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedssh.alice.measuring import measured
from fedssh.alice.memory import Memory
from fedssh.alice.train import Alice
from fedssh.models.data.images import Images
from fedssh.models.firing import Singled
from fedssh.models.training import resident
from fedssh.rules.events import Local, Measured

FOUND = Measured(loss=0.5, accuracy=0.75, balanced_accuracy=0.75)


def test_a_pixel_does_not_show_in_a_loss_that_is_told() -> None:
    examples = resident(Images(np.zeros((4, 1, 1, 1), np.float32), np.array([0, 1, 1, 0])))

    def network(batch: Any, training: bool) -> np.ndarray:
        return np.full((len(batch), 1), 0.7, np.float32)

    one, other = (measured(network, loss, examples, 2, None) for loss in (0.724518895, 0.724555612))
    assert one == other and (one.loss, one.accuracy) == (0.725, 0.5)


class Asked:
    """What `_say_scores` asks of the rest of Alice, and what came of it."""

    def __init__(self, validation: list[Singled], found: Measured | None = FOUND, full: bool = False) -> None:
        self.told: list[Any] = []
        self.said: list[str] = []
        self.measured, self.found, self.full = 0, found, full
        self.memory = Memory()
        self._scores_agreed, self._tried = True, 0
        self.network = SimpleNamespace(
            measure=self._measure, singled_to_score=lambda: validation, validation_examples=40
        )
        self.exchange = SimpleNamespace(say_scores=self._take)

    def _measure(self, received: Any, loss: float) -> Measured | None:
        self.measured += 1
        return self.found

    def _take(self, said: Any) -> None:
        if self.full:
            raise OSError("no space left")
        self.told.append(said)

    def _say(self, event: str, *rest: Any, **fields: Any) -> None:
        self.said.append(event)

    def _remember(self, known: Any) -> None:
        self.memory = known

    def score(self, sequence: int, loss: float = 0.5) -> None:
        received: Any = SimpleNamespace(release=SimpleNamespace(sequence=sequence), site="alice-1")
        asked: Any = self
        Alice._say_scores(asked, received, Local(loss, 0.75))


def test_a_release_is_told_of_once() -> None:
    asked = Asked([])
    for sequence in (7, 7, 9, 7):
        asked.score(sequence)
    assert [said.builds_on for said in asked.told] == [7, 9] and asked.measured == 2
    assert asked.memory.scored == 9


@pytest.mark.parametrize(
    ("asked", "loss"),
    [
        (Asked([]), float("nan")),
        (Asked([], found=None), 0.5),
        (Asked([], full=True), 0.5),
        (Asked([Singled("dense1", images=300, alone=0, measured=9)]), 0.5),
    ],
)
def test_what_cannot_be_told_is_not_scored_again_and_again(asked: Asked, loss: float) -> None:
    for _ in range(3):
        asked.score(7, loss)
    assert not asked.told and asked.measured <= 1 and len(asked.said) <= 1 and asked.memory.scored == 0
    asked.full = False
    asked.network.singled_to_score = list
    asked.found = FOUND
    asked.score(8)
    assert [said.builds_on for said in asked.told] == [8]
