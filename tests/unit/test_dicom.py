"""DICOM files that pydicom wrote: the values that their scanner meant, and what is refused."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.models.data import dicom, images
from fedssh.models.data.contents import look_through
from fedssh.models.data.pixels import PictureError, measure_image, read_image
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import remarks

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 372  # to 4092


def write(path: Path, pixels: np.ndarray = RAMP, syntax: str = "1.2.840.10008.1.2.1", **elements: Any) -> Path:
    """A file as a scanner writes it; `elements` beside or instead of the usual ones."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

    held = Dataset()
    held.file_meta = FileMetaDataset()
    held.file_meta.TransferSyntaxUID = UID(syntax)
    held.SOPClassUID, held.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    bits = pixels.dtype.itemsize * 8
    coloured = pixels.shape[-1] == 3
    held.Rows, held.Columns = pixels.shape[-3:-1] if coloured else pixels.shape[-2:]
    held.SamplesPerPixel = 3 if coloured else 1
    held.PhotometricInterpretation = "RGB" if coloured else "MONOCHROME2"
    if coloured:
        held.PlanarConfiguration = 0
    held.BitsAllocated, held.BitsStored, held.HighBit = bits, 12 if bits == 16 else bits, 11 if bits == 16 else bits - 1
    held.PixelRepresentation = int(pixels.dtype.kind == "i")
    held.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(held, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    held.save_as(path, enforce_file_format=True)
    return path


def test_stored_values_are_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "IM0001")
    found = read_image(path)
    assert found.dtype == np.uint16 and np.array_equal(found[..., 0], RAMP)
    assert measure_image(path) == (3, 4, 1)
    eight = RAMP.astype(np.uint8)
    found = read_image(write(tmp_path / "8.dcm", eight))
    assert found.dtype == np.uint8 and np.array_equal(found[..., 0], eight)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = write(tmp_path / "1.dcm", RescaleSlope="2.5", RescaleIntercept="100")
    assert np.array_equal(read_image(path)[..., 0], RAMP * 2.5 + 100)
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    path = write(tmp_path / "2.dcm", signed, RescaleSlope="1", RescaleIntercept="2048")
    assert np.array_equal(read_image(path)[..., 0], RAMP)


def test_monochrome1_is_turned_around_within_the_bits_that_are_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "1.dcm", PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_image(path)[..., 0], 4095 - RAMP)
    path = write(tmp_path / "2.dcm", PhotometricInterpretation="MONOCHROME1", RescaleSlope="2", RescaleIntercept="10")
    assert np.array_equal(read_image(path)[..., 0], 2 * 4095 + 20 - (2 * RAMP + 10))


def test_colours_of_both_kinds_become_the_same(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = write(tmp_path / "1.dcm", colours)
    assert np.array_equal(read_image(path), colours) and measure_image(path) == (6, 8, 3)
    other = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    found = read_image(write(tmp_path / "2.dcm", other, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(found.astype(int) - colours).max() <= 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several frames": ({"pixels": np.stack([RAMP, RAMP]), "NumberOfFrames": 2}, "2 frames, expected one image"),
    "below nothing": (
        {"RescaleIntercept": "-1024", "RescaleSlope": "1"},
        "its values reach from -1024 to 3068 after resc",
    ),
    "beyond sixteen bits": ({"RescaleSlope": "100", "RescaleIntercept": "0"}, "its values reach from 0 to 409200"),
    "a palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR pixels of 1 channels, expected MONO"),
    "deflated": ({"syntax": "1.2.840.10008.1.2.1.99"}, "a deflated DICOM file"),
    "too many pixels": ({"Rows": 60000, "Columns": 60000}, "60000x60000 pixels, at most"),
    "too few bytes": ({"Rows": 300}, "number of bytes|length|less than"),
    "no pixels": ({"PixelData": None}, "a DICOM file without pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_single_picture_is_refused(case: str, tmp_path: Path) -> None:
    elements, message = REFUSED[case]
    with pytest.raises(PictureError, match=message):
        read_image(write(tmp_path / "1.dcm", **elements))


def test_a_file_cut_anywhere_is_an_error_of_its_own(tmp_path: Path) -> None:
    whole = write(tmp_path / "1.dcm").read_bytes()
    for size in range(0, len(whole) - 1, 7):
        (tmp_path / "1.dcm").write_bytes(whole[:size])
        with pytest.raises(PictureError):
            read_image(tmp_path / "1.dcm")


def test_a_data_set_of_them_is_one_like_others(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / "set" / split / name / "IM0001")
            write(tmp_path / "set" / split / name / "2.DCM", RAMP // 2)
    assert images.describe(tmp_path / "set").found == {(3, 4, 1): 8}
    with pytest.raises(ValueError, match=r"16-bit pixels that reach up to 4092 only: nearly black .* 4095 for 12 bits"):
        images.load(tmp_path / "set", (3, 4, 1), 2, "train")
    loaded = images.load(tmp_path / "set", (3, 4, 1), 2, "train", Reading(white=4095)).images
    assert loaded.max() == np.float32(4092 / 4095) and len(loaded) == 4
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("a", "b"):
            archive.add(tmp_path / f"set/train/{name}/2.DCM", f"train/{name}/2.dcm")
    assert len(images.load(tmp_path / "set.tar", (3, 4, 1), 2, "train", Reading(white=4095))) == 2
    (tmp_path / "set.csv").write_text("file,label\nset/train/a/IM0001,a\nset/val/b/2.DCM,b\n")
    assert len(images.load(tmp_path / "set.csv", (3, 4, 1), 2, "train", Reading(white=4095))) == 2


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set/a/IM0001")
    write(tmp_path / "set/b/2.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as where it is not installed
    assert not dicom.available()
    with pytest.raises(ValueError, match=r"2 DICOM files \(a/IM0001, b/2\.dcm\); .*pip install 'fedssh\[dicom\]' lets"):
        images.splits(tmp_path / "set")
    (remark, *_) = remarks(look_through(tmp_path / "set"))
    assert remark.hint == "pip install 'fedssh[dicom]' lets DICOM files be read"
    with pytest.raises(PictureError, match="a DICOM file; pip install"):
        read_image(io.BytesIO((tmp_path / "set/a/IM0001").read_bytes()))
