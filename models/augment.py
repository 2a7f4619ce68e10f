"""Changed copies of the images of a batch, so that a small site trains on more than it has: in the graph, seeded.

    flips       left and right changed over, for every second image
    shifts      by whole pixels, up to a tenth of the width and of the height to each side
    rotations   up to 10 degrees to each side, bilinear
    contrast    differences to the image's mean, channel by channel, times 0.8 to 1.2, within 0..1

Everything is drawn evenly, anew for every image in every step. What moves in from outside is the edge's pixel again.
Images of a single row or column stay as they are. `strongly` changes much more, for images whose labels are guessed
(`fixmatch`). All draws of a step are made at once, whatever is asked for, and by
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
STRONG_TURN = math.radians(30)
STRONG_SHEAR = 0.3  # columns per row, and rows per column
STRONG_SIZE = 0.2
STRONG_CONTRAST = 0.6
STRONG_LIGHT = 0.3
HOLE = 0.5  # of height and width


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


def strongly(images: Any, flips: bool, seed: Any) -> Any:
    """Images changed much, as RandAugment and Cutout do (Cubuk et al. 2020; DeVries and Taylor 2017), in a graph.

    One interpolation turns (up to 30 degrees), shears (0.3), sizes (0.8 to 1.2) and shifts (a tenth); contrast becomes
    0.4 to 1.6 times what it was and light 0.3 more or less, within 0..1; then a square of half the height and width,
    whose middle is anywhere in the image, becomes grey (0.5).

    Args:
        images: float32 [n, height, width, channels], in 0..1; all but n is known.
        flips: Whether left and right are changed over, too, for every second image.
        seed: int64 [2], another one than for anything else of the step.
    """
    import tensorflow

    height, width = images.shape[1:3]
    if min(height, width) < 2:
        return images
    draws = tensorflow.random.stateless_uniform([tensorflow.shape(images)[0], 12], seed, alg="philox")
    flip, turn, down_shear, across_shear, tall, wide, down, across, contrast, light, row, column = tensorflow.unstack(
        draws, axis=1
    )
    angle = _even(turn, STRONG_TURN)
    shear_x, shear_y = _even(across_shear, STRONG_SHEAR), _even(down_shear, STRONG_SHEAR)
    size_x, size_y = 1 + _even(wide, STRONG_SIZE), 1 + _even(tall, STRONG_SIZE)
    side = tensorflow.where(flip < 0.5, 1.0, -1.0) if flips else tensorflow.ones_like(flip)
    cos, sin = tensorflow.cos(angle), tensorflow.sin(angle)
    a, b = side * size_x * (cos + shear_x * sin), size_x * (shear_x * cos - sin)
    d, e = side * size_y * (sin + shear_y * cos), size_y * (cos - shear_y * sin)
    images = _transformed(images, a, b, d, e, _pixels(across, width), _pixels(down, height))
    factor, added = 1 + _even(contrast, STRONG_CONTRAST), _even(light, STRONG_LIGHT)
    mean = tensorflow.reduce_mean(images, axis=(1, 2), keepdims=True)
    images = mean + factor[:, None, None, None] * (images - mean) + added[:, None, None, None]
    images = tensorflow.clip_by_value(images, 0.0, 1.0)
    rows, columns = _in_hole(row, height), _in_hole(column, width)
    return tensorflow.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.5, images)


def _even(draw: Any, most: float) -> Any:
    return (2 * draw - 1) * most


def _in_hole(draw: Any, size: int) -> Any:
    """Which rows or columns of each image are in a hole of which a draw says where its middle is: bool [n, size]."""
    import tensorflow

    distance = tensorflow.abs(tensorflow.range(size, dtype="float32")[None] + 0.5 - size * draw[:, None])
    return distance < HOLE * size / 2


def _moved(images: Any, kinds: Collection[str], flip: Any, across: Any, down: Any, turn: Any) -> Any:
    """One interpolation for all that moves pixels; by whole pixels and flips, it copies them."""
    import tensorflow

    height, width = images.shape[1:3]
    nothing = tensorflow.zeros_like(flip)
    side = tensorflow.where(flip < 0.5, 1.0, -1.0) if "flips" in kinds else nothing + 1
    right, below = (_pixels(across, width), _pixels(down, height)) if "shifts" in kinds else (nothing, nothing)
    angle = (2 * turn - 1) * TURN if "rotations" in kinds else nothing
    cos, sin = tensorflow.cos(angle), tensorflow.sin(angle)
    return _transformed(images, cos * side, -sin, sin * side, cos, right, below)


def _transformed(images: Any, a: Any, b: Any, d: Any, e: Any, right: Any, below: Any) -> Any:
    """Turned about the middle: the pixel at (column, row) comes from (a column + b row, d column + e row), shifted."""
    import tensorflow

    height, width = images.shape[1:3]
    x, y, nothing = (width - 1) / 2, (height - 1) / 2, tensorflow.zeros_like(a)
    # Where the pixel at (column, row) comes from: column' = a column + b row + c, row' = d column + e row + f.
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
