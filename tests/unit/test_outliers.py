"""Outliers against distances computed by hand, and what dropping them leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.models.data import outliers

# Class 0: mean (3, 0), distances 3, 2, 1, 6. Class 1: mean (0, 5), distances 5, 0, 5.
POINTS = np.array([[0, 0], [1, 0], [0, 10], [2, 0], [9, 0], [0, 5], [0, 0]], dtype=np.float32)
LABELS = np.array([0, 0, 1, 0, 0, 1, 1])


def test_distances_are_those_from_the_mean_of_the_class() -> None:
    assert outliers.distances(POINTS, np.flatnonzero(LABELS == 0)).tolist() == [3, 2, 1, 6]
    assert outliers.distances(POINTS, np.flatnonzero(LABELS == 1)).tolist() == [5, 0, 5]
    pair = np.array([[[0.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])[..., np.newaxis]  # images of 2x2x1
    assert outliers.distances(pair, np.arange(2)).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6]),
        (0.25, [0, 1, 2, 3, 5, 6]),  # one of four; three quarters of one is none
        (0.34, [0, 1, 2, 3, 5]),  # among equals the later one goes
        (0.5, [1, 2, 3, 5]),
        (0.67, [1, 3, 5]),
        (0.99, [3, 5]),
    ],
)
def test_the_farthest_of_each_class_are_dropped(share: float, kept: list[int]) -> None:
    assert outliers.drop_outliers(POINTS, LABELS, share).tolist() == kept


def test_a_share_that_binary_fractions_miss_is_not_rounded_down() -> None:
    assert 0.29 * 100 < 29
    assert len(outliers.drop_outliers(np.arange(100.0)[:, np.newaxis], np.zeros(100, int), 0.29)) == 71


def test_classes_larger_than_what_is_compared_at_once() -> None:
    random = np.random.default_rng(0)
    images = random.random((3 * outliers.AT_ONCE + 7, 3, 2, 1), dtype=np.float32)
    flat = images.reshape(len(images), -1).astype(np.float64)
    expected = np.linalg.norm(flat - flat.mean(axis=0), axis=1)
    assert np.allclose(outliers.distances(images, np.arange(len(images))), expected)


@given(
    labels=st.lists(st.integers(0, 3), max_size=40).map(lambda some: np.array(some, dtype=np.int64)),
    share=st.floats(0, 0.99),
)
def test_every_class_keeps_its_part_and_the_order(labels: np.ndarray, share: float) -> None:
    images = np.random.default_rng(1).random((len(labels), 4))
    kept = outliers.drop_outliers(images, labels, share)
    assert np.array_equal(kept, np.unique(kept))
    for one in set(labels.tolist()):
        of = np.sum(labels == one)
        assert 0 < of - np.floor(share * of + 1e-8) <= np.sum(labels[kept] == one) <= of


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_that_leaves_nothing_or_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"in 0\.\.1 without 1"):
        outliers.drop_outliers(POINTS, LABELS, share)


def test_every_image_needs_its_label() -> None:
    with pytest.raises(ValueError, match="7 images and 6 labels"):
        outliers.drop_outliers(POINTS, LABELS[:6], 0.1)
