"""Images in an .npz file: an array of images and one of labels for each split.

In `train` the label -1 is of an image whose class nobody knows. It is no example: it is not counted, held out or
scored, and `unlabelled` alone gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from fedssh.models.data import arrays, classes, holdout, labels, published
from fedssh.models.data.arrays import Array, Unread
from fedssh.models.data.folders import SPLITS
from fedssh.models.data.holdout import Row
from fedssh.models.data.pixel_file import Pieces, Store, digest, stamp
from fedssh.models.data.pixels import Changes, Size, as_images, convert
from fedssh.models.data.reading import Description, Reading
from fedssh.models.tasks import CLASSES, REGRESSION, SEVERAL

NAMES = "class_names"
MAX_LABEL = 10_000
UNLABELLED = -1


class Arrays(NamedTuple):
    """Images of one split as they are stored: any numbers [n, …], own labels int64 [n], patients [n] or None.

    Numbers to predict are float32 [n, targets].
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray | None

    def take(self, places: Sequence[int]) -> Arrays:
        """Those with these places."""
        at = np.array(places, dtype=np.int64)
        return Arrays(self.images[at], self.labels[at], None if self.patients is None else self.patients[at])


def splits(path: Path) -> tuple[str, ...]:
    """Which of train, val and test there are."""
    held = arrays.headers(path)
    return tuple(split for split in SPLITS if _keys(held, split))


def names(path: Path) -> tuple[str, ...] | None:
    """The class names in a file, or of the published file that it is; None when nobody says."""
    return _own_names(path, arrays.headers(path))


