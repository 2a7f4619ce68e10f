"""What becomes of images: against plain numpy and scipy, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedssh.models import augment
from fedssh.models.backend import compiled, load_keras
from fedssh.rules.terms import AUGMENTS

SEED = [7, 3]
IMAGES = np.random.default_rng(0).random((24, 20, 30, 3), dtype=np.float32)


def changed(images: np.ndarray, *kinds: str, seed: Any = SEED) -> np.ndarray:
    load_keras(1)
    import tensorflow

    signature = [tensorflow.TensorSpec([None, *images.shape[1:]], "float32"), tensorflow.TensorSpec([2], "int64")]
    graph = compiled(lambda batch, at: augment.augmented(batch, kinds, at), signature)
    found = graph(tensorflow.constant(images), tensorflow.constant(seed, "int64"))
    return np.asarray(found.numpy())


def shifted(image: np.ndarray, right: int, below: int) -> np.ndarray:
    """Pixel (row, column) comes from (row + below, column + right), or from the edge that is next to it."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height) + below, np.arange(width) + right
    moved: np.ndarray = image[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    return moved


def test_what_is_agreed_is_what_there_is() -> None:
    assert augment.KINDS == AUGMENTS


def test_a_flip_is_the_mirror_image_exactly() -> None:
    found = changed(IMAGES, "flips")
    flipped = [np.array_equal(one, image[:, ::-1]) for one, image in zip(found, IMAGES, strict=True)]
    kept = [np.array_equal(one, image) for one, image in zip(found, IMAGES, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 4 < sum(flipped) < 20


def test_a_shift_is_by_whole_pixels_up_to_a_tenth() -> None:
    found, seen = changed(IMAGES, "shifts"), set()
    for one, image in zip(found, IMAGES, strict=True):
        places = [(x, y) for x in range(-3, 4) for y in range(-2, 3) if np.array_equal(one, shifted(image, x, y))]
        assert len(places) == 1
        seen |= set(places)
    assert {x for x, _ in seen} == set(range(-3, 4)) and {y for _, y in seen} == set(range(-2, 3))


def test_a_rotation_is_that_of_scipy() -> None:
    """About the middle, by up to ten degrees, each image by its own angle."""
    from scipy.ndimage import map_coordinates

    found, angles = changed(IMAGES, "rotations"), []
    rows, columns = np.mgrid[:20, :30].astype(float)
    y, x = rows - 9.5, columns - 14.5

    def turned(image: np.ndarray, angle: float) -> np.ndarray:
        at = [np.sin(angle) * x + np.cos(angle) * y + 9.5, np.cos(angle) * x - np.sin(angle) * y + 14.5]
        return np.stack([map_coordinates(image[..., one], at, order=1, mode="nearest") for one in range(3)], axis=-1)

    for one, angle in zip(found, _draws()[:, 3], strict=True):
        angles.append((2 * angle - 1) * np.radians(10))
        np.testing.assert_allclose(one, turned(IMAGES[len(angles) - 1], angles[-1]), atol=1e-4)
    assert -0.175 < min(angles) < 0 < max(angles) < 0.175


def test_contrast_moves_from_the_mean_of_each_channel() -> None:
    found, factors = changed(IMAGES, "contrast"), 0.8 + 0.4 * _draws()[:, 4]
    mean = IMAGES.mean(axis=(1, 2), keepdims=True)
    expected = (mean + factors[:, None, None, None] * (IMAGES - mean)).clip(0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def _draws() -> np.ndarray:
    import tensorflow

    return np.asarray(tensorflow.random.stateless_uniform([len(IMAGES), 5], SEED, alg="philox").numpy())


def test_one_kind_does_not_depend_on_the_others() -> None:
    both = changed(IMAGES, "flips", "contrast")
    assert np.allclose(both, changed(changed(IMAGES, "flips"), "contrast"), atol=1e-6)


def test_seed_and_step_decide() -> None:
    kinds = augment.KINDS
    assert np.array_equal(changed(IMAGES, *kinds), changed(IMAGES, *kinds))
    assert not np.array_equal(changed(IMAGES, *kinds), changed(IMAGES, *kinds, seed=[7, 4]))
    assert not np.array_equal(changed(IMAGES, *kinds), changed(IMAGES, *kinds, seed=[8, 3]))
    found = changed(IMAGES, *kinds)
    assert found.shape == IMAGES.shape and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("shape", [(5, 1, 9, 1), (5, 9, 1, 2)])
def test_a_row_of_numbers_is_no_picture(shape: tuple[int, ...]) -> None:
    row = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert np.array_equal(changed(row, *augment.KINDS), row)
