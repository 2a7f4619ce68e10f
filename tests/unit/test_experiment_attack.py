"""What attackers send, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.definition.attack import cover, forge, read_attack
from experiments.definition.backdoor import poisoned, stamped, success
from fedssh.models.data.images import Images

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


STEPS = [
    {"kernel": np.array([step, 1.0, 0.0], np.float32), "bias": np.zeros(2, np.float32)} for step in (1.0, 2.0, 6.0)
]


def test_alie_is_a_few_deviations_from_the_mean_of_the_honest_steps() -> None:
    sent = forge(read_attack("alie:1.5"), BASE, TRAINED, 1, STEPS)
    np.testing.assert_allclose(sent["kernel"], [4 - 1.5 * math.sqrt(14 / 3), 3.0, -1.0], rtol=1e-6)
    assert sent["kernel"].dtype == np.float32


def test_inner_product_manipulation_is_against_the_mean_of_the_honest_steps() -> None:
    sent = forge(read_attack("ipm:0.5"), BASE, TRAINED, 1, STEPS)
    np.testing.assert_allclose(sent["kernel"], [1 - 0.5 * 3, 2 - 0.5, -1.0], rtol=1e-6)


@pytest.mark.parametrize("text", ["alie:1.5", "ipm"])
def test_who_knows_of_nobody_sends_what_it_trained(text: str) -> None:
    assert forge(read_attack(text), BASE, TRAINED, 1) == TRAINED


@pytest.mark.parametrize(("sites", "attackers", "share"), [(50, 24, 24 / 26), (51, 24, 25 / 27), (5, 2, 2 / 3)])
def test_the_cover_among_many_is_that_of_the_paper(sites: int, attackers: int, share: float) -> None:
    from scipy.stats import norm

    assert cover(sites, attackers) == pytest.approx(norm.ppf(share))


@pytest.mark.parametrize(("sites", "attackers", "said"), [(5, 1, "no cover"), (5, 3, "most of them"), (4, 4, "most")])
def test_there_is_no_cover_without_a_crowd(sites: int, attackers: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cover(sites, attackers)


def test_a_boosted_backdoor_goes_its_step_several_times() -> None:
    assert forge(read_attack("backdoor:0"), BASE, TRAINED, 1) == TRAINED
    sent = forge(read_attack("backdoor:0,boost=4"), BASE, TRAINED, 1)
    np.testing.assert_allclose(sent["kernel"], [3.0, 2.0, -5.0])


def dark(number: int, side: int = 20) -> Images:
    return Images(np.zeros((number, side, side, 1), np.float32), np.arange(number, dtype=np.int64) % 3)


def test_a_share_of_the_images_gets_the_patch_and_the_label() -> None:
    images = dark(40)
    found = poisoned(images, read_attack("backdoor:2,share=0.25"), 7)
    marked = found.images.reshape(40, -1).any(axis=1)
    assert marked.sum() == 10
    assert set(found.labels[marked]) == {2}
    assert np.array_equal(found.labels[~marked], images.labels[~marked])
    assert not images.images.any()


def test_the_patch_is_a_tenth_of_the_side_at_the_bottom_on_the_right() -> None:
    patch = stamped(dark(1, 20).images)[0, :, :, 0]
    assert patch[-2:, -2:].tolist() == [[1, 1], [1, 1]]
    assert patch.sum() == 4


def test_success_is_the_share_of_other_classes_that_is_called_so() -> None:
    def scores(images: Images) -> dict[str, object]:
        assert 2 not in images.labels
        called = np.where(images.images.any(axis=(1, 2, 3)) & (images.labels == 0), 2, images.labels)
        table = [[int(((images.labels == true) & (called == one)).sum()) for one in range(3)] for true in range(3)]
        return {"confusion": table}

    assert success(read_attack("backdoor:2"), dark(30), scores) == {"stamped": 0.5, "plain": 0.0}