def load(
    path: Path, wanted: Size, number: int, split: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images, labels and patients of one split, see `images.load`."""
    own = names(path)
    if reading.task in SEVERAL:
        return _targets(path, wanted, number, split, reading)
    most = (len(own) if own else MAX_LABEL) if reading.held else number
    found, where = _split(path, split, most, reading, None if reading.raw else wanted)
    counts = np.bincount(found.labels, minlength=len(own or ()))
    numbers = reading.numbers(own, number, split, counts.tolist())
    agreed = np.array([-1 if one is None else one for one in numbers])[found.labels]
    if len(kept := np.flatnonzero(agreed >= 0)) < len(agreed):
        found, agreed = found.take(kept.tolist()), agreed[kept]
    if not len(agreed):
        raise ValueError(f"{path} has no images of the federation's classes in {split}")
    if reading.raw:
        return found.images.astype(np.float32), agreed, found.patients
    return _as_wanted(path, found.images, wanted, split, reading, where), agreed, found.patients


def unlabelled(path: Path, wanted: Size, reading: Reading) -> np.ndarray | None:
    """The images of `train` whose class nobody knows, as the network takes them; None where there are none.

    Raises:
        ValueError: They are not of a shape that can be one, or take more memory than they may.
    """
    held = arrays.headers(path)
    places = _without_label(path, held, reading.task)
    if not len(places):
        return None
    if reading.store is not None:
        reading.store.hold(path, len(places), wanted)
    keys = _keys(held, "train")
    assert keys is not None
    images = arrays.read(path, [keys[0]])[keys[0]]
    return convert(images[places], wanted, f"{path}: {keys[0]}", reading.new_white())


def count_unlabelled(path: Path, kind: str | None = None) -> int:
    """How many images of `train` have no label."""
    return len(_without_label(path, arrays.headers(path), kind))


def _without_label(path: Path, held: Mapping[str, Array], kind: str | None) -> np.ndarray:
    """Places in `train`: int64 [n]. Numbers to predict and several labels at once are none without label."""
    keys = _keys(held, "train")
    if keys is None or kind in SEVERAL:
        return np.zeros(0, np.int64)
    known = _labels_of(arrays.read(path, [keys[1]])[keys[1]], CLASSES, MAX_LABEL, f"{path}: {keys[1]}", lacking=True)
    return np.flatnonzero(known == UNLABELLED)


def _targets(
    path: Path, wanted: Size, number: int, split: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images, targets and patients of one split."""
    found, where = _split(path, split, MAX_LABEL, reading, None if reading.raw else wanted)
    there, named = found.labels.shape[1], names(path)
    of = reading.task or REGRESSION
    order = labels.in_order(named, number, reading.names, reading.given, there, f"{path}: {split}", of)
    if reading.raw:
        return found.images.astype(np.float32), found.labels[:, order], found.patients
    return _as_wanted(path, found.images, wanted, split, reading, where), found.labels[:, order], found.patients


def _as_wanted(
    path: Path, images: np.ndarray | Unread, wanted: Size, split: str, reading: Reading, where: str
) -> np.ndarray:
    """Images as the network takes them, in memory or in a file of the store."""
    if not isinstance(images, Unread):
        converted = convert(images, wanted, where, reading.new_white())
        _tell_changes(images, wanted, reading.tell)
        return converted
    assert reading.store is not None
    white, made_from = reading.new_white(), [str(path.resolve()), *stamp(path), where, digest(images.places)]

    def pieces(tell: Callable[[str], None]) -> Pieces:
        for piece in images.pieces():
            yield where, as_images(piece, wanted, where)
        white.check(where)
        _tell_changes(images, wanted, tell)

    return cast(np.ndarray, reading.store.kept(split, made_from, len(images), wanted, white, pieces, reading.tell))


def _tell_changes(images: np.ndarray | Unread, wanted: Size, tell: Callable[[str], None]) -> None:
    if line := Changes(Counter({_size(images.shape): len(images)})).told(wanted):
        tell(line)


def targets(path: Path, number: int, split: str, reading: Reading) -> np.ndarray:
    """The numbers to predict of one split, in the federation's order: float32 [n, targets]."""
    found = _split(path, split, MAX_LABEL, reading)[0].labels
    order = labels.in_order(names(path), number, reading.names, reading.given, found.shape[1], f"{path}: {split}")
    return found[:, order]


def task(path: Path) -> str:
    """What the labels look like, see `labels`."""
    held = arrays.headers(path)
    keys = [found[1] for split in SPLITS if (found := _keys(held, split))]
    return labels.task_of(list(arrays.read(path, keys).values()))


def stored(path: Path, most: int, reading: Reading) -> tuple[dict[str, Arrays], dict[str, list[Row]]]:
    """All splits as they are stored, after the holdout was cut where one is to be, and a row for each image.

    Args:
        most: How many classes there may be.

    Raises:
        ValueError: An array does not fit the others, or a holdout cannot be cut.
    """
    _check_nameless(path, reading)
    kind = reading.task or task(path)
    found = {split: _read(path, split, most, kind)[0] for split in splits(path)}
    rows = {split: _rows(split, one) for split, one in found.items()}
    if reading.cut is None:
        return found, rows
    pool = [row for split in holdout.POOL for row in rows.get(split, ())]
    every = _joined(path, [found[split] for split in holdout.POOL if split in found])
    for split, side in zip(holdout.POOL, holdout.divide(pool, reading.cut, str(path)), strict=True):
        found[split], rows[split] = every.take(side), [pool[place] for place in side]
    return found, rows


def read_split(path: Path, split: str, kind: str) -> Arrays:
    """One split as it is stored, whatever its classes are; `kind` is what its labels are. Every row has a label."""
    return _read(path, split, MAX_LABEL, kind, lacking=False)[0]


def _split(path: Path, split: str, most: int, reading: Reading, wanted: Size | None = None) -> tuple[Arrays, str]:
    """One split, and what it is called in messages; where the network's input is said, perhaps without its images."""
    _check_nameless(path, reading)
    if reading.cut is not None and split in holdout.POOL:
        return stored(path, most, reading)[0][split], f"{path}: images of {split}"
    return _read(path, split, most, reading.task, reading.store, wanted)


def _check_nameless(path: Path, reading: Reading) -> None:
    if reading.patient is not None:
        raise ValueError(f"{path} has no file names for --patient; say it with arrays train_patients and so on")


def _read(
    path: Path, split: str, most: int, kind: str | None, store: Store | None = None, wanted: Size | None = None,
    lacking: bool = True,
) -> tuple[Arrays, str]:  # fmt: skip
    held = arrays.headers(path)
    keys = _keys(held, split)
    if not keys:
        raise ValueError(f"{path} has no {split} split; it holds {', '.join(held) or 'nothing'}")
    unread = store is not None and wanted is not None and store.takes(_length(held[keys[0]]), wanted)
    found = arrays.read(path, [key for key in keys if key and not (unread and key == keys[0])])
    known = _labels_of(found[keys[1]], kind, most, f"{path}: {keys[1]}", lacking and split == "train")
    images = cast(np.ndarray, Unread(path, keys[0], held[keys[0]])) if unread else found[keys[0]]
    patients = found[keys[2]] if keys[2] else None
    for key, array in zip((keys[0], keys[2]), (images, patients), strict=True):
        if array is not None and (array.ndim == 0 or len(array) != len(known)):
            raise ValueError(f"{path}: {key} has shape {array.shape}, but there are {len(known)} labels")
    every = Arrays(images, known, patients)
    if known.ndim == 1 and (known == UNLABELLED).any():
        every = every.take(np.flatnonzero(known != UNLABELLED).tolist())
    return every, f"{path}: {keys[0]}"


def _length(header: Array) -> int:
    return header.shape[0] if header.shape else 0


def _rows(split: str, found: Arrays) -> list[Row]:
    patients = [None] * len(found.labels) if found.patients is None else [str(one) for one in found.patients.tolist()]
    if found.labels.ndim == 2:  # numbers are no classes: they belong to what tells one image from another
        each = ("=".join([str(at), *map(repr, row)]) for at, row in enumerate(found.labels.tolist()))
        return [Row(split, "", name, known) for name, known in zip(each, patients, strict=True)]
    own = map(str, found.labels.tolist())
    return [Row(split, label, str(at), known) for at, (label, known) in enumerate(zip(own, patients, strict=True))]


def _joined(path: Path, parts: Sequence[Arrays]) -> Arrays:
    if not parts:
        raise ValueError(f"{path} has no train split to cut a holdout out of")
    if len({(one.images.shape[1:], one.images.dtype, one.patients is None) for one in parts}) > 1:
        raise ValueError(f"{path} has images of other sizes, types or patients in val than in train: nothing to join")
    patients = [one.patients for one in parts if one.patients is not None]
    return Arrays(
        np.concatenate([one.images for one in parts]),
        np.concatenate([one.labels for one in parts]),
        np.concatenate(patients) if patients else None,
    )


def describe(path: Path, kind: str | None = None) -> Description:
    """What the file says of itself; of its images only the headers are read.

    Args:
        kind: What its labels are; None is what they look like.
    """
    held = arrays.headers(path)
    keys = [found for split in SPLITS if (found := _keys(held, split))]
    if not keys:
        raise ValueError(f"{path} has no images and labels; it holds {', '.join(held) or 'nothing'}")
    sizes: Counter[Size] = Counter()
    for key in keys:
        shape = held[key[0]].shape
        if len(shape) not in (3, 4):
            raise ValueError(f"{path}: {key[0]} has shape {shape}, expected [n, height, width, channels]")
        sizes[_size(shape)] += shape[0]
    read = arrays.read(path, [key[1] for key in keys])
    own = _own_names(path, held)
    kind = kind or labels.task_of(list(read.values()))
    most = len(own) if own else MAX_LABEL
    train = _keys(held, "train")
    every = [_labels_of(read[key[1]], kind, most, f"{path}: {key[1]}", key == train) for key in keys]
    if kind in SEVERAL:
        widths = {array.shape[1] for array in every}
        if len(widths) > 1 or (own and len(own) not in widths):
            called = f", and {len(own)} names" if own else ""
            raise ValueError(f"{path} has {' and '.join(map(str, sorted(widths)))} labels for each image{called}")
        return Description(sizes, widths.pop(), own, task=kind)
    return Description(sizes, len(own) if own else int(max(array.max() for array in every)) + 1, own)


def _keys(held: Mapping[str, Array], split: str) -> tuple[str, str, str | None] | None:
    patients = f"{split}_patients" if f"{split}_patients" in held else None
    for images, known in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
        if images in held and known in held:
            return images, known, patients
    return None


def _size(shape: tuple[int, ...]) -> Size:
    """Of [n, height, width] or [n, height, width, channels]; transparency does not count."""
    height, width, channels = (*shape[1:], 1)[:3]
    return height, width, channels if channels not in (2, 4) else channels - 1


def _own_names(path: Path, held: Mapping[str, Array]) -> tuple[str, ...] | None:
    if NAMES not in held:
        return published.names(path)
    shape, dtype = held[NAMES]
    if len(shape) != 1 or dtype.kind not in "US":
        raise ValueError(f"{path}: {NAMES} is {dtype} of shape {shape}, expected one text per class")
    found = arrays.read(path, [NAMES])[NAMES]
    try:
        texts = found if dtype.kind == "U" else np.char.decode(found, "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {NAMES} is no UTF-8") from None
    return tuple(classes.plain(name) for name in texts.tolist())


def _labels_of(found: np.ndarray, kind: str | None, number: int, where: str, lacking: bool = False) -> np.ndarray:
    return labels.rows(found, kind, where) if kind in SEVERAL and kind else _check_labels(found, number, where, lacking)


def _check_labels(labels: np.ndarray, number: int, where: str, lacking: bool) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and labels.dtype.kind in "iubf" and _one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise ValueError(
            f"{where} has shape {labels.shape}, expected one class number per image, or a single 1 in each row"
        )
    if not len(labels):
        raise ValueError(f"{where} is empty")
    if labels.dtype.kind not in "iubf" or (labels.dtype.kind == "f" and not np.all(labels == np.floor(labels))):
        raise ValueError(
            f"{where} is {labels.dtype}: numbers to predict (regression), expected whole class numbers (classes)"
        )
    wrong = labels[(labels < (UNLABELLED if lacking else 0)) | (labels >= number)]
    if len(wrong):
        may = "; only in train, of images, may -1 say that nobody knows" if wrong[0] == UNLABELLED else ""
        raise ValueError(f"{where} has the label {wrong[0]:g} ({len(wrong)} such), expected 0..{number - 1}{may}")
    if not (labels >= 0).any():
        raise ValueError(f"{where} is -1 throughout: no image has a label, some must have one")
    return labels.astype(np.int64)


def _one_hot(labels: np.ndarray) -> bool:
    ones = labels == 1
    return bool(np.all((ones | (labels == 0)).all(axis=1) & (ones.sum(axis=1) == 1)))
