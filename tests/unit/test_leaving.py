"""What must not leave a site: the bounds as tables, and which images units single out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedssh.alice.fitting import Epoch
from fedssh.alice.leaving import Guard, tells_of_images, too_bad
from fedssh.models.firing import Singled, singled_out
from fedssh.rules.events import Local


def ended(loss: float, training: float) -> Epoch:
    return Epoch(1, Local(training, 0.5), Local(loss, 0.5), better=False, due=True, diverged=False)


@pytest.mark.parametrize(
    ("release", "loss", "training", "words"),
    [
        (0.5, 0.4, 0.4, ""),
        (0.1, 0.6, 0.02, ""),  # few images, learned by heart: worse elsewhere, better on them
        (0.1, 0.4, 0.2, ""),  # dropout makes training harder than scoring
        (0.1, 0.5, 0.3, "its loss of 0.5 is worse than the release's, 0.1000, and training has not lowered it"),
        (0.1, 90.0, 0.02, "its loss of 90 is more than 10 times that of guessing, 0.6931"),
        (5.0, 1e9, 5.0, "its loss of 1e+09 is more than 10 times that of guessing, 0.6931"),
        (900.0, 90.0, 400.0, ""),  # random weights on large numbers: it has become better
        (math.nan, 90.0, 0.1, "its loss of 90 is more than 10 times that of guessing, 0.6931"),
        (math.nan, 0.6, 0.5, ""),
    ],
)
def test_what_is_too_bad(release: float, loss: float, training: float, words: str) -> None:
    assert too_bad(Local(release, 0.5), ended(loss, training), math.log(2)) == words


def test_a_site_sets_its_own_bounds() -> None:
    assert too_bad(Local(0.1, 0.5), ended(0.5, 0.3), math.log(2), Guard(max_worse=1)) == ""
    assert too_bad(Local(0.1, 0.5), ended(0.5, 0.3), math.log(10)) == ""
    assert tells_of_images([Singled("dense", 1000, 0, 11)], Guard(max_measured=0.02)) == ""


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Singled("dense", 1024, 87, 0), ""),
        (Singled("dense", 1024, 593, 591), "layer dense tell 593 of 1,024 images"),
        (Singled("dense", 1024, 300, 0, 0.3), "layer dense tell 300 of 1,024 images"),
        (Singled("dense", 300, 140, 0, 0.03), ""),  # 4,096 units, as alexnet has them
        (Singled("dense", 40, 38, 0), ""),
        (Singled("dense", 40, 38, 2), ""),
        (Singled("dense", 40, 30, 25), "layer dense tell 30 of 40 images"),
    ],
)
def test_what_tells_of_images(found: Singled, words: str) -> None:
    said = tells_of_images([Singled("first", 1000, 0, 0), found])
    assert words in said and bool(said) is bool(words)


def test_units_with_bounds_on_one_measure_single_out_what_lies_between() -> None:
    """A chain of bounds on brightness (Fowl et al. 2022): every image but the darkest few stands alone."""
    random = np.random.default_rng(0)
    bright = random.normal(size=50)
    bounds = np.sort(bright)[:-1] + 1e-9  # one between every two images
    values = (bright[:, None] - bounds[None]).astype(np.float32) * random.uniform(0.5, 2, 49).astype(np.float32)
    alone, measured = singled_out(values > 0, values)
    assert len(alone) == 49 and len(measured) == 48, "of the brightest one, a single unit tells"


def test_units_that_fire_for_one_image_single_it_out() -> None:
    fires = np.zeros((20, 5), bool)
    fires[3, 0] = fires[7, 1] = True  # alone
    fires[[1, 2], 2] = True  # with another one
    fires[:, 3] = True
    assert singled_out(fires, fires.astype("f4")) == ({3, 7}, set())
    fires[1, 4] = True  # without unit 4, images 1 and 2 stand together
    assert singled_out(fires, fires.astype("f4"))[0] == {1, 2, 3, 7}


def test_random_units_measure_different_things() -> None:
    random = np.random.default_rng(0)
    values = (random.normal(size=(200, 30)) @ random.normal(size=(30, 500))).astype(np.float32)
    alone, measured = singled_out(values > 0, values)
    assert len(alone) < 20 and not measured
