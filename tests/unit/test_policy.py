"""Which of two models is kept, as a table."""

from __future__ import annotations

import pytest

from agents.charity.policy import POLICIES, best


def metrics(accuracy: float, loss: float, auc: float | None = 0.5) -> dict[str, float | None]:
    return {"accuracy": accuracy, "loss": loss, "auc": auc}


CURRENT = metrics(0.90, 0.30)


@pytest.mark.parametrize(
    ("candidate", "accept", "reason"),
    [
        (metrics(0.91, 0.20), True, "accuracy 0.9100 beats 0.9000"),
        (metrics(0.91, 9.00), True, "accuracy 0.9100 beats 0.9000"),
        (metrics(0.89, 0.01), False, "accuracy 0.8900 is below the current 0.9000"),
        (metrics(0.90, 0.29), True, "accuracy 0.9000 is equal, loss 0.2900 beats 0.3000"),
        (metrics(0.90, 0.30), False, "accuracy 0.9000 is equal, loss 0.3000 is not below the current 0.3000"),
        (metrics(0.90, 0.31), False, "accuracy 0.9000 is equal, loss 0.3100 is not below the current 0.3000"),
    ],
)
def test_best_keeps_the_better_and_says_why(candidate: dict[str, float], accept: bool, reason: str) -> None:
    decision = best(CURRENT, candidate)
    assert (decision.accept, decision.reason) == (accept, reason)


def test_best_compares_by_the_metric_of_the_plan() -> None:
    assert best(metrics(0.9, 0.3, auc=0.80), metrics(0.1, 9.0, auc=0.81), "auc").accept


def test_an_undefined_metric_leaves_the_decision_to_the_loss() -> None:
    assert best(metrics(0.9, 0.3, auc=None), metrics(0.9, 0.2, auc=None), "auc").accept
    assert not best(metrics(0.9, 0.3, auc=None), metrics(0.9, 0.4, auc=None), "auc").accept


def test_the_policy_of_a_federation_is_found_by_name() -> None:
    assert POLICIES["best"] is best
