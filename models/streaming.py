"""Images that stand in a file, brought to the graphs slice by slice.

What a slice holds are the images of the next few batches, in the order in which the epoch goes through them; the graph
that trains is the same, and so is every number that it sees. So are the weights, bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models.data.pixel_file import PixelFile

if TYPE_CHECKING:
    from fedssh.models.training import Examples

SLICE_BYTES = 8 << 20  # of float32; small enough to stay near the processor, large beside the cost of a call


def streams(examples: Examples) -> bool:
    """Whether the images are read while they are used."""
    return isinstance(examples.images, PixelFile)


def images_at(images: Any, at: np.ndarray) -> Any:
    """Some images as a tensor in main memory: float32 [n, height, width, channels]."""
    import tensorflow

    with tensorflow.device("/CPU:0"):
        if isinstance(images, PixelFile):
            return tensorflow.constant(images.read(at))
        return tensorflow.gather(images, at)


def batches_at_once(examples: Examples, batch_size: int) -> int:
    """How many batches one slice holds: at least one."""
    image_bytes: int = 4 * math.prod(examples.images.shape[1:])
    return max(SLICE_BYTES // (image_bytes * batch_size), 1)
