"""What the judge finds beside the scores where a decision is agreed: see `rules.thresholds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedssh.models import decision
from fedssh.rules.thresholds import COOLEST, HOTTEST, read_rule

if TYPE_CHECKING:
    import numpy as np


def decided(asked: Mapping[str, Any], outputs: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """The members that scores gain.

    Args:
        asked: As `rules.thresholds.asked` has it.
        outputs: What the network gives for the holdout.

    Raises:
        ValueError: No threshold does what was agreed.
    """
    probabilities, steps = decision.columns(outputs, classes), bool(asked.get("steps"))
    found: dict[str, Any] = {"calibration_error": decision.calibration_error(probabilities, labels)}
    if "threshold" in asked:
        rule, positive = read_rule(asked["threshold"]), probabilities[:, 1]
        threshold = decision.choose(positive, labels, rule.kind, rule.value, steps=steps)
        found |= {"threshold": threshold, "confusion_at_threshold": decision.at(positive, labels, threshold)}
    if asked.get("temperature"):
        found["temperature"] = decision.fit_temperature(probabilities, labels, COOLEST, HOTTEST, steps=steps)
    return found
