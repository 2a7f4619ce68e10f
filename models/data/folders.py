"""A folder of images: which file belongs to which split and class. Knows names and first bytes, no pixels.

    CLASS/[FOLDER/]*.png             all is train
    SPLIT/CLASS/[FOLDER/]*.png       with the splits train or training; val, valid or validation; test or testing
    [train/]unlabelled/[FOLDER/]*.png   beside either: images whose class nobody knows; they are no examples

Upper and lower case are the same in the name of a split. What systems and archives leave behind (`.DS_Store` and all
else that begins with a dot, `__MACOSX`, `Thumbs.db`), empty folders and texts beside the images are passed over, and
one line says so. Anything else that is no image is refused, all of it in one message: archives, images outside the
folders of classes, and DICOM where the extra `dicom` is not installed. A folder in which splits and classes stand mixed
is refused, too: nobody can tell what it means.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedssh.models.data import dicom
from fedssh.models.data.classes import plain, shown
from fedssh.models.data.pixels import FORMATS, SUFFIXES

SPLITS = ("train", "val", "test")
_CALLED = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
UNLABELLED = "unlabelled"
LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}
TEXTS = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf"}
TITLES = {"readme", "license", "licence", "changelog", "checksums", "sha256sums", "md5sums"}
DICOM = "DICOM files"
MAX_DEPTH = 12
SHOWN = 4


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        files: Images by split and class, each class in alphabetical order.
        names: The names of all classes in all splits, in alphabetical order; their places are the labels.
        ignored: One line on what was passed over, or None.
        wrong: What cannot be used: names by kind.
        unlabelled: Images whose class nobody knows.
    """

    files: dict[str, dict[str, list[Path]]]
    names: tuple[str, ...]
    ignored: str | None
    wrong: dict[str, list[str]] = field(default_factory=dict)
    unlabelled: list[Path] = field(default_factory=list)

    @property
    def splits(self) -> tuple[str, ...]:
        """In the order train, val, test."""
        return tuple(split for split in SPLITS if split in self.files)


def survey(root: Path) -> Layout:
    """Look through a folder.

    Raises:
        ValueError: It does not hold images by class, or something else beside; the message says all of it.
    """
    found = explore(root)
    refuse(root, found.wrong)
    if not found.files and found.unlabelled:
        raise ValueError(f"{root} has only images without labels, some must have one")
    if not found.files:
        hint = "expected a folder of images per class, or train and test with such folders"
        raise ValueError(f"{root} is empty; {hint}" if not found.ignored else f"{root} has no images; {hint}")
    return found


def explore(root: Path) -> Layout:
    """Look through a folder, also where it holds what cannot be used, or nothing.

    Raises:
        ValueError: Nobody can tell which folders are splits and which are classes.
    """
    passed: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {}
    files = sorted(_walk(root, (), passed, wrong, set()))
    unlabelled = [file for file in files if is_unlabelled(file.relative_to(root).parts)]
    files = [file for file in files if not is_unlabelled(file.relative_to(root).parts)]
    top = sorted({file.relative_to(root).parts[0] for file in files if len(file.relative_to(root).parts) > 1})
    division = _division(root, top)
    found: dict[str, dict[str, list[Path]]] = {}
    for file in files:
        parts = file.relative_to(root).parts
        split = division[parts[0]] if division and len(parts) > 1 else "train"
        inner = parts[1:] if division else parts
        if len(inner) < 2:
            wrong.setdefault("images outside the folders of classes", []).append(_name(root, file))
            continue
        _check_no_split(root, parts)
        found.setdefault(split, {}).setdefault(plain(inner[0]), []).append(file)
    names = tuple(sorted({name for kinds in found.values() for name in kinds}))
    return Layout(found, names, told(passed), wrong, unlabelled)


def below(root: Path, passed: Counter[str], wrong: dict[str, list[str]]) -> Iterator[Path]:
    """All images below a folder, whatever its folders are called.

    Args:
        passed: Gets what was passed over, as the kinds of names.
        wrong: Gets what is no image, by kind.
    """
    return _walk(root, (), passed, wrong, set())


def is_unlabelled(parts: Sequence[str]) -> bool:
    """Whether an image, by its path below the data set, stands where the images without labels are."""
    called = [name.strip().lower() for name in parts[:-1][:2]]
    return called[:1] == [UNLABELLED] or (called[1:] == [UNLABELLED] and split_called(parts[0]) == "train")


def split_called(name: str) -> str | None:
    """Which split a folder's name means."""
    return _CALLED.get(name.strip().lower())


