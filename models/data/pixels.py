"""Pixels: an image file of any size, mode and type becomes what a network takes, float32 in 0..1.

    8 bits        divided by 255
    16 bits       divided by 65535, unless somebody says what white is (--max-value 4095 for the 12 bits of a scanner)
    bool          0 and 1
    float         must be in 0..1 already

White is a property of the files, the same for all of them; it is never guessed. A set whose brightest pixel is darker
than half of what its type could show (an eighth for 8 bits) is refused until somebody says what white is: it would be
nearly black. Channels are converted before the size: colours to grey by their luma, grey to three equal colours.

Only the formats of `FORMATS` are opened, and DICOM where the extra `dicom` is installed (see `dicom`); and only images
of a bounded number of pixels.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np

from fedssh.models.data import dicom

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int, int]  # height, width, channels
Result = TypeVar("Result")

# The only formats that are opened, by Pillow's name, and how their files end.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# How many pixels an image may have: some thousand times the agreed size, at least 4096 x 4096, at most 8192 x 8192.
SHRINK, LEAST_BOUND, MOST_BOUND = 64 * 64, 1 << 24, 1 << 26
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2 luma, as Pillow's mode L
DARK = {8: 31, 16: 32767}  # a set that gets no brighter, by its bits
GREY_MODES = ("1", "L", "LA", "La", "F")  # and I;16 and its relatives


class PictureError(ValueError):
    """A file is no image that can be read; the text says why and names no file."""


@dataclass
class White:
    """What white is in integer pixels, and the brightest ones seen: the same for all images of a set.

    Args:
        value: What somebody said; None is the largest value of the type. It is meant for pixels of the type that holds
            it: up to 255 of 8 bits, above of 16.
        dark: Never refuse a set for being nearly black.
    """

    value: int | None = None
    dark: bool = False
    brightest: dict[int, int] = field(default_factory=dict)

    def scale(self, pixels: np.ndarray, where: str) -> np.ndarray:
        """Pixels of any type -> float32 in 0..1.

        Raises:
            ValueError: They reach beyond white, or are of a type that is no image's; the message begins with `where`.
        """
        if pixels.dtype == np.bool_:
            return pixels.astype(np.float32)
        if pixels.dtype in (np.uint8, np.uint16):
            return self._scale(pixels, where)
        if pixels.dtype.kind == "f":
            low, high = float(pixels.min()), float(pixels.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"{where} reaches from {low:g} to {high:g}, expected 0..1 for floating-point pixels")
            return pixels.astype(np.float32)
        raise ValueError(f"{where} is {pixels.dtype}, expected uint8, uint16 or floating-point pixels in 0..1")

    def _scale(self, pixels: np.ndarray, where: str) -> np.ndarray:
        bits = pixels.dtype.itemsize * 8
        white, high = self.of(bits), int(pixels.max())
        if high > white:
            raise ValueError(f"{where} reaches up to {high}, beyond --max-value {white}")
        self.brightest[bits] = max(self.brightest.get(bits, 0), high)
        scaled = pixels.astype(np.float32)
        scaled /= np.float32(white)  # in place: a second copy of a large set would double the memory
        return scaled

    def of(self, bits: int) -> int:
        """What white is in pixels of so many bits."""
        said = self.value is not None and (self.value > 255) == (bits > 8)
        return self.value if said and self.value else (1 << bits) - 1

    def check(self, where: str) -> None:
        """Refuse a set that would be nearly black.

        Raises:
            ValueError: Nobody said what white is, and no pixel is bright.
        """
        for bits, high in self.brightest.items():
            if not self.dark and 0 < high <= DARK[bits] and self.of(bits) == (1 << bits) - 1 != self.value:
                such = f"{(1 << high.bit_length()) - 1} for {high.bit_length()} bits" if bits > 8 else str(high)
                raise ValueError(
                    f"{where} has {bits}-bit pixels that reach up to {high} only: nearly black if white is "
                    f"{(1 << bits) - 1}; --max-value says what white is, such as {such}"
                )


@dataclass
class Changes:
    """Which images were found, to say once what is done to them."""

    found: Counter[Size] = field(default_factory=Counter)

    def told(self, wanted: Size) -> str | None:
        """One line on how these become images of the wanted size; None when they are so."""
        parts = []
        if {size[:2] for size in self.found} - {wanted[:2]}:
            parts.append(f"resized from {sizes(self.found)} to {wanted[0]}x{wanted[1]}")
        channels = {1 if size[2] < 3 else 3 for size in self.found if size[2] != wanted[2]}
        if 3 in channels and wanted[2] == 1:
            parts.append("their colours turned grey")
        if 1 in channels and wanted[2] == 3:
            parts.append("grey repeated as three colours")
        total = sum(self.found.values())
        return f"{total:,} images are {' and '.join(parts)}" if parts else None


def sizes(found: Counter[Size]) -> str:
    """Heights and widths for people: one, or how many, from the smallest to the largest."""
    areas = sorted({size[:2] for size in found}, key=lambda size: (size[0] * size[1], size))
    shown = [f"{height}x{width}" for height, width in areas]
    return shown[0] if len(shown) == 1 else f"{len(shown)} sizes ({shown[0]} to {shown[-1]})"


def most_pixels(wanted: Size | None) -> int:
    """How many pixels an image may have for a network of this input."""
    agreed = wanted[0] * wanted[1] if wanted else MOST_BOUND
    return max(min(max(agreed * SHRINK, LEAST_BOUND), MOST_BOUND), agreed)


def convert(images: np.ndarray, wanted: Size, where: str, white: White | None = None) -> np.ndarray:
    """Images as stored -> float32 [n, height, width, channels] in 0..1.

    Raises:
        ValueError: These are no images; the message begins with `where`.
    """
    white = white or White()
    images = as_images(images, wanted, where)
    if images.shape[1:] == wanted:
        scaled = white.scale(images, where)
    else:
        scaled = np.stack([fit(white.scale(image, where), wanted, where) for image in images])
    white.check(where)
    return scaled


def as_images(images: np.ndarray, wanted: Size, where: str) -> np.ndarray:
    """An array that claims to be images, as [n, height, width, channels].

    Raises:
        ValueError: It is none such, or its images are too large; the message begins with `where`.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 2, 3, 4, wanted[2]) or 0 in images.shape:
        raise ValueError(f"{where} has shape {images.shape}, expected [n, height, width] or [n, height, width, 1|3|4]")
    if images.shape[1] * images.shape[2] > most_pixels(wanted):
        raise ValueError(f"{where} has shape {images.shape}, at most {most_pixels(wanted):,} pixels per image are read")
    return images


