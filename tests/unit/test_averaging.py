"""Averaging by hand: small numbers whose results anybody can check, and what is refused."""

import math
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fedssh import weights
from fedssh.rules.averaging import RoundResult, bearing, clip_scale, gathered, krum_shares, mix, round_result, step
from fedssh.rules.policies import read_policy

Model = dict[str, np.ndarray]


def model(x: float, y: float) -> Model:
    """Two weights in two tensors."""
    return {"a": np.array([[x]], "f4"), "b": np.array([y], "f4")}


def f4(number: float) -> float:
    """The nearest number of float32."""
    return float(np.float32(number))


def combine(
    policy: str, points: Sequence[tuple[float, float]], examples: Sequence[int] = (), base: Model | None = None
) -> RoundResult:
    updates = [model(*point) for point in points]
    return round_result(read_policy(policy), base or model(0, 0), updates, examples or [1] * len(points), [])


def point(found: Mapping[str, np.ndarray]) -> tuple[float, float]:
    assert [(name, array.shape, str(array.dtype)) for name, array in found.items()] == [
        ("a", (1, 1), "float32"),
        ("b", (1,), "float32"),
    ]
    return found["a"].item(), found["b"].item()


def test_a_mix_goes_from_the_current_model_to_the_candidate() -> None:
    assert point(mix(model(1, -8), model(3, 8), 0.25)) == (1.5, -4)


@pytest.mark.parametrize(("share", "place"), [(0.0, 0), (1.0, 1)])
def test_a_mix_without_the_other_is_exact_to_the_sign_of_zero(share: float, place: int) -> None:
    pair = [model(-0.0, 1e-45), model(0.1, -0.0)]
    mixed = mix(pair[0], pair[1], share)
    assert all(mixed[name].tobytes() == array.tobytes() for name, array in pair[place].items())
    assert not any(np.shares_memory(mixed[name], array) for each in pair for name, array in each.items())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(ValueError, match="expected a number in 0"):
        mix(model(0, 0), model(1, 1), share)


def test_only_models_that_fit_are_mixed() -> None:
    with pytest.raises(ValueError, match="the candidate: the tensor b is missing"):
        mix(model(0, 0), {"a": np.zeros((1, 1), "f4")}, 0.5)
    with pytest.raises(ValueError, match="the candidate: 1 of 2 weights are not finite"):
        mix(model(0, 0), model(0, math.nan), 0.0)
    with pytest.raises(ValueError, match="the current model: 2 of 2 weights are not finite"):
        mix(model(math.inf, -math.inf), model(0, 0), 1.0)


def test_fedavg_weighs_by_examples() -> None:
    found = combine("fedavg", [(1, 0), (3, 8), (100, 100)], [1, 3, 0])
    assert point(found.weights) == (2.5, 6)
    assert found.shares == [0.25, 0.75, 0.0] and found.state == []


def test_a_site_counts_as_no_more_examples_than_the_cap() -> None:
    updates = [(1, 0), (3, 8), (100, 100)]
    assert combine("fedavg:cap=3", updates, [1, 3, 10**9]).shares == [1 / 7, 3 / 7, 3 / 7]
    assert combine("fedavg:cap=1", updates, [5, 3, 0]).shares == [0.5, 0.5, 0.0]


def test_fednova_steps_by_what_all_changed_per_image() -> None:
    base = model(10, 20)
    found = combine("fednova", [(11, 20), (10, 24)], [1, 3], base=base)
    length = 2 * (0.25**2 + 0.75**2)
    assert point(found.weights) == (f4(10 + length * 0.5), f4(20 + length * 2))
    assert found.shares == [0.5, 0.5]
    still = round_result(read_policy("fednova"), base, [model(11, 20), model(10, 24)], [1, 3], [], ["b"])
    assert point(still.weights) == (f4(10 + length * 0.5), 22)


def test_a_lie_about_images_does_not_take_fednova_beyond_the_clip() -> None:
    """Ten sites of a hundred images that all go the same way, of which one says a million millions."""
    base, points, lie = model(10, 20), [(10.6, 20.8)] * 10, [100] * 9 + [10**12]

    def far(policy: str, examples: Sequence[int], statistics: Sequence[str] = ()) -> float:
        found = round_result(read_policy(policy), base, [model(*one) for one in points], examples, [], statistics)
        x, y = point(found.weights)
        return math.hypot(x - 10, y - 20)

    assert far("fednova", lie) == pytest.approx(2, rel=1e-5), "each went 1"
    assert far("fednova:clip=0.5", lie) == pytest.approx(0.5, rel=1e-5), "not 1"
    assert far("fednova:clip=1.25", lie) == pytest.approx(1.25, rel=1e-5)
    assert far("fednova:clip=5", lie) == pytest.approx(2, rel=1e-5)
    assert far("fednova:clip=0.5", lie, ["b"]) <= 0.5, "statistics are part of it"
    assert far("fednova:clip=0.5", [100] * 10) == pytest.approx(0.5, rel=1e-5)


