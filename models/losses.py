"""The loss of each example by itself, as whoever has a model can compute it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models import tasks
from fedssh.models.backend import compiled
from fedssh.models.score import CLIP
from fedssh.models.streaming import images_at
from fedssh.models.training import SCORED_AT_ONCE, Interrupted

if TYPE_CHECKING:
    from fedssh.models.training import Examples


class Losses:
    """The loss of each example with the weights that a network has.

    Cross-entropy of classes, its mean over the labels where there are several at once, the mean squared error of
    standardised targets. From Keras' own logits where the last layer has them: in float32 the probability of a network
    that is sure is 1, and images that it is surer of than of others could not be told apart any more. Else of
    probabilities, clipped as Keras clips them. The graph is translated once; keep the object with its network.

    Args:
        spec: Of the network.
    """

    def __init__(self, network: Any, spec: Mapping[str, Any]) -> None:
        import tensorflow

        self._spec = spec

        def forward(images: Any) -> tuple[Any, Any]:
            outputs = network(images, training=False)
            return outputs, getattr(outputs, "_keras_logits", None)

        self._forward = compiled(forward, [tensorflow.TensorSpec((None, *spec["input"]), "float32")])

    def of(self, examples: Examples, stop: threading.Event | None = None) -> np.ndarray:
        """The loss of each example: float64 [n].

        Args:
            examples: Labels of a regression are standardised, as `training.resident` has them.
            stop: When it is set, `Interrupted` is raised soon.

        Raises:
            Interrupted: `stop` was set.
            ValueError: A loss is not a finite number.
        """
        found = []
        labels = np.asarray(examples.labels)
        for start in range(0, len(examples), SCORED_AT_ONCE):
            if stop is not None and stop.is_set():
                raise Interrupted
            at = np.arange(start, min(start + SCORED_AT_ONCE, len(examples)))
            outputs, logits = self._forward(images_at(examples.images, at))
            sure = None if logits is None else np.asarray(logits, np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # what is no number is counted below
                found.append(of_each(np.asarray(outputs, np.float64), labels[at], self._spec, sure))
        each = np.concatenate(found) if found else np.zeros(0)
        if not np.isfinite(each).all():
            raise ValueError(f"{int((~np.isfinite(each)).sum())} of {len(each):,} losses are not finite numbers")
        return each


def of_each(
    outputs: np.ndarray, labels: np.ndarray, spec: Mapping[str, Any], logits: np.ndarray | None = None
) -> np.ndarray:
    """The loss of each of n outputs, of a network with this spec.

    Args:
        outputs: float64 [n, outputs].
        labels: As of `objective`.
        logits: What the outputs are the sigmoid or the softmax of; None where that is not known.

    Returns:
        float64 [n]; NaN where an output is.
    """
    task = tasks.task_of(spec)
    if task == tasks.REGRESSION:
        squared: np.ndarray = ((outputs - labels.reshape(outputs.shape)) ** 2).mean(axis=1)
        return squared
    if task == tasks.LABELS or spec["classes"] == 2:  # a sigmoid for each label
        true = labels.reshape(outputs.shape) == 1
        if logits is not None:
            each = np.logaddexp(0, np.where(true, -logits, logits))
        else:
            each = -np.log(np.clip(np.where(true, outputs, 1 - outputs), CLIP, 1 - CLIP))
        mean: np.ndarray = each.mean(axis=1)
        return mean
    here = np.arange(len(labels))
    if logits is not None:
        entropy: np.ndarray = np.logaddexp.reduce(logits, axis=1) - logits[here, labels]
        return entropy
    clipped: np.ndarray = -np.log(np.clip(outputs[here, labels], CLIP, 1 - CLIP))
    return clipped
