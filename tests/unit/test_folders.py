"""Folders as people have them: what is recognised, what is passed over with a line, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedssh.models.data import images
from fedssh.models.data.folders import survey
from fedssh.models.data.reading import Reading

SQUARE = (4, 4, 1)


def picture(path: Path, value: int = 128, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), value).save(path)


def put(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("Training Testing", ("train", "test")),
        ("train valid test", ("train", "val", "test")),
        ("TRAIN Validation TEST", ("train", "val", "test")),
        ("train val", ("train", "val")),
        ("validation Test", ("val", "test")),
    ],
)
def test_splits_by_any_of_their_names(tmp_path: Path, folders: str, splits: tuple[str, ...]) -> None:
    for folder in folders.split():
        put(tmp_path, f"{folder}/cats/1.png", f"{folder}/dogs/2.png")
    assert images.splits(tmp_path) == splits
    assert images.describe(tmp_path).names == ("cats", "dogs")
    assert images.load(tmp_path, SQUARE, 2, splits[0]).labels.tolist() == [0, 1]


def test_a_class_that_one_split_lacks_keeps_its_number(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png")
    assert images.load(tmp_path, SQUARE, 3, "test").labels.tolist() == [0, 2]


def test_what_is_left_behind_is_passed_over_with_a_line(tmp_path: Path) -> None:
    put(tmp_path, "cats/1.png", "dogs/2.png", "__MACOSX/cats/1.png", "cats/._1.png", ".git/x.png")
    for name in (".DS_Store", "cats/.DS_Store", "dogs/Thumbs.db", "README", "labels.csv"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / ".DS_Store").touch()
    told: list[str] = []
    assert len(images.load(tmp_path, SQUARE, 2, "train", Reading(tell=told.append))) == 2
    assert told[0] == (
        "passed over: *.csv, .DS_Store (3 times), ._*, .git, README, Thumbs.db, __MACOSX, the empty folder birds, "
        "the empty folder empty"
    )


MIXED: dict[str, tuple[tuple[str, ...], str]] = {
    "splits beside classes": (
        ("train/cats/1.png", "cats/1.png"),
        r"mixes splits \(train\) with other folders \(cats\)",
    ),
    "the archive again inside": (
        ("train/a/1.png", "test/a/1.png", "xrays/train/a/1.png"),
        r"mixes splits \(test, train\) with other folders \(xrays\)",
    ),
    "two of the same": (("train/a/1.png", "Training/a/2.png"), "two folders for the same split: Training, train"),
    "splits in a class": (("cats/train/1.png", "cats/test/1.png"), "a folder test inside cats, which looks like a spl"),
    "splits in a split": (("train/test/a/1.png", "test/a/1.png"), "a folder test inside train, which looks like"),
    "one folder too high": (("xrays/train/a/1.png", "xrays/test/a/1.png"), "a folder test inside xrays, which looks"),
    "images beside folders": (("cats/1.png", "dogs/1.png", "3.png"), r"1 images outside the folders of classes \(3"),
    "images in a split": (("train/1.png", "train/a/2.png"), r"images outside the folders of classes \(train/1\.png\)"),
    "images only": (("1.png", "2.png"), "2 images outside the folders of classes"),
    "nothing": ((), "is empty; expected a folder of images per class"),
}


@pytest.mark.parametrize("case", MIXED)
def test_folders_that_could_mean_two_things_are_refused(case: str, tmp_path: Path) -> None:
    names, message = MIXED[case]
    with pytest.raises(ValueError, match=message) as caught:
        survey(put(tmp_path, *names))
    assert "\n" not in str(caught.value)


def test_everything_that_is_no_image_is_refused_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as in a plain room
    put(tmp_path, "a/1.png", "b/1.png")
    for number in range(6):
        (tmp_path / "a" / f"IM{number}").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    (tmp_path / "a" / "named.png").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "b" / "scan.dcm").write_bytes(b"old DICOM without its preamble")
    (tmp_path / "b" / "volume.nii").write_bytes(b"x")
    (tmp_path / "b" / "odd").write_bytes(b"x")
    (tmp_path / "b" / "empty.jpg").touch()
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    with pytest.raises(ValueError, match="has 13 files that cannot be used") as caught:
        images.splits(tmp_path)
    said = str(caught.value)
    assert "8 DICOM files (a/IM0, a/IM1, a/IM2, a/IM3, …)" in said
    for kind in (
        "1 *.nii files (b/volume.nii)",
        "1 files without an ending (b/odd)",
        "1 empty files",
        "1 pipes or dev",
    ):
        assert kind in said
    assert said.endswith(
        "convert them to one of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, or take them out; "
        "pip install 'fedssh[dicom]' lets DICOM files be read"
    )


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    put(tmp_path, "data/a/1.png", "elsewhere/2.png", "data/b/3.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert len(images.load(tmp_path / "data", SQUARE, 2, "train")) == 3
    (tmp_path / "data" / "b" / "round").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match=r"folders in a circle or too deep \(b/round\)"):
        survey(tmp_path / "data")


def encoded(kind: str, size: int = 64) -> bytes:
    """An image file with noise, so that no half of it is empty."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def test_all_damaged_images_are_named_at_once(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    kinds = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "PPM": "ppm", "WEBP": "webp"}
    for kind, ending in kinds.items():
        whole = encoded(kind)
        (tmp_path / "a" / f"cut.{ending}").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(
        ValueError, match=r"has 7 files that cannot be used: 7 no readable images \(.*a/cut\.bmp: "
    ) as caught:
        images.load(tmp_path, SQUARE, 2, "train")
    assert "\n" not in str(caught.value)


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another format": (lambda at: at.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "none of PNG, JPEG"),
    "an image of a format that is not named": (lambda at: at.write_bytes(encoded("TGA")), "none of PNG, JPEG"),
    "many pages": (
        lambda at: Image.new("L", (4, 4)).save(at, "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))] * 2),
        "3 pages, expected one image",
    ),
    "a bomb": (lambda at: Image.new("1", (5000, 5000)).save(at, "PNG"), r"5000x5000 pixels, at most 16,777,216 are"),
    "a large bomb": (lambda at: Image.new("1", (20_000, 20_000)).save(at, "PNG"), r"far more than 16,777,216 pixels"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_images_are_refused(case: str, tmp_path: Path) -> None:
    make, message = STRANGE[case]
    put(tmp_path, "a/1.png", "b/1.png")
    make(tmp_path / "a" / "x.png")
    with pytest.raises(ValueError, match=rf"1 no readable images \(a/x\.png: {message}"):
        images.load(tmp_path, SQUARE, 2, "train")


def deep(root: Path, top: int) -> Path:
    """A set of 16-bit images that reach up to `top`."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        pixels = np.linspace(0, top, 16).astype(np.uint16).reshape(4, 4)
        Image.fromarray(pixels).save(root / name / "1.png")
    return root


def test_twelve_bits_in_sixteen_are_never_nearly_black(tmp_path: Path) -> None:
    twelve = deep(tmp_path / "twelve", 4095)
    with pytest.raises(ValueError, match=r"16-bit pixels that reach up to 4095 only: nearly black .* 4095 for 12 bits"):
        images.load(twelve, SQUARE, 2, "train")
    assert images.load(twelve, SQUARE, 2, "train", Reading(white=4095)).images.max() == 1
    assert images.load(twelve, SQUARE, 2, "train", Reading(white=65535)).images.max() == np.float32(4095 / 65535)
    older = images.load(twelve, SQUARE, 2, "train", Reading(dark=True))
    assert older.images.max() == np.float32(4095 / 65535), "as federations did that were never asked"
    with pytest.raises(ValueError, match=r"1\.png reaches up to 4095, beyond --max-value 1023"):
        images.load(twelve, SQUARE, 2, "train", Reading(white=1023))
    assert images.load(deep(tmp_path / "full", 65535), SQUARE, 2, "train").images.max() == 1


def test_white_is_the_same_for_every_image_of_its_depth(tmp_path: Path) -> None:
    put(deep(tmp_path, 2047), "a/8-bit.png")
    found = images.load(tmp_path, SQUARE, 2, "train", Reading(white=4095)).images
    assert np.allclose(found.max(axis=(1, 2, 3)), [2047 / 4095, 128 / 255, 2047 / 4095])


def test_what_is_done_to_images_is_told_in_a_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "same" / name / "1.png")
        Image.new("RGB", (64, 48), (9, 99, 200)).save(tmp_path / "same" / name / "2.png")
    told: list[str] = []
    images.load(tmp_path / "same", SQUARE, 2, "train", Reading(tell=told.append))
    images.load(tmp_path / "same", (48, 64, 3), 2, "train", Reading(tell=told.append))
    assert [line for line in told if "class names" not in line] == [
        "4 images are resized from 2 sizes (4x4 to 48x64) to 4x4 and their colours turned grey",
        "4 images are resized from 2 sizes (4x4 to 48x64) to 48x64 and grey repeated as three colours",
    ]


def test_names_of_folders_are_held_whatever_their_order(tmp_path: Path) -> None:
    put(tmp_path, "no_finding/1.png", "infiltrate/2.png", "infiltrate/3.png", "zzz/4.png")
    told: list[str] = []
    given = {"no_finding": "NORMAL", "infiltrate": "PNEUMONIA", "zzz": ""}
    reading = Reading(("NORMAL", "PNEUMONIA"), given, tell=told.append)
    assert images.load(tmp_path, SQUARE, 2, "train", reading).labels.tolist() == [1, 1, 0]
    assert told == ["train: classes: infiltrate as PNEUMONIA (2), no_finding as NORMAL (1); left out: zzz (1 images)"]
    shutil.rmtree(tmp_path / "zzz")
    with pytest.raises(ValueError, match="the classes here are infiltrate, no_finding, the federation's are NORMAL"):
        images.load(tmp_path, SQUARE, 2, "train", Reading(("NORMAL", "PNEUMONIA")))
