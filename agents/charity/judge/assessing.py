"""What a model is worth on several splits, with the intervals that need every probability. Nothing is decided by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.models import decision, score

if TYPE_CHECKING:
    import numpy as np

    from fedssh.charity.judge.scorer import Scorer
    from fedssh.models.data.images import Images


def assess(
    scorer: Scorer, wanted: Mapping[str, Any], known: Mapping[str, Images], load: Callable[[str], Images | None]
) -> dict[str, Any]:
    """Answer the question `assess`.

    Args:
        wanted: As in `protocol`.
        known: Splits that are in memory.
        load: Reads another one; None where there is none.
    """
    found = {}
    for split in wanted["splits"]:
        images = known[split] if split in known else load(split)
        if images is not None:
            outputs = scorer.outputs_of(Path(wanted["model"]), images)
            found[split] = measured(
                outputs, images.labels, scorer.spec["classes"], wanted["threshold"], wanted["temperature"]
            )
    return {"assessed": found}


def measured(
    outputs: np.ndarray, labels: np.ndarray, classes: int, threshold: float | None, temperature: float | None
) -> dict[str, Any]:
    """Scores with what `rules.figures` takes beside them."""
    probabilities = decision.columns(outputs, classes)
    found = score.score(outputs, labels, classes)
    found |= {
        "auc_interval": decision.auc_interval(probabilities[:, 1], labels) if classes == 2 else None,
        "curve": decision.curve(probabilities[:, 1], labels) if classes == 2 else None,
        "calibration_error": decision.calibration_error(probabilities, labels),
        "calibration_interval": decision.calibration_interval(probabilities, labels),
    }
    if threshold is not None:
        table = decision.at(probabilities[:, 1], labels, threshold)
        found |= {"threshold": threshold, "confusion_at_threshold": table}
    if temperature is not None:
        cooler = decision.tempered(probabilities, temperature)
        found |= {
            "temperature": temperature,
            "tempered_error": decision.calibration_error(cooler, labels),
            "tempered_interval": decision.calibration_interval(cooler, labels),
        }
    return found
