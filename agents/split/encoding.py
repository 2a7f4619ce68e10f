"""The site's layers as an encoder: a decoder beside them, which stays at the site, and images that nobody has labelled.

Gupta and Raskar 2018, algorithm 3. A step's batch is a labelled one and, where the site has some, an unlabelled one
behind it: the features of the labelled images go to the coordinator, the decoder makes images of all of them again, and
the site's layers take one step for both. The coordinator hears nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedssh.errors import ChannelError, SettingsError
from fedssh.models.data.pixel_file import PixelFile
from fedssh.models.decoder import Decoder
from fedssh.split.turn import Length

Arrays = Mapping[str, np.ndarray]


class Encoding:
    """What a turn with a decoder has beside it.

    Args:
        decoder: For this turn; from the turn before perhaps.
        begins: What it was at the end of the site's last turn; None where it begins anew.
        unlabelled: float32 [n, height, width, channels], in 0..1, or a `PixelFile`; None where there are none.
        seed, length: Of the turn.
    """

    def __init__(
        self,
        decoder: Decoder,
        begins: Arrays | None,
        unlabelled: np.ndarray | PixelFile | None,
        seed: int,
        length: Length,
    ) -> None:
        self._decoder, self._begins = decoder, begins
        self._unlabelled = unlabelled
        self._seed, self._length = seed, length
        self._passes: dict[int, np.ndarray] = {}

    def begin(self) -> None:
        """As at the beginning of the turn.

        Raises:
            SettingsError: What the last turn left is of another decoder.
        """
        length = self._length
        if self._begins is None:
            self._decoder.fresh(self._seed, length.epochs, length.steps)
            return
        try:
            self._decoder.load(self._begins, length.epochs, length.steps)
        except ValueError as error:
            hint = "remove the files decoder-… from the folder --state; it then begins anew"
            text = f"the decoder that the last session left cannot be gone on from: {error}"
            raise SettingsError(text, hint) from None

    def arrays(self) -> dict[str, np.ndarray]:
        """Where it is now."""
        return self._decoder.arrays()

    def restore(self, arrays: Arrays) -> None:
        """Be where `arrays` was."""
        self._decoder.load(arrays, self._length.epochs, self._length.steps)

    def with_unlabelled(self, images: Any, step: int) -> Any:
        """A step's labelled images (steps from 1), and behind them as many unlabelled ones as a whole batch has.

        All passes through the unlabelled images are one row of them, of which each step takes the next.
        """
        if self._unlabelled is None:
            return images
        number, batch = len(self._unlabelled), self._length.batch
        places = range((step - 1) * batch, step * batch)
        needed = range(places[0] // number, places[-1] // number + 1)
        self._passes = {one: self._passes[one] if one in self._passes else self._order(one) for one in needed}
        chosen = np.array([self._passes[place // number][place % number] for place in places])
        found = self._unlabelled
        more = found.read(chosen) if isinstance(found, PixelFile) else found[chosen]
        return np.concatenate([np.asarray(images), more])

    def _order(self, number: int) -> np.ndarray:
        """In which order a pass goes through the unlabelled images; not as an epoch through the labelled ones."""
        assert self._unlabelled is not None
        return np.random.default_rng([self._seed, 1, number]).permutation(len(self._unlabelled))

    def step(self, features: np.ndarray, images: Any, gradient: np.ndarray, step: int) -> np.ndarray:
        """Let the decoder take its step.

        Args:
            features: Of the whole batch: float32 [n, *cut].
            images: The same batch, as the site's layers saw it.
            gradient: That came back for its labelled images, which are the first of it: float32 [labelled, *cut].

        Returns:
            For the whole batch, what the site's layers shall get at the cut: float32 [n, *cut].

        Raises:
            ChannelError: The decoder's loss is not finite; nothing was changed.
        """
        own, loss = self._decoder.step(features, images)
        found = np.array(own.numpy())
        if not (np.isfinite(loss) and np.isfinite(found).all()):
            raise ChannelError(f"the decoder's loss of step {step} is not finite")
        found[: len(gradient)] += gradient
        return found
