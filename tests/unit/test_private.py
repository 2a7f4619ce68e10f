"""What hides single images and patients: clipped and noised sums, draws, noise, and what it all costs."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedssh.models import check_spec, clipped
from fedssh.models.data.images import Images
from fedssh.models.private import PrivateTrainer, objection, poisson, secret_generator, units_of
from fedssh.models.recipe import Recipe
from fedssh.models.training import Trainer, resident
from fedssh.rules.privacy import SITE_LEVEL, Charge, Privacy, charge_of, epsilon, merged, read_privacy

SPEC = check_spec({"name": "mlp", "width": 3, "depth": 1, "input": [2, 2, 1], "classes": 2})
CLIP, NOISE = 0.7, 1.5
PATIENTS = np.array(["a", "b", "a", "c", "b", "a", "d", "e"])


def pictures() -> Images:
    random = np.random.default_rng(3)
    return Images(random.random((8, 2, 2, 1), np.float32) * 4, random.integers(0, 2, 8), PATIENTS)


def trainer(unit: str = "image", **more: Any) -> PrivateTrainer:
    return PrivateTrainer(SPEC, "sgd", 1.0, unit=unit, clip=CLIP, noise=NOISE, **more)


def weights(seed: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=one.shape).astype(np.float32) for name, one in SHAPES.items()}


SHAPES = trainer().weights()


def gradients_of(own: list[np.ndarray], images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Of the mean loss, by hand: one hidden layer with ReLU, one logit, cross-entropy; float64."""
    first, bias, second, _ = own
    flat = images.reshape(len(images), -1).astype(np.float64)
    before = flat @ first + bias
    hidden = np.maximum(before, 0)
    off = (1 / (1 + np.exp(-(hidden @ second + own[3]))) - labels[:, None]) / len(labels)
    back = (off @ second.T) * (before > 0)
    return [flat.T @ back, back.sum(0), hidden.T @ off, off.sum(0)]


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_a_step_goes_along_the_clipped_and_noised_sum(unit: str) -> None:
    images, one = pictures(), trainer(unit)
    one.load(weights())
    one.fresh(1)
    drawn = units_of(np.arange(8), PATIENTS if unit == "patient" else None)[:4]
    noise = one.draw_noise(np.random.default_rng(5))
    own = [array.astype(np.float64) for array in weights().values()]
    total, lengths = [np.zeros(array.shape) for array in own], []
    for at in drawn:
        gradients = gradients_of(own, images.images[at], images.labels[at])
        length = math.sqrt(sum((array**2).sum() for array in gradients))
        lengths.append(length)
        total = [a + b * min(1.0, CLIP / length) for a, b in zip(total, gradients, strict=True)]
    assert min(lengths) < CLIP < max(lengths), "the test needs gradients on both sides of the clip"
    one.step(resident(images), drawn, 2.5, noise)
    wanted = [a - (t + NOISE * CLIP * z) / 2.5 for a, t, z in zip(own, total, noise, strict=True)]
    for found, expected in zip(one.weights().values(), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_pieces_of_a_batch_give_what_single_images_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipped, "MOST", 3)
    spec = check_spec({"name": "cnn", "input": [10, 10, 1], "classes": 3})
    random, after, told = np.random.default_rng(8), [], []
    images = resident(Images(random.random((7, 10, 10, 1), np.float32), random.integers(0, 3, 7)))
    start = Trainer(spec, "sgd", 1.0).weights()
    for pieces in (True, False):
        one = PrivateTrainer(spec, "sgd", 1.0, unit="image", clip=0.4, noise=NOISE, pieces=pieces)
        assert one._piece == (3 if pieces else 0)
        one.load(start)
        one.fresh(1)
        noise = one.draw_noise(np.random.default_rng(5))
        told.append(one.step(images, units_of(np.arange(7), None), 5.0, noise))
        after.append(one.weights())
    for name, found in after[0].items():
        np.testing.assert_allclose(found, after[1][name], rtol=0, atol=1e-6)
    assert told[0] == pytest.approx(told[1])


def test_a_unit_moves_the_sum_by_no_more_than_the_clip() -> None:
    images = pictures()
    images.images[0] = np.inf  # its gradient is no number
    images.images[1] *= 1e6
    silent = [np.zeros(array.shape, np.float32) for array in SHAPES.values()]
    after = []
    for drawn in ([], [[0]], [[1]]):
        one = trainer()
        one.load(weights())
        one.fresh(1)
        one.step(resident(images), [np.array(at) for at in drawn], 1.0, silent)
        after.append(np.concatenate([array.ravel() for array in one.weights().values()]))
    assert np.array_equal(after[0], np.concatenate([array.ravel() for array in weights().values()]))
    assert np.array_equal(after[1], after[0])
    assert np.linalg.norm(after[2] - after[0]) == pytest.approx(CLIP, rel=1e-4)


