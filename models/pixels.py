"""Pixels: an image of any size, mode and type becomes what a network takes, float32 in 0..1.

Integer pixels are divided by the largest value of their type; floating-point pixels must be in 0..1 already. Channels
are converted before the size: colours to grey by their luma, grey to three equal colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2 luma, as Pillow's mode L


def convert(images: np.ndarray, wanted: tuple[int, int, int], where: str) -> np.ndarray:
    """Images as stored -> float32 [n, height, width, channels] in 0..1.

    Raises:
        ValueError: These are no images; the message begins with `where`.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 2, 3, 4, wanted[2]) or 0 in images.shape:
        raise ValueError(f"{where} has shape {images.shape}, expected [n, height, width] or [n, height, width, 1|3|4]")
    if images.shape[1:] == wanted:
        return _unit(images, where)
    return np.stack([fit(_unit(image, where), wanted, where) for image in images])


def _unit(pixels: np.ndarray, where: str) -> np.ndarray:
    """Pixels of any type -> float32 in 0..1."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if pixels.dtype.kind == "u":
        # In place: a second copy of a large set would double the memory.
        scaled = pixels.astype(np.float32)
        scaled /= np.float32(np.iinfo(pixels.dtype).max)
        return scaled
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{where} reaches from {low:g} to {high:g}, expected 0..1 for floating-point pixels")
        return pixels.astype(np.float32)
    raise ValueError(f"{where} is {pixels.dtype}, expected uint8, uint16 or floating-point pixels in 0..1")


def fit(pixels: np.ndarray, wanted: tuple[int, int, int], where: str) -> np.ndarray:
    """One image float32 [h, w, c] in 0..1 -> the wanted channels, then the wanted size.

    Raises:
        ValueError: Its channels cannot become the wanted ones; the message begins with `where`.
    """
    from PIL import Image

    height, width, channels = wanted
    pixels = _channels(pixels, channels, where)
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = [Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(channels)]
    resized = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes]
    fitted: np.ndarray = np.clip(np.stack(resized, axis=-1), 0, 1)
    return fitted


def _channels(pixels: np.ndarray, channels: int, where: str) -> np.ndarray:
    found = pixels.shape[2]
    if found == channels:
        return pixels
    colour = pixels[..., : 1 if found < 3 else 3]  # without transparency
    if colour.shape[2] == channels:
        return colour
    if channels == 1:
        grey: np.ndarray = colour @ GREY
        return grey[..., np.newaxis]
    if channels == 3:
        return np.repeat(colour, 3, axis=2)
    raise ValueError(f"{where} has {found} channels, which cannot become {channels}")


def read_image(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Read an image of any mode: float32 [height, width, 1 or 3], in 0..1, upright.

    Args:
        file: A path, or an open file.
        name: What messages call it; its path if nothing is given.

    Raises:
        ValueError: The file is no image that can be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = _pixels(upright)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name or file} is no readable image: {error}") from None
    return _unit(pixels if pixels.ndim == 3 else pixels[..., np.newaxis], name or str(file))


def _pixels(image: Image.Image) -> np.ndarray:
    """Pixels in the image's own depth: Pillow's own conversion of 16-bit grey to L would clip, not scale."""
    if image.mode in ("L", "RGB", "F"):
        return np.asarray(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"pixels reach from {deep.min()} to {deep.max()}, expected 0..65535")
        return deep.astype(np.uint16)
    return np.asarray(image.convert("L" if image.mode in ("1", "LA", "La") else "RGB"))
