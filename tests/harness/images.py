"""Images that are easy to tell apart, so that training for a moment shows."""

from __future__ import annotations

import numpy as np

from fedssh.models.data.images import Images


def easy_images(number: int, size: int = 6, seed: int = 0) -> Images:
    """Dark images of class 0 and bright ones of class 1, with some that are hard to tell."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    pixels = random.normal(0.4 + 0.2 * labels[:, None, None, None], 0.25, (number, size, size, 1))
    return Images(np.clip(pixels, 0, 1).astype(np.float32), labels.astype(np.int64))
