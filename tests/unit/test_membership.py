"""How well members are told: against plain counting, against what is published, and of networks that leak or do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh import models
from fedssh.models import tasks
from fedssh.models.backend import load_keras
from fedssh.models.data.images import Images
from fedssh.models.losses import Losses, of_each
from fedssh.models.shadows import shadow_losses
from fedssh.models.training import Trainer, resident
from fedssh.rules import membership
from fedssh.rules.membership import area, area_interval, attacked, by_loss, confidence, halves, lira

FEW_VALUES = st.lists(st.integers(0, 4), min_size=1, max_size=12)
SPECS: list[dict[str, Any]] = [
    {"classes": 2}, {"classes": 4}, {"task": "labels", "labels": 3},
    {"task": "regression", "targets": [{"mean": 3.0, "deviation": 2.0}, {"mean": 0.0, "deviation": 1.0}]},
]  # fmt: skip


def of_pairs(members: list[int], others: list[int]) -> float:
    """The area by its definition: every pair, looked at by itself."""
    won = [1.0 if one > other else 0.5 if one == other else 0.0 for one in members for other in others]
    return sum(won) / len(won)


@given(FEW_VALUES, FEW_VALUES)
def test_the_area_is_that_of_all_pairs_ties_half(members: list[int], others: list[int]) -> None:
    found = attacked(np.array(members), np.array(others), 2.0)
    assert found.auc.value == pytest.approx(of_pairs(members, others), abs=1e-12)
    assert 0 <= found.auc.low <= found.auc.value + 1e-12 and found.auc.value <= found.auc.high + 1e-12 <= 1 + 1e-9
    true, false = (sum(one >= 2 for one in scores) / len(scores) for scores in (members, others))
    assert found.advantage.value == pytest.approx(true - false)
    for rate in found.rates:  # the best of all thresholds that are allowed
        allowed = [at for at in range(-1, 6) if sum(one > at for one in others) <= rate.fpr * len(others)]
        best = max(sum(one > at for one in members) for at in allowed)
        assert rate.tpr.value == best / len(members)


def test_rates_are_of_the_share_of_non_members() -> None:
    others = np.arange(300.0)  # 1 % of them are 3: those above 296
    found = attacked(np.array([299.5, 297.5, 296.5, 296.0, 3.0]), others, 150.0)
    assert [(rate.fpr, rate.wrong, rate.tpr.value) for rate in found.rates] == [(0.01, 3, 0.6), (0.001, 0, 0.2)]


def test_the_interval_is_the_published_one() -> None:
    """At 0.5 its variance is that of Mann and Whitney's statistic without ties; a perfect attack has a width, too."""
    value, low, high = area_interval(0.5, 40, 60)
    assert value == 0.5 and low + high == pytest.approx(1.0)
    at = (1 - low) * low * (1 + 49 * (1 - low) / (2 - low) + 49 * low / (1 + low)) / 2400
    assert abs(0.5 - low) == pytest.approx(1.959964 * math.sqrt(at), rel=1e-9)
    assert membership.chance(40, 60) == pytest.approx(1.959964 * math.sqrt(101 / 28800))
    assert area_interval(1.0, 20, 20)[2] == 1.0 and 0.8 < area_interval(1.0, 20, 20)[1] < 0.95
    assert area_interval(0.0, 20, 20)[1] == 0.0 and 0.05 < area_interval(0.0, 20, 20)[2] < 0.2


def test_intervals_cover_as_they_say() -> None:
    """Normal scores one deviation apart have an area of Phi(1 / sqrt(2))."""
    true, random, hits = 0.7602499, np.random.default_rng(1), 0
    for _ in range(400):
        _, low, high = area_interval(area(random.normal(1, 1, 40), random.normal(0, 1, 25)), 40, 25)
        hits += low <= true <= high
    assert 0.92 <= hits / 400 <= 0.985


def test_the_threshold_by_loss_is_the_mean_of_the_members() -> None:
    found = by_loss(np.array([0.0, 0.1, 0.8]), np.array([0.2, 0.4, 2.0]))
    assert found.advantage.value == pytest.approx(2 / 3 - 1 / 3)  # below 0.3
    assert found.auc.value == pytest.approx(7 / 9)


