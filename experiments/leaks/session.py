"""Split training of one site in this process: both parts, and what is sent between them as the wire has it.

What a site sends may have noise on it, of so many standard deviations of what the batch gives at the cut: one number
for all its places. The coordinator trains on what she gets; her gradient goes back as it is, since what is added to a
number does not change the gradient by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fedssh.models import build, get_weights
from fedssh.models.backend import load_keras
from fedssh.models.data.images import Images
from fedssh.models.parts import Part

WIRES = ("f32", "f16", "int8")
BATCH = 32
GRADIENTS = 1024.0  # what gradients are multiplied by for float16, so that small ones are not lost; and divided after


def first_weights(spec: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """The weights that a network begins with."""
    load_keras().utils.set_random_seed(seed)
    return get_weights(build(spec))


def sent(features: np.ndarray, wire: str, noise: float, random: np.random.Generator) -> np.ndarray:
    """What arrives of what is sent: float32 [n, …].

    Args:
        features: What the first part gives.
        wire: float32, float16, or int8 with one factor for each image.
        noise: Of how many standard deviations of `features`.
    """
    if noise:
        deviation = np.float32(noise * features.std())
        features = np.asarray(features + deviation * random.standard_normal(features.shape, np.float32))
    if wire == "f16":
        return features.astype(np.float16).astype(np.float32)
    if wire == "int8":
        most = np.abs(features).max(axis=tuple(range(1, features.ndim)), keepdims=True)
        factor = np.maximum(most, np.finfo(np.float32).tiny) / np.float32(127)
        return np.asarray(np.round(features / factor).astype(np.int8).astype(np.float32) * factor)
    return features


class Session:
    """One site's head, and the coordinator's tail.

    Args:
        spec: The network.
        cut: The layer after which it is cut.
        seed: Of first weights, orders of images, and noise.
        wire, noise: As of `sent`.
        optimizer, learning_rate: As of `training.Trainer`.
        weights: What it begins with; drawn by the seed, unless others are given.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        cut: str,
        seed: int,
        wire: str = "f16",
        noise: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 0.001,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._begun = weights or first_weights(spec, seed)
        self.head, self.tail = (Part(spec, [cut], number, optimizer, learning_rate) for number in range(2))
        self.wire, self.noise, self._seed = wire, noise, seed
        self.again()

    def again(self) -> None:
        """Begin anew, as if it had just been made."""
        for part in (self.head, self.tail):
            part.load(self._begun)
            part.fresh(self._seed)
        self._random = np.random.default_rng([self._seed, 1])

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the coordinator gets of a batch."""
        return sent(self.head.forward(images).numpy(), self.wire, self.noise, self._random)

    def train(
        self, data: Images, epochs: int, tail: Callable[[np.ndarray, np.ndarray], Any] | None = None
    ) -> Iterator[None]:
        """Train, one step at a time.

        Args:
            tail: What answers features and labels with a gradient; the coordinator's part, unless another is given.
        """
        answer = tail or (lambda features, labels: self.tail.step(features, labels)[0])
        for epoch in range(epochs):
            order = np.random.default_rng([self._seed, 2, epoch]).permutation(len(data))
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                images = data.images[some]
                gradient = np.asarray(answer(self.features(images), data.labels[some]))
                if self.wire != "f32":
                    gradient = (gradient * np.float32(GRADIENTS)).astype(np.float16).astype(np.float32) / GRADIENTS
                self.head.backward(images, gradient.astype(np.float32))
                yield

    def accuracy(self, data: Images) -> float:
        """Of both parts together, without noise, as a release is scored."""
        right = 0.0
        for start in range(0, len(data), 256):
            some = slice(start, start + 256)
            right += self.tail.score(self.head.infer(data.images[some]), data.labels[some])[1]
        return right / len(data)
