"""Which units of a network fire for which images: what a gradient remembers of single ones.

The gradient of a dense unit's weights is a sum over the images that it fires for. Fires it for one image only, the
gradient is that image, times a number; and where two units fire for the same images but one, the difference of theirs
is. Networks whose units are made so are the attack of Fowl et al. 2022 ("Robbing the Fed", section 4) and of Boenisch
et al. 2023 ("When the Curious Abandon Honesty", section 4.1).

Looked at are the hidden dense layers, whose input the gradient holds. A convolution's gradient is a sum over all places
of an image, and what it passes on is looked at in the dense layer behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedssh.models.backend import compiled, load_keras
from fedssh.models.streaming import images_at
from fedssh.models.training import SCORED_AT_ONCE, Examples

MOST_IMAGES = 1024
MOST_VALUES = 1 << 24  # of a layer: 64 MB of float32
STEEP = 1e-3  # a unit with a smooth bound passes an image's gradient where its slope is more than that
LIKE = 0.9999  # correlation of two units that measure the same of each image
PAIRS = 8  # of units, that are compared for an image


@dataclass(frozen=True)
class Singled:
    """How many images single themselves out in a layer.

    Attributes:
        images: Of how many looked at.
        alone: By a unit that fires for no other one, or by two units that fire for the same ones but it.
        measured: By two such units that measure the same of each image, against bounds of their own.
        lonely: Share of the units that fire for exactly one image.
    """

    layer: str
    images: int
    alone: int
    measured: int
    lonely: float = 0.0


class Watch:
    """Looks at the hidden dense layers of a network, as its weights are at the time. One graph, translated once.

    Args:
        network: As `models.build` makes it: its last layer is its output.
    """

    def __init__(self, network: Any) -> None:
        keras = load_keras()
        import tensorflow

        self._layers = [layer for layer in network.layers[:-1] if isinstance(layer, keras.layers.Dense)]
        self._layers = [layer for layer in self._layers if layer.activation.__name__ in _SLOPES]
        if not self._layers:
            return
        inside = keras.Model(network.inputs, [layer.input for layer in self._layers])

        def forward(images: Any) -> list[Any]:
            inputs = tensorflow.nest.flatten(inside(images, training=False))
            return [
                tensorflow.matmul(tensorflow.cast(given, "float32"), layer.kernel)
                + (0.0 if layer.bias is None else layer.bias)
                for given, layer in zip(inputs, self._layers, strict=True)
            ]

        shape = tensorflow.TensorSpec([None, *network.inputs[0].shape[1:]], "float32")
        self._forward = compiled(forward, [shape])

    def look(self, examples: Examples) -> list[Singled]:
        """How many of at most MOST_IMAGES images single themselves out, layer by layer."""
        if not self._layers:
            return []
        widest = max(layer.units for layer in self._layers)
        count = min(len(examples), MOST_IMAGES, max(SCORED_AT_ONCE, MOST_VALUES // widest))
        chosen = np.sort(np.random.default_rng(0).permutation(len(examples))[:count])
        parts = [
            [part.numpy() for part in self._forward(images_at(examples.images, chosen[at : at + SCORED_AT_ONCE]))]
            for at in range(0, count, SCORED_AT_ONCE)
        ]
        found = []
        for place, layer in enumerate(self._layers):
            values = np.concatenate([part[place] for part in parts])
            fires = _SLOPES[layer.activation.__name__](values)
            lonely = float((fires.sum(axis=0) == 1).mean())
            alone, measured = map(len, singled_out(fires, values))
            found.append(Singled(layer.name, count, alone, measured, lonely))
        return found


def singled_out(fires: np.ndarray, values: np.ndarray) -> tuple[set[int], set[int]]:
    """Which images single themselves out: alone, and measured; see `Singled`.

    Args:
        fires: bool [images, units].
        values: float32 of that shape: what the units add up, before their activation.
    """
    codes = np.random.default_rng(0).integers(1, 2**63, len(fires), dtype=np.int64)
    ordered, order = np.sort(codes), np.argsort(codes)

    def image_of(code: np.ndarray) -> np.ndarray:
        """Which image a set of one has the code of; -1 where it is no such set."""
        at = np.minimum(np.searchsorted(ordered, code), len(ordered) - 1)
        return np.where(ordered[at] == code, order[at], -1)

    sets = np.array([np.bitwise_xor.reduce(codes[column], initial=0) for column in fires.T], np.int64)
    counts = fires.sum(axis=0)
    alone = set(image_of(sets[counts == 1]).tolist())
    measured: set[int] = set()
    tried = np.zeros(len(fires), np.int64)
    by_count = {int(count): np.flatnonzero(counts == count) for count in np.unique(counts)}
    for count, fewer in by_count.items():
        more = by_count.get(count + 1)
        if count == 0 or more is None:
            continue
        for unit in fewer:  # two sets of which one is larger by one image: their codes differ by that image's
            for image, other in zip(image_of(sets[unit] ^ sets[more]).tolist(), more.tolist(), strict=True):
                if image < 0:
                    continue
                alone.add(image)
                if image not in measured and tried[image] < PAIRS:
                    tried[image] += 1
                    if _alike(values[:, unit], values[:, other]):
                        measured.add(image)
    return alone - {-1}, measured


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two units measure the same of each image, but for scale and bound."""
    one, two = (array.astype(np.float64) - array.mean(dtype=np.float64) for array in (first, second))
    length = float(np.linalg.norm(one) * np.linalg.norm(two))
    return length > 0 and float(one @ two) > LIKE * length


# Where a unit passes a gradient, from what it adds up.
_SLOPES: dict[str, Any] = {
    "relu": lambda values: values > 0,
    "tanh": lambda values: 1 - np.tanh(values) ** 2 > STEEP,
    "sigmoid": lambda values: 0.25 * (1 - np.tanh(values / 2) ** 2) > STEEP,
}
