"""Learning from images without labels: FixMatch (Sohn et al. 2020, NeurIPS), with the means of weights as its teacher.

In a step, beside the labelled images of the batch, for `ratio` times as many images u without labels:

    q         what the teacher gives for u, changed a little (`augment.augmented`)
    label     the class of q, where max(q) >= threshold; an image of which the teacher is less sure counts 0
    loss      mean loss of the labelled images + weight * mean over all u of the loss of u, changed much
              (`augment.strongly`), for that label                                   (equations 3 and 4, algorithm 1)
    teacher   after each step decay * teacher + (1 - decay) * network, over all weights, as Tarvainen and Valpola 2017
              (section 2); a session begins with both the same

The paper takes q of the network itself and means of weights only to score. Here the teacher gives q, and the network is
what is scored and sent. No gradient goes through q. Class weights and what regularizers add concern labelled images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedssh.models import build, tasks

KIND = "fixmatch"


@dataclass(frozen=True)
class Settings:
    """What a federation agrees on; the text form is `fixmatch:threshold=0.95,weight=1,ratio=3,decay=0.99`.

    Attributes:
        threshold: In 0..1: how sure the teacher must be of a class (tau of the paper).
        weight: What the loss of images without labels counts (lambda_u).
        ratio: How many of them come with each labelled image of a batch (mu).
        decay: In 0..1 without 1: how much of the teacher stays in a step.
    """

    threshold: float
    weight: float
    ratio: int
    decay: float


def read(text: str) -> Settings | None:
    """What a recipe says, every option written out; None where it says `none`.

    Raises:
        ValueError: It is no such text.
    """
    if text == "none":
        return None
    kind, _, options = text.partition(":")
    given = dict(option.split("=", 1) for option in options.split(",")) if options else {}
    if kind != KIND or given.keys() != Settings.__annotations__.keys():
        raise ValueError(f"nothing is learned from images without labels by {text!r}")
    return Settings(float(given["threshold"]), float(given["weight"]), int(given["ratio"]), float(given["decay"]))


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise ValueError where a network of this spec cannot learn so."""
    if spec.get("kind") == "table":
        raise ValueError("unlabelled: images are changed to learn from them without labels, and this is a table")
    if tasks.task_of(spec) != tasks.CLASSES:
        raise ValueError(f"unlabelled: labels are guessed of classes, and the network {tasks.shown(spec)}")


class Teacher:
    """The means of a network's weights, as a network of its own. For one thread at a time.

    Args:
        spec, precision: Of the network.
        network: The one that learns.
        settings: What was agreed.
    """

    def __init__(self, spec: Mapping[str, Any], precision: str, network: Any, settings: Settings) -> None:
        self._network = build(spec, precision)
        self._threshold, self._decay = settings.threshold, settings.decay
        self._pairs = [
            (mine.value, other.value) for mine, other in zip(self._network.weights, network.weights, strict=True)
        ]

    def begin(self) -> None:
        """Take over the weights of the network that learns."""
        for mean, weight in self._pairs:
            mean.assign(weight)

    def labels(self, images: Any) -> tuple[Any, Any]:
        """Guess the classes of images, in a graph: int64 [n], and which count: float32 [n], 0 or 1."""
        import tensorflow

        given = tensorflow.stop_gradient(self._network(images, training=False))
        if given.shape[1] == 1:  # of two classes the one sigmoid unit; 0.5 is class 0, as in `objective`
            label = tensorflow.cast(given[:, 0] > 0.5, "int64")
            sure = tensorflow.maximum(given[:, 0], 1 - given[:, 0])
        else:
            label = tensorflow.argmax(given, axis=1, output_type=tensorflow.int64)
            sure = tensorflow.reduce_max(given, axis=1)
        return label, tensorflow.cast(sure >= self._threshold, "float32")

    def follow(self) -> None:
        """Take a step towards the network that learns, in a graph."""
        for mean, weight in self._pairs:
            mean.assign(self._decay * mean + (1 - self._decay) * weight)


def places(seed: int, count: int, begin: int, steps: int, each: int) -> np.ndarray:
    """Which images without labels the steps of a session take: all passes through them are one row, step after step.

    Args:
        seed: Of the session.
        count: How many there are.
        begin: How many steps there were before.
        each: How many a step takes.

    Returns:
        int64 [steps, each].
    """
    first, last = begin * each, (begin + steps) * each
    passes = range(first // count, -(-last // count))
    row = np.concatenate([np.random.default_rng([seed, 2, number]).permutation(count) for number in passes])
    start = first - passes[0] * count
    return row[start : start + last - first].reshape(steps, each).astype(np.int64)
