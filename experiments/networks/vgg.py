"""VGG-16 with its three dense layers (Simonyan and Zisserman 2015, configuration D); two of them have `units`.

    conv1_1 conv1_2 pool1     64 maps       3x3 kernels, padded
    conv2_1 conv2_2 pool2     128
    conv3_1 … conv3_3 pool3   256
    conv4_1 … conv4_3 pool4   512
    conv5_1 … conv5_3 pool5   512
    dense1 dense2             4096 each, with dropout 0.5

With 32x32x3 and 10 classes: 33,638,218 weights and 332.1 M multiply-adds, which Gupta and Raskar 2018 give for
CIFAR-10; with 224x224x3 and 1000 classes 138,357,544 weights, as the authors have it. `keras:VGG16` is the same without
dense layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS: dict[str, int | float] = {"units": 4096, "dropout": 0.5}
SMALLEST = 32
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # maps, and convolutions before the pooling


def check(spec: Mapping[str, Any]) -> None:
    """Refuse images too small for five poolings, and a dropout that leaves nothing."""
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST:
        raise ValueError(f"vgg needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")
    if not 0 <= spec["dropout"] < 1:
        raise ValueError(f"dropout must be at least 0 and less than 1, found {spec['dropout']:g}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """Everything before the output."""
    from keras import layers

    x = images
    for block, (maps, convolutions) in enumerate(BLOCKS, 1):
        for number in range(1, convolutions + 1):
            x = layers.Conv2D(maps, 3, padding="same", activation="relu", name=f"conv{block}_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = layers.Dense(spec["units"], activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(spec["dropout"], name=f"dropout{number}")(x)
    return x
