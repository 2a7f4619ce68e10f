"""What attackers send, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.definition.attack import forge, read_attack

BASE = {"kernel": np.array([1.0, 2.0, -1.0], np.float32), "bias": np.zeros(2, np.float32)}
TRAINED = {"kernel": np.array([1.5, 2.0, -2.0], np.float32), "bias": np.array([0.5, 0.0], np.float32)}


def test_sign_flip_goes_the_other_way() -> None:
    sent = forge(read_attack("sign-flip:2"), BASE, TRAINED, 1)
    np.testing.assert_allclose(sent["kernel"], [0.0, 2.0, 1.0])
    np.testing.assert_allclose(sent["bias"], [-1.0, 0.0])


def test_nan_is_everywhere() -> None:
    assert all(np.isnan(array).all() for array in forge(read_attack("nan"), BASE, TRAINED, 1).values())


def test_labels_are_flipped_in_the_data_only() -> None:
    assert forge(read_attack("label-flip"), BASE, TRAINED, 1) == TRAINED


@pytest.mark.parametrize("text", ["noise:0.5", "perturb:0.5"])
def test_noise_is_the_seeds(text: str) -> None:
    attack = read_attack(text)
    one, same, other = (forge(attack, BASE, TRAINED, seed) for seed in (1, 1, 2))
    assert np.array_equal(one["kernel"], same["kernel"])
    assert not np.array_equal(one["kernel"], other["kernel"])
    assert all(array.dtype == np.float32 for array in one.values())


def test_noise_has_its_standard_deviation() -> None:
    wide = {"kernel": np.zeros(20_000, np.float32)}
    assert forge(read_attack("noise:0.5"), wide, wide, 1)["kernel"].std() == pytest.approx(0.5, rel=0.05)


def test_perturbations_are_in_proportion_and_leave_what_is_constant() -> None:
    random = np.random.default_rng(0)
    base = {"kernel": (3 * random.standard_normal(20_000)).astype(np.float32), "bias": np.ones(3, np.float32)}
    sent = forge(read_attack("perturb:0.1"), base, base, 1)
    assert (sent["kernel"] - base["kernel"]).std() == pytest.approx(0.3, rel=0.05)
    assert np.array_equal(sent["bias"], base["bias"])
