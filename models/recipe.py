"""What a step of training has beside plain gradients; the default is plain training. Names are those of the terms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """How a trainer trains, beyond optimizer, rate and loss.

    Attributes:
        class_weights: `balanced` or `none`; see `balanced`. In the loss of training only, not in what is scored.
        learning_rate_schedule: `constant`, `step` or `cosine`, over a session; see `schedule`.
        warmup: A number of steps, or `N epochs`.
        clip_norm: The longest that the gradient of a step may be, all weights together; 0 is no limit.
        weight_decay: Each step takes this times the rate off every weight; None is what the optimizer does by itself.
        precision: `mixed` or `float32`; see `build`.
        augment: Of `augment.KINDS` with commas between, or `none`.
        calibrate: `labels` or `none`; see `calibrated`. In the loss of training only, not in what is scored.
        label_shares: Of each class at the coordinator, where the loss is calibrated.
        unlabelled: How images without labels are learned from, as `fixmatch` reads it, or `none`.
    """

    class_weights: str = "none"
    learning_rate_schedule: str = "constant"
    warmup: int | str = 0
    clip_norm: float = 0.0
    weight_decay: float | None = None
    augment: str = "none"
    precision: str = "float32"
    calibrate: str = "none"
    label_shares: tuple[float, ...] = ()
    unlabelled: str = "none"


PLAIN = Recipe()


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """The weight of each class in the loss: n / (present classes * its examples), as scikit-learn's `balanced`.

    So every class that is there weighs the same in all, and the mean weight of an example is 1.

    Args:
        labels: int [n], in 0..classes-1.

    Returns:
        float32 [classes]; 0 for a class without examples, which nothing is multiplied by.
    """
    counts = np.bincount(np.asarray(labels), minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
