"""What came of a turn of split learning in memory, and the network that it makes with the site's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.engines.memory.models import Weights
from fedssh.rules.events import Work


@dataclass(frozen=True)
class Turned:
    """What came of the newest turn at the coordinator.

    Attributes:
        weights: Of her layers.
        sets: The optimizer's state of her layers, and of the site's.
    """

    weights: Weights
    sets: Sequence[Weights]
    work: Work


def whole(turned: Turned, head: Weights, like: Weights) -> dict[str, np.ndarray]:
    """The network of a turn, in build order."""
    joined = {**turned.weights, **head}
    return {name: joined[name] for name in like}