def test_an_epoch_takes_its_steps_and_no_two_are_the_same() -> None:
    images, found = pictures(), []
    for _ in range(2):
        one = trainer()
        one.load(weights())
        one.fresh(1, epochs=1, steps=4)
        loss, accuracy = one.epoch(resident(images), np.arange(8), 2)
        assert one._optimizer.iterations.numpy() == 4
        assert math.isnan(loss) or (loss > 0 and 0 <= accuracy <= 1)
        found.append(one.weights())
    assert all(not np.array_equal(a, b) for a, b in zip(found[0].values(), found[1].values(), strict=True))


def test_without_noise_and_clip_an_epoch_learns_what_a_plain_one_does() -> None:
    images = pictures()
    private_one = PrivateTrainer(SPEC, "sgd", 0.1, unit="image", clip=1e6, noise=1e-12)
    plain = Trainer(SPEC, "sgd", 0.1)
    for one in (private_one, plain):
        one.load(weights())
        one.fresh(1)
        one.epoch(resident(images), np.arange(8), 8)  # at a rate of 1 every image is in it
    for a, b in zip(private_one.weights().values(), plain.weights().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_each_unit_is_drawn_by_itself() -> None:
    generator, units, rate, times = np.random.default_rng(6), 50, 0.2, 4000
    drawn = np.zeros((times, units))
    for row in drawn:
        row[poisson(generator, units, rate)] = 1
    each, sizes = drawn.mean(0), drawn.sum(1)
    assert abs(each - rate).max() < 5 * math.sqrt(rate * (1 - rate) / times)
    assert sizes.mean() == pytest.approx(units * rate, rel=0.02)
    assert sizes.var() == pytest.approx(units * rate * (1 - rate), rel=0.1)  # of a fixed size it would be 0
    pairs = np.corrcoef(drawn.T) - np.eye(units)
    assert abs(pairs).max() < 6 / math.sqrt(times)


def test_noise_is_normal_and_as_wide_as_agreed() -> None:
    from scipy import stats

    one = PrivateTrainer(check_spec({**SPEC, "width": 3000}), "sgd", 1.0, unit="image", clip=CLIP, noise=NOISE)
    silent = [np.zeros(array.shape, np.float32) for array in one.weights().values()]
    one.load({name: np.zeros_like(array) for name, array in one.weights().items()})
    one.fresh(1)
    one.step(resident(pictures()), [], 2.0, one.draw_noise(np.random.default_rng(7)))
    moved = np.concatenate([array.ravel() for array in one.weights().values()])
    assert len(moved) > 10_000 and len(silent) == 4
    assert stats.kstest(moved, stats.norm(scale=NOISE * CLIP / 2).cdf).pvalue > 0.01
    assert abs(np.corrcoef(moved[:-1], moved[1:])[0, 1]) < 5 / math.sqrt(len(moved))


def test_noise_is_seeded_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr(os, "urandom", urandom)
    assert secret_generator().random() == secret_generator().random()
    assert asked == [32, 32]


def test_a_patients_images_are_one_unit() -> None:
    found = units_of(np.array([7, 0, 2, 4, 3]), PATIENTS)
    assert [one.tolist() for one in found] == [[0, 2], [4], [3], [7]]
    assert [one.tolist() for one in units_of(np.array([5, 1]), None)] == [[1], [5]]
    no_patients = resident(Images(pictures().images, pictures().labels))
    with pytest.raises(ValueError, match="the data does not say whose"):
        trainer("patient").epoch(no_patients, np.arange(8), 2)


@pytest.mark.parametrize("more", [{"class_weights": "balanced"}, {"augment": "flips"}, {"clip_norm": 1.0}])
def test_what_does_not_go_together_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"and private training do not go together"):
        trainer(recipe=Recipe(**more))


def test_statistics_of_batches_are_refused() -> None:
    from keras import Sequential, layers

    def network(trained: bool) -> Any:
        normal = layers.BatchNormalization(name="normal", trainable=trained)
        return Sequential([layers.Input((4,)), layers.Dense(2), Sequential([layers.Input((2,)), normal])])

    assert objection(network(True)) == "its layer normal keeps statistics of batches, which tell of all images in them"
    assert objection(network(False)) == ""
    dropout = Sequential([layers.Input((4,)), layers.Dense(2), layers.Dropout(0.5)])
    assert objection(dropout) == ""


