"""A loss calibrated for unlike labels: what logits are moved by, what is told of a holdout, which plans are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedssh.alice.fitting import loss_of
from fedssh.errors import BundleError, SettingsError
from fedssh.models import check_spec
from fedssh.models.calibrated import BOUND, shift, told
from fedssh.rules.label_shares import LEAST, MOST_CLASSES, SHARES, label_shares
from fedssh.rules.plan import read_plan
from fedssh.rules.terms import agree, written_loss
from tests.unit.test_agreement import OLD_PLAN, SETTINGS


def labelled(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


# what logits are moved by


@pytest.mark.parametrize(
    ("counts", "shares", "moved"),
    [
        ((10, 30), (0.25, 0.75), [0.0]),
        ((30, 10), (0.25, 0.75), [math.log(1 / 3) - math.log(3)]),
        ((1, 999), (0.5, 0.5), [math.log(999)]),
        ((0, 5), (0.25, 0.75), [BOUND]),
        ((5, 0), (0.25, 0.75), [-BOUND]),
        ((10, 20, 70), (0.1, 0.2, 0.7), [0.0, 0.0, 0.0]),
        ((80, 20, 0), (0.4, 0.4, 0.2), [math.log(2), math.log(0.5), -BOUND]),
        ((80, 20, 0), (0.44, 0.44, 0.22), [math.log(2), math.log(0.5), -BOUND]),  # rounded shares may sum up to more
        ((1, 0, 0), (0.4, 0.4, 0.2), [math.log(2.5), -BOUND, -BOUND]),
    ],
)
def test_logits_are_moved_by_what_labels_here_are_more_than_at_the_coordinator(
    counts: tuple[int, ...], shares: tuple[float, ...], moved: list[float]
) -> None:
    found = shift(labelled(*counts), shares)
    assert found.dtype == np.float32
    assert found == pytest.approx(moved, abs=1e-6)
    assert shift(np.random.default_rng(0).permutation(labelled(*counts)), shares).tolist() == found.tolist()


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((30, 10), "the logit of class 1 is moved by -1.10; scores stay plain"),
        ((0, 10), "all are of one class, so hardly anything is learned from them"),
        ((10, 10, 20), "logits are moved by -0.29 to +0.41; scores stay plain"),
        ((10, 0, 30), "logits are moved by -0.29 to +0.81, 1 of 3 classes are not here; scores stay plain"),
    ],
)
def test_a_site_is_told_what_it_means_there(counts: tuple[int, ...], words: str) -> None:
    shares = (1 / len(counts),) * len(counts)
    assert told(labelled(*counts), shares) == f"the training loss is calibrated for the labels here: {words}"


def test_which_classes_a_site_lacks_say_its_own_labels() -> None:
    """Not how far a logit is moved, which is the coordinator's affair as well."""
    start = "the training loss is calibrated for the labels here: "
    assert shift(labelled(10, 20, 30), (0.5, 0.5, 5e-324)).max() == BOUND
    assert (
        told(labelled(10, 20, 30), (0.5, 0.5, 5e-324))
        == f"{start}logits are moved by -1.10 to +20.00; scores stay plain"
    )
    assert told(labelled(10, 30), (1.0, 5e-324)) == f"{start}the logit of class 1 is moved by +20.00; scores stay plain"


# what is told of a holdout


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ((135, 389), [0.26, 0.74]),
        ((0, 50), [0.1, 0.9]),
        ((2, 3), [0.5, 0.5]),
        ((0, 10_000), [0.0005, 0.99]),
        ((0, 500_000), [LEAST, 0.99]),
        ((7, 10_000_000), [LEAST, 0.99]),
        ((456 * 10**6, 88 * 10**6, 456 * 10**6) + (0,) * 997, [0.46, 0.088, 0.46] + [LEAST] * 997),
        ((100,) * 7, [0.14] * 7),
    ],
)
def test_shares_are_told_of_whole_steps(counts: tuple[int, ...], shares: list[float]) -> None:
    assert label_shares(counts) == shares
    assert list(SHARES(shares)) == shares


def test_no_count_can_be_told_from_the_shares() -> None:
    """Each is told alike with four others, also to who knows how many images there are; in the middle with one."""
    for total in (40, 524, 527):
        told_of: dict[tuple[float, ...], list[int]] = {}
        for count in range(total + 1):
            told_of.setdefault(tuple(label_shares([count, total - count])), []).append(count)
        alike = sorted(map(len, told_of.values()))
        assert alike[0] >= 2 and alike[1] >= 5, told_of


def test_shares_are_close_to_what_they_stand_for() -> None:
    random = np.random.default_rng(1)
    for classes in (2, 3, 10, MOST_CLASSES):
        counts = random.integers(100, 5000, classes)
        shares = SHARES(label_shares(counts.tolist()))
        assert np.abs(np.log(shares) - np.log(counts / counts.sum())).max() < 0.05 + 2.5 / 100 + 0.01, classes
    with pytest.raises(ValueError, match=r"for at most 1,000 classes, here are 1,001"):
        label_shares([9] * (MOST_CLASSES + 1))


# the plan


def calibrated(**changes: Any) -> dict[str, Any]:
    return {**agree(SETTINGS | {"calibrate": "labels"}, {}, "binary_crossentropy")["plan"], **changes}


def test_a_plan_has_the_shares_that_it_is_calibrated_to() -> None:
    plan = read_plan(calibrated(label_shares=[0.26, 0.74]))
    assert (plan.calibrate, plan.label_shares, plan.loss) == ("labels", (0.26, 0.74), "binary_crossentropy")
    assert (read_plan(OLD_PLAN).calibrate, read_plan(OLD_PLAN).label_shares) == ("none", ())


@pytest.mark.parametrize(
    "shares",
    [
        None,
        [],
        [1.0],
        [0.5, 0.5, 5e-324],
        [0.5, 0.5, 0.99e-5],
        [0.5, 0.6],
        [0.0, 1.0],
        [0.5, math.nan],
        ["0.5", 0.5],
        [True, 0.1],
        {"0": 1},
        [0.001] * 1001,
    ],
)
def test_shares_that_are_none_are_refused(shares: Any) -> None:
    with pytest.raises(
        BundleError, match=r"'label_shares' of the training plan.*its share, 0\.00001 or more and below 1"
    ):
        read_plan(calibrated(label_shares=shares))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(BundleError, match="the training plan lacks 'label_shares', and its 'calibrate' is labels"):
        read_plan(calibrated())
    with pytest.raises(BundleError, match="the training plan has 'label_shares', and its 'calibrate' is none"):
        read_plan({**OLD_PLAN, "label_shares": [0.5, 0.5]})
    both = {**OLD_PLAN, "calibrate": "labels", "label_shares": [0.5, 0.5], "class_weights": "balanced"}
    with pytest.raises(BundleError, match="the training plan's calibrate labels goes with no class weights"):
        read_plan(written_loss(both, "auto"))
    three = check_spec({"name": "mlp", "input": [2, 2, 1], "classes": 3})
    plan = read_plan(calibrated(label_shares=[0.5, 0.5], loss="auto with calibrate"))
    with pytest.raises(SettingsError, match="label shares of 2 classes do not fit a network that tells 3 classes"):
        loss_of(three, plan)
