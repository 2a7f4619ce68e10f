"""The CNN of NIID-Bench (Li, Diao, Chen and He 2022, section V): two 5x5 convolutions, 6 and 16 maps, then 120 and 84.

Each convolution is followed by 2x2 max pooling; without padding, as in the published code. With 28x28x1 and 10 classes:
44,426 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS: dict[str, int] = {}
SMALLEST = 16  # below this the second pooling has nothing left


def check(spec: Mapping[str, Any]) -> None:
    """Refuse images too small for two convolutions and poolings."""
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST:
        raise ValueError(f"niidbench needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """Everything before the output; the sizes are those of 28x28 images."""
    from keras import layers

    x = layers.Conv2D(6, 5, activation="relu", name="conv1")(images)  # 24x24x6
    x = layers.MaxPooling2D(2, name="pool1")(x)  # 12x12x6
    x = layers.Conv2D(16, 5, activation="relu", name="conv2")(x)  # 8x8x16
    x = layers.MaxPooling2D(2, name="pool2")(x)  # 4x4x16
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(120, activation="relu", name="dense1")(x)
    return layers.Dense(84, activation="relu", name="dense2")(x)
