"""A coordinator who hijacks a training: feature-space hijacking, in small.

Pasquini, Ateniese and Bernaschi 2021, "Unleashing the tiger: Inference attacks on split learning", section 3 and
algorithm 1. She trains an encoder (the pilot) and a decoder on images of her own, and a discriminator that tells the
pilot's features from the site's; what she sends back is the gradient that makes the site's features look like the
pilot's, so that her decoder reads them. As there, the discriminator is that of Wasserstein, with a penalty on the
length of its gradients (Gulrajani et al. 2017).

Smaller than there: the pilot has the layers of the site's own part, the discriminator two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.leaks.decoder import BATCH, decoder
from experiments.leaks.session import Session, first_weights
from fedssh.models import build, set_weights
from fedssh.models.backend import compiled, load_keras
from fedssh.models.cut import parts

PENALTY = 10.0
BEFORE = 200  # steps of pilot and decoder before the site comes
WAYS = ("plain", "scaled", "mixed")


class Hijacker:
    """Her side of a session.

    Args:
        spec, cut: The network, and where it is cut.
        images: Her own: float32 [n, height, width, channels].
        seed: Of her weights and of the order of her images.
    """

    def __init__(self, spec: Mapping[str, Any], cut: str, images: np.ndarray, seed: int) -> None:
        import tensorflow

        keras = load_keras()
        network = build(spec)
        set_weights(network, first_weights(spec, seed + 1000))
        self._pilot = parts(network, [cut])[0]
        features = self._pilot.outputs[0].shape[1:]
        # A sigmoid has no slope left on digits, which are nearly all black, before it has seen one.
        self._decoder = decoder(features, images.shape[1:], "linear")
        self._critic = _critic(keras, features)
        self._images, self._random = images, np.random.default_rng([seed, 5])
        self._seed = seed
        self._makers = [*self._pilot.trainable_variables, *self._decoder.trainable_variables]
        self._judges = list(self._critic.trainable_variables)
        self._optimizers = [keras.optimizers.Adam(0.001) for _ in range(2)]
        for optimizer, variables in zip(self._optimizers, (self._makers, self._judges), strict=True):
            optimizer.build(variables)
        given = tensorflow.TensorSpec([None, *features], "float32")
        own = tensorflow.TensorSpec([None, *images.shape[1:]], "float32")
        shares = tensorflow.TensorSpec([None, *([1] * len(features))], "float32")
        self._step = compiled(self._stepped, [given, own, shares])
        self._infer = compiled(lambda batch: self._decoder(batch, training=False), [given])
        prepare = compiled(self._prepared, [own])
        for _ in range(BEFORE):  # nobody sees what she does before
            prepare(self._own(BATCH))
        changed = [self._makers, self._judges, *(optimizer.variables for optimizer in self._optimizers)]
        self._ready = [(variable, variable.numpy()) for variables in changed for variable in variables]

    def answers(self, way: str, session: Session) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Begin to answer a session's batches, as she was before the site came.

        Args:
            way: What she sends: `plain`, the gradient of her loss; `scaled`, the same made as long as the honest one,
                which she computes beside it; `mixed`, the mean of that and the honest one, so that the network learns
                its task, too (as the multitask attackers of the literature).
            session: Its tail gives the honest gradient.
        """
        for variable, value in self._ready:
            variable.assign(value)
        self._random = np.random.default_rng([self._seed, 8])

        def answer(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
            share = self._random.random((len(features), *([1] * (features.ndim - 1))), np.float32)
            found: np.ndarray = self._step(features, self._own(len(features)), share).numpy()
            if way == "plain":
                return found
            honest = np.asarray(session.tail.step(features, labels)[0])
            found = found * (np.linalg.norm(honest) / max(float(np.linalg.norm(found)), 1e-30))
            return found if way == "scaled" else (found + honest) / 2

        return answer

    def _own(self, number: int) -> np.ndarray:
        return self._images[self._random.integers(0, len(self._images), number)]

    def _prepared(self, own: Any) -> Any:
        """A step of pilot and decoder; returns the pilot's features."""
        import tensorflow

        with tensorflow.GradientTape() as tape:
            piloted = self._pilot(own, training=True)
            loss = tensorflow.reduce_mean(tensorflow.square(self._decoder(piloted, training=True) - own))
        self._apply(0, tape, loss, self._makers)
        return piloted

    def images(self, features: np.ndarray) -> np.ndarray:
        """What she makes of features: float32 [n, height, width, channels], in 0..1."""
        made = [self._infer(features[at : at + BATCH]).numpy() for at in range(0, len(features), BATCH)]
        return np.concatenate(made).clip(0, 1)

    def _stepped(self, features: Any, own: Any, share: Any) -> Any:
        import tensorflow

        piloted = self._prepared(own)
        between = share * features + (1 - share) * piloted
        with tensorflow.GradientTape() as tape:
            with tensorflow.GradientTape() as inner:
                inner.watch(between)
                told = self._critic(between)
            slopes = tensorflow.reshape(inner.gradient(told, between), [tensorflow.shape(between)[0], -1])
            lengths = tensorflow.sqrt(tensorflow.reduce_sum(tensorflow.square(slopes), axis=1) + 1e-12)
            # High for what the site sends, low for the pilot's.
            apart = tensorflow.reduce_mean(self._critic(features)) - tensorflow.reduce_mean(self._critic(piloted))
            loss = PENALTY * tensorflow.reduce_mean(tensorflow.square(lengths - 1)) - apart
        self._apply(1, tape, loss, self._judges)
        with tensorflow.GradientTape() as tape:
            tape.watch(features)
            loss = tensorflow.reduce_mean(self._critic(features))
        return tape.gradient(loss, features)

    def _apply(self, number: int, tape: Any, loss: Any, variables: Any) -> None:
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self._optimizers[number].apply(gradients, variables)


def _critic(keras: Any, features: Any) -> Any:
    """The discriminator: one number for the features of each example."""
    layers = keras.layers
    given = layers.Input(tuple(features))
    x = given
    if len(features) == 3:
        x = layers.Conv2D(64, 3, padding="same")(x)
        x = layers.LeakyReLU(0.2)(x)
        x = layers.Flatten()(x)
    x = layers.LeakyReLU(0.2)(layers.Dense(64)(x))
    return keras.Model(given, layers.Dense(1)(x), name="critic")
