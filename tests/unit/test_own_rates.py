"""A site's own learning rate and batch size: what is allowed, and what is refused with the bounds."""

from __future__ import annotations

from typing import Any

import pytest

from fedssh.alice.own_rates import OwnRates
from fedssh.errors import SettingsError
from fedssh.rules.plan import Plan

PLAN = Plan(batch_size=60, epochs=3, patience=5, optimizer="sgd", learning_rate=0.2, loss="auto", site_rates=0.25)
SAME = Plan(**{**vars(PLAN), "site_rates": 1.0})


def test_a_site_may_lower_both_within_the_bounds() -> None:
    plan = OwnRates(0.5, 15).of(PLAN)
    assert (plan.learning_rate, plan.batch_size, plan.epochs) == (0.1, 15, 3)
    assert OwnRates(0.25).of(PLAN).learning_rate == 0.05
    assert OwnRates(0.5, 15).told(PLAN) == (
        "trains here with a learning rate of 0.1 and 15 images per step, agreed are 0.2 and 60"
    )


@pytest.mark.parametrize("plan", [PLAN, SAME])
def test_without_being_asked_it_trains_as_agreed(plan: Plan) -> None:
    assert OwnRates().of(plan) == plan and OwnRates(1.0, 60).of(plan) == plan
    assert OwnRates().told(plan) is None


@pytest.mark.parametrize(
    ("wanted", "plan", "said"),
    [
        ({"learning_rate_factor": 0.2}, PLAN, "--learning-rate-factor is 0.2, the federation allows 0.25..1"),
        ({"learning_rate_factor": 1.1}, PLAN, "--learning-rate-factor is 1.1, the federation allows 0.25..1"),
        ({"batch_size": 14}, PLAN, "--batch-size is 14, the federation allows 15..60"),
        ({"batch_size": 61}, PLAN, "--batch-size is 61, the federation allows 15..60"),
        ({"learning_rate_factor": 0.5}, SAME, "has all sites train with the agreed rate and batch size"),
        ({"batch_size": 30}, SAME, "has all sites train with the agreed rate and batch size"),
    ],
)
def test_what_is_not_allowed_is_refused(wanted: dict[str, Any], plan: Plan, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        OwnRates(**wanted).of(plan)
    assert said in str(raised.value)
