"""The metrics against hand-computed values and against Keras' own losses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssh.models import score
from fedssh.models.backend import load_keras


def test_binary_metrics_by_hand() -> None:
    found = score.score(np.array([[0.9], [0.2], [0.6], [0.4]]), np.array([1, 0, 0, 1]), 2)
    assert found["accuracy"] == 0.5
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert found["precision"] == found["recall"] == 0.5
    assert found["auc"] == 0.75  # of the four pairs, only (0.6, 0.4) is the wrong way round
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.4]).mean())
    assert found["per_class_accuracy"] == [0.5, 0.5]
    json.dumps(found, allow_nan=False)


def test_many_classes_by_hand() -> None:
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    found = score.score(table, np.array([0, 1, 2, 2]), 3)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert found["accuracy"] == 0.75
    assert found["recall"] == pytest.approx(2.5 / 3)
    assert found["precision"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["per_class_accuracy"] == [1, 1, 0.5]
    assert found["auc"] == 1.0


@pytest.mark.parametrize("classes", [2, 5])
def test_the_loss_is_keras_loss_also_for_certain_mistakes(classes: int) -> None:
    keras = load_keras()
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 40)
    if classes == 2:
        table = random.random((40, 1)).astype(np.float32)
        table[:4, 0] = [0, 1, 0, 1]
        expected = keras.losses.binary_crossentropy(labels[:, None].astype(np.float32), table)
    else:
        table = random.dirichlet(np.ones(classes), 40).astype(np.float32)
        table[:2] = np.eye(classes, dtype=np.float32)[:2]
        expected = keras.losses.sparse_categorical_crossentropy(labels, table)
    # float32 cannot hold 1 - 1e-7 exactly, hence the tolerance.
    assert score.score(table, labels, classes)["loss"] == pytest.approx(float(np.mean(expected)), rel=0.01)


def test_a_probability_of_one_half_is_class_0_as_in_keras() -> None:
    keras = load_keras()
    half = np.array([[0.5], [0.5]], np.float32)
    expected = float(np.mean(keras.metrics.binary_accuracy(np.array([[0.0], [0.0]]), half)))
    assert score.score(half, np.array([0, 0]), 2)["accuracy"] == expected == 1.0


def test_one_class_only_has_no_auc() -> None:
    found = score.score(np.array([0.2, 0.7]), np.array([1, 1]), 2)
    assert found["auc"] is None
    assert found["per_class_accuracy"] == [None, 0.5]
    json.dumps(found, allow_nan=False)


def test_a_class_without_examples_does_not_count_in_the_means() -> None:
    found = score.score(np.eye(3)[[0, 1]], np.array([0, 1]), 3)
    assert found["auc"] == found["recall"] == found["precision"] == 1.0
    assert found["per_class_accuracy"] == [1, 1, None]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_what_weighs_classes_alike_is_scikit_learns(classes: int, seed: int) -> None:
    """With rare classes, with one that has no example, and with one that nothing is taken for."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    random = np.random.default_rng([classes, seed])
    for labels in (random.integers(0, classes, 30), np.minimum(random.integers(0, 2, 30), random.integers(0, 2, 30))):
        table = random.dirichlet(np.ones(classes), 30)
        table[:, -1] *= seed % 2  # so that now and then nothing is taken for the last class
        found, predicted = score.score(table / table.sum(1, keepdims=True), labels, classes), table.argmax(axis=1)
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
        average = {"average": "binary"} if classes == 2 else {"average": "macro", "labels": np.unique(labels)}
        expected = f1_score(labels, predicted, zero_division=0, **average)
        assert found["f1"] == pytest.approx(expected, abs=1e-12)


def test_one_class_only_still_has_a_balanced_accuracy() -> None:
    found = score.score(np.array([0.2, 0.7]), np.array([0, 0]), 2)
    assert (found["balanced_accuracy"], found["f1"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("table", "labels", "classes", "message"),
    [
        (np.array([0.1, np.nan]), [0, 1], 2, "1 of the predictions are not finite"),
        (np.array([0.1, 0.2]), [0], 2, "2 predictions for 1 labels"),
        (np.zeros((0, 1)), [], 2, "0 predictions for 0 labels"),
        (np.ones((2, 3)), [0, 1], 4, "one column for each of 4"),
        (np.array([0.1, 0.2]), [0, 2], 2, r"expected 0\.\.1"),
    ],
)
def test_what_does_not_fit_is_named(table: np.ndarray, labels: list[int], classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score.score(table, np.array(labels), classes)


def _as_scikit_learn(table: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, object]:
    """What scikit-learn says of probabilities, float64 [n, classes]."""
    from sklearn import metrics

    predicted, every, present = table.argmax(axis=1), list(range(classes)), np.unique(labels)
    clipped = np.clip(table, score.CLIP, 1 - score.CLIP)
    how = {"average": "binary"} if classes == 2 else {"average": "macro", "labels": present}
    areas = [metrics.roc_auc_score(labels == one, table[:, one]) for one in present] if len(present) > 1 else []
    if classes == 2:
        areas = areas[1:]
    return {
        "loss": metrics.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=every),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "precision": metrics.precision_score(labels, predicted, zero_division=0, **how),
        "recall": metrics.recall_score(labels, predicted, zero_division=0, **how),
        "auc": np.mean(areas) if areas else None,
        "confusion": metrics.confusion_matrix(labels, predicted, labels=every).tolist(),
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), classes=st.sampled_from([2, 3, 10]), number=st.integers(1, 400),
    steps=st.sampled_from([2, 10, 1000, 0]), sharp=st.sampled_from([0.0, 1.0, 30.0]),
)  # fmt: skip
def test_everything_is_scikit_learns_to_the_last_digit(
    seed: int, classes: int, number: int, steps: int, sharp: float
) -> None:
    """With ties, certain mistakes, classes without examples, and one example."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, random.integers(1, classes + 1), number)
    table = np.exp(sharp * random.normal(size=(number, classes)) + np.eye(classes)[labels])
    table = (table / table.sum(axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    if steps:
        table = np.round(table * steps) / steps
    if classes == 2:
        table[:, 0] = 1 - table[:, 1]
    found = score.score(table[:, 1] if classes == 2 else table, labels, classes)
    expected = _as_scikit_learn(table, labels, classes)
    assert {name: found[name] for name in expected} == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), number=st.integers(2, 300), steps=st.sampled_from([2, 10, 0]))
def test_areas_of_several_labels_are_scikit_learns(seed: int, number: int, steps: int) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    truth, outputs = random.integers(0, 2, (number, 3)), random.random((number, 3), np.float32).astype(np.float64)
    if steps:
        outputs = np.round(outputs * steps) / steps
    both = [0 < one.sum() < number for one in truth.T]
    expected = [roc_auc_score(truth[:, at], outputs[:, at]) if ok else None for at, ok in enumerate(both)]
    assert score.several(outputs, truth)["per_label_auc"] == expected
