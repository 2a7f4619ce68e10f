"""The data sets of the demonstration: by name, found or downloaded; or anybody's own file or folder.

    pneumoniamnist   28x28 chest X-rays of children, normal or pneumonia; 4708 train, 524 val, 624 test
                     MedMNIST v2 (Yang et al. 2023), from Kermany et al. 2018; CC BY 4.0
    mnist            28x28 handwritten digits; 60,000 train, 10,000 test (LeCun et al. 1998); CC BY-SA 3.0
    digits           8x8 handwritten digits; 1797, inside scikit-learn, so they need no network (Alpaydin, Kaynak 1998)
    breast_cancer    a table of 569 rows and 30 numbers, of nuclei of cells; malignant or benign; inside scikit-learn
                     (Wolberg, Street, Mangasarian 1995)
    diabetes         a table of 442 rows and 10 numbers, of people with diabetes; how far it has come a year later, a
                     number; inside scikit-learn (Efron, Hastie, Johnstone, Tibshirani 2004)
    cats_dogs        128x128 photographs, 0 cats, 1 dogs; 1000 of each to train, 1000 of each to test; a part of Asirra
                     (Elson et al. 2007). They may not be passed on, so there is no download: put a tar archive of
                     train|test/cats|dogs/*.jpg into the data directory
    cats_dogs_published   the same pictures in the division of the published study of Polyak averaging: 999 cats and
                     1004 dogs to train, 506 and 507 to test; val is what it left out of test, 494 and 489

`open_dataset` gives every data set the splits train, val and test; what is not there is taken from train, always the
same examples. `cut` divides any split further. `save` writes splits as an .npz file that `models.images` loads.
"""

from __future__ import annotations

import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedssh.models.data import archive, features, frame, images, npz, pictures, pixels
from fedssh.models.data.images import Images
from fedssh.models.data.pixels import Size
from fedssh.models.data.published import DIGITS, SOURCES, Source, digest
from fedssh.models.data.reading import Description, Reading
from fedssh.models.tasks import CLASSES, REGRESSION

TIMEOUT_SECONDS = 20
BLOCK = 1 << 18
LARGEST_SIDE = 128  # of a folder's images, when nobody says which size they shall have
VAL_SHARE, TEST_SHARE, SPLIT_SEED = 0.1, 0.15, 20240501

Progress = Callable[[int, int], None]


NAMES = (*SOURCES, "digits", "breast_cancer", "diabetes")


class DownloadError(ValueError):
    """A data set could not be downloaded: no network, or not the published file. `digits` needs none."""


@dataclass(frozen=True)
class Dataset:
    """A data set with all three splits.

    Attributes:
        name: For people and file names.
        splits: train, val and test; images float32 of size `input`, in 0..1.
        input: Height, width and channels, as in a spec.
        classes: How many classes there are; 0..classes-1 are the labels. Of a regression, how many targets.
        class_names: What they are called, in label order; None when nobody says.
        note: One line for people on where this came from and what was done to it; may be empty.
        columns: Of a table what its features are called; its rows are then float64 [n, 1, features, 1] as they stand,
            and become what a network takes by figures that are agreed, see `standardised`.
        task: What the labels are, see `labels`.
    """

    name: str
    splits: Mapping[str, Images]
    input: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...] | None
    note: str = field(default="")
    columns: tuple[str, ...] | None = None
    task: str = CLASSES


def open_dataset(source: str, folder: Path, progress: Progress | None = None) -> Dataset:
    """Load a data set by name, or from a path to an .npz file, a folder of images per class or a .tar archive of one.

    Args:
        source: One of `NAMES`, or a path.
        folder: Where named data sets are looked for, and kept after a download; made when needed.
        progress: Called while downloading with the bytes so far and the bytes in all (0 when unknown).

    Raises:
        DownloadError: Not in `folder`, and it could not be downloaded.
        FileNotFoundError: No such name, file or folder; or a data set that nobody may download is not in `folder`.
        ValueError: What is there is no data set.
    """
    if source == "digits":
        return digits()
    if source in TABLES:
        return TABLES[source]()
    if source in SOURCES:
        found = SOURCES[source]
        path, note = obtain(found, folder, progress)
        names = found.class_names
        if source == "cats_dogs_published":
            return Dataset(source, _published(path, found.input), found.input, len(names), names, note)
        return _complete(source, path, found.input, len(names), names, [note])
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{source} is neither a file nor a folder nor one of {', '.join(NAMES)}")
    if images.is_table(path):
        raise ValueError(
            f"{path} is a table of features; `charity init --data` and `alice train --data` take such ones"
        )
    there = images.describe(path)
    return _complete(path.stem, path, _size(path, there), there.classes, there.names, [], there.task)


