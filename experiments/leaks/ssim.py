"""How like two images are, for a person who looks at them: structural similarity, SSIM.

Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural similarity",
section III.C: in every window of 11x11 pixels, weighed by a Gaussian of deviation 1.5,

    (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2)),    C1 = 0.01^2, C2 = 0.03^2

with means m, variances s^2 and the covariance s_ab; the mean of all windows that lie within the image. 1 is the image
itself.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOW, DEVIATION = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # of images in 0..1


def ssim(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The similarity of each pair of images.

    Args:
        one, other: [n, height, width, channels], in 0..1; at least 11x11 pixels.

    Returns:
        float64 [n], at most 1; the mean of all channels.

    Raises:
        ValueError: They are smaller, or not of one shape.
    """
    if one.shape != other.shape or one.ndim != 4 or min(one.shape[1:3]) < WINDOW:
        raise ValueError(f"images of {one.shape} and {other.shape} cannot be compared: two of one shape, 11x11 or more")
    one, other = one.astype(np.float64), other.astype(np.float64)
    mean, mean_other = _weighed(one), _weighed(other)
    squares, product = mean**2 + mean_other**2, mean * mean_other
    spread = _weighed(one**2 + other**2) - squares
    together = _weighed(one * other) - product
    found = (2 * product + _C1) * (2 * together + _C2) / ((squares + _C1) * (spread + _C2))
    means: np.ndarray = found.mean(axis=(1, 2, 3))
    return means


def mean_squared_error(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each pair of images: float64 [n]."""
    errors: np.ndarray = ((one.astype(np.float64) - other) ** 2).mean(axis=tuple(range(1, one.ndim)))
    return errors


def _weighed(images: np.ndarray) -> np.ndarray:
    """The weighed mean of every window: down the columns, then along the rows."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * DEVIATION**2))
    weights /= weights.sum()
    rows = sliding_window_view(images, WINDOW, axis=1) @ weights
    return sliding_window_view(rows, WINDOW, axis=2) @ weights