def refuse(where: Path, wrong: Mapping[str, Sequence[str]]) -> None:
    """Refuse what is no image, all of it in one message: how many of which kind, and the first few names.

    Raises:
        ValueError: There is something.
    """
    if not wrong:
        return
    number = sum(map(len, wrong.values()))
    kinds = "; ".join(f"{len(names):,} {kind} ({_few(names)})" for kind, names in sorted(wrong.items()))
    formats = ", ".join(FORMATS)
    raise ValueError(
        f"{where} has {number:,} file{'s' if number > 1 else ''} that cannot be used: {kinds}; "
        f"convert them to one of {formats}, or take them out{f'; {dicom.INSTALL}' if DICOM in wrong else ''}"
    )


def told(passed: Mapping[str, int]) -> str | None:
    """One line on what was passed over; None when there is nothing to say."""
    if not passed:
        return None
    texts = [name if number == 1 else f"{name} ({number:,} times)" for name, number in sorted(passed.items())]
    more = f" and {len(texts) - 3 * SHOWN} more kinds" if len(texts) > 3 * SHOWN else ""
    return f"passed over: {', '.join(texts[: 3 * SHOWN])}{more}"


def _walk(
    folder: Path, above: tuple[str, ...], passed: Counter[str], wrong: dict[str, list[str]], seen: set[tuple[int, int]]
) -> Iterator[Path]:
    """The images below a folder; links are followed, but never in a circle."""
    here = folder.stat()
    if (here.st_dev, here.st_ino) in seen or len(above) > MAX_DEPTH:
        wrong.setdefault("folders in a circle or too deep", []).append(shown("/".join(above)))
        return
    seen = seen | {(here.st_dev, here.st_ino)}
    empty = True
    for name in sorted(os.listdir(folder)):
        file, parts = folder / name, (*above, name)
        if name.startswith(".") or name.lower() in LEFT_BEHIND:
            passed["._*" if name.startswith("._") else shown(name)] += 1
            continue
        if file.is_dir():
            empty = False
            yield from _walk(file, parts, passed, wrong, seen)
            continue
        picture, kind = sort_of(file)
        if kind:
            empty = False
            wrong.setdefault(kind, []).append(shown("/".join(parts)))
        elif picture:
            empty = False
            yield file
        else:
            passed[f"*{file.suffix.lower()}" if file.suffix else shown(name)] += 1
    if empty and above:
        passed[f"the empty folder {shown('/'.join(above))}"] += 1


def sort_of(file: Path) -> tuple[bool, str | None]:
    """Whether a file is an image by its name and its first bytes, and why it cannot be one of ours.

    Returns:
        Not an image and no reason: a text, which is passed over.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return False, "pipes or devices"
        with open(file, "rb") as opened:
            start = opened.read(dicom.START)
    except OSError:
        return False, "unreadable files"
    suffix = file.suffix.lower()
    if dicom.starts(start) or suffix in dicom.SUFFIXES:
        return (True, None) if dicom.available() else (False, DICOM)
    if suffix in SUFFIXES:
        return (True, None) if start else (False, "empty files")
    if suffix in TEXTS or (not suffix and file.name.lower() in TITLES):
        return False, None
    return False, f"*{shown(suffix)} files" if suffix else "files without an ending"


def _division(root: Path, top: Sequence[str]) -> dict[str, str]:
    """Which split each folder of the first level is; empty when these are classes.

    Raises:
        ValueError: Some are splits and some are none, or two are the same.
    """
    division = {name: split for name in top if (split := split_called(name))}
    if not division:
        return {}
    if others := [name for name in top if name not in division]:
        raise ValueError(
            f"{root} mixes splits ({_few(division)}) with other folders ({_few(others)}); expected either a folder per "
            "class, or splits with a folder per class each"
        )
    if len(set(division.values())) < len(division):
        raise ValueError(f"{root} has two folders for the same split: {_few(division)}")
    return division


def _check_no_split(root: Path, parts: Sequence[str]) -> None:
    """Refuse CLASS/SPLIT and SPLIT/SPLIT: read as they stand, test images would be trained on."""
    for depth, name in enumerate(parts[1:-1], 1):
        if split_called(name):
            raise ValueError(
                f"{root} has a folder {shown(name)} inside {shown('/'.join(parts[:depth]))}, which looks like a split; "
                "expected CLASS/IMAGE or SPLIT/CLASS/IMAGE below the folder that is given"
            )


def _name(root: Path, file: Path) -> str:
    return shown(str(file.relative_to(root)))


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(shown(name, 200) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
