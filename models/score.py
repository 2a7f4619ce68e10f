"""The metrics by which everybody compares models, from outputs and labels alone.

Loss is what Keras computes (cross-entropy of probabilities clipped to 1e-7..1 - 1e-7, or the mean squared error of
standardised targets); the rest is what scikit-learn computes, to the last digit and without its checks, which take
longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedssh.models import tasks

if TYPE_CHECKING:
    import numpy as np

CLIP = 1e-7  # keras.config.epsilon(): keeps one confident mistake from making the loss infinite


def measured(outputs: np.ndarray, labels: np.ndarray, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the outputs of a network against the truth, by its task: `score`, `several` or `regression`.

    Raises:
        ValueError: As these.
    """
    if tasks.task_of(spec) == tasks.REGRESSION:
        return regression(outputs, labels, spec)
    if tasks.task_of(spec) == tasks.LABELS:
        return several(outputs, labels)
    return score(outputs, labels, spec["classes"])


def score(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Measure predictions against the truth.

    Args:
        probabilities: float [n] or [n, 1] with two classes, the probability of class 1; else float [n, classes].
        labels: int [n], in 0..classes-1.
        classes: At least 2.

    Returns:
        Only plain Python values, ready for JSON: `loss`, `accuracy`; `precision` and `recall` of class 1, or with more
        than two classes their unweighted means; `balanced_accuracy`, the mean over all classes of the share that is
        recognised; `f1` of class 1, or the classes' mean; `auc`, with more than two classes the mean of one class
        against the rest, None when there is no such pair; `confusion`, counts with a row per true and a column per
        predicted class; `per_class_accuracy`, None for a class without examples.

    Raises:
        ValueError: Lengths or widths do not fit, there is no example, or a probability is not finite.
    """
    import numpy as np
    from scipy.special import xlogy

    table = _table(np.asarray(probabilities, dtype=np.float64), classes)
    labels = np.asarray(labels)
    if len(table) != len(labels) or not len(labels):
        raise ValueError(f"there are {len(table)} predictions for {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}, expected 0..{classes - 1}")

    # Keras calls 0.5 class 0 (its threshold must be exceeded); so does argmax, which takes the first maximum.
    predicted, labels = table.argmax(axis=1), labels.astype(np.int64)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    truly, said, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    counted = np.array([1]) if classes == 2 else np.flatnonzero(truly)  # of which classes precision and recall tell
    # SciPy's logarithm, which is scikit-learn's: NumPy's own rounds some numbers otherwise.
    losses = -xlogy(1.0, _clipped(table)[np.arange(len(labels)), labels])
    return {
        "loss": float(losses.mean()),
        "accuracy": float(right.sum() / len(labels)),
        "precision": float((right[counted] / said[counted].clip(min=1)).mean()),
        "recall": float((right[counted] / truly[counted].clip(min=1)).mean()),
        "balanced_accuracy": balanced_accuracy(confusion),
        "f1": f1(confusion),
        "auc": _auc(table, labels, classes),
        "confusion": [[int(count) for count in row] for row in confusion],
        "per_class_accuracy": [
            float(found / total) if total else None for found, total in zip(right, truly, strict=True)
        ],
    }


def right(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Which predictions are right, as `score` counts them in `accuracy`: bool [n].

    Args:
        probabilities, labels, classes: As for `score`.

    Raises:
        ValueError: As `score`, of widths and numbers that are not finite.
    """
    import numpy as np

    table = _table(np.asarray(probabilities, dtype=np.float64), classes)
    found: np.ndarray = table.argmax(axis=1) == np.asarray(labels)
    return found


def several(outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure predictions of several labels at once against the truth.

    Args:
        outputs: float [n, labels], the probability of each.
        labels: int [n, labels], 0 or 1.

    Returns:
        Only plain Python values, ready for JSON: `loss`, the mean of the binary cross-entropies of the labels;
        `accuracy`, the share of all labels that are right (1 - Hamming loss), `subset_accuracy`, the share of images of
        which every label is right; `f1` and `auc`, the means over the labels (macro), of the AUC over those that some
        images have and some have not, None where there is none; `per_label_auc`; `confusion_per_label`, for each label
        how many images are rightly said not to have it, wrongly said to, wrongly said not to, rightly said to.

    Raises:
        ValueError: Shapes do not fit, there is no example, or a probability is not finite.
    """
    import numpy as np

    found, truth = np.asarray(outputs, np.float64), np.asarray(labels)
    if found.shape != truth.shape or found.ndim != 2 or not len(truth):
        raise ValueError(f"predictions have shape {found.shape}, the labels {truth.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{int((~np.isfinite(found)).sum())} of the predictions are not finite numbers")
    said, true = found > 0.5, truth == 1  # as Keras: 0.5 is no
    clipped = np.clip(found, CLIP, 1 - CLIP)
    tables = [
        [int((~one & ~other).sum()), int((one & ~other).sum()), int((~one & other).sum()), int((one & other).sum())]
        for one, other in zip(said.T, true.T, strict=True)
    ]
    both = [0 < count < len(true) for count in true.sum(axis=0)]
    each = [area(true[:, at], found[:, at]) if ok else None for at, ok in enumerate(both)]
    known = [one for one in each if one is not None]
    return {
        "loss": float(-np.where(true, np.log(clipped), np.log(1 - clipped)).mean()),
        "accuracy": float((said == true).mean()),
        "subset_accuracy": float((said == true).all(axis=1).mean()),
        "f1": float(np.mean([2 * tp / max(2 * tp + fp + fn, 1) for _, fp, fn, tp in tables])),
        "auc": float(np.mean(known)) if known else None,
        "per_label_auc": each,
        "confusion_per_label": tables,
    }


def regression(outputs: np.ndarray, targets: np.ndarray, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure predicted numbers against the truth.

    Args:
        outputs: float [n, targets], of the network.
        targets: float [n, targets], in their own units.
        spec: Whose targets say how these are standardised.

    Returns:
        Only plain Python values, ready for JSON: `loss`, the mean squared error of the standardised targets; `mae` and
        `rmse`, mean absolute error and root of the mean squared error in the targets' own units, with several targets
        their means; `r2`, the coefficient of determination, with several targets the mean, None where the truth is the
        same for all; with several targets also `per_target_mae`.

    Raises:
        ValueError: Shapes do not fit, there is no example, or a number is not finite.
    """
    import numpy as np

    found, truth = np.asarray(outputs, np.float64), np.asarray(targets, np.float64)
    if found.shape != truth.shape or found.ndim != 2 or not len(truth):
        raise ValueError(f"predictions have shape {found.shape}, the targets {truth.shape}")
    for what, array in (("predictions", found), ("targets", truth)):
        if not np.isfinite(array).all():
            raise ValueError(f"{int((~np.isfinite(array)).sum())} of the {what} are not finite numbers")
    errors = tasks.in_units(found, spec) - truth
    squares, absolute = (errors**2).mean(axis=0), np.abs(errors).mean(axis=0)
    deviations = np.array([one["deviation"] for one in spec["targets"]])
    spread = truth.var(axis=0)
    metrics: dict[str, Any] = {
        "loss": float((squares / deviations**2).mean()),
        "mae": float(absolute.mean()),
        "rmse": float(np.sqrt(squares).mean()),
        "r2": float((1 - squares / spread).mean()) if (spread > 0).all() else None,
    }
    if len(absolute) > 1:
        metrics["per_target_mae"] = [float(one) for one in absolute]
    if not all(np.isfinite(one) for one in metrics.values() if isinstance(one, float)):
        raise ValueError("the errors are too large to be measured")
    return metrics


def balanced_accuracy(confusion: np.ndarray) -> float:
    """The mean recall of the classes that have examples: scikit-learn's `balanced_accuracy_score`.

    Args:
        confusion: int [classes, classes], a row per true and a column per predicted class.
    """
    totals = confusion.sum(axis=1)
    present = totals > 0
    return float((confusion.diagonal()[present] / totals[present]).mean())


def f1(confusion: np.ndarray) -> float:
    """Of class 1, or with more than two classes the mean of those that have examples: scikit-learn's `f1_score`.

    Args:
        confusion: As for `balanced_accuracy`.
    """
    right, truly, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    each = 2 * right / (truly + said).clip(min=1)
    return float(each[1] if len(each) == 2 else each[truly > 0].mean())


def _table(probabilities: np.ndarray, classes: int) -> np.ndarray:
    """One column per class, whatever the shape of the network's output."""
    import numpy as np

    if not np.isfinite(probabilities).all():
        raise ValueError(f"{int((~np.isfinite(probabilities)).sum())} of the predictions are not finite numbers")
    if classes == 2 and probabilities.shape in ((len(probabilities),), (len(probabilities), 1)):
        positive = probabilities.reshape(-1)
        return np.stack([1 - positive, positive], axis=1)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(f"predictions have shape {probabilities.shape}, expected one column for each of {classes}")
    return probabilities


def _clipped(table: np.ndarray) -> np.ndarray:
    """What Keras takes the logarithm of: clipped, then divided by the sum, which clipping may have moved from 1."""
    import numpy as np

    clipped = np.clip(table, CLIP, 1 - CLIP)
    scaled: np.ndarray = clipped / clipped.sum(axis=1, keepdims=True)
    return scaled


def area(truth: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve: scikit-learn's `roc_auc_score`, summed in its order, so to the last digit.

    Args:
        truth: bool [n], some of them true and some not.
        scores: float64 [n], higher is likelier true. Equal ones are one point of the curve.
    """
    import numpy as np

    order = np.argsort(scores)[::-1]
    falling = scores[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)  # of runs of equal scores
    hits = np.cumsum(truth[order])[ends]
    misses = 1 + ends - hits
    if len(ends) > 2:  # points on a line between others add nothing but rounding
        corners = np.diff(misses, 2).astype(bool) | np.diff(hits, 2).astype(bool)
        kept = np.concatenate([[True], corners, [True]])
        hits, misses = hits[kept], misses[kept]
    hits, misses = np.append(0, hits), np.append(0, misses)
    across, up = misses / misses[-1], hits / hits[-1]
    return float((np.diff(across) * (up[1:] + up[:-1]) / 2.0).sum())


def _auc(table: np.ndarray, labels: np.ndarray, classes: int) -> float | None:
    import numpy as np

    present = np.unique(labels)
    if len(present) < 2:
        return None
    if classes == 2:
        return area(labels == 1, table[:, 1])
    return float(np.mean([area(labels == number, table[:, number]) for number in present]))
