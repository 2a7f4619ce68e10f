"""The networks of published figures: their numbers of weights are those that their papers give, or follow from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedssh import models
from fedssh.models import own

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "networks"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own.VARIABLE, str(FOLDER))


@pytest.mark.parametrize(
    ("network", "weights"),
    [
        ({"name": "mcmahan"}, 1_663_370),  # McMahan et al. 2017, section 3
        ({"name": "mlp", "width": 200, "depth": 2}, 199_210),  # the same, "2NN"
        ({"name": "niidbench"}, 44_426),
    ],
)
def test_its_size_is_as_published(network: dict[str, object], weights: int) -> None:
    shapes = models.shapes({**network, "input": [28, 28, 1], "classes": 10})
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == weights


@pytest.mark.parametrize(("size", "classes", "weights"), [(224, 1000, 138_357_544), (32, 10, 33_638_218)])
def test_vgg_16_has_the_size_of_its_authors(size: int, classes: int, weights: int) -> None:
    shapes = models.shapes({"name": "vgg", "input": [size, size, 3], "classes": classes})
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == weights


@pytest.mark.parametrize(("name", "side"), [("mcmahan", 3), ("niidbench", 15), ("vgg", 31)])
def test_images_that_it_cannot_pool_are_refused(name: str, side: int) -> None:
    with pytest.raises(ValueError, match=f"found {side}x{side}"):
        models.check_spec({"name": name, "input": [side, side, 1], "classes": 10})