@pytest.mark.parametrize(
    ("members", "others", "text"),
    [
        ([], [1.0], "there are no members"),
        ([1.0], [], "there are no non-members"),
        ([1.0, math.nan], [1.0], "1 of 2 members score no finite number"),
        ([1.0], [math.inf, 1.0, -math.inf], "2 of 3 non-members score no finite number"),
    ],
)
def test_what_cannot_be_told_is_an_error(members: list[float], others: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        by_loss(np.array(members), np.array(others))


def test_few_images_are_said_to_be_few() -> None:
    assert "0.5 ± 0.057, and" in membership.rests_on(200, 200) and membership.rests_on(200, 200).endswith(
        "is one of these images, 0.5 %; at 0.1 % that is none at all, so read nothing into these"
    )
    assert membership.rests_on(5000, 5000).endswith("one of these images, 0.02 %")
    assert "at 1 % and 0.1 % that is none" in membership.rests_on(60, 60)


def test_a_limit_holds_the_area_itself_and_says_when_chance_reaches_it() -> None:
    found = by_loss(np.array([0.0, 0.1, 0.8]), np.array([0.2, 0.4, 2.0]))
    assert membership.too_telling(found, 7 / 9) is None
    reason = membership.too_telling(found, 0.6)
    assert reason is not None and "an AUC of 0.7778 (0.32 to 0.96), more than 0.6 (--max-audit-auc)" in reason
    assert membership.too_few(200, 200, 0.6) is None
    assert "0.5 ± 0.181 by chance" in (membership.too_few(20, 20, 0.6) or "")


def test_every_example_is_in_half_of_the_shadow_models() -> None:
    inside = halves(6, 50, 3)
    assert (inside.sum(axis=0) == 3).all() and (inside == halves(6, 50, 3)).all() and (inside != halves(6, 50, 4)).any()
    with pytest.raises(ValueError, match="is 5, expected 4 or more, and even"):
        halves(5, 50, 3)
    with pytest.raises(ValueError, match="1 examples are too few to train 4 shadow models"):
        halves(4, 1, 3)


@pytest.mark.parametrize("models_", [8, 64])
def test_the_ratio_is_that_of_two_normal_densities(models_: int) -> None:
    """Against the formula, image by image; from 64 models on with variances of its own."""
    random, inside = np.random.default_rng(2), halves(models_, 7, 1)
    seen = random.normal(0, 1, inside.shape) + 2 * inside
    observed = random.normal(1, 1, 7)
    said = lira(seen, inside, observed)
    spread = {
        side: np.mean([np.var(seen[inside[:, at] == side, at], ddof=1) for at in range(7)]) for side in (True, False)
    }
    for at in range(7):
        logs = []
        for side in (True, False):
            own = seen[inside[:, at] == side, at]
            variance = np.var(own, ddof=1) if models_ == 64 else spread[side]
            density = math.exp(-((observed[at] - own.mean()) ** 2) / (2 * variance)) / math.sqrt(variance)
            logs.append(math.log(density))
        assert said[at] == pytest.approx(logs[0] - logs[1])


def test_a_confidence_is_the_log_odds_of_the_right_class() -> None:
    p = np.array([0.2, 0.5, 0.999])
    assert confidence(-np.log(p)) == pytest.approx(np.log(p / (1 - p)))
    assert np.isfinite(confidence(np.array([0.0, 800.0]))).all()


def examples_of(spec: dict[str, Any], count: int, seed: int) -> Images:
    """Noise with labels drawn at random: there is nothing to learn but the images themselves."""
    random = np.random.default_rng(seed)
    images = random.random((count, 4, 4, 1)).astype(np.float32)
    number = tasks.number_of(spec)
    if tasks.task_of(spec) == tasks.REGRESSION:
        return Images(images, random.normal(3, 2, (count, number)).astype(np.float32))
    if tasks.task_of(spec) == tasks.LABELS:
        return Images(images, random.integers(0, 2, (count, number)))
    return Images(images, random.integers(0, number, count))


@pytest.mark.parametrize("more", SPECS)
def test_a_network_that_has_learned_images_by_heart_tells_and_an_untrained_one_does_not(more: dict[str, Any]) -> None:
    spec = models.check_spec({"name": "mlp", "input": [4, 4, 1], "width": 64, "depth": 1, **more})
    members, others = (resident(examples_of(spec, 80, seed), spec) for seed in (1, 2))
    load_keras().utils.set_random_seed(1)
    trainer = Trainer(spec, "adam", 0.02)
    each = Losses(trainer.network, spec)
    before = by_loss(each.of(members), each.of(others))
    assert before.auc.low <= 0.5 <= before.auc.high
    assert each.of(members).mean() == pytest.approx(trainer.evaluate(members)[0], rel=1e-5)
    trainer.fresh(1, 60, 5)
    for epoch in range(60):
        trainer.epoch(members, np.random.default_rng(epoch).permutation(80), 16)
    after = by_loss(each.of(members), each.of(others))
    assert after.auc.low > 0.6 and after.advantage.low > 0.1


def test_a_loss_that_is_no_number_is_an_error() -> None:
    spec = models.check_spec({"name": "mlp", "input": [4, 4, 1], "width": 2, "depth": 1, "classes": 2})
    trainer = Trainer(spec, "adam", 0.02)
    trainer.load({name: np.full_like(array, np.nan) for name, array in trainer.weights().items()})
    with pytest.raises(ValueError, match="7 of 7 losses are not finite numbers"):
        Losses(trainer.network, spec).of(resident(examples_of(spec, 7, 1)))


def test_without_logits_losses_are_those_of_keras() -> None:
    spec = {"classes": 3}
    outputs, labels = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]), np.array([1, 0])
    assert of_each(outputs, labels, spec) == pytest.approx([-math.log(0.3), -math.log(1e-7)])
    logits = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0]])  # of which float32 has the probability 1
    assert of_each(outputs, labels, spec, logits) == pytest.approx([math.log(3), 2 * math.exp(-40)])
    two = np.array([[1e-9], [0.25]])
    assert of_each(two, np.array([1, 0]), {"classes": 2}) == pytest.approx([-math.log(1e-7), -math.log(0.75)])


def test_shadow_models_tell_members_and_with_one_seed_the_same_of_them() -> None:
    spec = models.check_spec({"name": "mlp", "input": [4, 4, 1], "width": 32, "depth": 1, "classes": 2})
    both = resident(examples_of(spec, 80, 3), spec)
    trainer = Trainer(spec, "adam", 0.02)
    inside = halves(4, 80, 5)
    told: list[int] = []
    seen = shadow_losses(trainer, both, inside, 25, 16, 7, told.append)
    assert told == [1, 2, 3, 4] and seen.shape == (4, 80)
    assert (shadow_losses(trainer, both, inside[:1], 25, 16, 7) == seen[:1]).all()
    target = shadow_losses(trainer, both, np.arange(80)[None] < 40, 25, 16, 11)[0]
    scores = lira(confidence(seen), inside, confidence(target))
    found = attacked(scores[:40], scores[40:], 0.0)
    assert found.auc.low > 0.5