def test_the_median_is_taken_of_each_weight_whatever_the_examples() -> None:
    found = combine("median", [(1, 9), (2, -1e30), (1e30, 3)], [1, 1, 10_000])
    assert point(found.weights) == (2, 3)
    assert found.shares == [1 / 3] * 3


def test_who_claims_no_examples_counts_all_the_same_where_nobody_asks_for_them() -> None:
    assert point(combine("median", [(1, 9), (2, 2), (3, 3)], [0, 0, 0]).weights) == (2, 3)


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle() -> None:
    assert point(combine("median", [(1, 3e38), (2, 3e38), (4, 3e38), (50, 3e38)]).weights) == (3, f4(3e38))
    assert point(combine("median", [(1, 2), (2, 4)]).weights) == (1.5, 3)
    assert point(combine("median", [(1, 2)]).weights) == (1, 2)


def test_the_trimmed_mean_leaves_out_both_ends() -> None:
    values = [(0, 5), (2, -99), (4, 6), (100, 10), (-7, 9)]
    assert point(combine("trimmed:1", values).weights) == (2, f4(20 / 3))
    assert point(combine("trimmed:2", values).weights) == (2, 6)


KRUM = [(0, 0), (0, 1), (3, 0), (3.5, 0), (60, 80)]
# Squared distances to the two nearest others (n - f - 2 = 2), over both tensors:
#   1 + 9 = 10 · 1 + 10 = 11 · 0.25 + 9 = 9.25 · 0.25 + 12.25 = 12.5 · 9592.25 + 9641 = 19233.25 or so


def test_krum_takes_the_update_nearest_to_the_others() -> None:
    found = combine("krum:1", KRUM, [1, 1, 1, 1, 10_000])
    assert point(found.weights) == (3, 0)
    assert found.shares == [0, 0, 1, 0, 0]


def test_multi_krum_takes_the_plain_mean_of_all_but_the_faulty() -> None:
    found = combine("multi-krum:1", KRUM, [5, 1, 1, 1, 10_000])
    assert point(found.weights) == (1.625, 0.25)
    assert found.shares == [0.25, 0.25, 0.25, 0.25, 0]


def test_krum_without_faulty_sites_looks_at_all_but_the_farthest() -> None:
    # n - f - 2 = 1 nearest: 16 · 9 · 9
    assert combine("krum:0", [(-4, 0), (0, 0), (0, 3)]).shares == [0, 1, 0]


def test_of_equally_good_updates_krum_takes_the_first() -> None:
    pairs = np.array([(0, 1), (1, 0)]) * 1.0
    distances = np.block([[pairs, np.full((2, 2), 9.0)], [np.full((2, 2), 9.0), pairs]])  # two pairs, far apart
    assert krum_shares(distances, 1, 1) == [1, 0, 0, 0]
    assert krum_shares(distances, 1, 3) == [1 / 3, 1 / 3, 1 / 3, 0]
    assert krum_shares(np.zeros((40, 40)), 1, 2) == [0.5] * 2 + [0] * 38


def test_clipping_shortens_the_step_of_all_tensors_together() -> None:
    base = model(10, -10)
    assert clip_scale(base, model(13, -6), 1.0) == pytest.approx(0.2, rel=1e-15)
    assert clip_scale(base, model(13, -6), 5.0) == 1 == clip_scale(base, base, 1e-30)
    found = combine("fedavg:clip=1", [(13, -6), (10, -9.5)], base=base)
    assert point(found.weights) == (f4(10 + 0.6 / 2), f4(-10 + (0.8 + 0.5) / 2))


def test_every_rule_sees_clipped_updates() -> None:
    far = [(30, 40), (30, 40), (0, 0.5)]
    assert point(combine("median:clip=1", far).weights) == (f4(0.6), f4(0.8))
    assert point(combine("trimmed:1,clip=1", far).weights) == (f4(0.6), f4(0.8))
    assert point(combine("krum:0,clip=1", far).weights) == (f4(0.6), f4(0.8))
    assert combine("krum:0", [(3e3, 4e3), (0, 0), (0, 1), (4e3, 3e3)]).shares == [0, 0, 1, 0]
    assert combine("krum:0,clip=0.5", [(3e3, 4e3), (0, 0), (0, 1), (4e3, 3e3)]).shares == [1, 0, 0, 0]


