"""What a step of training has beside plain gradients; the default is plain training. Names are those of the terms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """How a trainer trains, beyond optimizer, rate and loss.

    Attributes:
        class_weights: `balanced` or `none`; see `balanced`. In the loss of training only, not in what is scored.
    """

    class_weights: str = "none"


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
