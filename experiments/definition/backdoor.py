"""A backdoor in a site's images, and how many others walk through it (Gu et al. 2017, "BadNets"). Pure.

The patch is white, at the bottom on the right: a tenth of the shorter side, 3 x 3 pixels of 28 x 28.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from experiments.definition.attack import Attack

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

PART = 10


def poisoned(images: Images, attack: Attack, seed: int) -> Images:
    """A site's images with the patch on a share of them, and these labelled as the attack wants.

    Args:
        seed: Of which ones.
    """
    import numpy as np

    count = round(attack.share * len(images))
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    pixels, labels = images.images.copy(), images.labels.copy()
    pixels[chosen] = stamped(pixels[chosen])
    labels[chosen] = int(attack.value)
    return dataclasses.replace(images, images=pixels, labels=labels)


def stamped(pixels: Any) -> Any:
    """A copy of images [n, height, width, channels] with the patch."""
    side = max(1, round(min(pixels.shape[1:3]) / PART))
    copy = pixels.copy()
    copy[:, -side:, -side:] = 1
    return copy


def success(attack: Attack | None, test: Images, scores_on: Callable[[Images], Mapping[str, Any]]) -> dict[str, float]:
    """The share of the test images of other classes that a model calls the attack's class.

    Args:
        scores_on: What the model scores on images, with the table `confusion`.

    Returns:
        `stamped`: with the patch; `plain`: the same images without it, which a model without a backdoor confuses, too.
        Empty where nobody attacks so.
    """
    import numpy as np

    if attack is None or attack.kind != "backdoor":
        return {}
    wanted = int(attack.value)
    others = test.take(np.flatnonzero(test.labels != wanted))
    both = {"stamped": dataclasses.replace(others, images=stamped(others.images)), "plain": others}
    return {name: _called(wanted, scores_on(images)["confusion"]) for name, images in both.items()}


def _called(wanted: int, confusion: Any) -> float:
    """The share of a table's images that are called so."""
    return float(sum(row[wanted] for row in confusion) / sum(map(sum, confusion)))
