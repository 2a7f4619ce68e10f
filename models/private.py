"""Training that hides single images, or single patients: DP-SGD (Abadi et al. 2016, algorithm 1), in Poisson batches.

In each step every unit, an image or a patient with all images, is drawn by itself with the same probability. Its
gradient, of the mean loss of its images, is scaled down to `clip` where it is longer, all weights together; what is not
finite counts as nothing, since no noise would cover it. The step goes along

    (sum of the clipped gradients + noise * clip * N(0, 1) for each weight) / expected number of units

so that how many were drawn is not told. Where images are the units and the network is of dense layers and
convolutions, `clipped` has the sum from one pass backwards through a piece of the batch. Otherwise the units' gradients
are taken in a loop of the graph, which has at most ten of them in memory; for a small network it is quicker than
`vectorized_map`, and than one after the other. Draws and noise come from NumPy's generator, seeded anew for each epoch
with 256 bits of the operating system: who could foretell them could take the noise off, so no seed of a session has any
part in them, and the same session never gives the same weights again. Numbers are float32, and the attack on the lowest
bits of noise (Mironov 2012) is not defended against.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedssh.models import clipped, loss_name
from fedssh.models.backend import compiled
from fedssh.models.objective import Kind
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.streaming import images_at
from fedssh.models.training import Examples, Interrupted, Trainer

UNMIXED = ("class_weights", "calibrate", "clip_norm", "augment", "precision")  # what no unit's gradient is known with


def objection(network: Any) -> str:
    """Why a network cannot be trained so, as the end of a sentence; empty when it can.

    Statistics of a batch make each image's gradient depend on all others, and leave without noise.
    """
    for layer in _all(network.layers):
        if layer.trainable and not getattr(layer, "layers", ()) and layer.non_trainable_weights:
            return f"its layer {layer.name} keeps statistics of batches, which tell of all images in them"
    return ""


def _all(layers: Sequence[Any]) -> list[Any]:
    return [one for layer in layers for one in (layer, *_all(getattr(layer, "layers", ())))]


def secret_generator() -> np.random.Generator:
    """A generator that nobody can foretell."""
    return np.random.default_rng(int.from_bytes(os.urandom(32)))


def poisson(generator: np.random.Generator, units: int, rate: float) -> np.ndarray:
    """Which units a step takes, each by itself with the same probability: int64, ascending, perhaps none."""
    return np.flatnonzero(generator.random(units) < rate)


def units_of(order: np.ndarray, patients: np.ndarray | None) -> list[np.ndarray]:
    """The images of each unit, as indices: of each image itself, or of each patient.

    Args:
        order: int [m]: the images that are trained on.
        patients: [n], equal for images of one patient; None where each image is a unit.
    """
    kept = np.sort(np.asarray(order, np.int64))
    if patients is None:
        return list(kept[:, None])
    owner = np.unique(patients[kept], return_inverse=True)[1]
    by_owner = np.argsort(owner, kind="stable")
    return np.split(kept[by_owner], np.flatnonzero(np.diff(owner[by_owner])) + 1)


class PrivateTrainer(Trainer):
    """A trainer whose epochs are private. Sessions of it are not reproducible.

    Args:
        unit: `image` or `patient`.
        clip: The longest that a unit's gradient may be; greater than 0.
        noise: The noise's deviation, in units of `clip`.
        rate: The probability with which a step takes a unit; None is the batch size over the images.
        pieces: Whether `clipped` may be used, which changes no sum by more than rounding.

    Raises:
        ValueError: As of `Trainer`; or what is asked for is not private, see `UNMIXED` and `objection`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        optimizer: str,
        learning_rate: float,
        momentum: float = 0.0,
        proximal: float = 0.0,
        loss: str | None = None,
        recipe: Recipe = PLAIN,
        *,
        unit: str,
        clip: float,
        noise: float,
        rate: float | None = None,
        pieces: bool = True,
    ) -> None:
        for name in UNMIXED:
            if getattr(recipe, name) != getattr(PLAIN, name):
                raise ValueError(f"{name.replace('_', ' ')} and private training do not go together")
        super().__init__(spec, optimizer, learning_rate, momentum, proximal, loss, recipe)
        if why := objection(self.network):
            raise ValueError(f"{self.spec['name']} cannot be trained privately: {why}")
        self._unit, self._clip, self._noise, self._rate_of_units = unit, clip, noise, rate
        at_once = pieces and unit == "image" and loss in (None, loss_name(self.spec))
        self._piece = clipped.pieces(self.network, self._objective, self.spec["input"]) if at_once else 0
        self._stepping = compiled(self._step, self._signature(self._objective.kind))

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        """Take ceil(m / batch_size) steps on Poisson batches of `batch_size` of the m images in `order`, in the mean.

        Where the trainer has a rate, these are ceil(1 / rate) steps at it, and the batch size is of no matter.

        Args:
            examples: With `patients`, where these are the units.
            order: Only which images are in it counts.
            stop: When it is set, training ends after the step at hand.

        Returns:
            Mean loss and measure of the images that were drawn, as their step found them. NaN where there were none.

        Raises:
            Interrupted: `stop` was set.
            ValueError: Patients are the units, and nobody knows them.
        """
        if self._unit == "patient" and examples.patients is None:
            raise ValueError("patients are to be hidden, and the data does not say whose an image is")
        units = units_of(order, examples.patients if self._unit == "patient" else None)
        rate, steps = self._rate_of_units, math.ceil(1 / self._rate_of_units) if self._rate_of_units else 0
        if rate is None:
            rate, steps = min(1.0, batch_size / len(order)), -(-len(order) // batch_size)
        generator, seen, loss, right = secret_generator(), 0, 0.0, 0.0
        for _ in range(steps):
            if stop is not None and stop.is_set():
                raise Interrupted
            drawn = [units[place] for place in poisson(generator, len(units), rate)]
            more_loss, more_right = self.step(examples, drawn, rate * len(units), self.draw_noise(generator))
            seen, loss, right = seen + sum(map(len, drawn)), loss + more_loss, right + more_right
        return (loss / seen, right / seen) if seen else (float("nan"), float("nan"))

    def draw_noise(self, generator: np.random.Generator) -> list[np.ndarray]:
        """N(0, 1) for each weight that is trained: float32, of their shapes."""
        return [generator.standard_normal(tuple(one.shape), np.float32) for one in self._trained]

    def step(
        self, examples: Examples, drawn: Sequence[np.ndarray], expected: float, noise: Sequence[np.ndarray]
    ) -> tuple[float, float]:
        """One step.

        Args:
            drawn: The images of each unit that is in it.
            expected: How many units are in a step in the mean.
            noise: Of each weight that is trained, N(0, 1): float32, of its shape.

        Returns:
            The sums over the images of the loss and of what is right.
        """
        import tensorflow

        at = np.concatenate([np.empty(0, np.int64), *drawn])
        ends = np.cumsum([0, *map(len, drawn)], dtype=np.int64)
        with tensorflow.device("/CPU:0"):
            images, labels = images_at(examples.images, at), tensorflow.gather(examples.labels, at)
        said = tensorflow.constant(expected, "float32"), [tensorflow.constant(one) for one in noise]
        loss, right = self._stepping(images, labels, tensorflow.constant(ends), *said)
        return float(loss), float(right)

    def _signature(self, kind: Kind) -> list[Any]:
        from tensorflow import TensorSpec

        return [
            TensorSpec([None, *self.spec["input"]], "float32"),
            TensorSpec([None, *kind.shape], kind.labels),
            TensorSpec([None], "int64"),
            TensorSpec([], "float32"),
            [TensorSpec(one.shape, "float32") for one in self._trained],
        ]

    def _step(self, images: Any, labels: Any, ends: Any, expected: Any, noise: Any) -> tuple[Any, Any]:
        deviation = self._noise * self._clip
        sums, loss, right = (self._in_pieces if self._piece else self._one_by_one)(images, labels, ends)
        gradients = [(total + deviation * drawn) / expected for total, drawn in zip(sums, noise, strict=True)]
        if self._proximal:
            changes = zip(gradients, self._trained, self._loaded, strict=True)
            gradients = [one + self._proximal * (now - before) for one, now, before in changes]
        self._optimizer.apply(gradients, self.network.trainable_variables)
        return loss, right

    def _in_pieces(self, images: Any, labels: Any, ends: Any) -> tuple[list[Any], Any, Any]:
        """The sum of the units' clipped gradients, the loss and what is right, where each image is a unit."""
        import tensorflow

        def add(first: Any, sums: Any, loss: Any, right: Any) -> tuple[Any, Any, Any, Any]:
            own, truth = (all_of[first : first + self._piece] for all_of in (images, labels))
            more, lost, found = clipped.clipped_sums(self.network, self._objective, self._clip, own, truth)
            added = [total + one for total, one in zip(sums, more, strict=True)]
            lost, found = tensorflow.cast(lost, "float64"), tensorflow.cast(found, "float64")
            return first + self._piece, added, loss + lost, right + found

        many = tensorflow.size(ends, out_type="int64") - 1
        start = self._nothing()
        return tensorflow.while_loop(lambda first, *_: first < many, add, start, parallel_iterations=1)[1:]  # type: ignore[no-any-return]

    def _one_by_one(self, images: Any, labels: Any, ends: Any) -> tuple[list[Any], Any, Any]:
        """The same of any units and networks."""
        import tensorflow

        def add(unit: Any, sums: Any, loss: Any, right: Any) -> tuple[Any, Any, Any, Any]:
            first, last = ends[unit], ends[unit + 1]
            own, truth = images[first:last], labels[first:last]
            with tensorflow.GradientTape() as tape:
                outputs = self.network(own, training=True)
                mean = self._objective.mean(truth, outputs, self.network.losses)
            gradients = tape.gradient(mean, self._trained, unconnected_gradients="zero")
            gradients = [tensorflow.convert_to_tensor(one) for one in gradients]
            length = tensorflow.linalg.global_norm(gradients)
            scale = self._clip / tensorflow.maximum(length, self._clip)
            added = tensorflow.cond(
                tensorflow.math.is_finite(length),
                lambda: [total + scale * one for total, one in zip(sums, gradients, strict=True)],
                lambda: list(sums),
            )
            count = tensorflow.cast(last - first, "float64")
            found = tensorflow.cast(self._objective.right(truth, outputs), "float64")
            return unit + 1, added, loss + tensorflow.cast(mean, "float64") * count, right + found

        many = tensorflow.size(ends, out_type="int64") - 1
        return tensorflow.while_loop(lambda unit, *_: unit < many, add, self._nothing())[1:]  # type: ignore[no-any-return]

    def _nothing(self) -> tuple[Any, list[Any], Any, Any]:
        """What the sums begin with: no unit, and zeros."""
        import tensorflow

        zeros = [tensorflow.zeros(one.shape, "float32") for one in self._trained]
        none = tensorflow.constant(0.0, "float64")
        return tensorflow.constant(0, "int64"), zeros, none, none
