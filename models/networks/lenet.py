"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, section II.B), with the layer names of the paper.

As is usual today, subsampling has no weights of its own, C3 sees all maps of S2, and the output is a softmax (one
sigmoid for two classes) instead of radial basis functions. The paper pads 28x28 digits to 32x32; C1 pads by itself,
which is the same arithmetic and allows any image of at least 12x12. With 28x28x1 and 10 classes: 61,706 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS: dict[str, int] = {}
SMALLEST = 12  # below this S4 has nothing left to pool


def check(spec: Mapping[str, Any]) -> None:
    """Refuse images too small for two subsamplings."""
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST:
        raise ValueError(f"lenet needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """C1 to F6; the sizes are those of 28x28 images."""
    from keras import layers

    x = layers.Conv2D(6, 5, padding="same", activation="tanh", name="c1")(images)  # 28x28x6
    x = layers.AveragePooling2D(2, name="s2")(x)  # 14x14x6
    x = layers.Conv2D(16, 5, activation="tanh", name="c3")(x)  # 10x10x16
    x = layers.AveragePooling2D(2, name="s4")(x)  # 5x5x16
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(120, activation="tanh", name="c5")(x)  # a 5x5 convolution over 5x5 maps is a dense layer
    return layers.Dense(84, activation="tanh", name="f6")(x)
