"""Loading local data: both npz dialects, folders of any images, and every way in which data can be wrong."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.models.data import archive, datasets, images, published
from fedssh.models.data.pixels import convert, measure_image, read_image

SQUARE = (4, 4, 1)
PIXELS = np.zeros((2, 4, 4), np.uint8)
BOTH = np.array([0, 1])


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (4, 4), value: Any = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.mark.parametrize("keys", [("train_images", "train_labels"), ("x_train", "y_train")])
@pytest.mark.parametrize("column", [True, False])
def test_both_dialects_of_npz(tmp_path: Path, keys: tuple[str, str], column: bool) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    labels = np.array([0, 1, 1], np.uint8)
    path = npz(tmp_path / "a.npz", **{keys[0]: pixels, keys[1]: labels[:, None] if column else labels})
    found = images.load(path, SQUARE, 2, "train")
    assert np.allclose(found.images[..., 0], pixels / 255)
    assert found.images.dtype == np.float32
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [0, 1, 1]
    assert found.patients is None
    assert images.splits(path) == ("train",)


def test_patients_come_along(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "a.npz",
        val_images=np.zeros((2, 4, 4), np.uint8),
        val_labels=np.array([0, 1]),
        val_patients=np.array(["p7", "p9"]),
    )
    found = images.load(path, SQUARE, 2, "val")
    assert found.patients is not None
    assert found.take(np.array([1])).patients.tolist() == ["p9"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((1, 4, 4), 255, np.uint8), 1.0),
        (np.full((1, 4, 4), 65535, np.uint16), 1.0),
        (np.full((1, 4, 4), 0.25, np.float64), 0.25),
        (np.ones((1, 4, 4), np.bool_), 1.0),
        (np.full((1, 9, 5), 51, np.uint8), 0.2),
        (np.full((1, 9, 5, 3), 51, np.uint8), 0.2),
        (np.full((1, 9, 5, 4), 51, np.uint8), 0.2),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_type_and_shape_of_pixels(tmp_path: Path, pixels: np.ndarray, expected: float, channels: int) -> None:
    path = npz(tmp_path / "a.npz", train_images=pixels, train_labels=np.array([0]))
    found = images.load(path, (4, 4, channels), 2, "train").images
    assert found.shape == (1, 4, 4, channels)
    assert np.allclose(found, expected, atol=1e-6)


def test_grey_is_the_luma_of_the_colours() -> None:
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert np.allclose(convert(red, (2, 2, 1), "red"), 0.299)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "no train split; it holds train_images"),
        ({"x_test": np.zeros((1, 4, 4), np.uint8), "y_test": np.array([0])}, "no train split"),
        ({"train_images": PIXELS, "train_labels": np.array([0, 2])}, r"label 2 \(1 such\), expected 0\.\.1"),
        ({"train_images": PIXELS, "train_labels": np.array([0, -2])}, "label -2"),
        ({"train_images": PIXELS, "train_labels": np.array([-1, -1])}, "-1 throughout: no image has a label"),
        ({"train_images": PIXELS, "train_labels": np.array([0, 0.5])}, "expected whole class numbers"),
        ({"train_images": PIXELS, "train_labels": np.zeros((2, 14))}, "one class number per image"),
        ({"train_images": PIXELS, "train_labels": np.array([0])}, "but there are 1 labels"),
        ({"train_images": np.zeros((0, 4, 4), np.uint8), "train_labels": np.zeros(0)}, "is empty"),
        ({"train_images": np.zeros((2, 16), np.uint8), "train_labels": BOTH}, r"has shape \(2, 16\)"),
        ({"train_images": np.zeros((2, 4, 4, 7), np.uint8), "train_labels": BOTH}, r"has shape \(2, 4, 4, 7\)"),
        ({"train_images": np.full((2, 4, 4), 255.0), "train_labels": BOTH}, r"expected 0\.\.1 for floating"),
        ({"train_images": np.full((2, 4, 4), np.nan), "train_labels": BOTH}, r"expected 0\.\.1 for floating"),
        ({"train_images": np.zeros((2, 4, 4), np.int32), "train_labels": BOTH}, "is int32"),
    ],
)
def test_what_is_wrong_with_an_npz_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.load(npz(tmp_path / "a.npz", **arrays), SQUARE, 2, "train")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.npz does not exist"):
        images.load(tmp_path / "missing.npz", SQUARE, 2, "train")
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match=r"garbage.npz is no readable .npz"):
        images.load(garbage, SQUARE, 2, "train")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    garbage.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"garbage.npz is no readable .npz"):
        images.load(garbage, SQUARE, 2, "train")
    whole = npz(
        tmp_path / "a.npz", train_images=np.zeros((900, 4, 4), np.uint8), train_labels=np.zeros(900)
    ).read_bytes()
    garbage.write_bytes(whole[:9000] + b"\xff" * 8 + whole[9008:])
    with pytest.raises(ValueError, match="train_images cannot be read"):
        images.load(garbage, SQUARE, 2, "train")


def test_a_pickle_inside_an_npz_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = npz(tmp_path / "a.npz", train_images=np.array([Bomb()], dtype=object), train_labels=np.array([0]))
    with pytest.raises(ValueError, match="train_images cannot be read"):
        images.load(path, SQUARE, 2, "train")
    assert not (tmp_path / "exploded").exists()


def test_a_folder_of_images_of_many_kinds(tmp_path: Path) -> None:
    picture(tmp_path / "ill" / "a.png", "L", (9, 5), 51)
    picture(tmp_path / "ill" / "deeper" / "b.JPG", "RGB", (300, 200), (51, 51, 51))
    picture(tmp_path / "well" / "c.png", "RGBA", (3, 3), (51, 51, 51, 7))
    picture(tmp_path / "well" / "d.gif", "P", (3, 3), 0)
    picture(tmp_path / "well" / "e.bmp", "1", (3, 3), 1)
    Image.fromarray(np.full((6, 6), 65535, np.uint16)).save(tmp_path / "well" / "f.png")
    (tmp_path / "well" / "notes.txt").write_text("not an image")
    found = images.load(tmp_path, SQUARE, 2, "train")
    assert found.images.shape == (6, 4, 4, 1)
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert np.allclose(found.images.mean(axis=(1, 2, 3)), [0.2, 0.2, 0.2, 0, 1, 1], atol=0.01)


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png")[:4].max() == 0
    assert measure_image(tmp_path / "a.png") == (8, 8, 1)


def test_folders_with_splits(tmp_path: Path) -> None:
    for split, number in (("train", 3), ("val", 1), ("test", 2)):
        for name in ("cats", "dogs"):
            for index in range(number):
                picture(tmp_path / split / name / f"{index}.png")
    assert images.splits(tmp_path) == ("train", "val", "test")
    assert [len(images.load(tmp_path, SQUARE, 2, split)) for split in images.SPLITS] == [6, 2, 4]


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is empty"):
        images.load(tmp_path, SQUARE, 2, "train")
    picture(tmp_path / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"1 folders of images \(cats\), expected one per class, 2"):
        images.load(tmp_path, SQUARE, 2, "train")
    (tmp_path / "dogs").mkdir()
    with pytest.raises(ValueError, match=r"1 folders of images \(cats\), expected one per class, 2"):
        images.load(tmp_path, SQUARE, 2, "train")
    for number in range(6):
        (tmp_path / "dogs" / f"broken{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    with pytest.raises(ValueError, match=r"6 files that cannot be used: 6 no readable images .*broken0.*broken3.*, …"):
        images.load(tmp_path, SQUARE, 2, "train")
    with pytest.raises(ValueError, match="no val split"):
        images.load(tmp_path, SQUARE, 2, "val")


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """An archive of these members; a TarInfo is one without content."""
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                file.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return path


def jpeg(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


def test_an_archive_is_read_in_memory_and_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "pets.tar",
        {
            "pets/train/dogs/dog.1.jpg": jpeg(204),
            "pets/train/cats/cat.10.jpg": jpeg(102),
            "pets/train/cats/cat.2.JPG": jpeg(51, (9, 5)),
            "pets/train/cats/more/cat.3.jpg": jpeg(153),
            "pets/test/cats/cat.7.jpg": jpeg(0),
            "pets/test/dogs/dog.7.jpg": jpeg(255),
            "pets/README.txt": b"not an image",
            "pets/loose.jpg": jpeg(0),
            "pets/train/loose.jpg": jpeg(0),
            "pets/train/cats/._cat.2.jpg": b"what some systems leave behind",
        },
    )
    assert images.splits(path) == ("train", "test")
    described = images.describe(path)
    assert (described.input, described.classes, described.names) == (None, 2, ("cats", "dogs"))
    assert described.found == {(4, 4, 3): 5, (5, 9, 3): 1}
    found = images.load(path, SQUARE, 2, "train")
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert np.allclose(found.images.mean(axis=(1, 2, 3)), [0.2, 0.4, 0.6, 0.8], atol=0.01)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pets.tar"]


def test_an_archive_reaches_nothing_outside_itself(tmp_path: Path) -> None:
    secret = picture(tmp_path / "secret.png", value=255)
    path = tar(
        tmp_path / "evil.tar",
        {
            "train/cats/a.png": link(tarfile.SYMTYPE, str(secret)),
            "train/cats/b.png": link(tarfile.LNKTYPE, str(secret)),
            "train/cats/c.png": link(tarfile.FIFOTYPE, ""),
            "../train/cats/d.jpg": jpeg(51),
            "/train/dogs/e.jpg": jpeg(51),
        },
    )
    found = images.load(path, SQUARE, 2, "train")
    assert len(found) == 2, "links and pipes are no pictures"
    assert np.allclose(found.images, 0.2, atol=0.01)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evil.tar", "secret.png"]


def test_what_is_wrong_with_an_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.tar does not exist"):
        images.load(tmp_path / "gone.tar", SQUARE, 2, "train")
    broken = tmp_path / "broken.tar"
    for content in (b"no archive", gzip.compress(b"\0" * 10240)):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.tar is no readable uncompressed tar archive"):
            images.load(broken, SQUARE, 2, "train")
    with pytest.raises(ValueError, match="has no pictures"):
        images.splits(tar(tmp_path / "empty.tar", {"train/cats/readme.txt": b""}))
    one = tar(tmp_path / "one.tar", {"train/cats/a.jpg": jpeg(0), "train/dogs/b.jpg": b"no picture"})
    with pytest.raises(
        ValueError, match=r"1 file that cannot be used: 1 no readable images \('train/dogs/b\.jpg': none of"
    ):
        images.load(one, SQUARE, 2, "train")
    with pytest.raises(ValueError, match=r"has 2 folders of images \(cats, dogs\), expected one per class, 3"):
        images.load(one, SQUARE, 3, "train")
    with pytest.raises(ValueError, match="has no val split"):
        images.load(one, SQUARE, 2, "val")
    picture_at = archive.pictures(one)[1]
    one.write_bytes(one.read_bytes()[: picture_at.offset + 3])
    with pytest.raises(ValueError, match="archive"):
        images.load(one, SQUARE, 2, "train")
    with pytest.raises(ValueError, match=r"ends within 'train/dogs/b\.jpg'"):
        archive.read(one, picture_at)
    monkeypatch.setattr(archive, "MAX_PICTURE_BYTES", 5)
    with pytest.raises(ValueError, match=r"claims 10 bytes, at most 5 are read"):
        archive.read(one, picture_at)


def test_holding_out_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1], [300, 100])
    kept, held = images.hold_out(labels, 0.15, 5)
    assert np.bincount(labels[held]).tolist() == [45, 15]
    assert sorted([*kept, *held]) == list(range(400))
    assert np.array_equal(images.hold_out(labels, 0.15, 5)[1], held)
    assert not np.array_equal(images.hold_out(labels, 0.15, 6)[1], held)


def test_holding_out_never_leaves_a_part_empty_and_never_divides_a_patient() -> None:
    assert [len(part) for part in images.hold_out(np.array([0, 1]), 0.01, 0)] == [1, 1]
    patients = np.repeat(np.arange(20), 5)
    kept, held = images.hold_out(np.zeros(100, int), 0.2, 0, patients)
    assert not set(patients[kept]) & set(patients[held])
    assert len(held) == 20
    with pytest.raises(ValueError, match="5 examples of 1 patients"):
        images.hold_out(np.zeros(5, int), 0.2, 0, np.ones(5))


def test_digits_need_no_file_and_have_every_split(tmp_path: Path) -> None:
    found = datasets.open_dataset("digits", tmp_path)
    assert {split: len(content) for split, content in found.splits.items()} == {"train": 1374, "val": 153, "test": 270}
    assert found.splits["train"].images.shape[1:] == found.input == (28, 28, 1)
    assert found.classes == 10


def test_saved_splits_load_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 4, 4, 1)).astype(np.float32) / 255
    train = images.Images(pixels, np.arange(6) % 2, np.arange(6))
    datasets.save(tmp_path / "site.npz", {"train": train})
    again = images.load(tmp_path / "site.npz", SQUARE, 2, "train")
    assert np.array_equal(again.images, train.images)
    assert np.array_equal(again.labels, train.labels)
    assert np.array_equal(again.patients, train.patients)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["site.npz"]


def test_own_files_and_folders_are_data_sets(tmp_path: Path) -> None:
    path = npz(tmp_path / "own.npz", x_train=np.zeros((40, 6, 5, 3), np.uint8), y_train=np.arange(40) % 3)
    found = datasets.open_dataset(str(path), tmp_path)
    assert (found.name, found.input, found.classes) == ("own", (6, 5, 3), 3)
    assert sum(len(split) for split in found.splits.values()) == 40
    for index in range(20):
        picture(tmp_path / "photos" / "ab"[index % 2] / f"{index}.jpg", "RGB", (256, 128), (100 + index, 0, 0))
    found = datasets.open_dataset(str(tmp_path / "photos"), tmp_path)
    assert (found.input, found.classes) == ((64, 128, 3), 2)
    with pytest.raises(FileNotFoundError, match="nothing is neither a file nor a folder nor one of pneumoniamnist"):
        datasets.open_dataset("nothing", tmp_path)


@pytest.fixture
def origin(tmp_path: Path) -> published.Source:
    """A source whose address is a file on this machine."""
    file = npz(tmp_path / "origin.npz", x_train=np.zeros((4, 28, 28), np.uint8), y_train=np.arange(4))
    return published.Source("a.npz", file.as_uri(), published.digest(file, "md5:"), tuple("abcd"))


def test_a_download_is_kept_only_when_its_checksum_is_right(origin: published.Source, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path, note = datasets.obtain(origin, tmp_path / "data", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == (tmp_path / "origin.npz").read_bytes()
    assert note == ""
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)

    wrong = published.Source("b.npz", origin.url, "sha256:" + "0" * 64, tuple("abcd"))
    with pytest.raises(datasets.DownloadError, match="has checksum sha256:"):
        datasets.obtain(wrong, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.npz"]


def test_a_found_file_with_another_checksum_is_used_and_said(origin: published.Source, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"other")
    path, note = datasets.obtain(origin, tmp_path)
    assert path.read_bytes() == b"other"
    assert note == f"using {path}, whose checksum differs from the published one"


def test_a_data_set_that_nobody_may_download_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cats_dogs_128\.tar is not in .*, and it cannot be downloaded"):
        datasets.open_or_digits("cats_dogs", tmp_path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder with an archive of the published size; a picture's shade is its place in its folder, modulo 256."""
    shades = [jpeg(shade) for shade in range(256)]
    members: dict[str, bytes | tarfile.TarInfo] = {
        f"p/{split}/{kind}s/{kind}.{first + index}.jpg": shades[index % 256]
        for split, first in (("test", 4001), ("train", 1))
        for kind in ("cat", "dog")
        for index in range(1000)
    }
    tar(tmp_path / "cats_dogs_128.tar", members)
    return tmp_path


