"""DICOM files, where the extra `dicom` is installed: one picture each, in the values that its scanner meant.

    MONOCHROME2    stored values * rescale slope + rescale intercept, rounded; 0..65535, or the file is refused
    MONOCHROME1    the same, turned around, since in these files small values are bright: low end + high end - value
    RGB, YBR_FULL  8 bits in three colours; YBR becomes RGB

Which values a file could show (its low and its high end) follow from Bits Stored, slope and intercept. Up to 255 they
are 8-bit pixels, above 16-bit ones, of which `--max-value` says what white is, as of every other file (see `pixels`):
4095 where 12 bits are stored. No window is applied: what a window cuts off is a person's decision, so values below 0,
as in computed tomography, are refused. So are several frames, palettes, look-up tables, and deflated files, in which
few bytes become many. Compressed pixels are unpacked by what pydicom finds installed; Pillow does JPEG.
"""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})
START = 132  # bytes that tell
INSTALL = "pip install 'fedssh[dicom]' lets DICOM files be read"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_GREY, _COLOURED = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


class DicomError(ValueError):
    """A DICOM file has no picture that can be read; the text says why and names no file."""


def available() -> bool:
    """Whether such files can be read here."""
    try:
        importlib.import_module("pydicom")
    except ImportError:
        return False
    return True


def starts(start: bytes) -> bool:
    """Whether a file that begins with these `START` bytes is one."""
    return start[128:START] == b"DICM"


def is_one(file: Path | BinaryIO) -> bool:
    """Whether a file is one, by its name or its first bytes; an open file is at its beginning again afterwards."""
    if isinstance(file, Path):
        if file.suffix.lower() in SUFFIXES:
            return True
        with open(file, "rb") as opened:
            return starts(opened.read(START))
    start = file.read(START)
    file.seek(0)
    return starts(start)


def measure(file: Path | BinaryIO, most: int) -> tuple[int, int, int]:
    """Height, width and channels of the picture, without unpacking it.

    Args:
        most: How many pixels it may have.

    Raises:
        DicomError: It cannot be read here, or is no picture of those above.
    """
    held = _open(file, most, pixels=False)
    return int(held.Rows), int(held.Columns), int(held.SamplesPerPixel)


def read(file: Path | BinaryIO, most: int) -> np.ndarray:
    """The picture: uint8 or uint16 [height, width, 1], or uint8 [height, width, 3].

    Args:
        most: How many pixels it may have.

    Raises:
        DicomError: As `measure`, or its pixels cannot be unpacked.
    """
    held = _open(file, most, pixels=True)
    if not held.get("PixelData"):
        raise DicomError("a DICOM file without pixels")
    from pydicom.pixels.utils import pixel_array

    try:
        with warnings.catch_warnings(action="ignore"):
            stored = pixel_array(held)
    except Exception as error:  # noqa: BLE001 - whatever a decoder stumbles over in bytes that are no image
        raise DicomError(" ".join(str(error).split()) or type(error).__name__) from None
    if held.PhotometricInterpretation in _COLOURED:
        if stored.dtype != np.uint8 or stored.ndim != 3:
            raise DicomError(f"colours of {stored.dtype}, expected 8 bits")
        return stored
    return _shown(stored, held)[..., np.newaxis]


def _shown(stored: np.ndarray, held: Dataset) -> np.ndarray:
    """Stored values [height, width] -> what they mean, uint8 or uint16 by what the file could show."""
    bits, signed = int(held.BitsStored), int(held.PixelRepresentation)
    slope, intercept = (float(held.get(name, default)) for name, default in _RESCALE)
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    ends = (slope * lowest + intercept, slope * highest + intercept)
    values = np.rint(stored * slope + intercept)
    if held.PhotometricInterpretation == "MONOCHROME1":
        values = np.rint(sum(ends)) - values
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65535:
        raise DicomError(
            f"its values reach from {low:g} to {high:g} after rescale slope and intercept, expected 0..65535: "
            "apply a window, and save what it shows"
        )
    return values.astype(np.uint8 if max(*ends, high) <= 255 else np.uint16)


_RESCALE = (("RescaleSlope", 1), ("RescaleIntercept", 0))


def _open(file: Path | BinaryIO, most: int, pixels: bool) -> Dataset:
    """The file's elements, checked to be a picture."""
    if not available():
        raise DicomError(f"a DICOM file; {INSTALL}")
    from pydicom import dcmread

    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        if _DEFLATED in content[: 1 << 16]:
            raise DicomError("a deflated DICOM file, expected one that is not")
        with warnings.catch_warnings(action="ignore"):
            held: Any = dcmread(io.BytesIO(content), stop_before_pixels=not pixels, force=True)
            _check(held, most)
    except DicomError:
        raise
    except Exception as error:  # noqa: BLE001 - as in `read`
        raise DicomError(f"no readable DICOM file: {' '.join(str(error).split()) or type(error).__name__}") from None
    return held  # type: ignore[no-any-return]


def _check(held: Dataset, most: int) -> None:
    """Refuse what is no single picture; elements that are missing raise AttributeError."""
    if "Rows" not in held or "PhotometricInterpretation" not in held:
        raise DicomError("a DICOM file without a picture")
    if (frames := int(held.get("NumberOfFrames") or 1)) > 1:
        raise DicomError(f"{frames} frames, expected one image")
    if held.Rows * held.Columns > most or not held.Rows * held.Columns:
        raise DicomError(f"{held.Columns}x{held.Rows} pixels, at most {most:,} are read")
    kind = held.PhotometricInterpretation
    if (kind, held.SamplesPerPixel) not in [*((one, 1) for one in _GREY), *((one, 3) for one in _COLOURED)]:
        raise DicomError(f"{kind} pixels of {held.SamplesPerPixel} channels, expected {', '.join(_GREY)}, RGB or YBR")
    if "ModalityLUTSequence" in held:
        raise DicomError("a look-up table instead of rescale slope and intercept")
    if not 1 <= int(held.BitsStored) <= 16:
        raise DicomError(f"{held.BitsStored} bits, expected at most 16")
