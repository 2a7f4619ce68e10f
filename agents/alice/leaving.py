"""What must not leave a site although the plan would have it: absurd or worse models, and those that tell of images.

A coordinator who means harm chooses the weights that training begins with, so this looks at both ends of a session: at
the release, before anything is trained, and at what is about to be published. The release counts, because every
gradient of the session is taken at weights that begin there. Pure; what units do is seen by `models.firing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedssh.alice.fitting import Epoch
from fedssh.models.firing import Singled
from fedssh.rules.events import Local

FEW_IMAGES = 200  # below that, units fire for single images by chance
FEWEST = 2  # images that may always be measured


@dataclass(frozen=True)
class Guard:
    """A site's bounds; no release widens them.

    Attributes:
        max_loss: Of a model that is published, in units of what guessing costs, `models.tasks.guessing`. More may only
            leave if it is less than the release had here.
        max_worse: By how much its loss may be above the release's, in the same unit, when training has not lowered it
            on the training images either. A site with few images may overfit: that raises one and lowers the other.
        max_alone: Which share of the training images may single themselves out in a layer (`models.firing.Singled`),
            by whatever units, when more than `max_lonely` of its units fire for one image only. In a wide layer chance
            does the first to any share of a few hundred images, but not the second.
        max_lonely: In honest networks at most 0.03, from FEW_IMAGES on; below that it is not looked at.
        max_measured: Which share may be singled out by units that measure the same. In honest networks 0.
    """

    max_loss: float = 10.0
    max_worse: float = 0.5
    max_alone: float = 0.2
    max_lonely: float = 0.1
    max_measured: float = 0.01


GUARD = Guard()


def tells_of_images(found: Sequence[Singled], guard: Guard = GUARD) -> str:
    """Why a session from a release would tell of single images, in words; empty when it would not."""
    for one in found:
        measured = one.measured > max(FEWEST, guard.max_measured * one.images)
        alone = one.images >= FEW_IMAGES and one.alone > guard.max_alone * one.images
        if measured or (alone and one.lonely > guard.max_lonely):
            return (
                f"units of its layer {one.layer} tell {max(one.alone, one.measured):,} of {one.images:,} images here "
                "from all others, so what it learns from them could be read as images"
            )
    return ""


def too_bad(start: Local, epoch: Epoch, guessing: float, guard: Guard = GUARD) -> str:
    """Why a model at the end of an epoch is too bad to be published, in words; empty when it is not.

    Args:
        start: What the release scored on the same images as `epoch.metrics`.
        guessing: The loss of whoever has learned nothing, ln(classes) or 1.
    """
    if epoch.metrics is None:
        return ""
    loss = epoch.metrics.loss
    if loss > guard.max_loss * guessing and not loss < start.loss:
        return f"its loss of {loss:.4g} is more than {guard.max_loss:g} times that of guessing, {guessing:.4f}"
    learned = epoch.training.loss < start.loss
    if loss > start.loss + guard.max_worse * guessing and not learned:
        return f"its loss of {loss:.4g} is worse than the release's, {start.loss:.4f}, and training has not lowered it"
    return ""
