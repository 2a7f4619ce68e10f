"""A residual network for small images (He, Zhang, Ren and Sun 2016), with basic blocks of two 3x3 convolutions.

The stem is one 3x3 convolution without pooling, as the authors have it for CIFAR-10 (section 4.2); every stage after
the first halves the sides and doubles the maps. Shapes for 28x28, `blocks` 2 and `width` 64, which is ResNet-18:

    stem      28x28x64
    stage1    28x28x64     2 blocks
    stage2    14x14x128
    stage3    7x7x256
    stage4    4x4x512
    average   512          of each map; then dropout, if any

With one channel and two classes: 11,177,793 weights, of them 9,600 statistics; `blocks` 1 and `width` 16
have 308,817.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS = {"blocks": 2, "width": 64, "stages": 4, "dropout": 0.0}
MOMENTUM = 0.9  # of the moving statistics; Keras' 0.99 is for longer training than a session between two releases


def check(spec: Mapping[str, Any]) -> None:
    """Refuse more halvings than the image has pixels for, and a dropout that leaves nothing."""
    height, width, _ = spec["input"]
    smallest = 2 ** (spec["stages"] - 1)
    if min(height, width) < smallest:
        stages = f"{spec['stages']} stages"
        raise ValueError(f"resnet of {stages} needs images of at least {smallest}x{smallest}, found {height}x{width}")
    if not 0 <= spec["dropout"] < 1:
        raise ValueError(f"dropout must be at least 0 and less than 1, found {spec['dropout']:g}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """The stem, the stages, and the average of each map."""
    from keras import layers

    x = layers.Activation("relu", name="stem_relu")(_convolution("stem", spec["width"], 3, 1, images))
    for stage in range(1, spec["stages"] + 1):
        for block in range(1, spec["blocks"] + 1):
            step = 2 if stage > 1 and block == 1 else 1
            x = _block(f"stage{stage}_block{block}", spec["width"] * 2 ** (stage - 1), step, x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return layers.Dropout(spec["dropout"], name="dropout")(x)


def _block(name: str, maps: int, step: int, x: Any) -> Any:
    """What two convolutions add to their input; where it has another shape, a 1x1 convolution gives it the new one."""
    from keras import layers

    kept = x
    if step > 1 or x.shape[-1] != maps:
        kept = _convolution(f"{name}_kept", maps, 1, step, x)
    x = layers.Activation("relu", name=f"{name}_relu1")(_convolution(f"{name}_1", maps, 3, step, x))
    x = layers.Add(name=f"{name}_add")([_convolution(f"{name}_2", maps, 3, 1, x), kept])
    return layers.Activation("relu", name=f"{name}_relu2")(x)


def _convolution(name: str, maps: int, size: int, step: int, x: Any) -> Any:
    """A convolution without bias, and batch normalisation, which has one."""
    from keras import layers

    x = layers.Conv2D(
        maps, size, strides=step, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=1e-5, name=f"{name}_norm")(x)
