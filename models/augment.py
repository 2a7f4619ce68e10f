"""Changed copies of the images of a batch, so that a small site trains on more than it has: in the graph, seeded.

    flips       left and right changed over, for every second image
    shifts      by whole pixels, up to a tenth of the width and of the height to each side
    rotations   up to 10 degrees to each side, bilinear
    contrast    differences to the image's mean, channel by channel, times 0.8 to 1.2, within 0..1

Everything is drawn evenly, anew for every image in every step. What moves in from outside is the edge's pixel again.
Images of a single row or column stay as they are. All draws of a step are made at once, whatever is asked for, and by
an algorithm that gives the same numbers on a CPU and on a GPU: what one kind does, does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

KINDS = ("flips", "shifts", "rotations", "contrast")
MOVING = ("flips", "shifts", "rotations")
SHIFT = 0.1  # of width and height
TURN = math.radians(10)
CONTRAST = 0.2


def augmented(images: Any, kinds: Collection[str], seed: Any) -> Any:
    """Changed images, in a graph.

    Args:
        images: float32 [n, height, width, channels], in 0..1; all but n is known.
        kinds: Of `KINDS`.
        seed: int64 [2]: of the session, and the step in it.
    """
    import tensorflow

    if min(images.shape[1:3]) < 2:
        return images
    draws = tensorflow.random.stateless_uniform([tensorflow.shape(images)[0], 5], seed, alg="philox")
    flip, across, down, turn, contrast = tensorflow.unstack(draws, axis=1)
    if set(kinds) & set(MOVING):
        images = _moved(images, kinds, flip, across, down, turn)
    if "contrast" in kinds:
        factor = (1 - CONTRAST + 2 * CONTRAST * contrast)[:, None, None, None]
        mean = tensorflow.reduce_mean(images, axis=(1, 2), keepdims=True)
        images = tensorflow.clip_by_value(mean + factor * (images - mean), 0.0, 1.0)
    return images


def _moved(images: Any, kinds: Collection[str], flip: Any, across: Any, down: Any, turn: Any) -> Any:
    """One interpolation for all that moves pixels; by whole pixels and flips, it copies them."""
    import tensorflow

    height, width = images.shape[1:3]
    nothing = tensorflow.zeros_like(flip)
    side = tensorflow.where(flip < 0.5, 1.0, -1.0) if "flips" in kinds else nothing + 1
    right, below = (_pixels(across, width), _pixels(down, height)) if "shifts" in kinds else (nothing, nothing)
    angle = (2 * turn - 1) * TURN if "rotations" in kinds else nothing
    cos, sin = tensorflow.cos(angle), tensorflow.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    # Where the pixel at (column, row) comes from: column' = a column + b row + c, row' = d column + e row + f.
    a, b, d, e = cos * side, -sin, sin * side, cos
    c, f = x + right - a * x - b * y, y + below - d * x - e * y
    return tensorflow.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tensorflow.stack([a, b, c, d, e, f, nothing, nothing], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def _pixels(draw: Any, size: int) -> Any:
    import tensorflow

    most = math.floor(SHIFT * size)
    return tensorflow.floor(draw * (2 * most + 1)) - most
