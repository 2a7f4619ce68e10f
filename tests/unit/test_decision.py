"""Thresholds, temperatures, calibration and intervals, against scikit-learn, SciPy and plain definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score, roc_curve

from fedssh.models import decision


def drawn(seed: int, count: int = 200, digits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of class 1 as a network gives them, float32, and labels that they tell something of."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.6).astype(np.int64)
    logits = random.normal(1.5 * (2 * labels - 1), 2)
    positive = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return (positive if digits is None else positive.round(digits)), labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [None, 1])
def test_thresholds_are_where_the_roc_curve_has_them(seed: int, digits: int | None) -> None:
    positive, labels = drawn(seed, digits=digits)
    false, true, _ = roc_curve(labels, positive, drop_intermediate=False)
    for kind, value in (("youden", 0.0), ("sensitivity", 0.95), ("sensitivity", 1.0), ("specificity", 0.9)):
        threshold = decision.choose(positive, labels, kind, value)
        (right, wrong), (missed, found) = decision.at(positive, labels, threshold)
        assert [[right, wrong], [missed, found]] == confusion_matrix(labels, positive >= threshold).tolist()
        sensitivity, specificity = found / (missed + found), right / (right + wrong)
        assert 0 <= threshold <= 1
        if kind == "youden":
            assert sensitivity + specificity - 1 == pytest.approx((true - false).max())
        elif kind == "sensitivity":
            assert sensitivity >= value - 1e-12
            assert specificity == pytest.approx(1 - false[true >= value - 1e-12].min())
        else:
            assert specificity >= value - 1e-12
            assert sensitivity == pytest.approx(true[1 - false >= value - 1e-12].max())


def test_a_threshold_lies_well_between_what_occurs() -> None:
    positive, labels = np.array([0.1, 0.30001, 0.41, 0.9], np.float32), np.array([0, 0, 1, 1])
    assert decision.choose(positive, labels, "youden", None) == 0.36
    assert decision.choose(positive, labels, "specificity", 1.0) == 0.36
    assert decision.choose(positive, np.array([1, 0, 0, 1]), "sensitivity", 1.0) == 0.05, "below the lowest"
    assert decision.choose(positive, np.array([0, 1, 0, 0]), "specificity", 1.0) == 0.95, "above the highest"
    assert decision.choose(positive, labels, "fixed", 0.2) == 0.2


def test_neighbours_of_the_same_type_are_told_apart() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    positive, labels = np.array([low, high]), np.array([0, 1])
    assert decision.at(positive, labels, decision.choose(positive, labels, "youden", None)) == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("positive", "labels", "kind", "value", "error"),
    [
        ([0.2, 0.4], [1, 1], "youden", None, "a threshold needs examples of both classes"),
        ([1.0, 1.0, 1.0], [0, 0, 1], "specificity", 0.9, "no threshold has a specificity of 0.9: too many"),
    ],
)
def test_what_has_no_threshold_is_said(
    positive: list[float], labels: list[int], kind: str, value: float | None, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        decision.choose(np.array(positive), np.array(labels), kind, value)


@pytest.mark.parametrize("seed", range(3))
def test_in_steps_a_threshold_keeps_the_rule_and_tells_less(seed: int) -> None:
    positive, labels = drawn(seed)
    for kind, value in (("youden", None), ("sensitivity", 0.95), ("specificity", 0.9)):
        threshold = decision.choose(positive, labels, kind, value, steps=True)
        assert threshold in (0.0, *decision.STEPS)
        (right, wrong), (missed, found) = decision.at(positive, labels, threshold)
        shares = {"sensitivity": found / (missed + found), "specificity": right / (right + wrong)}
        assert value is None or shares[kind] >= value


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_is_that_of_the_lowest_cross_entropy(classes: int) -> None:
    random = np.random.default_rng(classes)
    logits = random.normal(0, 3, (400, classes))
    softmax = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(classes, p=row) for row in softmax])
    sure = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = decision.fit_temperature(sure, labels, 0.05, 20)
    there = minimize(lambda t: log_loss(labels, decision.tempered(sure, t[0]), labels=range(classes)), [1.0], tol=1e-9)
    assert found == pytest.approx(there.x[0], rel=2e-3) and found == pytest.approx(2.5, rel=0.2)
    expected = np.exp(logits / found) / np.exp(logits / found).sum(axis=1, keepdims=True)
    assert np.allclose(decision.tempered(sure, found), expected, atol=1e-6)
    in_steps = decision.fit_temperature(sure, labels, 0.05, 20, steps=True)
    assert math.log2(in_steps) * 4 == pytest.approx(round(math.log2(in_steps) * 4), abs=1e-3)
    before, after = (decision.calibration_error(table, labels) for table in (sure, decision.tempered(sure, found)))
    assert after < before / 2


def test_the_calibration_error_is_that_of_its_definition() -> None:
    positive, labels = drawn(1)
    table = decision.columns(positive, 2)
    sure, right, total = table.max(axis=1), table.argmax(axis=1) == labels, 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert decision.calibration_error(table, labels) == pytest.approx(total)
    low, high = decision.calibration_interval(table, labels)
    assert low < total < high and (low, high) == decision.calibration_interval(table, labels)


def test_the_interval_of_an_auc_is_by_delongs_variance() -> None:
    positive, labels = drawn(2, count=60, digits=1)  # with ties
    ill, well = positive[labels == 1], positive[labels == 0]
    wins = np.array([[(one > other) + (one == other) / 2 for other in well] for one in ill])
    spread = wins.mean(axis=1).var(ddof=1) / len(ill) + wins.mean(axis=0).var(ddof=1) / len(well)
    area = roc_auc_score(labels, positive)
    expected = area - 1.959964 * math.sqrt(spread), min(1.0, area + 1.959964 * math.sqrt(spread))
    assert decision.auc_interval(positive, labels) == pytest.approx(expected)
    assert decision.auc_interval(np.array([0.1, 0.9]), np.array([0, 1])) is None
    assert decision.auc_interval(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])) is None


def test_two_classes_come_in_any_shape() -> None:
    for outputs in (np.full(5, 0.25), np.full((5, 1), 0.25), np.tile([0.75, 0.25], (5, 1))):
        assert decision.columns(outputs, 2).tolist() == [[0.75, 0.25]] * 5


@pytest.mark.parametrize("images", [20, 300, 5000])
def test_a_curve_is_that_of_scikit_learn_thinned(images: int) -> None:
    """Each point lies on it, and between two of them no more than a hundredth of the way is left out."""
    from sklearn.metrics import auc, roc_auc_score, roc_curve

    chance = np.random.default_rng(images)
    labels = (chance.random(images) < 0.4).astype(int)
    positive = np.round(1 / (1 + np.exp(-(chance.normal(size=images) + 1.5 * labels))), 3)  # with ties
    found = decision.curve(positive, labels)
    assert found is not None and len(found) <= 201
    every = list(zip(*roc_curve(labels, positive, drop_intermediate=False), strict=True))[
        1:
    ]  # the first is of no image
    whole = {round(float(at), 6): (float(share), float(hit)) for share, hit, at in every}
    for at, share, hit in found:
        assert whole[at] == pytest.approx((share, hit), abs=1e-6)
    assert found[-1][1:] == [1.0, 1.0]
    area = auc([0, *(share for _, share, _ in found)], [0, *(hit for _, _, hit in found)])
    assert area == pytest.approx(roc_auc_score(labels, positive), abs=0.01)
    for before, after in itertools.pairwise([[2.0, 0.0, 0.0], *found]):
        assert before[0] > after[0]
        left_out = [way for at, way in whole.items() if before[0] > at > after[0]]
        assert all(sum(way) - sum(before[1:]) < 0.01 + 1e-9 for way in left_out)


@pytest.mark.parametrize("scale", [1, 4, 8, 20, 60])
def test_a_curve_of_a_model_that_is_sure_can_be_written_down(scale: float) -> None:
    """Many of its probabilities differ in the eighth digit alone: they are one, as they are written."""
    from fedssh.rules.events import Tested
    from fedssh.rules.tested import objection

    chance = np.random.default_rng(4)
    labels = (chance.random(600) < 0.5).astype(int)
    logits = np.clip(scale * (chance.normal(size=600) + 2 * labels - 1), -80, 80).astype(np.float32)
    found = decision.curve(1 / (1 + np.exp(-logits)), labels)
    assert found is not None
    curve = tuple(map(tuple, found))
    assert objection(Tested(of=1, split="test", examples=600, metrics={}, curve=curve)) == ""


def test_a_curve_takes_both_classes() -> None:
    assert decision.curve(np.array([0.2, 0.8]), np.array([1, 1])) is None
    assert decision.curve(np.array([0.2, 0.8]), np.array([0, 1])) == [[0.8, 0.0, 1.0], [0.2, 1.0, 1.0]]
    assert decision.curve(np.array([0.5, 0.5]), np.array([0, 1])) == [[0.5, 1.0, 1.0]]
