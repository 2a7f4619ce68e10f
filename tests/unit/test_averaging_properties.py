"""What averaging keeps, whatever the numbers are: ends, order, scale, and what a poisoned site cannot do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedssh.rules.averaging import RoundResult, clip_scale, mix, round_result
from fedssh.rules.policies import Policy, read_policy

Model = dict[str, np.ndarray]
RULES = ("fedavg", "median", "trimmed:1", "krum:1", "multi-krum:1", "krum:0", "multi-krum:0")
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)  # to the ends of float32, subnormals, both zeros
NEAR = st.floats(-1, 1, width=32)
WEIGHTS = 5
EPS = float(np.finfo(np.float64).eps)


def model(values: np.ndarray) -> Model:
    """The same weights as two tensors."""
    return {"kernel": values[:4].reshape(2, 2), "bias": values[4:]}


def flat(found: Model) -> np.ndarray:
    return np.concatenate([found["kernel"].ravel(), found["bias"]])


def step_of(numbers: np.ndarray) -> np.ndarray:
    """From float32 numbers to the next ones, at most, in float64."""
    limits = np.finfo(np.float32)
    steps: np.ndarray = np.abs(numbers).astype(np.float64) * limits.eps + limits.smallest_subnormal
    return steps


def rows(draw: st.DrawFn, count: int, numbers: st.SearchStrategy[float] = ANY) -> np.ndarray:
    """float32 [count, WEIGHTS]."""
    return draw(arrays.arrays(np.float32, (count, WEIGHTS), elements=numbers))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Policy, np.ndarray, list[int]]:
    """A policy, its updates [n, WEIGHTS] and their examples."""
    policy = read_policy(draw(st.sampled_from(RULES)))
    count = draw(st.integers(policy.least, 8))
    examples = draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count).filter(any))
    return policy, rows(draw, count), examples


def run(policy: Policy, updates: np.ndarray, examples: list[int]) -> RoundResult:
    return round_result(policy, model(np.zeros(WEIGHTS, "f4")), [model(row) for row in updates], examples, [])


def quickly(test: Callable[..., Any]) -> Callable[..., Any]:
    return settings(max_examples=100, deadline=None)(test)


@quickly
@given(rounds())
def test_no_average_lies_outside_what_it_is_an_average_of(case: tuple[Policy, np.ndarray, list[int]]) -> None:
    """Exactly, because float64 errs by less than half a step of float32 and rounding keeps the order."""
    policy, updates, examples = case
    found = flat(run(*case).weights)
    counted = updates[np.array(examples) > 0] if policy.name == "fedavg" else updates
    assert (counted.min(axis=0) <= found).all() and (found <= counted.max(axis=0)).all()


@quickly
@given(arrays.arrays(np.float32, (2, WEIGHTS), elements=ANY), st.floats(0, 1))
def test_no_mix_lies_outside_the_two_models(pair: np.ndarray, share: float) -> None:
    found = flat(mix(model(pair[0]), model(pair[1]), share))
    assert (pair.min(axis=0) <= found).all() and (found <= pair.max(axis=0)).all()
    back = flat(mix(model(pair[1]), model(pair[0]), 1 - share))
    # The two shares may round to neighbours; then a step of float32, or what cancels from the larger number.
    assert (np.abs(found.astype("f8") - back) <= step_of(found) + 4 * EPS * np.abs(pair).max(axis=0)).all()


@quickly
@given(rounds(), st.randoms(use_true_random=False))
def test_the_order_of_updates_does_not_matter(case: tuple[Policy, np.ndarray, list[int]], random: Any) -> None:
    """Exactly where numbers are sorted or one is taken; a sum may round otherwise in another order."""
    policy, updates, examples = case
    order = list(range(len(updates)))
    random.shuffle(order)
    first, second = run(*case), run(policy, updates[order], [examples[place] for place in order])
    if "krum" in policy.name:  # of equally good ones the first is taken, which the order decides: no shares, no claim
        assume(second.shares == [first.shares[place] for place in order])
    one, other = flat(first.weights), flat(second.weights)
    if policy.name in ("fedavg", "multi-krum"):
        # Each of n sums errs by less than EPS of the largest number; then rounding may go to the other neighbour.
        slack = step_of(one) + len(updates) * EPS * np.abs(updates).max(axis=0).astype("f8")
        assert (np.abs(one.astype("f8") - other) <= slack).all()
    else:
        assert np.array_equal(one, other)


@quickly
@given(st.data(), st.sampled_from(["krum:1", "multi-krum:1", "krum:2"]), st.randoms(use_true_random=False))
def test_krum_takes_the_same_updates_in_any_order_unless_they_are_equally_good(
    data: st.DataObject, text: str, random: Any
) -> None:
    policy = read_policy(text)
    count = data.draw(st.integers(policy.least, 9))
    seed = data.draw(st.integers(0, 2**32 - 1))
    updates = np.random.default_rng(seed).normal(size=(count, WEIGHTS)).astype("f4")  # no two equally good
    order = list(range(count))
    random.shuffle(order)
    first, second = run(policy, updates, [1] * count), run(policy, updates[order], [1] * count)
    assert second.shares == [first.shares[place] for place in order]


@st.composite
def poisoned(draw: st.DrawFn, least: int, honest: st.SearchStrategy[float]) -> tuple[np.ndarray, int, list[int]]:
    """Updates of which one may be anything, its place, and examples, of which it may claim any number."""
    count = draw(st.integers(least, 8))
    place = draw(st.integers(0, count - 1))
    updates = rows(draw, count, honest)
    updates[place] = rows(draw, 1)[0]
    examples = [1] * count
    examples[place] = draw(st.integers(1, 10**12))
    return updates, place, examples


@quickly
@given(st.sampled_from(["median", "trimmed:1"]), poisoned(3, ANY))
def test_one_poisoned_site_cannot_move_a_robust_average_outside_the_honest_range(
    text: str, case: tuple[np.ndarray, int, list[int]]
) -> None:
    updates, place, examples = case
    honest = np.delete(updates, place, axis=0)
    found = flat(run(read_policy(text), updates, examples).weights)
    assert (honest.min(axis=0) <= found).all() and (found <= honest.max(axis=0)).all()


@quickly
@given(st.sampled_from(["krum:1", "multi-krum:1"]), poisoned(5, NEAR), st.floats(100, 2.0**127, width=32))
def test_krum_takes_nothing_of_a_poisoned_site_that_is_far_away(
    text: str, case: tuple[np.ndarray, int, list[int]], far: float
) -> None:
    updates, place, examples = case
    updates[place, 0] = far
    found = run(read_policy(text), updates, examples)
    assert found.shares[place] == 0
    honest = np.delete(updates, place, axis=0)
    assert (honest.min(axis=0) <= flat(found.weights)).all() and (flat(found.weights) <= honest.max(axis=0)).all()
    if text == "krum:1":
        assert any(np.array_equal(flat(found.weights), row) for row in honest)


@quickly
@given(rounds(), st.integers(1, 10**12))
def test_only_the_ratio_of_examples_matters(case: tuple[Policy, np.ndarray, list[int]], factor: int) -> None:
    policy, updates, examples = case
    one, other = run(*case), run(policy, updates, [factor * count for count in examples])
    assert one.shares == other.shares
    assert flat(one.weights).tobytes() == flat(other.weights).tobytes()


@quickly
@given(rounds(), st.integers(0, 7))
def test_equal_updates_come_out_as_they_went_in(case: tuple[Policy, np.ndarray, list[int]], place: int) -> None:
    policy, updates, examples = case
    same = np.repeat(updates[place % len(updates)][None], len(updates), axis=0)
    assert np.array_equal(flat(run(policy, same, examples).weights), same[0])


@quickly
@given(arrays.arrays(np.float32, (2, WEIGHTS), elements=ANY), st.floats(1e-30, 1e38))
def test_clipping_never_lengthens_and_leaves_no_more_than_the_norm(pair: np.ndarray, norm: float) -> None:
    base, update = pair
    difference = update.astype("f8") - base
    length = float(np.linalg.norm(difference))
    scale = clip_scale(model(base), model(update), norm)
    assert 0 < scale <= 1
    assert scale * length <= norm * (1 + 8 * EPS)
    assert (scale == 1) == (length <= norm) or abs(length - norm) <= 8 * EPS * norm
    policy = read_policy(f"fedavg:clip={norm!r}")
    found = flat(round_result(policy, model(base), [model(update)], [1], []).weights)
    if scale == 1:
        assert np.array_equal(found, update)
    # The result is rounded to float32 once: half a step of each weight.
    steps = step_of(np.maximum(np.abs(base), np.abs(update)))
    assert np.linalg.norm(found.astype("f8") - base) <= norm * (1 + 8 * EPS) + np.linalg.norm(steps)


@quickly
@given(rounds(), st.data(), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_number_anywhere_stops_every_rule(
    case: tuple[Policy, np.ndarray, list[int]], data: st.DataObject, bad: float
) -> None:
    policy, updates, examples = case
    place, weight = data.draw(st.integers(0, len(updates) - 1)), data.draw(st.integers(0, WEIGHTS - 1))
    updates[place, weight] = bad
    with pytest.raises(ValueError, match=f"update {place + 1} of {len(updates)}: 1 of 5 weights are not finite"):
        run(policy, updates, examples)
