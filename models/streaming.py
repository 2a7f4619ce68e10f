"""Images that stand in a file, brought to the graphs slice by slice.

What a slice holds are the images of the next few batches, in the order in which the epoch goes through them; the graph
that trains is the same, and so is every number that it sees. So are the weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models.data.pixel_file import PixelFile

if TYPE_CHECKING:
    from fedssh.models.training import Examples

SLICE_BYTES = 16 << 20  # of float32; one is trained on, one is being read, and each is copied once


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


def slices(examples: Examples, order: np.ndarray, batch_size: int) -> Iterator[tuple[Any, Any, Any, int]]:
    """An epoch in parts: images and labels, the order in which they come, and how many batches they are.

    What is in memory is one part. Of what is in a file, the next part is read while the graphs work on this one.
    """
    import tensorflow

    if not isinstance(examples.images, PixelFile):
        yield examples.images, examples.labels, tensorflow.constant(order, "int64"), -(-len(order) // batch_size)
        return
    image_bytes = 4 * math.prod(examples.images.shape[1:])
    many = max(SLICE_BYTES // (image_bytes * batch_size), 1) * batch_size
    parts = [order[begin : begin + many] for begin in range(0, len(order), many)]
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(examples.images.read, parts[0])
        for number, part in enumerate(parts, 1):
            pixels = coming.result()
            if number < len(parts):
                coming = ahead.submit(examples.images.read, parts[number])
            with tensorflow.device("/CPU:0"):
                found = tensorflow.constant(pixels), tensorflow.gather(examples.labels, part)
            yield *found, tensorflow.constant(np.arange(len(part)), "int64"), -(-len(part) // batch_size)
