"""From probabilities to decisions: thresholds between two classes, temperatures, and how well probabilities are meant.

    probabilities   float [n, classes], a row adds up to 1
    labels          int [n], in 0..classes-1

Formulas are those of Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks" (expected
calibration error, section 2; temperature, section 4.2), of DeLong, DeLong and Clarke-Pearson 1988 with the ranks of Sun
and Xu 2014 (variance of an area under the curve), and of Efron and Tibshirani 1993, section 13.3 (the bootstrap).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BINS = 15
RESAMPLES = 1000
Z = 1.959964  # 97.5 % of the normal distribution
CLIP = 1e-7  # as `score.CLIP`
STEPS = tuple(1 / (1 + math.exp(-number / 4)) for number in range(-64, 65))


def columns(outputs: np.ndarray, classes: int) -> np.ndarray:
    """What a network gives as probabilities: float64 [n, classes], also of one number an image with two classes."""
    import numpy as np

    found = np.asarray(outputs, np.float64)
    if classes != 2 or (found.ndim == 2 and found.shape[1] == 2):
        return found
    positive = found.reshape(-1)
    return np.stack([1 - positive, positive], axis=1)


def choose(positive: np.ndarray, labels: np.ndarray, kind: str, value: float | None, *, steps: bool = False) -> float:
    """A threshold, from which on an image is called class 1: half-way between two probabilities that occur, or nearly.

    Args:
        positive: float [n], the probability of class 1.
        labels: 0 or 1.
        kind, value: `youden`; `sensitivity` or `specificity` and what it is at least; `fixed` and the threshold itself.
        steps: Take one of `STEPS` only, which says less of these images.

    Raises:
        ValueError: One of the classes has no example, or no threshold does what is asked.
    """
    import numpy as np

    if kind == "fixed" and value is not None:
        return value
    positive = np.asarray(positive, np.float64)
    ill, well = np.sort(positive[labels == 1]), np.sort(positive[labels == 0])
    if not len(ill) or not len(well):
        raise ValueError("a threshold needs examples of both classes")
    found = np.unique(positive)
    cuts = np.array([0.0, *STEPS]) if steps else np.append(found, np.inf)
    sensitivity = 1 - np.searchsorted(ill, cuts) / len(ill)
    specificity = np.searchsorted(well, cuts) / len(well)
    if not steps and found[-1] >= 1:  # nothing lies above it
        cuts, sensitivity, specificity = cuts[:-1], sensitivity[:-1], specificity[:-1]
    if kind == "youden":
        together = sensitivity + specificity
        best = np.flatnonzero(together >= together.max() - 1e-12)
        chosen = int(best[np.abs(cuts[best] - 0.5).argmin()])
    else:
        reached = np.flatnonzero((sensitivity if kind == "sensitivity" else specificity) >= (value or 0) - 1e-9)
        if not len(reached):
            raise ValueError(f"no threshold has a {kind} of {value:g}: too many probabilities are the same")
        chosen = int(reached[-1] if kind == "sensitivity" else reached[0])
    if steps:
        return float(cuts[chosen])
    low = found[chosen - 1] if chosen else 0.0
    return _between(float(low), float(found[chosen]) if chosen < len(found) else 1.0)


def _between(low: float, high: float) -> float:
    """The shortest number well between two, above `low` in any case."""
    middle, room = (low + high) / 2, (high - low) / 4
    for digits in range(1, 17):
        if low + room <= (short := round(middle, digits)) <= high - room and short > low:
            return short
    return middle if middle > low else high


def at(positive: np.ndarray, labels: np.ndarray, threshold: float) -> list[list[int]]:
    """How many of each class (rows) are called which (columns), at a threshold."""
    import numpy as np

    called = np.asarray(positive, np.float64) >= threshold
    return [[int(np.sum(called[labels == label] == said)) for said in (False, True)] for label in (0, 1)]


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities when the logits that they come from are divided by a temperature."""
    import numpy as np

    logits = np.log(np.clip(np.asarray(probabilities, np.float64), CLIP, 1)) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(
    probabilities: np.ndarray, labels: np.ndarray, low: float, high: float, *, steps: bool = False
) -> float:
    """The temperature with the lowest cross-entropy.

    Args:
        low, high: Its bounds.
        steps: Take a power of the fourth root of 2, which says less of these images.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(power: float) -> float:
        truth = tempered(probabilities, math.exp(power))[rows, labels]
        return float(-np.log(np.clip(truth, CLIP, 1)).mean())

    power = float(minimize_scalar(loss, bounds=(math.log(low), math.log(high)), method="bounded").x)
    if steps:
        return round(2 ** (round(4 * power / math.log(2)) / 4), 4)
    return round(math.exp(power), 4)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error of the class that is called: over bins of equal width of its probability."""
    gaps, where = _gaps(probabilities, labels, bins)
    return _error(gaps, where, bins)


