"""SqueezeNet v1.1 (Iandola et al. 2016), made for transfer learning: given weights, of which a part is trained.

Shapes for 128x128x3; a fire module squeezes to few maps and expands to 1x1 and 3x3 maps side by side:

    images      128x128x3   in 0..1, RGB
    mean        128x128x3   BGR in 0..255 minus the ImageNet means, as the weights of the authors expect it
    conv1       63x63x64    3x3, step 2, no padding
    pool1       31x31x64    3x3, step 2, as every pooling
    fire2-3     31x31x128   squeeze 16, expand 64 + 64
    pool3       15x15x128
    fire4-5     15x15x256   squeeze 32, expand 128 + 128
    pool5       7x7x256
    fire6-7     7x7x384     squeeze 48, expand 192 + 192
    fire8-9     7x7x512     squeeze 64, expand 256 + 256
    dropout, average of each map: 512 features for the output layer

Instead of conv10 and its 1000 classes there is the usual output layer; averaging first and then weighting is the same
arithmetic as a 1x1 convolution and then averaging, but for its ReLU. With two classes: 722,496 + 513 = 723,009 weights.

`trained` says how many blocks are trained, counted from the output: 1 is the output layer alone, 2 also fire9, 3 also
fire8, up to 9 also fire2 and 10 everything, the default. The weights before them stay as they were given; they are
part of every model file all the same. Whoever begins with random weights wants 10.

A pooling leaves out a row left over at the end, which Caffe's would pool; that happens at even sizes, such as 56 of
227x227, and a linear probe is as good either way.

Keras allows no slash in a layer's name: `fire2/squeeze1x1` of the authors is `fire2_squeeze1x1` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETERS = {"trained": 10}
SMALLEST = 31  # below this pool5 has nothing left to pool
DROPOUT = 0.5
MEANS = (104.006, 116.669, 122.679)  # of ImageNet in 0..255: blue, green, red
# Maps of a fire module's squeeze layer and of each of its two expand layers.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
POOLED = (3, 5)  # the fire modules that a pooling follows
BLOCKS = 2 + len(FIRES)  # conv1, the fire modules, the output layer


def check(spec: Mapping[str, Any]) -> None:
    """Refuse grey images, images too small for three poolings, and more trained blocks than there are."""
    height, width, channels = spec["input"]
    if channels != 3:
        raise ValueError(f"squeezenet needs colour images, 3 channels, found {channels}")
    if min(height, width) < SMALLEST:
        raise ValueError(f"squeezenet needs images of at least {SMALLEST}x{SMALLEST}, found {height}x{width}")
    if spec["trained"] > BLOCKS:
        raise ValueError(f"squeezenet has {BLOCKS} blocks to train, found {spec['trained']}")


def hidden(images: Any, spec: Mapping[str, Any]) -> Any:
    """Scaling, conv1, the fire modules, and the average of each map."""
    from keras import layers, ops

    frozen = BLOCKS - spec["trained"]  # of conv1, fire2, fire3, …
    x = layers.Rescaling(255.0, [-mean for mean in MEANS], name="mean")(ops.flip(images, axis=-1))
    x = layers.Conv2D(64, 3, strides=2, activation="relu", trainable=frozen < 1, name="conv1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for number, (squeezed, expanded) in FIRES.items():
        x = _fire(f"fire{number}", squeezed, expanded, frozen < number, x)
        if number in POOLED:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
    x = layers.Dropout(DROPOUT, name="dropout")(x)
    return layers.GlobalAveragePooling2D(name="average")(x)


def _fire(name: str, squeezed: int, expanded: int, trained: bool, x: Any) -> Any:
    from keras import layers

    def convolution(part: str, filters: int, size: int, maps: Any) -> Any:
        layer = layers.Conv2D(
            filters, size, padding="same", activation="relu", trainable=trained, name=f"{name}_{part}"
        )
        return layer(maps)

    x = convolution("squeeze1x1", squeezed, 1, x)
    sides = [convolution("expand1x1", expanded, 1, x), convolution("expand3x3", expanded, 3, x)]
    return layers.Concatenate(name=f"{name}_concat")(sides)
