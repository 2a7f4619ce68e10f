"""What makes images of what passes a cut again: the first layers of a network are trained as an encoder, too.

Gupta and Raskar 2018, algorithm 3: beside the layers that a site has of a network stands a decoder. Its loss is the
mean of the squared differences between its images and the site's, and what the site's layers get at the cut is

    gradient of the labels + alpha * gradient of the decoder's loss

so that images without labels train them as well. The paper leaves the decoder's form open. Here it is

    features [h, w, c]   transposed convolutions of stride 2 up to the size of the image; what is larger is resized
    features [n]         a dense layer to a small map first; of a table, two dense layers and nothing else

all of 32 filters, or 64 units, with ReLU; the last layer is linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models.backend import compiled, load_keras
from fedssh.models.parts import load_state_of, state_of
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.schedule import Rate
from fedssh.models.training import filling, new_optimizer

if TYPE_CHECKING:
    import keras

FILTERS, UNITS = 32, 64
SMALL = 8  # the largest side of the map that a dense layer makes
_WEIGHTS, _STATE = "weights", "state"
Size = tuple[int, int, int]


class Decoder:
    """A decoder with its optimizer. For one thread at a time.

    Args:
        cut: The shape of what passes the cut, of one example.
        wanted: Height, width and channels of an image; of a table [1, width, 1].
        alpha: How much its gradient counts at the cut.
        optimizer, learning_rate, momentum, recipe: As of `parts.Part`; of the recipe, what the rate does over a
            session and the decay of weights.
    """

    def __init__(
        self,
        cut: tuple[int, ...],
        wanted: Size,
        alpha: float,
        optimizer: str,
        learning_rate: float,
        momentum: float = 0.0,
        recipe: Recipe = PLAIN,
    ) -> None:
        self.network = build(cut, wanted)
        self._alpha = alpha
        self._rate = Rate(learning_rate, recipe)
        self._optimizer = new_optimizer(optimizer, self._rate.wanted, momentum, weight_decay=recipe.weight_decay)
        self._trained = list(self.network.trainable_variables)
        self._optimizer.build(self._trained)
        self._reset = filling([variable.value for variable in self._optimizer.variables])
        self._shapes = cut, wanted
        self._graph: Callable[..., Any] | None = None

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """Begin anew: weights drawn from `seed` (Glorot and Bengio 2010, uniform), and a new optimizer.

        Args:
            epochs, steps: As of `training.Trainer.fresh`.
        """
        for number, variable in enumerate(self.network.weights):
            variable.assign(_drawn(tuple(variable.shape), np.random.SeedSequence(seed, spawn_key=(number,))))
        self._reset()
        self._rate.begin(epochs, steps)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its weights and its optimizer's state by name: float32 arrays that share nothing with it."""
        weights = {one.path: np.array(one.value.numpy(), np.float32) for one in self.network.weights}
        groups = {_WEIGHTS: weights, _STATE: state_of(self._optimizer)}
        return {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}

    def load(self, arrays: Mapping[str, np.ndarray], epochs: int = 1, steps: int = 1) -> None:
        """Go on from what `arrays` gave.

        Raises:
            ValueError: It is of another decoder.
        """
        there = {name: tuple(array.shape) for name, array in self.arrays().items()}
        given = {name: tuple(array.shape) for name, array in arrays.items()}
        if there != given:
            names = sorted({name for name, _ in there.items() ^ given.items()})
            raise ValueError(f"a decoder with other weights: {', '.join(names[:3])}")
        for variable in self.network.weights:
            variable.assign(arrays[f"{_WEIGHTS}/{variable.path}"])
        prefix = f"{_STATE}/"
        state = {name.removeprefix(prefix): one for name, one in arrays.items() if name.startswith(prefix)}
        load_state_of(self._optimizer, state)
        self._rate.begin(epochs, steps)

    def step(self, features: Any, images: Any) -> tuple[Any, float]:
        """Take the step of a batch, if its loss is a finite number.

        Args:
            features: What the site's layers give: float32 [n, *cut].
            images: What they were given: float32 [n, height, width, channels].

        Returns:
            alpha times the gradient of the loss by the features, float32 [n, *cut]; the loss.
        """
        if self._graph is None:
            import tensorflow

            self._graph = compiled(self.taken, [tensorflow.TensorSpec([None, *shape]) for shape in self._shapes])
        gradient, loss = self._graph(features, images)
        return gradient, float(loss)

    def taken(self, features: Any, images: Any) -> tuple[Any, Any]:
        """The same in a graph, whose features are any tensor; the loss as one, too."""
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(features)
            loss = tensorflow.reduce_mean(tensorflow.square(self.network(features, training=True) - images))
        gradients = tape.gradient(loss, [*(one.value for one in self._trained), features])
        with tensorflow.control_dependencies(gradients):  # none is computed from a weight that is changed already
            tensorflow.cond(tensorflow.math.is_finite(loss), lambda: self._apply(gradients[:-1]), lambda: False)
            return self._alpha * gradients[-1], loss

    def _apply(self, gradients: Any) -> bool:
        self._optimizer.apply(gradients, self._trained)
        return True


def build(cut: tuple[int, ...], wanted: Size) -> keras.Model:
    """A decoder's network, from features [n, *cut] to images [n, *wanted]."""
    keras = load_keras()
    layers = keras.layers
    height, width, channels = wanted
    given = keras.Input(cut)
    if height == 1:
        flat = layers.Dense(UNITS, activation="relu", name="hidden")(layers.Flatten()(given))
        made = layers.Dense(math.prod(wanted), name="out")(flat)
        return keras.Model(given, layers.Reshape(wanted)(made), name="decoder")
    found = given
    if len(cut) != 3:
        doublings = max(0, math.ceil(math.log2(max(height, width) / SMALL)))
        small = (-(-height >> doublings), -(-width >> doublings), FILTERS)
        dense = layers.Dense(math.prod(small), activation="relu", name="spread")(layers.Flatten()(given))
        found = layers.Reshape(small)(dense)
    number = 0
    while found.shape[1] < height or found.shape[2] < width:
        number += 1
        found = layers.Conv2DTranspose(
            FILTERS, 3, strides=2, padding="same", activation="relu", name=f"up_{number}"
        )(found)  # fmt: skip
    if (found.shape[1], found.shape[2]) != (height, width):
        found = layers.Resizing(height, width)(found)
    made = layers.Conv2D(channels, 3, padding="same", name="out")(found)
    return keras.Model(given, made, name="decoder")


def _drawn(shape: tuple[int, ...], seed: np.random.SeedSequence) -> np.ndarray:
    """First values: of a bias 0, of a kernel uniform within sqrt(6 / (fan in + fan out))."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    reach = math.prod(shape[:-2])
    limit = math.sqrt(6 / (reach * (shape[-2] + shape[-1])))
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype(np.float32)
