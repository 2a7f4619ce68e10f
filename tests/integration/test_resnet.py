"""The residual network of experiments/networks: what it says of itself, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedssh import models
from fedssh.models import own
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "networks"
SMALL = {"name": "resnet", "input": [8, 8, 1], "classes": 2, "blocks": 1, "width": 4, "stages": 2}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own.VARIABLE, str(FOLDER))


def count(spec: dict[str, object], part: str = "") -> int:
    return sum(int(np.prod(shape)) for name, shape in models.shapes(spec).items() if part in name)


def test_its_sizes_are_as_it_says() -> None:
    resnet18 = {"name": "resnet", "input": [28, 28, 1], "classes": 2}
    assert (count(resnet18), count(resnet18, "moving")) == (11_177_793, 9_600)
    assert count(resnet18 | {"blocks": 1, "width": 16}) == 308_817


@pytest.mark.parametrize(
    ("change", "said"),
    [({"stages": 5}, "at least 16x16, found 8x8"), ({"dropout": 1.0}, "less than 1, found 1")],
)
def test_it_refuses_what_cannot_be(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        models.check_spec(SMALL | change)


def test_it_learns_and_scores_by_its_moving_statistics() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = random.uniform(0, 0.5, (64, 8, 8, 1)) + 0.4 * labels[:, None, None, None]
    examples = resident(Images(pixels.astype(np.float32), labels))
    trainer = Trainer(SMALL, "adam", 0.01)
    trainer.fresh(1)
    before = trainer.weights()
    for _ in range(8):
        trainer.epoch(examples, random.permutation(64), 16)
    after = trainer.weights()
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in before)
    assert trainer.evaluate(examples)[1] > 0.9
