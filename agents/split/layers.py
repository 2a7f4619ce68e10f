"""A site's layers where they are for sites alone: their weights, and the optimizer's state that goes on with them.

A model file (see `weights`) whose tensors are those of the site's layers, by variable path, and `optimizer/…`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedssh.errors import WeightsError
from fedssh.weights import read_header, read_weights

_STATE = "optimizer/"
Arrays = dict[str, np.ndarray]


def together(weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors of such a file."""
    return {**weights, **{f"{_STATE}{name}": array for name, array in state.items()}}


def read_layers(path: Path | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Arrays, Arrays]:
    """Weights and the optimizer's state of such a file; nothing where there is none.

    Args:
        shapes: Of the whole network's weights.

    Raises:
        WeightsError: It is malformed, not finite, or has weights that the network has not.
    """
    if path is None:
        return {}, {}
    every = read_weights(path, read_header(path).tensors)
    for name, array in every.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{name} of the layers that came is not finite")
        if not name.startswith(_STATE) and shapes.get(name) != array.shape:
            raise WeightsError(f"{name} of the layers that came is {array.shape}, the network has {shapes.get(name)}")
    weights = {name: array for name, array in every.items() if not name.startswith(_STATE)}
    return weights, {name.removeprefix(_STATE): array for name, array in every.items() if name not in weights}
