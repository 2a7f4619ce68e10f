"""What a release scores on a site's validation images, by the threshold that was released with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedssh.models import decision, score
from fedssh.models.streaming import images_at
from fedssh.models.training import SCORED_AT_ONCE, Examples
from fedssh.rules.events import Measured
from fedssh.rules.gate import is_number

DIGITS = 3  # of a loss that is told: one pixel of one image must not show in it


def threshold_of(metrics: Mapping[str, Any]) -> float | None:
    """The threshold in a release's scores; None where there is none that can be one."""
    found = metrics.get("threshold")
    return float(found) if found is not None and is_number(found) and 0 <= found <= 1 else None


def measured(network: Any, loss: float, examples: Examples, classes: int, threshold: float | None) -> Measured:
    """What a network scores with the weights that it has.

    Args:
        loss: What was found already.
        threshold: With two classes: from which probability of class 1 on an image is called so; None is as always.
    """
    places = np.arange(len(examples))
    parts_of = (places[start : start + SCORED_AT_ONCE] for start in range(0, len(examples), SCORED_AT_ONCE))
    batches = (images_at(examples.images, at) for at in parts_of)
    parts = [np.asarray(network(batch, training=False)) for batch in batches]
    probabilities, labels = decision.columns(np.concatenate(parts), classes), examples.labels.numpy()
    from_it = probabilities[:, 1] >= (threshold or 0)
    called = probabilities.argmax(axis=1) if threshold is None else from_it.astype(np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, called), 1)
    right = int(confusion.diagonal().sum()) / len(labels)
    return Measured(loss=round(loss, DIGITS), accuracy=right, balanced_accuracy=score.balanced_accuracy(confusion))
