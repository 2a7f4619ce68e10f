"""Which of two models the federation keeps. Pure: no file, network or clock.

A policy takes what the current and the candidate model scored on the holdout and the name of the main
metric, and returns a verdict with its reason in words and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes the current model, and why."""

    accept: bool
    reason: str


Policy = Callable[[Metrics, Metrics, str], Decision]


def best(current: Metrics, candidate: Metrics, metric: str = "accuracy") -> Decision:
    """Keep the better of the two: the higher metric wins; at equal metric the lower loss; else the current stays."""
    # AUC is undefined on a holdout of one class; then it is for both, and the loss decides.
    have, offered = (-1.0 if metrics[metric] is None else metrics[metric] for metrics in (current, candidate))
    if offered > have:
        return Decision(True, f"{metric} {offered:.4f} beats {have:.4f}")
    if offered < have:
        return Decision(False, f"{metric} {offered:.4f} is below the current {have:.4f}")
    loss, new_loss = current["loss"], candidate["loss"]
    if new_loss < loss:
        return Decision(True, f"{metric} {offered:.4f} is equal, loss {new_loss:.4f} beats {loss:.4f}")
    return Decision(False, f"{metric} {offered:.4f} is equal, loss {new_loss:.4f} is not below the current {loss:.4f}")


POLICIES: dict[str, Policy] = {"best": best}