def open_or_digits(source: str, folder: Path, progress: Progress | None = None) -> Dataset:
    """As `open_dataset`, but when a download fails, the handwritten digits; their note says why."""
    try:
        return open_dataset(source, folder, progress)
    except DownloadError as error:
        return digits(f"{error}; using the handwritten digits of scikit-learn instead")


def digits(note: str = "") -> Dataset:
    """The handwritten digits inside scikit-learn, enlarged to the 28x28 pixels of the other two."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    wanted = (28, 28, 1)
    enlarged = pixels.convert((bunch.images * (255 / 16)).astype(np.uint8), wanted, "digits")
    splits = _with_all_splits({"train": Images(enlarged, bunch.target.astype(np.int64))})
    return Dataset("digits", splits, wanted, len(DIGITS), DIGITS, note)


def breast_cancer() -> Dataset:
    """The table of breast cancer inside scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    rows = Images(np.asarray(bunch.data, np.float64)[:, np.newaxis, :, np.newaxis], bunch.target.astype(np.int64))
    columns, names = (tuple(map(str, found)) for found in (bunch.feature_names, bunch.target_names))
    splits = _with_all_splits({"train": rows})
    return Dataset("breast_cancer", splits, (1, len(columns), 1), len(names), names, columns=columns)


def diabetes() -> Dataset:
    """The table of diabetes inside scikit-learn, in its own units."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    rows = np.asarray(bunch.data, np.float64)[:, np.newaxis, :, np.newaxis]
    columns, targets = tuple(map(str, bunch.feature_names)), np.asarray(bunch.target, np.float32)[:, np.newaxis]
    splits = _with_all_splits({"train": Images(rows, targets)})
    names = ("progression",)
    return Dataset("diabetes", splits, (1, len(columns), 1), 1, names, task=REGRESSION, columns=columns)


TABLES: Mapping[str, Callable[[], Dataset]] = {"breast_cancer": breast_cancer, "diabetes": diabetes}


def standardised(columns: Sequence[str], own: Images, others: Sequence[Images]) -> list[Images]:
    """Rows of a table as a network takes them.

    Args:
        columns: What the features are called.
        own: What the coordinator trains on: the figures are those of these rows.
        others: Rows as they stand.
    """
    table = features.from_numbers(columns, own.images)
    return [replace(one, images=features.encode_numbers(table, columns, one.images)) for one in others]


def obtain(source: Source, folder: Path, progress: Progress | None = None) -> tuple[Path, str]:
    """Find a published file in `folder`, or download it there; it has its name only when its checksum is right.

    Returns:
        The file, and one line for people when it is not the published file byte for byte.

    Raises:
        DownloadError: It could not be downloaded; nothing is left behind.
        FileNotFoundError: It is not in `folder`, and there is nowhere to download it from.
    """
    path = folder / source.file
    if path.is_file():
        found = digest(path, source.digest)
        return path, "" if found == source.digest else f"using {path}, whose checksum differs from the published one"
    if not source.url:
        raise FileNotFoundError(f"{source.file} is not in {folder}, and it cannot be downloaded")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{source.file}.{secrets.token_hex(4)}.part"
    try:
        _download(source.url, part, progress)
        found = digest(part, source.digest)
        if found != source.digest:
            raise DownloadError(f"{source.url} has checksum {found}, expected {source.digest}")
        os.replace(part, path)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{source.file} could not be downloaded ({reason})") from None
    finally:
        part.unlink(missing_ok=True)
    return path, ""


def cut(content: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Divide a split in two, such as train into train and a holdout; the classes keep their shares (`images.hold_out`).

    Args:
        content: At least two examples; whole patients go to one side where they are known.
        share: Of the second part, between 0 and 1; neither part is ever empty.
        seed: The same seed gives the same parts.

    Returns:
        What stays, and what is held out.

    Raises:
        ValueError: `share` is not between 0 and 1, or there is only one example or patient.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be between 0 and 1, found {share:g}")
    kept, held = images.hold_out(content.labels, share, seed, content.patients)
    return content.take(kept), content.take(held)


def save(
    path: Path,
    splits: Mapping[str, Images],
    class_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Write splits as an .npz file with MedMNIST's keys and uint8 images, whole or not at all; rows as they stand."""
    arrays: dict[str, np.ndarray] = {}
    if columns is not None:
        arrays[frame.COLUMN_NAMES] = np.array(columns, dtype=np.str_)
    for split, content in splits.items():
        stored = content.images if columns is not None else np.rint(content.images * 255).astype(np.uint8)
        arrays[f"{split}_images"] = stored
        arrays[f"{split}_labels"] = content.labels if content.labels.ndim == 2 else content.labels.astype(np.int64)
        if content.patients is not None:
            arrays[f"{split}_patients"] = content.patients
    if class_names is not None:
        arrays[npz.NAMES] = np.array(class_names, dtype=np.str_)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _complete(
    name: str,
    path: Path,
    wanted: Size,
    classes: int,
    names: tuple[str, ...] | None,
    notes: list[str],
    task: str = CLASSES,
) -> Dataset:
    # The names that its own name promises are held against those that it has itself.
    reading = Reading(names if images.names(path) else None, tell=notes.append, task=task)
    found = {split: images.load(path, wanted, classes, split, reading) for split in images.splits(path)}
    if "train" not in found:
        raise ValueError(f"{path} has no train split")
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    return Dataset(name, _with_all_splits(found), wanted, classes, names, note, task=task)


