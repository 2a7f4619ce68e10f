"""What models are compared by: which metric goes with which task, and which way is better. Pure.

    classes       accuracy auc precision recall balanced_accuracy f1     higher is better, in 0..1
    labels        accuracy subset_accuracy auc f1                        higher is better, in 0..1
    regression    mae rmse                                               lower is better, in the target's own units
                  r2                                                     higher is better, at most 1

What the numbers are says `models.score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES, LABELS, REGRESSION = "classes", "labels", "regression"
OF_TASK = {
    CLASSES: ("accuracy", "auc", "precision", "recall", "balanced_accuracy", "f1"),
    LABELS: ("accuracy", "subset_accuracy", "auc", "f1"),
    REGRESSION: ("mae", "rmse", "r2"),
}
METRICS = tuple(dict.fromkeys(name for names in OF_TASK.values() for name in names))
IN_UNITS = ("mae", "rmse")  # of the target
LOWER = IN_UNITS  # is better
FIRST = {
    CLASSES: "accuracy",
    LABELS: "accuracy",
    REGRESSION: "mae",
}  # what the policy compares first unless something else is agreed


def task_of(spec: Mapping[str, Any]) -> str:
    """What a federation with this architecture trains for."""
    return str(spec.get("task", CLASSES))


def gain(metric: str, value: float) -> float:
    """A value of a metric so that higher is better."""
    return -value if metric in LOWER else value


def worse(metric: str) -> str:
    """Where a worse value lies."""
    return "above" if metric in LOWER else "below"


def best(metric: str, one: float, other: float) -> float:
    """The better of two values."""
    return max(one, other, key=lambda value: gain(metric, value))


def headline(metrics: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The metric by which people know a model, and its value: accuracy, or the mean absolute error."""
    return next(((name, metrics[name]) for name in FIRST.values() if name in metrics), None)
