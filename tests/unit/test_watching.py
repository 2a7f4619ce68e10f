"""Whether a site is taught what it agreed to learn: honest gradients pass, others are noticed within a window."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest

from fedssh import models
from fedssh.models.data.images import Images
from fedssh.models.parts import Part
from fedssh.models.watching import LEAST, LIMIT, WINDOW, Watch, rehearse, rehearsed

MLP = {"name": "mlp", "input": [4, 4, 1], "classes": 3}


def honest(number: int = 40, size: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (number, size)).astype(np.float32)


def data(number: int = 48) -> Images:
    random = np.random.default_rng(0)
    return Images(random.random((number, 4, 4, 1), dtype=np.float32), random.integers(0, 3, number))


def test_what_is_as_before_passes() -> None:
    watch = Watch(honest())
    verdicts = [watch.look(one) for one in honest(50, seed=1)]
    assert not any(verdict.hijacked or verdict.outlier for verdict in verdicts)
    assert verdicts[2].looked == 3 and verdicts[-1].looked == WINDOW


def test_a_hijacker_is_noticed_with_the_first_whole_window() -> None:
    watch = Watch(honest())
    verdicts = [watch.look(10 * one) for one in honest(WINDOW, seed=1)]
    assert all(verdict.outlier for verdict in verdicts)
    assert [verdict.hijacked for verdict in verdicts] == [False] * (WINDOW - 1) + [True]
    said = re.fullmatch(r"10 of the last 10 gradients are unlike those of a training here \(outlier factor (\S+), "
                        r"at most 1\.50 is usual\)", str(verdicts[-1]))  # fmt: skip
    assert said and float(said[1]) > 1.5


def test_half_of_a_window_is_not_the_most_of_it() -> None:
    watch = Watch(honest())
    for number, one in enumerate(honest(20, seed=1)):
        verdict = watch.look(one * (10 if number % 2 else 1))
        assert not verdict.hijacked
    assert verdict.outliers == WINDOW // 2
    assert watch.look(10 * honest(1)[0]).hijacked  # the sixth, in place of one that was none


def test_what_is_not_finite_is_an_outlier() -> None:
    watch = Watch(honest(), window=1)
    assert watch.look(np.full(20, np.nan, np.float32)).hijacked


def test_a_second_rehearsal_sets_the_limit_and_never_below_the_usual_one() -> None:
    wide = Watch(honest(), 3 * honest(seed=1))
    assert wide.limit > 2 and sum(wide.look(3 * one).outlier for one in honest(200, seed=2)) < 20
    assert Watch(honest(), honest()).limit == LIMIT


@pytest.mark.parametrize("neighbours", [3, None])
def test_the_factor_is_that_of_its_definition(neighbours: int | None) -> None:
    """Breunig et al. 2000, definitions 5 to 7, written out."""
    known, new = honest(12, 3), honest(1, 3, seed=1)[0] * 4
    k = neighbours or len(known) - 1

    def distances(point: np.ndarray, among: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.linalg.norm(among.astype(float) - point, axis=1)
        return found

    reach = np.array([np.sort(distances(one, np.delete(known, at, 0)))[k - 1] for at, one in enumerate(known)])

    def density(point: np.ndarray, others: np.ndarray) -> float:
        nearest = others[np.argsort(distances(point, known[others]))[:k]]
        return float(1 / np.maximum(reach[nearest], distances(point, known[nearest])).mean())

    every = np.arange(len(known))
    densities = np.array([density(one, np.delete(every, at)) for at, one in enumerate(known)])
    nearest = np.argsort(distances(new, known))[:k]
    wanted = densities[nearest].mean() / density(new, every)
    assert Watch(known, neighbours=neighbours).look(new).factor == pytest.approx(wanted, rel=1e-6)


def test_too_little_to_judge_by_is_refused() -> None:
    with pytest.raises(ValueError, match="7 honest gradients are too few to judge others by; 8 or more are"):
        Watch(honest(LEAST - 1))
    with pytest.raises(ValueError, match="not finite"):
        Watch(np.full((10, 2), np.inf, np.float32))


def first_weights() -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(1)
    return models.get_weights(models.build(MLP))


def parts(weights: dict[str, np.ndarray]) -> list[Part]:
    found = [Part(MLP, ["dense1"], number, "adam", 0.01) for number in range(2)]
    for part in found:
        part.load(weights)
        part.fresh(3)
    return found


def test_a_rehearsal_gives_what_the_split_training_gives() -> None:
    weights, examples = first_weights(), data()
    found = rehearse(MLP, weights, examples, 8, "adam", 0.01, seed=(3,), steps=9)
    assert found.shape == (9, 16 * 200) and np.isfinite(found).all() and found.any(axis=1).all()
    head, tail = parts(weights)
    for step in range(6):
        some = np.random.default_rng([3, 0]).permutation(len(examples))[step * 8 : step * 8 + 8]
        gradient, _, _ = tail.step(head.forward(examples.images[some]), examples.labels[some])
        head.backward(examples.images[some], gradient)
        assert head.felt is not None and head.felt.tobytes() == found[step].tobytes()
    assert tail.felt is None


def test_a_site_of_a_few_images_rehearses_as_long() -> None:
    assert len(rehearse(MLP, first_weights(), data(3), 8, "sgd", 0.01, steps=20)) == 20
    with pytest.raises(ValueError, match="there is nothing to rehearse with"):
        rehearse(MLP, first_weights(), data().take(np.arange(0)), 8, "sgd", 0.01)


def test_a_hijacked_session_of_a_network_is_noticed() -> None:
    """The coordinator sends what makes features alike; an honest one passes."""
    weights, examples = first_weights(), data()

    def session(answer: Any) -> list[bool]:
        head, tail = parts(weights)
        watch = rehearsed(MLP, weights, examples, 8, "adam", 0.01, seed=5)
        said = []
        for step in range(30):
            some = np.random.default_rng([9, step]).permutation(len(examples))[:8]
            features = head.forward(examples.images[some])
            head.backward(examples.images[some], answer(tail, features.numpy(), examples.labels[some]))
            assert head.felt is not None
            said.append(watch.look(head.felt).hijacked)
        return said

    assert not any(session(lambda tail, features, labels: tail.step(features, labels)[0]))
    assert session(lambda tail, features, labels: features - 1)[WINDOW - 1]
