"""Sums in several ways: each gives the plain one, and the page has what was found."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from experiments.machine import ROOT
from experiments.pride import rounds, ways
from experiments.pride.paillier import Key

COUNTS = [351, 64, 4000]


@pytest.fixture(scope="module")
def key() -> Key:
    return Key.new(512)


def steps(number: int = 40) -> list[np.ndarray]:
    found = np.random.default_rng(1).normal(0, 0.3, (3, number))
    found[:, 0], found[:, 1] = ways.REACH, -ways.REACH
    return list(found)


def test_paillier_adds_what_it_has_encrypted(key: Key) -> None:
    numbers = [0, 1, 7, 2**200, int(key.n) - 5]
    for encrypt in (key.encrypt, key.encrypt_textbook):
        ciphertexts = [encrypt(number) for number in numbers]
        assert [key.decrypt(one) for one in ciphertexts] == numbers
        assert key.decrypt(key.add(ciphertexts[1], ciphertexts[4])) == int(key.n) - 4
        assert encrypt(7) != encrypt(7), "the same number is never encrypted the same"
    assert key.n.bit_length() == 512 and key.bytes == 128


@pytest.mark.parametrize("way", [way for way in rounds.WAYS if way != "whole"])
def test_every_way_gives_the_plain_mean(way: str, key: Key) -> None:
    if way == "ckks":
        pytest.importorskip("tenseal", reason="TenSEAL has wheels for Linux on x86-64 alone")
    wanted = np.average(steps(), axis=0, weights=COUNTS)
    with contextlib.ExitStack() as stack:
        mean, cost = rounds._way(way, 3, key, stack)(steps(), COUNTS)
    assert np.abs(mean - wanted).max() < {"ckks": 1e-4, "plain": 1e-6}.get(way, 1e-7)
    assert cost.sent >= 4 * 40 and cost.party > 0 and cost.coordinator > 0


def test_as_many_numbers_as_fit_are_in_a_plaintext(key: Key) -> None:
    with contextlib.ExitStack() as stack:
        way = rounds._way("packed", 3, key, stack)
        _, cost = way(steps(31), COUNTS)
    assert cost.sent == 3 * key.bytes  # 15 numbers of 32 bits are below a modulus of 512


def test_whole_numbers_are_what_the_parties_send() -> None:
    weights = {"one": np.array([[0.4, 1.6]], np.float32), "other": np.array([-0.6], np.float32)}
    mean = np.array([0.5, 2.0, -1.0])
    moved = rounds._moved(weights, mean, whole=True)
    assert moved["one"].tolist() == [[0.5, 2.0]] and moved["other"].tolist() == [-1.0]
    stepped = rounds._moved(weights, mean, whole=False)
    assert np.allclose(stepped["one"], [[0.9, 3.6]]) and np.allclose(stepped["other"], [-1.6])


def test_a_federation_is_the_same_under_masks(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    row = rounds.one(ROOT, key, 2, "iris", 3, "masks", 1)
    assert float(row["apart"]) < 1e-6 and row["weights"] == 131 and row["rounds"] == 2
    plain = rounds.one(ROOT, key, 2, "iris", 3, "plain", 1)
    assert row["accuracy"] == plain["accuracy"] and row["bytes"] > plain["bytes"]


def test_the_irises_to_test_on_are_ten_of_each_sort_and_none_to_train_on() -> None:
    _, train, test, _ = rounds.iris(3)
    assert np.bincount(test.labels).tolist() == [10, 10, 10] and np.bincount(train.labels).tolist() == [40, 40, 40]
    assert test.images.max() <= 1 and train.images.min() >= 0


def test_of_two_parties_no_sum_is_under_masks_and_what_takes_hours_is_left_out() -> None:
    seeds = [1, 2, 3, 4, 5]
    assert rounds._seeds("iris", 2, "masks", seeds) == []
    assert rounds._seeds("iris", 2, "single", seeds) == [1] and rounds._seeds("mnist", 3, "single", seeds) == []
    assert rounds._seeds("mnist", 3, "masks", seeds) == [1, 2, 3] and rounds._seeds("mnist", 3, "packed", seeds) == [1]
    assert rounds._seeds("mnist", 10, "packed", seeds) == []


def test_the_page_has_what_was_found() -> None:
    assert rounds.PAGE.read_text() == rounds.page(), "scripts/experiment pride --tables"
