"""AlexNet (Krizhevsky, Sutskever and Hinton 2012, section 3), adapted to images of any size from 63x63.

Five convolutions, three overlapping poolings (3x3, step 2), two dense layers with dropout 0.5. Shapes for two inputs:

              224x224x3 (the paper)    128x128x3
    conv1     55x55x96                 31x31x96      11x11, step 4, images padded by 2
    pool1     27x27x96                 15x15x96
    conv2     27x27x256                15x15x256     5x5
    pool2     13x13x256                7x7x256
    conv3-4   13x13x384                7x7x384       3x3
    conv5     13x13x256                7x7x256       3x3
    pool5     6x6x256                  3x3x256
    dense6-7  4096, 4096               4096, 4096    `units`, dropout 0.5 after each
    weights   62,378,344 (1000)        29,973,889 (2)  in all, for that many classes

What is adapted: one device, so every convolution sees all maps of the layer before (the paper divides conv2, conv4 and
conv5 between two GPUs); no local response normalisation, which costs time and gains nothing (Simonyan and Zisserman
2015, section 4.1); He's initial weights (He et al. 2015, section 2.2) instead of N(0, 0.01) with biases of 1, so that
it learns from random weights with any optimizer; one sigmoid unit for two classes. `units` is the width of the two
dense layers: with 128x128x3 and 512 units there are 5,190,529 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS = {"units": 4096}
SMALLEST = 63  # below this pool5 has nothing left to pool
DROPOUT = 0.5


def check(spec: Mapping[str, Any]) -> None:
    """Refuse images too small for three poolings after a step of 4."""
    height, width, _ = spec["input"]
    if min(height, width) < SMALLEST:
        raise ValueError(f"alexnet needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """conv1 to dense7."""
    from keras import layers

    def convolution(name: str, filters: int, size: int, x: Any) -> Any:
        same = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
        return layers.Conv2D(filters, size, name=name, **same)(x)

    x = layers.ZeroPadding2D(2, name="pad1")(images)
    x = layers.Conv2D(96, 11, strides=4, activation="relu", kernel_initializer="he_normal", name="conv1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = convolution("conv2", 256, 5, x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)
    x = convolution("conv3", 384, 3, x)
    x = convolution("conv4", 384, 3, x)
    x = convolution("conv5", 256, 3, x)
    x = layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    x = layers.Flatten(name="flatten")(x)
    for name in ("6", "7"):
        x = layers.Dense(spec["units"], activation="relu", kernel_initializer="he_normal", name=f"dense{name}")(x)
        x = layers.Dropout(DROPOUT, name=f"dropout{name}")(x)
    return x
