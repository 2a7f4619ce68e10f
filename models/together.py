"""All parts of a network in one room: what several rooms in a row would learn, an epoch in one graph.

Gupta and Raskar 2018, algorithm 1, and section 6 for more than two parts: what a part gives is passed to the next one,
the last one computes the loss, and gradients are passed back. Where nothing is rounded on its way, all weights are
those of the network in one piece, bit for bit; otherwise those of rooms that pass the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedssh.models.parts import Part
from fedssh.models.training import Examples, Loop

Passed = Callable[[Any, bool], Any]  # a tensor, float32 [n, *shape of the cut], and whether it is a gradient


class Together:
    """Parts of one network, from the first to the last. For one thread at a time.

    Args:
        parts: All of them; what they have learned, and how far their optimizers are, stays theirs.
        passed: In a graph: what arrives of a tensor that passes a cut; None is the tensor itself.
    """

    def __init__(self, parts: Sequence[Part], passed: Passed | None = None) -> None:
        self._parts = parts
        self._passed = passed
        self._training = Loop(self._batch, parts[0].spec["input"], kind=parts[-1].kind)

    def epoch(self, examples: Examples, order: np.ndarray, batch_size: int) -> tuple[float, float]:
        """Train once through `order`, in batches of `batch_size` and a last one of what is left.

        Returns:
            Mean loss and measure of the examples, each as its batch found it: those of `Part.step`.

        Raises:
            ValueError: The loss of a batch, or what passed a cut, was not finite; the weights are of no worth then.
        """
        loss, right = self._training.run(examples, np.asarray(order, np.int64), batch_size, None)
        if not np.isfinite(loss):
            raise ValueError("a loss, or what passed a cut, was not finite")
        return loss, right.item() / len(order)

    def _batch(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """A step of all parts on one batch, in a graph: its mean loss, NaN where something was not finite."""
        import tensorflow

        given, sound = images, list[Any]()
        backs = []
        for part in self._parts[:-1]:
            features, back = part.both_ways(given)
            given = self._pass(features, False, sound)
            backs.append(back)
        gradient, loss, right = self._parts[-1].last_step(given, labels)
        for back in reversed(backs):
            gradient = back(self._pass(gradient, True, sound))
        whole = tensorflow.reduce_all(tensorflow.stack([tensorflow.math.is_finite(loss), *sound]))
        return tensorflow.where(whole, loss, float("nan")), right

    def _pass(self, array: Any, gradient: bool, sound: list[Any]) -> Any:
        """What arrives at the other side of a cut; it is noted whether all of it was finite."""
        import tensorflow

        if self._passed is not None:
            array = self._passed(array, gradient)
        sound.append(tensorflow.reduce_all(tensorflow.math.is_finite(array)))
        return array