def _size(path: Path, there: Description) -> Size:
    """The size of a demonstration's images: the arrays' own; of files the commonest, at most 128 pixels a side."""
    height, width, channels = there.found.most_common(1)[0][0]
    if not pictures.has_pictures(path):
        return height, width, channels
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    return max(round(height * shrink), 1), max(round(width * shrink), 1), channels


def _with_all_splits(found: Mapping[str, Images]) -> dict[str, Images]:
    """Take missing splits from train: whole patients where patients are known, else the classes' shares kept."""
    splits = dict(found)
    for split, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        if split not in splits:
            splits["train"], splits[split] = cut(splits["train"], share, SPLIT_SEED)
    return {split: splits[split] for split in images.SPLITS}


def _published(path: Path, wanted: tuple[int, int, int]) -> dict[str, Images]:
    """The published division of the cats and dogs; read picture by picture, because the whole takes 790 MB.

    Raises:
        ValueError: The archive does not have 1000 pictures of each kind in train and in test.
    """
    found = archive.pictures(path)
    keys = [(split, kind) for split in ("train", "test") for kind in ("cats", "dogs")]
    kinds = {key: [one for one in found if (one.split, one.category) == key] for key in keys}
    for (split, kind), those in kinds.items():
        if len(those) != 1000:
            raise ValueError(f"{path} has {len(those)} pictures in {split}/{kind}, the published division needs 1000")
    cats, dogs = kinds["test", "cats"], kinds["test", "dogs"]
    chosen = {
        "train": (kinds["train", "cats"][:999], kinds["train", "dogs"] + dogs[507:511]),
        "val": (cats[506:], dogs[511:]),
        "test": (cats[:506], dogs[:507]),
    }
    return {
        split: images.decode(path, [*zeros, *ones], np.repeat([0, 1], [len(zeros), len(ones)]), wanted)
        for split, (zeros, ones) in chosen.items()
    }


def _download(url: str, part: Path, progress: Progress | None) -> None:
    opened = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)  # noqa: S310 - https, see `published`
    with opened as answer, open(part, "wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(BLOCK):
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