# what it costs


def test_a_full_batch_costs_what_the_gaussian_mechanism_does() -> None:
    """Balle and Wang 2018, theorem 8, solved for epsilon."""
    from scipy import optimize
    from scipy.stats import norm

    def delta(e: float, noise: float) -> float:
        return float(norm.cdf(0.5 / noise - e * noise) - math.exp(e) * norm.cdf(-0.5 / noise - e * noise))

    for noise, steps in ((2.0, 1), (4.0, 9)):
        wide = noise / math.sqrt(steps)
        exact = optimize.brentq(lambda e, wide: delta(e, wide) - 1e-5, 0, 50, args=(wide,))
        assert exact <= epsilon([Charge(noise, 1.0, steps)], 1e-5) < exact + 0.01


def test_costs_as_measured_and_composed() -> None:
    ten = charge_of(Privacy("image", 1.0, 1.0, 1e-4, 8.0), 1201, 64, 10)
    assert (ten.rate, ten.steps) == (64 / 1201, 190)
    assert epsilon([ten], 1e-4) == pytest.approx(4.18, abs=0.01)
    assert epsilon([Charge(2.0, 64 / 1201, 190)], 1e-4) == pytest.approx(1.36, abs=0.01)
    one = charge_of(Privacy("image", 1.0, 1.0, 1e-4, 8.0), 1201, 64, 1)
    assert merged([one] * 10) == [ten] and epsilon([one] * 10, 1e-4) == epsilon([ten], 1e-4)
    other = Charge(1.0, 0.1, 5)
    both = epsilon([one, other], 1e-4)
    assert max(epsilon([one], 1e-4), epsilon([other], 1e-4)) < both < epsilon([one], 1e-4) + epsilon([other], 1e-4)
    assert epsilon([], 1e-4) == 0
    assert charge_of(Privacy("image", 1.0, 1.0, 1e-4, 8.0), 5, 64, 3) == Charge(1.0, 1.0, 3)


def test_an_agreed_rate_costs_every_site_the_same_and_tells_no_count() -> None:
    agreed = Privacy("image", 1.0, 1.0, 1e-4, 8.0, 0.03)
    assert {charge_of(agreed, count, 64, 2) for count in (1, 90, 5000)} == {Charge(1.0, 0.03, 68)}
    assert read_privacy(agreed.fields()) == read_privacy("unit=image,clip=1,noise=1,delta=1e-4,budget=8,rate=0.03")
    without = Privacy("image", 1.0, 1.0, 1e-4, 8.0)
    assert without.fields() == {"unit": "image", "clip": 1.0, "noise": 1.0, "delta": 1e-4, "budget": 8.0}
    for wrong in (0, 1.1):
        with pytest.raises(ValueError, match="rate is"):
            read_privacy({**without.fields(), "rate": wrong})


def test_an_epoch_at_an_agreed_rate_takes_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    one, taken = trainer(rate=0.3), list[tuple[int, float]]()
    step = one.step

    def noted(examples: Any, drawn: Any, expected: float, noise: Any) -> tuple[float, float]:
        taken.append((len(drawn), expected))
        return step(examples, drawn, expected, noise)

    monkeypatch.setattr(one, "step", noted)
    one.fresh(1)
    for _ in range(40):
        one.epoch(resident(pictures()), np.arange(8), 8)  # by the batch size every image would be in each step
    assert len(taken) == 40 * 4 and {expected for _, expected in taken} == {0.3 * 8}
    assert 0.2 < sum(count for count, _ in taken) / (8 * len(taken)) < 0.4


def test_what_may_be_agreed() -> None:
    text = "unit=patient, clip=1, noise=1.1, delta=1e-5, budget=8"
    found = read_privacy(text)
    assert found == Privacy("patient", 1.0, 1.1, 1e-5, 8.0)
    assert read_privacy(found.fields()) == found
    for wrong, why in (
        ("unit=image,clip=1", "noise is missing"),
        (text.replace("patient", "site"), SITE_LEVEL[:40]),
        (text.replace("clip=1", "clip=0"), "clip is 0.0, expected a number above 0"),
        (text.replace("1e-5", "1"), "delta is 1.0"),
        (text + ",clip=2", "once"),
        (text.replace("8", "much"), "expected a number as budget"),
    ):
        with pytest.raises(ValueError, match=why):
            read_privacy(wrong)
    with pytest.raises(ValueError, match="expected some of"):
        read_privacy({**found.fields(), "more": 1})
