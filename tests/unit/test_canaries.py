"""The bound that canaries give: against the paper's formula, computed otherwise, and of mechanisms that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedssh.rules.canaries import CONFIDENCE, SHARES, audited, chance, epsilon_at_least
from fedssh.rules.membership import area


def by_definition(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of Steinke et al. 2023 as it is printed, with SciPy's tails and all i in 1..m."""
    drawn = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    at_least = [drawn.sf(number - 1) for number in range(guesses + 2)]
    found = [(at_least[max(right - i, 0)] - at_least[right]) / i for i in range(1, canaries + 1)]
    return float(min(1.0, at_least[right] + 2 * canaries * delta * max(found)))


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize(("canaries", "guesses", "right"), [(40, 40, 31), (40, 20, 20), (60, 30, 15), (30, 14, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
def test_the_chance_is_the_one_of_the_paper(
    canaries: int, guesses: int, right: int, epsilon: float, delta: float
) -> None:
    found = chance(canaries, guesses, right, epsilon, delta)
    assert found == pytest.approx(by_definition(canaries, guesses, right, epsilon, delta), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("guesses", [10, 40, 1000])
def test_where_all_guesses_are_right_the_bound_has_a_formula(guesses: int) -> None:
    right = 0.05 ** (1 / guesses)  # the smallest share of right guesses that is this lucky in one case of twenty
    bound = epsilon_at_least(guesses, guesses, guesses, 0.0)
    assert bound == pytest.approx(math.log(right / (1 - right)), abs=1.1e-4)
    assert 0 < epsilon_at_least(guesses, guesses, guesses, 1e-4 / guesses) < bound


def test_the_bound_is_the_largest_epsilon_that_is_ruled_out() -> None:
    bound = epsilon_at_least(50, 50, 41, 1e-4)
    assert by_definition(50, 50, 41, bound, 1e-4) < 0.05 <= by_definition(50, 50, 41, bound + 2e-4, 1e-4)
    assert epsilon_at_least(50, 50, 25, 1e-4) == 0, "half of the guesses are right by chance"
    assert epsilon_at_least(50, 50, 41, 1e-4, 0.99) < bound
    assert epsilon_at_least(50, 50, 41, 0.1) == 0, "such a delta may give away everything"
    with pytest.raises(ValueError, match="42 right of 41 guesses"):
        chance(50, 41, 42, 1.0, 0.0)


@pytest.mark.parametrize(("epsilon", "canaries"), [(0.0, 40), (1.0, 100), (3.0, 100)])
def test_of_randomised_response_it_is_below_epsilon_in_95_of_100_trials(epsilon: float, canaries: int) -> None:
    """Each coin is told, turned over with a probability of 1 / (1 + exp(epsilon)): nothing private tells more."""
    random, trials = np.random.default_rng(1), 400
    right = 1 / (1 + math.exp(-epsilon))
    bounds = []
    for _ in range(trials):
        inside = random.random(canaries) < 0.5
        told = np.where(random.random(canaries) < right, inside, ~inside)
        bounds.append(audited(told + 1e-3 * random.random(canaries), inside, 0.0).epsilon)
    above = sum(bound > epsilon for bound in bounds) / trials
    assert above <= 1 - CONFIDENCE
    assert np.median(bounds) > epsilon / 4 or epsilon == 0, "and it is no bound of 0"


def test_a_few_that_stand_out_are_guessed_and_no_others() -> None:
    random = np.random.default_rng(2)
    inside = random.random(200) < 0.5
    scores = random.normal(size=200)
    scores[:60] = np.where(inside[:60], 9.0, -9.0)  # only of these anything is known
    found = audited(scores, inside, 1e-6)
    assert found.guesses == 50 == round(200 * SHARES[-1]) and found.right == 50
    assert found.epsilon == epsilon_at_least(200, 50, 50, 1e-6, 1 - (1 - CONFIDENCE) / 3)
    assert (found.canaries, found.inside) == (200, inside.sum())
    assert found.auc.value == area(scores[inside], scores[~inside])
    turned = audited(-scores, inside, 1e-6)
    assert turned.epsilon == 0 and turned.auc.value == pytest.approx(1 - found.auc.value)


def test_equal_scores_tell_nothing() -> None:
    inside = np.arange(40) % 2 == 0
    found = audited(np.zeros(40), inside, 0.0)
    assert found.epsilon == 0 and found.auc.value == 0.5


@pytest.mark.parametrize(
    ("scores", "inside", "why"),
    [([1.0, 2.0], [True, True], "of 2 canaries 2 were trained on"), ([1, math.nan], [True, False], "1 of 2 canaries")],
)
def test_what_tells_nothing_is_refused(scores: list[float], inside: list[bool], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        audited(np.array(scores), np.array(inside), 0.0)
