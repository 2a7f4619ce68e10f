"""Learning from images without labels: the first layers of a network are trained as an encoder, too, in one room.

Gupta and Raskar 2018, algorithm 3, where the layers of both rooms are one network. In a step, for the labelled images
of the batch and as many without labels as a whole batch has:

    features   what the layers up to `cut` make of all of them
    network    mean loss of the labelled images + weight * mean squared error of what a decoder makes of the features
    decoder    the mean squared error alone, by an optimizer like the network's

The decoder is that of `decoder`. It begins anew in each session and leaves with it: nothing of it is sent, and the same
session gives the same bits. What is made again are the images as `augment` has changed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedssh.models import is_table, tasks
from fedssh.models.augment import augmented
from fedssh.models.calibrated import calibrated
from fedssh.models.costs import usual
from fedssh.models.cut import find, parts
from fedssh.models.decoder import Decoder
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.training import Trainer

if TYPE_CHECKING:
    import keras

KIND, AUTO = "autoencoder", "auto"


@dataclass(frozen=True)
class Settings:
    """What a federation agrees on; the text form is `autoencoder:weight=1,cut=pool2`.

    Attributes:
        weight: What the squared error counts (alpha of the paper).
        cut: The last layer of the encoder; `auto` is `costs.usual`.
    """

    weight: float
    cut: str


def read(text: str) -> Settings | None:
    """What a recipe says, every option written out; None where images are not learned from so.

    Raises:
        ValueError: It is no such text.
    """
    kind, _, options = text.partition(":")
    if kind != KIND:
        return None
    given = dict(option.split("=", 1) for option in options.split(",")) if options else {}
    if given.keys() != Settings.__annotations__.keys():
        raise ValueError(f"nothing is learned from images without labels by {text!r}")
    return Settings(float(given["weight"]), given["cut"])


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise ValueError where a network of this spec is not trained so."""
    if is_table(spec):
        raise ValueError("unlabelled: an autoencoder makes images again, and this is a table")
    if tasks.task_of(spec) != tasks.CLASSES:
        raise ValueError(f"unlabelled: there are to be classes beside it, and the network {tasks.shown(spec)}")


def found(text: str, network: keras.Model) -> str:
    """What a plan says of images without labels, with the layer written out that it leaves open.

    Raises:
        ValueError: The network cannot be cut there; says where it can be.
    """
    settings = read(text)
    if settings is None:
        return text
    cut = usual(network) if settings.cut == AUTO else find(network, settings.cut).layer
    return f"{KIND}:weight={settings.weight:.9g},cut={cut}"


class EncodingTrainer(Trainer):
    """A trainer whose first layers learn to encode images, where there are some without labels. Else it is a plain one.

    Args:
        spec, optimizer, learning_rate, momentum, proximal, loss, recipe, directed: As of `Trainer`; the recipe's
            `unlabelled` is an autoencoder's.

    Raises:
        ValueError: As `Trainer`; the network cannot be cut so, or computes with shorter numbers.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        optimizer: str,
        learning_rate: float,
        momentum: float = 0.0,
        proximal: float = 0.0,
        loss: str | None = None,
        recipe: Recipe = PLAIN,
        directed: bool = False,
    ) -> None:
        settings = read(recipe.unlabelled)
        if settings is None:
            raise ValueError(f"{recipe.unlabelled!r} is no autoencoder")
        check_spec(spec)
        if recipe.precision != "float32":
            raise ValueError(f"unlabelled: an autoencoder has the precision float32, found {recipe.precision}")
        plain = replace(recipe, unlabelled="none")
        super().__init__(spec, optimizer, learning_rate, momentum, proximal, loss, plain, directed)
        cut = find(self.network, usual(self.network) if settings.cut == AUTO else settings.cut)
        self._front, self._tail = parts(self.network, [cut.layer])
        height, width, channels = self.spec["input"]
        self._decoder = Decoder(
            cut.shape, (height, width, channels), settings.weight, optimizer, learning_rate, momentum, plain
        )
        self._with_others(self._encoded_batches, 1)

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """As of `Trainer`; the decoder begins anew, too."""
        super().fresh(seed, epochs, steps)
        self._decoder.fresh(seed, epochs, steps)

    def _encoded_batches(self, images: Any, labels: Any, others: Any) -> tuple[Any, Any]:
        """A step on one batch and images without labels. Returns mean loss, and what is right, of those with labels."""
        import tensorflow

        count = tensorflow.shape(images)[0]
        every = tensorflow.concat([images, others], axis=0)
        if self._changes:
            every = augmented(every, self._changes, self._drawn(0))
        with tensorflow.GradientTape() as tape:
            features = self._front(every, training=True)
            outputs = self._tail(features[:count], training=True)
            shifted = outputs if self._shift is None else calibrated(outputs, self._shift)
            loss = self._objective.mean(labels, shifted, self.network.losses, self._weights_of)
        weighted, _ = self._decoder.taken(features, every)
        given = [tensorflow.ones_like(loss), weighted]
        self._apply(tape.gradient([loss, features], self._trained, output_gradients=given))
        return loss, self._objective.right(labels, outputs)
