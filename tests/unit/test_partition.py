"""The rules: every example once, same seed same parts, and what each rule promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.models.data import partition

LABELS = np.repeat(np.arange(4), [400, 300, 200, 100])


@given(
    labels=st.lists(st.integers(0, 4), min_size=30, max_size=120).map(np.array),
    parts=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    rule=st.sampled_from(["iid", "dirichlet:0.001", "dirichlet:0.5", "dirichlet:100"]),
)
def test_every_example_is_in_exactly_one_part_of_equal_size(
    labels: np.ndarray, parts: int, seed: int, rule: str
) -> None:
    found = partition.split(rule, labels, parts, seed)
    assert sorted(np.concatenate(found)) == list(range(len(labels)))
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 1
    again = partition.split(rule, labels, parts, seed)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


@given(
    patients=st.lists(st.integers(0, 9), min_size=40, max_size=80).map(np.array),
    parts=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_patient_is_in_two_parts(patients: np.ndarray, parts: int, seed: int) -> None:
    if len(np.unique(patients)) < parts:
        return
    found = partition.by_patient(patients, parts, seed)
    assert sorted(np.concatenate(found)) == list(range(len(patients)))
    owners = [set(patients[part]) for part in found]
    assert all(owners)
    assert sum(map(len, owners)) == len(set(patients))


def test_patients_are_spread_evenly() -> None:
    patients = np.repeat([f"p{number}" for number in range(30)], 10)
    assert [len(part) for part in partition.by_patient(patients, 3, 1)] == [100, 100, 100]


def test_iid_keeps_the_shares_of_the_classes() -> None:
    for part in partition.iid(LABELS, 3, 7):
        counts = np.bincount(LABELS[part], minlength=4)
        assert np.all(np.abs(counts - np.array([400, 300, 200, 100]) / 3) <= 1)


def test_another_seed_gives_other_parts() -> None:
    for rule in ("iid", "dirichlet:1"):
        one, other = partition.split(rule, LABELS, 2, 1)[0], partition.split(rule, LABELS, 2, 2)[0]
        assert not np.array_equal(one, other)


def test_alpha_goes_from_one_class_per_part_to_equal_shares() -> None:
    def skew(alpha: float) -> float:
        """Mean distance of the parts' shares from the whole's, in 0..1."""
        parts = [part for seed in range(20) for part in partition.dirichlet(LABELS, 4, seed, alpha)]
        shares = np.array([np.bincount(LABELS[part], minlength=4) / len(part) for part in parts])
        return float(np.abs(shares - [0.4, 0.3, 0.2, 0.1]).sum(axis=1).mean() / 2)

    skews = [skew(alpha) for alpha in (0.01, 1, 100, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.4
    assert skews[-1] < 0.08  # what drawing 250 examples by lot leaves


@given(
    labels=st.lists(st.integers(0, 4), min_size=30, max_size=120).map(np.array),
    parts=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    rule=st.sampled_from(["skew:0.5", "skew:100", "classes:1", "classes:2", "shards:1", "shards:3"]),
)
def test_every_example_is_in_exactly_one_part_of_any_size(labels: np.ndarray, parts: int, seed: int, rule: str) -> None:
    try:
        found = partition.split(rule, labels, parts, seed, minimum=0)
    except ValueError as error:
        assert "cannot be made of" in str(error)  # a draw without so many classes
        return
    assert len(found) == parts
    assert sorted(np.concatenate(found)) == list(range(len(labels)))
    again = partition.split(rule, labels, parts, seed, minimum=0)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_shards_are_of_equal_size_and_give_few_classes() -> None:
    labels = np.repeat(np.arange(10), 60)
    found = partition.shards(labels, 30, 1, 2)
    assert [len(part) for part in found] == [20] * 30
    assert max(len(np.unique(labels[part])) for part in found) == 2


def test_parts_of_so_many_classes_share_each_class_evenly() -> None:
    labels = np.repeat(np.arange(10), 60)
    found = partition.by_classes(labels, 10, 1, 2)
    assert [len(np.unique(labels[part])) for part in found] == [2] * 10
    for name in range(10):
        having = [count for part in found if (count := int(np.sum(labels[part] == name)))]
        assert max(having) - min(having) <= 1


def test_skewed_parts_differ_in_size_and_classes() -> None:
    found = partition.skew(LABELS, 4, 1, 0.5)
    assert max(map(len, found)) > 2 * min(map(len, found)) >= 20
    even = partition.skew(LABELS, 4, 1, 1e6)
    assert max(map(len, even)) - min(map(len, even)) < 20


@pytest.mark.parametrize(
    ("rule", "parts", "message"),
    [
        ("even", 2, "'even' is no partition, expected iid, dirichlet:ALPHA, skew:ALPHA, classes:K, shards:N or by_"),
        ("dirichlet", 2, "is no partition"),
        ("dirichlet:x", 2, "is no partition"),
        ("dirichlet:0", 2, "greater than 0"),
        ("dirichlet:nan", 2, "greater than 0"),
        ("iid", 101, "1000 examples do not suffice for 101 parts of at least 10"),
        ("dirichlet:1", 0, "do not suffice"),
        ("by_patient", 2, "does not say which patient"),
        ("skew", 2, "is no partition"),
        ("skew:-1", 2, "greater than 0"),
        ("skew:0.0001", 100, "in 1000 draws .* fewer than 10 examples"),
        ("classes:1.5", 2, "is no partition"),
        ("classes:5", 2, "parts of 5 classes each cannot be made of 4 classes"),
        ("classes:1", 90, "1 classes each leave one of 90 parts with 4 examples"),
        ("shards", 2, "is no partition"),
        ("shards:0", 2, "a part has 0 shards"),
        ("shards:501", 2, "1000 examples do not suffice for 2 parts of at least 501"),
    ],
)
def test_what_cannot_be_divided_is_named(rule: str, parts: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition.split(rule, LABELS, parts, 0)


def test_too_few_patients_are_named() -> None:
    with pytest.raises(ValueError, match="2 patients cannot be divided among 3 parts"):
        partition.by_patient(np.array([1, 1, 2]), 3, 0)


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=60).map(lambda rest: np.array([0, 1, 2] * 5 + rest)),
    k=st.integers(2, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_example_is_validated_on_once_and_never_trained_on_then(labels: np.ndarray, k: int, seed: int) -> None:
    found = partition.folds(labels, k, seed)
    assert len(found) == k
    assert sorted(np.concatenate([val for _, val in found])) == list(range(len(labels)))
    for train, val in found:
        assert sorted([*train, *val]) == list(range(len(labels)))
        for one in range(3):  # the classes keep their shares, up to one example
            assert abs(np.sum(labels[val] == one) - np.sum(labels == one) / k) < 1
    again = partition.folds(labels, k, seed)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, again, strict=True))


def test_another_seed_gives_other_folds() -> None:
    assert not np.array_equal(partition.folds(LABELS, 5, 1)[0][1], partition.folds(LABELS, 5, 2)[0][1])


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [([0, 0, 0, 1], 2, "class 1 has 1"), ([0, 0, 1, 1], 1, "k >= 2"), ([], 2, "there are none")],
)
def test_folds_that_a_class_cannot_fill_are_refused(labels: list[int], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition.folds(np.array(labels, dtype=np.int64), k, 0)


def test_per_label_draws_as_many_of_every_class_without_repeating() -> None:
    drawn = partition.per_label(LABELS, 90, 4)
    assert np.bincount(LABELS[drawn]).tolist() == [90, 90, 90, 90]
    assert len(set(drawn)) == 360
    assert np.array_equal(drawn, np.sort(drawn))
    assert np.array_equal(partition.per_label(LABELS, 90, 4), drawn)
    assert not np.array_equal(partition.per_label(LABELS, 90, 5), drawn)
    for number in (0, 101):
        with pytest.raises(ValueError, match=rf"examples, {number} cannot be drawn"):
            partition.per_label(LABELS, number, 4)
