"""An update as words that can be summed under masks: what Alice leaves for Bob where no single update may be seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedssh.alice.incoming import Received
from fedssh.masks.numbers import Fixed
from fedssh.rules.policies import read_policy
from fedssh.weights import map_weights


def words(received: Received, weights: Mapping[str, np.ndarray], examples: int) -> bytes:
    """What a session changed of its release, see `masks.numbers`; a policy's `cap` counts the images.

    Raises:
        ValueError: A weight has gone further than was agreed: nothing is cut off.
    """
    policy, current = read_policy(received.standing.policy), received.standing.open_round
    assert current is not None, "sites train in rounds"
    start = map_weights(received.model, received.header.tensors)
    steps = [(weights[name].astype(np.float64) - start[name]).ravel() for name in received.header.tensors]
    return Fixed.agreed(policy, len(current.sites)).write(np.concatenate(steps), min(examples, policy.cap))
