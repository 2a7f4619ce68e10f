"""Where Keras keeps the weights of a network's layers in its files: in which order, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name: Its own.
        path: Of its group in a file of Keras 3, which counts the layers of each kind: `layers/conv2d_3`.
        tensors: The paths of its variables, in the order of files.
    """

    name: str
    path: str
    tensors: tuple[str, ...]


def layout(network: keras.Model) -> list[Layer]:
    """The layers of a network that have weights, in its order; of a network inside, its own layers."""
    return list(_layers(network.layers, "layers"))


def _layers(layers: Sequence[Any], where: str) -> Iterator[Layer]:
    used: dict[str, int] = {}
    for layer in layers:
        kind = snake(type(layer).__name__)
        number = used.get(kind, 0)
        used[kind] = number + 1
        path = f"{where}/{kind}_{number}" if number else f"{where}/{kind}"
        if inside := getattr(layer, "layers", None):
            yield from _layers(inside, f"{path}/layers")
        elif layer.weights:
            yield Layer(layer.name, path, tuple(variable.path for variable in layer.weights))


def snake(name: str) -> str:
    """How Keras writes the name of a class: `batch_normalization`, `conv2d`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
