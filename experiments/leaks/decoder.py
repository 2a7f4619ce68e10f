"""A network that makes images of what passes a cut, as a coordinator could train it on images of her own.

Zhang, Jia, Pei, Wang, Li and Song 2020 and others call it model inversion; Pasquini, Ateniese and Bernaschi 2021 the
decoder of a feature space. Its layers double the size until an image is reached; flat features go through a dense layer
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedssh.models.backend import compiled, load_keras

FILTERS = 32
BATCH = 32


def decoder(features: Sequence[int], image: Sequence[int], last: str = "sigmoid") -> Any:
    """The network: what passes the cut for one example in, an image in 0..1 out.

    Args:
        features: Their shape, [places] or [height, width, channels].
        image: Height, width, channels.
        last: The activation of the last layer.
    """
    layers = load_keras().layers
    height, width, channels = image
    given = layers.Input(tuple(features))
    x = given
    if len(features) == 1:
        small = (-(-height // 4), -(-width // 4), FILTERS)
        x = layers.Dense(int(np.prod(small)), activation="relu")(x)
        x = layers.Reshape(small)(x)
    else:
        x = layers.Conv2D(FILTERS, 3, padding="same", activation="relu")(x)
    while 2 * x.shape[1] <= height + 1 and 2 * x.shape[2] <= width + 1:
        x = layers.Conv2DTranspose(FILTERS, 3, strides=2, padding="same", activation="relu")(x)
    if x.shape[1:3] != (height, width):  # the last stretch is no doubling
        x = layers.Resizing(height, width, interpolation="bilinear")(x)
    x = layers.Conv2D(FILTERS, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(channels, 3, padding="same", activation=last)(x)
    return load_keras().Model(given, x, name="decoder")


class Decoder:
    """It, while it is trained.

    Args:
        features, image: As of `decoder`.
        seed: Of its weights.
        learning_rate: Of Adam.
    """

    def __init__(self, features: Sequence[int], image: Sequence[int], seed: int, learning_rate: float = 0.001) -> None:
        import tensorflow

        keras = load_keras()
        keras.utils.set_random_seed(seed)
        self.network = decoder(features, image)
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self.network.trainable_variables)
        signature = [tensorflow.TensorSpec([None, *shape], "float32") for shape in (features, image)]
        self._step = compiled(self._stepped, signature)
        self._infer = compiled(lambda given: self.network(given, training=False), signature[:1])

    def step(self, features: np.ndarray, images: np.ndarray) -> float:
        """One step towards these images; returns the mean squared error before it."""
        return float(self._step(features, images))

    def images(self, features: np.ndarray) -> np.ndarray:
        """What it makes of features: float32 [n, height, width, channels], in 0..1."""
        parts = [self._infer(features[at : at + 256]).numpy() for at in range(0, len(features), 256)]
        return np.concatenate(parts)

    def _stepped(self, features: Any, images: Any) -> Any:
        import tensorflow

        with tensorflow.GradientTape() as tape:
            loss = tensorflow.reduce_mean(tensorflow.square(self.network(features, training=True) - images))
        variables = self.network.trainable_variables
        self._optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)
        return loss
