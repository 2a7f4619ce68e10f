"""Updates as words that can be added: fixed point, weighed by the number of examples, which is a word as well.

A site's word of a weight is round(step / reach * examples / most * scale) modulo 2**32, where a step is what a weight
has gone from the release; scale is chosen so that the words of all sites together stay within 2**31. The sum of these
words, by that of the examples, is the mean of steps as `fedavg` weighs them (McMahan et al. 2017, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedssh.rules.policies import Policy

WORDS = 2**32
_HALF = 2**31 - 1


@dataclass(frozen=True)
class Fixed:
    """How steps are written, the same at all sites of a round.

    Attributes:
        sites: How many there are at most.
        reach: What a step of one weight is at most, in both directions.
        most: How many examples a site has at most.
    """

    sites: int
    reach: float = 1.0
    most: int = 1 << 16

    @classmethod
    def agreed(cls, policy: Policy, sites: int) -> Fixed:
        """As a policy with `seal=masks` says, in a round of so many sites."""
        return cls(sites, float(policy.values["reach"]), policy.cap)

    @property
    def scale(self) -> int:
        """Of one site's words: all sites' together are within 2**31."""
        return _HALF // self.sites

    def write(self, steps: np.ndarray, examples: int) -> bytes:
        """A site's vector.

        Args:
            steps: float [n], of all weights.
            examples: How many it trained on.

        Returns:
            uint32 [n + 1], little-endian; the last is the number of examples.

        Raises:
            ValueError: A step is beyond the reach or not finite, or there are too many examples: nothing is cut off.
        """
        if not 1 <= examples <= min(self.most, (WORDS - 1) // self.sites):
            raise ValueError(f"{examples:,} examples, a sum under masks takes 1 to {self.most:,} of a site")
        steps = np.asarray(steps, np.float64)
        beyond = ~(np.abs(steps) <= self.reach)
        if beyond.any():
            worst = float(np.abs(steps[beyond]).max())
            raise ValueError(f"{int(beyond.sum()):,} weights have gone further than {self.reach:g}: {worst:.4g}")
        fixed = np.rint(steps * (self.scale * (examples / self.most) / self.reach)).astype(np.int64)
        return np.append(fixed, examples).astype("<i8").astype("<u4").tobytes()

    def read(self, vector: bytes, arrived: int) -> tuple[np.ndarray, int]:
        """The mean of the steps of a sum, weighed by examples, and how many these are.

        Args:
            vector: uint32 [n + 1], little-endian: a sum of what `write` gave.
            arrived: Of how many sites.

        Raises:
            ValueError: It is no such sum.
        """
        words = np.frombuffer(vector, "<u4")
        examples = int(words[-1])
        if not arrived <= examples <= arrived * self.most:
            raise ValueError(f"{examples:,} examples of {arrived} sites cannot be: somebody has masked something else")
        fixed = words[:-1].view("<i4").astype(np.float64)
        return fixed * (self.reach * self.most / (self.scale * float(examples))), examples
