"""Whether sites can go on from a model: the rules of norms and of the short training, as tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedssh.rules.gate import Decision, gone_on
from fedssh.rules.soundness import (
    BAND,
    BOUND,
    FIRST_BAND,
    Change,
    Finding,
    Trial,
    beyond,
    concluded,
    largest_change,
    layer_norms,
    suspect,
    tried,
)

SAME = Change("a", 1.0)


def test_norms_are_of_whole_layers() -> None:
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(300, 301)).astype("f4"), random.normal(size=301).astype("f4")
    norms = layer_norms({"block/a/kernel": kernel, "block/a/bias": bias, "scalar": np.array(3, "f4")})
    assert list(norms) == ["block/a", "scalar"]
    assert norms["block/a"] == pytest.approx(math.hypot(np.linalg.norm(kernel), np.linalg.norm(bias)), rel=1e-5)
    assert norms["scalar"] == 3
    assert layer_norms({"a/kernel": np.full(9, 3e38, "f4")}) == {"a": math.inf}


@pytest.mark.parametrize(
    ("norms", "others", "layer", "times"),
    [
        ({"a": 2, "b": 1}, {"a": 1, "b": 1}, "a", 2),
        ({"a": 2, "b": 0.25}, {"a": 1, "b": 1}, "b", 0.25),
        ({"a": 0, "b": 3}, {"a": 0, "b": 1}, "b", 3),
        ({"a": 1, "b": 3}, {"a": 0, "b": 1}, "a", math.inf),
        ({"a": 0, "b": 3}, {"a": 1, "b": 1}, "a", 0),
        ({"a": 2, "b": 2}, {"a": 2, "b": 2}, "a", 1),
        ({"a": math.inf, "b": 3}, {"a": 1, "b": 1}, "a", math.inf),
    ],
)
def test_the_layer_that_differs_most(
    norms: dict[str, float], others: dict[str, float], layer: str, times: float
) -> None:
    assert largest_change(norms, others) == Change(layer, times)


def test_what_calls_for_a_training_and_what_is_refused_without() -> None:
    assert suspect(Change("a", BAND), Change("a", FIRST_BAND)) == ""
    assert suspect(Change("a", 1 / BAND), Change("a", 1 / FIRST_BAND)) == ""
    assert suspect(Change("a", 5.25), SAME) == "layer a is 5.25 times as large as the current one"
    assert suspect(Change("a", 0.1), SAME) == "layer a is 10 times as small as the current one"
    assert suspect(SAME, Change("a", 9)) == "layer a is 9 times as large as the first one"
    assert suspect(Change("conv1", 2.0**20), SAME) == "layer conv1 is 1,048,576 times as large as the current one"
    assert suspect(Change("a", 0.0), SAME) == "layer a is 0, unlike the current one"
    assert suspect(Change("a", math.inf), SAME) == "layer a is not 0, unlike the current one"
    assert not beyond(Change("a", BOUND)) and not beyond(Change("a", 1 / BOUND))
    assert beyond(Change("a", 1.01 * BOUND)) and beyond(Change("a", 0.99 / BOUND)) and beyond(Change("a", 0.0))
    assert not beyond(Change("a", math.inf)), "an output layer that began with zeros"


HONEST = Trial((0.10, 0.06), (4.4, 0.7))
NAN = math.nan


@pytest.mark.parametrize(
    ("candidate", "trouble"),
    [
        (HONEST, ""),
        (Trial((0.10, 0.16), (4.4, 0.7)), ""),  # a learning rate that is a bit large for it
        (Trial((0.0, 0.0), (9.0, 5.0)), ""),  # it knows all of it already
        (Trial((0.10, 167.8), (4.4, 0.7)), "training ruins it"),
        (Trial((0.10, 0.25), (4.4, 0.7)), "training ruins it"),
        (Trial((0.10, 0.10), (4.4, 4.39)), "nothing can be trained from it"),
        (Trial((0.10, 0.10), (4.4, 113.0)), "nothing can be trained from it"),
        (Trial((0.10, NAN), (4.4, 0.7)), "training from it ends in numbers that are not finite"),
        (Trial((0.10, 0.06), (4.4, math.inf)), "training from it ends in numbers that are not finite"),
    ],
)
def test_what_a_training_shows(candidate: Trial, trouble: str) -> None:
    assert tried(candidate, [HONEST, Trial((0.5, 0.5), (1.2, 0.6))], math.log(2)) == trouble


def test_a_plan_that_ruins_honest_models_blames_no_candidate() -> None:
    ruined, broken = Trial((0.1, 9.0), (4.4, 8.0)), Trial((0.1, NAN), (4.4, 1.0))
    assert tried(Trial((0.1, 8.0), (4.4, 5.0)), [HONEST, ruined], math.log(2)) == ""
    assert tried(Trial((0.1, 8.0), (4.4, 5.0)), [HONEST, broken], math.log(2)) == ""
    assert tried(broken, [HONEST, ruined], math.log(2)) != ""


def test_what_the_record_says() -> None:
    accepted = Decision(True, "accuracy 0.9000 beats 0.8500", 1.0, {"accuracy": 0.9})
    assert gone_on(accepted, **vars(Finding())) == accepted
    passed = gone_on(accepted, **vars(concluded("layer a is 5 times as large as the current one", "")))
    assert (passed.accept, passed.share) == (True, 1.0)
    assert passed.reason.endswith("beats 0.8500; layer a is 5 times as large as the current one, and can be trained")
    held = gone_on(accepted, **vars(concluded("layer a is 5 times as large as the current one", "training ruins it")))
    assert not held.accept
    assert held.reason.endswith("0.8500, but layer a is 5 times as large as the current one, and training ruins it")
