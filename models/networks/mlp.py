"""A plain multilayer perceptron: the "2NN" of McMahan et al. 2017 (section 3), 784-200-200-10 for 28x28x1 digits.

`width` is the number of units of each hidden layer and `depth` the number of hidden layers, so that one file gives
networks of any size. With 28x28x1 and 10 classes: 199,210 weights, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS = {"width": 200, "depth": 2}
MAX_DEPTH = 64


def check(spec: Mapping[str, Any]) -> None:
    """Refuse networks deeper than anybody can train without residuals."""
    if spec["depth"] > MAX_DEPTH:
        raise ValueError(f"mlp has at most {MAX_DEPTH} hidden layers, found {spec['depth']}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """`depth` dense layers of `width` units with ReLU."""
    from keras import layers

    x = layers.Flatten(name="flatten")(images)
    for number in range(1, spec["depth"] + 1):
        x = layers.Dense(spec["width"], activation="relu", name=f"dense{number}")(x)
    return x
