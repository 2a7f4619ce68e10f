"""Shadow models: networks like one that is attacked, each trained on a part of the same examples, to learn how it acts.

Shokri et al. 2017; what is made of them is Carlini et al. 2022, see `fedssh.rules.membership`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models import build, get_weights
from fedssh.models.backend import load_keras
from fedssh.models.losses import Losses

if TYPE_CHECKING:
    from fedssh.models.training import Examples, Trainer


def shadow_losses(
    trainer: Trainer,
    examples: Examples,
    inside: np.ndarray,
    epochs: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    stop: threading.Event | None = None,
) -> np.ndarray:
    """Train shadow models from random weights, one after the other; the loss of every example in each of them.

    Args:
        trainer: Trains as the attacked model was trained. Which weights it has afterwards is not said.
        inside: bool [models, n], which examples each is trained on; one at least.
        seed: Of weights, order and dropout: the same seed gives the same losses.
        progress: Called with the number of models trained, after each.

    Returns:
        float64 [models, n].

    Raises:
        ValueError: A loss is not a finite number.
        training.Interrupted: `stop` was set.
    """
    found, each = [], Losses(trainer.network, trainer.spec)
    for number, chosen in enumerate(inside):
        begin = np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1
        trainer.load(_random(trainer.spec, int(begin)))
        own = np.flatnonzero(chosen)
        trainer.fresh(int(begin), epochs, -(-len(own) // batch_size))
        for epoch in range(1, epochs + 1):
            order = np.random.default_rng([int(begin), epoch]).permutation(own)
            trainer.epoch(examples, order, batch_size, stop)
        found.append(each.of(examples, stop))
        progress(number + 1)
    return np.stack(found)


def _random(spec: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    load_keras().utils.set_random_seed(seed)
    return get_weights(build(spec))
