"""The CNN of the first paper on federated averaging (McMahan et al. 2017, section 3).

Two 5x5 convolutions, the first with 32 maps, the second with 64, each followed by 2x2 max pooling; 512 dense.
With 28x28x1 and 10 classes: 1,663,370 weights, the number that the paper gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS: dict[str, int] = {}
SMALLEST = 4


def check(spec: Mapping[str, Any]) -> None:
    """Refuse images too small for two poolings."""
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST:
        raise ValueError(f"mcmahan needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """Everything before the output; the sizes are those of 28x28 images."""
    from keras import layers

    x = layers.Conv2D(32, 5, padding="same", activation="relu", name="conv1")(images)  # 28x28x32
    x = layers.MaxPooling2D(2, name="pool1")(x)  # 14x14x32
    x = layers.Conv2D(64, 5, padding="same", activation="relu", name="conv2")(x)  # 14x14x64
    x = layers.MaxPooling2D(2, name="pool2")(x)  # 7x7x64
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(512, activation="relu", name="dense")(x)
