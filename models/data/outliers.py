"""Leaving out the images that look least like their class, as a step of data preparation before training.

For class c with the images x_1 … x_n, flattened, the rule of `drop_outliers` is

    mean_c = (x_1 + … + x_n) / n
    d_i    = ||x_i - mean_c||_2         Euclidean distance from the class's mean image
    drop the floor(share * n) images with the largest d_i; among equals the later ones

The mean is that of the whole class and is not computed again without the dropped images.
"""

from __future__ import annotations

import math

import numpy as np

AT_ONCE = 256  # images; bounds the memory for differences


def drop_outliers(images: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """Which examples to keep when the farthest share of every class is dropped.

    Args:
        images: Numbers [n, …].
        labels: int [n].
        share: Of every class that is dropped, in 0..1 without 1; 0 keeps everything.

    Returns:
        The indices of the kept examples, ascending.

    Raises:
        ValueError: `share` is not in that range, or there is not one label per image.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of outliers must be in 0..1 without 1, found {share:g}")
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images and {len(labels)} labels")
    kept = np.ones(len(labels), dtype=bool)
    for one in np.unique(labels):
        members = np.flatnonzero(labels == one)
        dropped = math.floor(round(share * len(members), 9))  # 0.29 * 100 is 28.999999999999996
        nearest_first = np.argsort(distances(images, members), kind="stable")
        kept[members[nearest_first[len(members) - dropped :]]] = False
    return np.flatnonzero(kept)


def distances(images: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How far the images with these indices are from their mean image: float64 [len(members)]."""
    parts = [members[start : start + AT_ONCE] for start in range(0, len(members), AT_ONCE)]
    mean = sum(images[part].sum(axis=0, dtype=np.float64) for part in parts) / max(len(members), 1)
    squares = [((images[part] - mean) ** 2).reshape(len(part), -1).sum(axis=1) for part in parts]
    return np.sqrt(np.concatenate(squares)) if squares else np.zeros(0)
