"""What a federation agrees on, as a table: whatever the coordinator accepts, every site can train."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedssh.errors import SettingsError
from fedssh.rules import plan as alice
from fedssh.rules import terms
from fedssh.rules.terms import agree

SETTINGS: dict[str, Any] = {
    "name": "test", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None,
    "metric": "accuracy", "publish": None, "batch_size": 64, "epochs": None, "patience": 10, "optimizer": "adam",
    "learning_rate": 0.001, "momentum": 0.0, "proximal": 0.0, "submissions_per_hour": 600, "invalid_per_hour": 60,
}  # fmt: skip


def agreed(**changes: Any) -> dict[str, Any]:
    return agree(SETTINGS | changes, {}, "binary_crossentropy")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 0.0}, "--learning-rate is 0, expected a number above 0"),
        ({"learning_rate": math.nan}, "--learning-rate is nan, expected a number above 0"),
        ({"learning_rate": math.inf}, "--learning-rate is inf, expected a number above 0"),
        ({"proximal": math.nan}, "--proximal is nan, expected a number from 0"),
        ({"proximal": math.inf}, "--proximal is inf, expected a number from 0"),
        ({"proximal": -1.0}, "--proximal is -1, expected a number from 0"),
        ({"optimizer": "sgd", "momentum": math.nan}, "--momentum is nan, expected a number from 0 to below 1"),
        ({"optimizer": "sgd", "momentum": 1.0}, "--momentum is 1, expected a number from 0 to below 1"),
        ({"momentum": 0.9}, "--momentum belongs to sgd, not to adam"),
        ({"optimizer": "SGD"}, "--optimizer is 'SGD', expected one of adam, "),
        ({"optimizer": "lion"}, "--optimizer is 'lion', expected one of adam, "),
        ({"margin": math.nan}, "the margin of the gate is nan"),
        ({"gate": "ladder", "margin": 0.0}, "above 0 for a ladder"),
        ({"policy": "fedavg", "publish": "improved"}, "the policy fedavg takes one update per round"),
        ({"policy": "fedavg", "schedule": "relay"}, "trains in rounds, not in a relay"),
    ],
)
def test_what_no_site_could_train_is_refused_at_once(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        agreed(**changes)
    assert reason in str(refused.value)


@pytest.mark.parametrize("policy", ["best", "merge", "fedavg:server=yogi"])
@pytest.mark.parametrize("optimizer", terms.OPTIMIZERS)
def test_a_site_reads_the_plan_that_was_agreed(policy: str, optimizer: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    plan = agreed(policy=policy, optimizer=optimizer, momentum=momentum, proximal=0.1)["plan"]
    read = alice.read_plan(plan)
    assert (read.optimizer, read.momentum, read.proximal) == (optimizer, momentum, 0.1)


def test_the_rates_are_agreed() -> None:
    assert agreed()["rates"] == {"submissions_per_hour": 600, "invalid_per_hour": 60}
    assert agreed(submissions_per_hour=0, invalid_per_hour=0)["rates"] == {
        "submissions_per_hour": 0, "invalid_per_hour": 0,
    }  # fmt: skip


def test_both_know_the_same_optimizers_and_ways_to_publish() -> None:
    assert (terms.OPTIMIZERS, tuple(terms.EPOCHS)) == (alice.OPTIMIZERS, alice.PUBLISH)
