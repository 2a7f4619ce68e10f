"""Control variates: SCAFFOLD (Karimireddy et al. 2020, algorithm 1, option II), as far as it is not training.

    y   <- y - rate * (g + c - c_i)                     each step of a site, from the release x
    c_i <- c_i - c + (x - y) / (K * rate)               once it has trained, K steps in all
    c   <- the mean of all sites' c_i                   at each release; all of them are 0 at first

A site's c_i is kept anew when what it sends reaches the coordinator, who adds up the differences. So c is that of the
release that a session began from, whoever of its round is done earlier, and whether the round counts or not. With the
release a site gets c, and with its model the coordinator gets the difference of c_i: twice the bytes, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.engines.memory.models import Weights


@dataclass(frozen=True)
class Control:
    """The two control variates that a session trains with: float32 arrays by path of what is trained.

    Attributes:
        own: c_i, of the site.
        mean: c, of the release.
    """

    own: Weights
    mean: Weights

    @property
    def direction(self) -> dict[str, np.ndarray]:
        """What is added to every gradient: c - c_i."""
        return {name: self.mean[name] - own for name, own in self.own.items()}

    def after(self, start: Mapping[str, Any], end: Weights, steps: int, rate: float) -> dict[str, np.ndarray]:
        """The site's own one after a session.

        Args:
            start, end: The weights before and after.
            steps: K, of the session.
            rate: The learning rate.
        """
        found = {}
        for name, own in self.own.items():
            taken = (np.asarray(start[name], np.float64) - end[name]) / (steps * rate)  # the mean step: g + c - c_i
            found[name] = (taken + own - self.mean[name]).astype(np.float32)
        return found


class Controls:
    """The control variates of a run's sites. For one thread.

    Args:
        sites: Their names.
        zero: Zeros in the shapes of what is trained: float32 arrays by path.
    """

    def __init__(self, sites: Sequence[str], zero: Weights) -> None:
        self._own = dict.fromkeys(sites, zero)
        self._mean = zero

    def begin(self, site: str) -> Control:
        """What a session of a site trains with that begins from the newest release."""
        return Control(self._own[site], self._mean)

    def keep(self, site: str, own: Weights) -> None:
        """Take what has become of a site's own one."""
        self._own[site] = own

    def release(self) -> None:
        """There is a new release: from here on c is the mean of what the sites have now."""
        every = list(self._own.values())
        self._mean = {name: _mean([own[name] for own in every]) for name in self._mean}


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(arrays[0].shape, np.float64)
    for array in arrays:
        total += array
    mean: np.ndarray = (total / len(arrays)).astype(np.float32)
    return mean


def controls_of(spec: dict[str, Any], sites: Sequence[str]) -> Controls:
    """Those of the sites of a run that begins."""
    from fedssh.models import build

    variables = build(spec).trainable_variables
    return Controls(sites, {variable.path: np.zeros(variable.shape, np.float32) for variable in variables})
