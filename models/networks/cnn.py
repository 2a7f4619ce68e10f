"""A small convolutional network for X-ray images, in two depths; `depth` counts convolution and pooling layers.

depth 4   conv32 pool conv64 pool, then 128 units; 3x3 kernels without padding
          28x28x1, 2 classes: 223,873 weights, 0.9 MB
depth 8   conv32 conv32 pool conv64 conv64 pool conv128 pool, then 128 units; 3x3 kernels with padding
          28x28x1, 2 classes: 286,561 weights, 1.1 MB
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS = {"depth": 4}

# Filters of a convolution, or None for a 2x2 maximum pooling.
LAYERS: dict[int, tuple[int | None, ...]] = {
    4: (32, None, 64, None),
    8: (32, 32, None, 64, 64, None, 128, None),
}
SMALLEST = {4: 10, 8: 8}  # below this the last pooling has nothing left to pool


def check(spec: Mapping[str, Any]) -> None:
    """Refuse another depth than 4 or 8 and images too small for it."""
    depth = spec["depth"]
    if depth not in LAYERS:
        raise ValueError(f"cnn has depth 4 or 8, found {depth}")
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST[depth]:
        smallest = SMALLEST[depth]
        raise ValueError(f"cnn of depth {depth} needs images of at least {smallest}x{smallest}, found {height}x{width}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """Convolutions and poolings by `LAYERS`, flattened into one dense layer."""
    from keras import layers

    padding = "valid" if spec["depth"] == 4 else "same"
    x = images
    convolutions = poolings = 0
    for filters in LAYERS[spec["depth"]]:
        if filters is None:
            poolings += 1
            x = layers.MaxPooling2D(2, name=f"pool{poolings}")(x)
        else:
            convolutions += 1
            x = layers.Conv2D(filters, 3, padding=padding, activation="relu", name=f"conv{convolutions}")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(128, activation="relu", name="dense")(x)
