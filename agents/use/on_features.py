"""A network on the cells of a table as they stand: what was agreed of its columns, inside the network.

features   float64 [n, columns], in the agreed order: a number as it is, a flag as 1 or 0, a category as its place
among the agreed ones, counted from 0; NaN where nothing stands. Any other place is no category.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedssh.models.backend import load_keras
from fedssh.models.data.cells import CATEGORY
from fedssh.models.data.columns import Columns


def on_features(network: Any, table: Columns, name: str) -> Any:
    """A Keras model that takes `features` and gives what the network gives."""
    keras = load_keras()
    ops = keras.ops
    made: list[tuple[int, float, float, float]] = []  # for each number: column, mean, deviation, place of the category
    for at, column in enumerate(table.columns):
        if column.kind == CATEGORY:
            made += [(at, 0.0, 1.0, float(place)) for place in range(column.width)]
        else:
            made.append((at, column.mean, column.deviation, -1.0))
    sources, means, deviations, places = map(np.array, zip(*made, strict=True))
    features = keras.Input(shape=(len(table.columns),), dtype="float64", name="features")
    spread = ops.take(features, sources, axis=1)
    scaled = (spread - means) / deviations
    scaled = ops.where(ops.isnan(scaled), 0.0, scaled)
    chosen = ops.cast(ops.equal(spread, places), "float64")
    values = ops.cast(ops.where(places >= 0, chosen, scaled), "float32")
    return keras.Model(features, network(ops.reshape(values, (-1, 1, table.width, 1))), name=name)


def input_of(table: Columns) -> str:
    """What such a model takes, for people."""
    return f"float64 [n, {len(table.columns)}]: the columns of the table in their order, NaN where nothing stands"