BAD: dict[str, tuple[str, list[Model], list[int]]] = {
    "update 2 of 3: 1 of 2 weights are not finite": ("fedavg", [model(0, 0), model(math.nan, 0), model(0, 0)], [1] * 3),
    "update 1 of 1: 2 of 2 weights are not finite": ("median", [model(math.inf, -math.inf)], [1]),
    "update 2 of 2: the tensor a is missing": ("fedavg", [model(0, 0), {"b": np.zeros(1, "f4")}], [1, 1]),
    "update 1 of 1: the tensor 'c' does not": ("fedavg", [{**model(0, 0), "c": np.zeros(1, "f4")}], [1]),
    "update 1 of 1: the tensor b has shape [2], expected [1]": (
        "fedavg",
        [{**model(0, 0), "b": np.zeros(2, "f4")}],
        [1],
    ),
    "update 1 of 1: the tensor b is float64": ("fedavg", [{**model(0, 0), "b": np.zeros(1)}], [1]),
    "fedavg:fraction=1": ("fedavg", [], []),
    "needs 1 updates or more, there are 0": ("median", [], []),
    "needs 3 updates or more, there are 2": ("trimmed:1", [model(0, 0)] * 2, [1] * 2),
    "needs 5 updates or more, there are 4": ("krum:1", [model(0, 0)] * 4, [1] * 4),
    "needs 7 updates or more, there are 6": ("multi-krum:2", [model(0, 0)] * 6, [1] * 6),
    "examples of 2 updates are [0, 0]": ("fedavg", [model(0, 0)] * 2, [0, 0]),
    "examples of 2 updates are [5, -1]": ("fedavg", [model(0, 0)] * 2, [5, -1]),
    "examples of 2 updates are [5]": ("fedavg", [model(0, 0)] * 2, [5]),
    "the policy best has no rounds": ("best", [model(0, 0)], [1]),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_combined_is_refused_with_its_reason(message: str) -> None:
    policy, updates, examples = BAD[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        round_result(read_policy(policy), model(0, 0), updates, examples, [])


def test_a_base_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="the model the updates started from: 1 of 2 weights are not finite"):
        combine("fedavg", [(0, 0)], base=model(math.inf, 0))


@pytest.mark.parametrize("n", [2, 3, 8, 31])
def test_large_models_give_what_numpy_and_scipy_give(n: int) -> None:
    """More weights than fit into one stretch, against the plain functions on whole arrays in float64."""
    random = np.random.default_rng(n)
    shapes: dict[str, tuple[int, ...]] = {"k": (300, 500), "s": ()}
    updates = [{name: np.asarray(random.normal(size=shape), "f4") for name, shape in shapes.items()} for _ in range(n)]
    examples = random.integers(1, 1000, n).tolist()
    base = updates[0]
    stacked = np.stack([update["k"] for update in updates]).astype("f8")

    def found(policy: str) -> np.ndarray:
        return round_result(read_policy(policy), base, updates, examples, []).weights["k"]

    mean = np.average(stacked, axis=0, weights=examples)
    assert np.allclose(found("fedavg"), mean, rtol=1e-6, atol=1e-7)
    assert np.array_equal(found("median"), np.median(stacked, axis=0).astype("f4"))
    if n > 2:
        trimmed = stats.trim_mean(stacked, 1 / n + 1e-9, axis=0)
        assert np.allclose(found("trimmed:1"), trimmed, rtol=1e-6, atol=1e-7)
    if n > 4:
        distances = np.array([np.square(stacked - one).sum(axis=(1, 2)) for one in stacked])
        best = np.argmin(np.sort(distances, axis=1)[:, 1 : n - 2].sum(axis=1))
        assert np.array_equal(found("krum:1"), updates[best]["k"])


class Counted(Mapping[str, np.ndarray]):
    """A model that is read when it is looked at, and knows which of its arrays are still alive."""

    def __init__(self, tensors: Model) -> None:
        self.tensors = tensors
        self.alive: dict[str, list[weakref.ref[np.ndarray]]] = {}
        self.most = 0

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.tensors[name].copy()
        self.alive.setdefault(name, []).append(weakref.ref(array))
        self.most = max(self.most, sum(any(one() is not None for one in refs) for refs in self.alive.values()))
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize("policy", ["fedavg:clip=1,server=adam", "median", "krum:1"])
def test_of_models_read_from_files_only_a_tensor_or_two_are_in_memory(policy: str) -> None:
    random = np.random.default_rng(1)
    plain = [{str(k): random.normal(size=(50, 3)).astype("f4") for k in range(9)} for _ in range(6)]
    lazy = [Counted(each) for each in plain]
    state = [{name: np.ones_like(array) for name, array in plain[0].items()}] * 2 if "adam" in policy else []
    expected = round_result(read_policy(policy), plain[0], plain[1:], [1] * 5, state)
    found = round_result(read_policy(policy), lazy[0], lazy[1:], [1] * 5, state)
    assert all(np.array_equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    assert found.shares == expected.shares
    assert max(each.most for each in lazy) <= 2


def test_model_files_are_averaged_where_they_lie(tmp_path: Path) -> None:
    spec = {"name": "mlp", "input": [2], "classes": 2}
    shapes = weights.write_weights(tmp_path / "0", model(1, 2), spec).tensors
    weights.write_weights(tmp_path / "1", model(3, 6), spec)
    updates = [weights.map_weights(tmp_path / name, shapes) for name in "01"]
    found = round_result(read_policy("fedavg"), updates[0], updates, [1, 1], [])
    weights.write_weights(tmp_path / "0", found.weights, spec)  # the result does not hang on the files
    assert point(found.weights) == (2, 4)


# steps


def test_a_step_adds_what_was_changed_to_the_current_model_and_mixes_statistics() -> None:
    current, candidate, base = (
        {"kernel": np.array([value], np.float32), "moving_variance": np.array([value], np.float32)}
        for value in (4.0, 0.5, 1.0)
    )
    moved = step(current, candidate, base, 0.5, {"moving_variance"})
    assert moved["kernel"].tolist() == [3.75]  # 4 + 0.5 * (0.5 - 1)
    assert moved["moving_variance"].tolist() == [2.25]  # half of each: a variance stays one
    assert step(current, candidate, current, 1.0)["kernel"].tolist() == [0.5]


def test_a_step_out_of_what_float32_holds_is_refused() -> None:
    huge = {"kernel": np.array([3e38], np.float32)}
    low = {"kernel": np.array([-3e38], np.float32)}
    with pytest.raises(ValueError, match="the step's result"):
        step(huge, huge, low, 1.0)
    with pytest.raises(ValueError, match="what the candidate started from"):
        step(huge, huge, {"bias": huge["kernel"]}, 1.0)


def test_the_mean_of_several_steps_from_bases_of_their_own_is_added() -> None:
    def model(weight: float, variance: float) -> dict[str, np.ndarray]:
        return {"kernel": np.array([weight], np.float32), "moving_variance": np.array([variance], np.float32)}

    current, steps = model(4, 1), [(model(2, 3), model(1, 9)), (model(5, 5), model(8, 9))]
    for part, kernel, variance in ((1.0, 3.0, 4.0), (0.5, 3.5, 2.5), (2.0, 2.0, 4.0)):  # the mean step is (1 - 3) / 2
        moved = gathered(current, steps, part, {"moving_variance"})
        assert (moved["kernel"].tolist(), moved["moving_variance"].tolist()) == ([kernel], [variance])
    alone = gathered(current, steps[:1], 0.25)
    assert alone["kernel"].tolist() == step(current, *steps[0], 0.25)["kernel"].tolist()
    with pytest.raises(ValueError, match="what a candidate started from: the tensor kernel is missing"):
        gathered(current, [(current, {"moving_variance": current["moving_variance"]})], 1.0)
    with pytest.raises(ValueError, match="there are 0 steps"):
        gathered(current, [], 1.0)


def test_how_updates_lie_to_each_other_is_by_length_and_the_middle_of_their_angles() -> None:
    base, updates = model(1, 1), [model(1 + x, 1 + y) for x, y in ((3, 4), (1, 0), (0, 2), (-3, -4), (0, 0))]
    found = bearing(base, updates)
    assert found[0] == (5.0, 0.6)  # with (1, 0) 0.6, with (0, 2) 0.8, with its opposite -1
    assert found[3] == (5.0, -0.8)
    assert found[4] == (0.0, None)
    assert bearing(base, [base, base]) == [(0.0, None), (0.0, None)]