def test_the_published_division_of_cats_and_dogs(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = published.Source("cats_dogs_128.tar", "", "sha256:0", ("cats", "dogs"), (4, 4, 3))
    monkeypatch.setitem(published.SOURCES, "cats_dogs_published", small)
    found = datasets.open_dataset("cats_dogs_published", pets)
    counts = {split: np.bincount(content.labels).tolist() for split, content in found.splits.items()}
    assert counts == {"train": [999, 1004], "val": [494, 489], "test": [506, 507]}

    def places(split: str, label: int) -> list[int]:
        content = found.splits[split]
        shades = content.images[content.labels == label].mean(axis=(1, 2, 3))
        return [round(255 * float(shade)) for shade in shades]

    assert places("train", 0) == [place % 256 for place in range(999)]
    assert places("train", 1) == [place % 256 for place in [*range(1000), 507, 508, 509, 510]], "dogs 4508 to 4511"
    assert places("test", 0) == [place % 256 for place in range(506)]
    assert places("test", 1) == [place % 256 for place in range(507)], "dogs 4001 to 4507"
    assert places("val", 0) == [place % 256 for place in range(506, 1000)]
    assert places("val", 1) == [place % 256 for place in range(511, 1000)]
    assert "differs from the published one" in found.note


def test_the_published_division_needs_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(tmp_path / "cats_dogs_128.tar", {"train/cats/1.jpg": jpeg(0), "test/dogs/1.jpg": jpeg(0)})
    with pytest.raises(ValueError, match=r"has 1 pictures in train/cats, the published division needs 1000"):
        datasets.open_dataset("cats_dogs_published", tmp_path)


def test_cutting_keeps_the_shares_and_loses_nothing() -> None:
    content = images.Images(np.arange(400, dtype=np.float32).reshape(400, 1, 1, 1) / 400, np.repeat([0, 1], [300, 100]))
    kept, held = datasets.cut(content, 0.1, 3)
    assert np.bincount(held.labels).tolist() == [30, 10]
    assert sorted([*kept.images.ravel(), *held.images.ravel()]) == content.images.ravel().tolist()
    assert np.array_equal(datasets.cut(content, 0.1, 3)[1].images, held.images)
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            datasets.cut(content, share, 3)


def test_without_network_the_digits_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = published.Source("mnist.npz", (tmp_path / "gone").as_uri(), "md5:0", tuple("0123456789"))
    monkeypatch.setitem(published.SOURCES, "mnist", gone)
    found = datasets.open_or_digits("mnist", tmp_path)
    assert found.name == "digits"
    assert found.note.startswith("mnist.npz could not be downloaded")
    assert "\n" not in found.note


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("pneumoniamnist", (4708, 524, 624)),
        ("mnist", (54_000, 6_000, 10_000)),
        ("cats_dogs", (1800, 200, 2000)),
        ("cats_dogs_published", (2003, 983, 1013)),
    ],
)
def test_the_published_data_sets(name: str, sizes: tuple[int, int, int]) -> None:
    folder = os.environ.get("FEDSSH_DATA")
    if not folder or not (Path(folder) / published.SOURCES[name].file).exists():
        pytest.skip(f"set FEDSSH_DATA to a folder with {published.SOURCES[name].file}")
    found = datasets.open_dataset(name, Path(folder))
    assert tuple(len(found.splits[split]) for split in images.SPLITS) == sizes
    assert set(found.splits["test"].labels) == set(range(found.classes))
