"""The learning rate over a session: a warm-up, then constant, in steps or along a cosine.

    warm-up    from 0 up to the rate in a straight line; the very first step is of rate 0, as in Keras
    constant   the rate
    step       the rate; a tenth of it after half of what follows the warm-up, a hundredth after three quarters
    cosine     from the rate to 0 along half a cosine (Loshchilov and Hutter 2017, equation 5, without restarts)

Warm-up and cosine are Keras' `CosineDecay`, the steps its `PiecewiseConstantDecay`. How long a session is depends on
how many images a site has, so it is no part of the graph: the same graph serves all sites.
"""

from __future__ import annotations

import math
from typing import Any

from fedssh.models.backend import load_keras
from fedssh.models.recipe import Recipe


def warmup_steps(warmup: int | str, steps: int) -> int:
    """How many steps a warm-up has: so many, or those of `N epochs`.

    Args:
        steps: Of an epoch.
    """
    return warmup if isinstance(warmup, int) else int(warmup.split()[0]) * steps


class Rate:
    """A learning rate for an optimizer, and how long its session is.

    Args:
        most: The rate of the plan.
        recipe: Names the schedule and the warm-up.

    Attributes:
        wanted: What an optimizer takes as its learning rate: a number where nothing changes, else a Keras schedule.
    """

    def __init__(self, most: float, recipe: Recipe) -> None:
        self._recipe = recipe
        self._length: Any = None
        self.wanted: Any = most
        if recipe.learning_rate_schedule != "constant" or recipe.warmup:
            import tensorflow

            # Of the warm-up, and of what follows; then how many steps the optimizer had taken before the session.
            self._length = tensorflow.Variable([0.0, 1.0, 0.0], trainable=False)
            self.wanted = _schedule(most, recipe.learning_rate_schedule, self._length)

    def begin(self, epochs: int, steps: int) -> None:
        """Set how long the session is.

        Args:
            epochs: The most that it has.
            steps: Of an epoch.
        """
        if self._length is not None:
            warm = warmup_steps(self._recipe.warmup, steps)
            self._length.assign([float(warm), float(max(epochs * steps - warm, 1)), 0.0])

    def go_on(self, taken: int) -> None:
        """After `begin`: the optimizer of the session before goes on, which had taken so many steps."""
        if self._length is not None:
            self._length[2].assign(float(taken))


def _schedule(most: float, kind: str, length: Any) -> Any:
    """A Keras schedule that reads its length from a variable."""
    import tensorflow

    keras: Any = load_keras()

    class OverSession(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            step, warm, rest = tensorflow.cast(step, tensorflow.float32) - length[2], length[0], length[1]
            gone = tensorflow.clip_by_value((step - warm) / rest, 0.0, 1.0)
            rising = step / tensorflow.maximum(warm, 1.0)
            return most * tensorflow.where(step < warm, rising, _share(kind, gone))

        def get_config(self) -> dict[str, Any]:
            return {}

    return OverSession()


def _share(kind: str, gone: Any) -> Any:
    """How much of the rate is left when this share (0..1) of what follows the warm-up is gone."""
    import tensorflow

    if kind == "cosine":
        return 0.5 * (1 + tensorflow.cos(math.pi * gone))
    if kind == "step":
        return tensorflow.where(gone < 0.5, 1.0, tensorflow.where(gone < 0.75, 0.1, 0.01))
    return tensorflow.ones_like(gone)