def fit(pixels: np.ndarray, wanted: Size, where: str) -> np.ndarray:
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


def read_image(file: Path | BinaryIO, most: int = MOST_BOUND) -> np.ndarray:
    """Read an image of any mode in its own depth: [height, width, 1 or 3], upright.

    Args:
        file: A path, or an open file.
        most: How many pixels it may have; more are refused before they are unpacked.

    Raises:
        PictureError: The file is no image that can be read: another format, damaged, cut short, too large, of several
            pages.
    """
    from PIL import ImageOps

    if dicom.is_one(file):
        return _dicom(dicom.read, file, most)
    pixels = _opened(file, most, lambda image: _pixels(ImageOps.exif_transpose(image)))
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def measure_image(file: Path | BinaryIO, most: int = MOST_BOUND) -> Size:
    """Height, width and channels of an image as `read_image` would give it; reads the first bytes of its file only.

    Raises:
        PictureError: As `read_image`, as far as the first bytes show it.
    """

    def measure(image: Image.Image) -> Size:
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return height, width, 1 if image.mode in GREY_MODES or image.mode.startswith("I") else 3

    return _dicom(dicom.measure, file, most) if dicom.is_one(file) else _opened(file, most, measure)


def _dicom(use: Callable[[Path | BinaryIO, int], Result], file: Path | BinaryIO, most: int) -> Result:
    try:
        return use(file, most)
    except dicom.DicomError as error:
        raise PictureError(str(error)) from None


def _opened(file: Path | BinaryIO, most: int, use: Callable[[Image.Image], Result]) -> Result:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=tuple(FORMATS)) as image:
            if image.width * image.height > most:
                raise PictureError(f"{image.width}x{image.height} pixels, at most {most:,} are read")
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format != "MPO":  # a photograph with its preview
                raise PictureError(f"{pages} pages, expected one image")
            return use(image)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"far more than {most:,} pixels, which are the most that are read") from None
    except UnidentifiedImageError:
        raise PictureError(f"none of {', '.join(FORMATS)}, or damaged at its beginning") from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder stumbles over in bytes that are no image
        raise PictureError(" ".join(str(error).split()) or type(error).__name__) from None


def _pixels(image: Image.Image) -> np.ndarray:
    """Pixels in the image's own depth: Pillow's own conversion of 16-bit grey to L would clip, not scale."""
    if image.mode in ("L", "RGB", "F"):
        return np.asarray(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError(f"pixels reach from {deep.min()} to {deep.max()}, expected 0..65535")
        return deep.astype(np.uint16)
    return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))