def calibration_interval(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % interval of `calibration_error`, by the percentiles of samples of these images; the same every time."""
    import numpy as np

    gaps, where = _gaps(probabilities, labels, bins)
    random = np.random.default_rng(0)
    drawn = (random.integers(0, len(gaps), len(gaps)) for _ in range(resamples))
    low, high = np.percentile([_error(gaps[chosen], where[chosen], bins) for chosen in drawn], [2.5, 97.5])
    return float(low), float(high)


def _gaps(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each image whether it is right less how sure it is, and its bin."""
    import numpy as np

    probabilities = np.asarray(probabilities, np.float64)
    sure = probabilities.max(axis=1)
    where = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    return (probabilities.argmax(axis=1) == labels) - sure, where


def _error(gaps: np.ndarray, where: np.ndarray, bins: int) -> float:
    import numpy as np

    return float(np.abs(np.bincount(where, gaps, bins)).sum() / len(gaps))


def auc_interval(positive: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the area under the curve by DeLong's variance, cut off at 0 and 1.

    None where a class has fewer than two examples, or all are in order: then there is no variance to go by.
    """
    import numpy as np
    from scipy.stats import rankdata

    positive = np.asarray(positive, np.float64)
    ill, well = positive[labels == 1], positive[labels == 0]
    if min(len(ill), len(well)) < 2:
        return None
    ranks = rankdata(np.concatenate([ill, well]))
    of_ill = (ranks[: len(ill)] - rankdata(ill)) / len(well)
    of_well = 1 - (ranks[len(ill) :] - rankdata(well)) / len(ill)
    area, spread = of_ill.mean(), np.var(of_ill, ddof=1) / len(ill) + np.var(of_well, ddof=1) / len(well)
    if not spread:
        return None
    half = Z * math.sqrt(spread)
    return max(0.0, float(area - half)), min(1.0, float(area + half))


def curve(positive: np.ndarray, labels: np.ndarray) -> list[list[float]] | None:
    """The receiver operating characteristic, thinned: [[probability, share of 0 called so, share of 1 found], …].

    From each of these probabilities on an image is called class 1. They fall, so both shares rise, the last to 1.
    Between two points next to each other lies at least a hundredth of the way along both axes, or no point was left
    out; so there are 201 at most. None where a class has no examples.
    """
    import numpy as np

    # As they are written down: neighbours that differ in the seventh digit would be two points with one probability.
    positive, labels = np.round(np.asarray(positive, np.float64), 6), np.asarray(labels)
    order = np.argsort(-positive, kind="stable")
    ill, well = int((labels == 1).sum()), int((labels == 0).sum())
    if not ill or not well:
        return None
    probabilities = positive[order]
    found, called = np.cumsum(labels[order] == 1) / ill, np.cumsum(labels[order] == 0) / well
    last = np.append(np.flatnonzero(np.diff(probabilities)), len(order) - 1)  # of those with the same probability
    kept: list[list[float]] = []
    way = 0.0
    for place in last:
        so_far = float(called[place] + found[place])
        if so_far - way >= 0.01 or place == last[-1]:
            kept.append([round(float(one), 6) for one in (probabilities[place], called[place], found[place])])
            way = so_far
    return kept
