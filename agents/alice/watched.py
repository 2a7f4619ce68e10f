"""Under `split`: gradients held against those of a training on the site's own images; see `watching`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedssh.errors import SettingsError
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import PixelFile
from fedssh.models.training import Examples
from fedssh.models.watching import STEPS, rehearsed
from fedssh.split.line import NotAgreedError
from fedssh.split.turn import Agreed, Length

MOST_STEPS = 1000  # of a rehearsal; up to there as many as the turn has, since gradients change as a network learns


def watched(
    agreed: Agreed, weights: Mapping[str, np.ndarray], examples: Examples, seed: int
) -> Callable[[np.ndarray], None]:
    """What looks at the gradient of each step by the first weights, after two short trainings here.

    Args:
        weights: That the turn begins with.
        seed: Of the session.

    Returns:
        Called with it; raises NotAgreedError once the coordinator teaches the site's layers something else.

    Raises:
        SettingsError: It cannot be told here what an honest gradient is.
    """
    plan = agreed.plan
    steps = max(STEPS, min(MOST_STEPS, Length(len(examples), plan.batch_size, plan.epochs).of))
    some = _some(examples, steps * plan.batch_size, seed)
    try:
        watch = rehearsed(
            agreed.spec, weights, some, plan.batch_size, plan.optimizer, plan.learning_rate, plan.momentum,
            recipe=agreed.recipe, seed=seed, steps=steps,
        )  # fmt: skip
    except ValueError as error:
        raise SettingsError(
            f"--watch-gradients: {error}", "train without it, if this site trusts its coordinator"
        ) from None

    def look(gradient: np.ndarray) -> None:
        verdict = watch.look(gradient)
        if verdict.hijacked:
            raise NotAgreedError(
                f"the coordinator does not train what was agreed: {verdict}",
                "nothing of this turn leaves this site; ask the coordinator's operator (--watch-gradients)",
            )

    return look


def _some(examples: Examples, most: int, seed: int) -> Images:
    """As many examples as the rehearsals need, in memory."""
    import tensorflow

    order: Any = np.sort(np.random.default_rng([seed, 7]).permutation(len(examples))[:most])
    labels = tensorflow.gather(examples.labels, order).numpy()
    if isinstance(examples.images, PixelFile):
        return Images(examples.images.read(order), labels)
    with tensorflow.device("/CPU:0"):
        return Images(tensorflow.gather(examples.images, order).numpy(), labels)
