"""How the coordinator's labels are divided among the classes, as a plan with a calibrated loss says it. Pure.

    plan "label_shares"   [0.26, 0.74]: for each class its share of her holdout, coarsened

Counts are taken to whole steps of five, at least one step; the largest class has what is left of all images, since its
count would tell another. Shares are told to two digits, and none below `LEAST`. So who knows how many images there are
cannot tell the count of a class, but within five (two, where two classes are of a size); a class that her holdout lacks
has a share all the same; and the logarithm of a share is off by about 0.05 and what half a step is to the count.

A site's gradient for a class falls with the class's share here. With one of 1e-9 hardly anything would be learned of it
anywhere, so a plan that says less than `LEAST` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedssh.forms import Expected, Form

STEP = 5  # images
LEAST = 1e-5  # a step of 500,000 images; a hundredth of what each of a thousand classes has on average
MOST_CLASSES = 1000  # so that record 1 and every release have room for them
_SUM = 0.1  # how far from 1 shares may sum up: 0.05 by their digits, 0.01 where a thousand are `LEAST`


def label_shares(counts: Sequence[int]) -> list[float]:
    """The shares that are told of a holdout: for each class a number from `LEAST` on and below 1.

    Args:
        counts: How many of its images are of each class; two classes or more.

    Raises:
        ValueError: There are too many classes for a plan.
    """
    if len(counts) > MOST_CLASSES:
        raise ValueError(f"label shares are for at most {MOST_CLASSES:,} classes, here are {len(counts):,}")
    near = [max(1, round(count / STEP)) * STEP for count in counts]
    largest = counts.index(max(counts))
    near[largest] = max(STEP, sum(counts) - sum(near) + near[largest])
    return [min(max(LEAST, float(f"{one / sum(near):.2g}")), 0.99) for one in near]


def is_calibrated(plan: Mapping[str, Any]) -> bool:
    """Whether the loss of a plan, as it stands in a release, is calibrated."""
    return bool(plan.get("calibrate", "none") != "none")


def _take(value: Any) -> tuple[float, ...]:
    if (
        not isinstance(value, (list, tuple))
        or not 2 <= len(value) <= MOST_CLASSES
        or not all(type(share) in (int, float) and LEAST <= share < 1 for share in value)
        or abs(math.fsum(value) - 1) > _SUM
    ):
        raise Expected(f"expected for each class its share, {LEAST:.5f} or more and below 1, of 1 in all")
    return tuple(map(float, value))


SHARES = Form(_take)
