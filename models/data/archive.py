"""A tar archive of photographs as it lies on disk: which pictures it has, and their bytes.

    cats_dogs_128/train/cats/cat.17.jpg      [FOLDER/]SPLIT/CLASS/[FOLDER/]NAME, with the splits of `folders`

Only uncompressed archives are read, so that no few bytes become many. Nothing is extracted: a picture's bytes are read
from their place in the archive into memory, and its name only says which split and class it belongs to. Links, devices
and everything else that is no regular file is passed over.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedssh.models.data import dicom
from fedssh.models.data.classes import shown as shown_name
from fedssh.models.data.folders import split_called
from fedssh.models.data.pixels import SUFFIXES

MAX_PICTURES = 1_000_000
MAX_PICTURE_BYTES = 64 << 20


@dataclass(frozen=True)
class Picture:
    """Where one picture is.

    Attributes:
        split: train, val or test.
        category: The name of its class's folder.
        name: Everything below that folder, for messages and for the order.
        offset: Of its first byte in the archive.
        size: In bytes.
    """

    split: str
    category: str
    name: str
    offset: int
    size: int


def pictures(path: Path) -> list[Picture]:
    """List the pictures of an archive by split, class and name; numbers count as numbers: cat.2 is before cat.10.

    Args:
        path: An uncompressed tar archive.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no such archive, has no picture in a split's class, or one too large.
    """
    return listed(path)[0]


def listed(path: Path) -> tuple[list[Picture], Counter[str]]:
    """As `pictures`, and what was passed over: how many files with which ending, links and devices among them."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    found: list[Picture] = []
    passed: Counter[str] = Counter()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                place = _place(member)
                if place is not None:
                    found.append(Picture(*place, member.offset_data, member.size))
                elif not member.isdir():
                    passed[_ending(member)] += 1
                if len(found) > MAX_PICTURES:
                    raise ValueError(f"{path} has more than {MAX_PICTURES:,} pictures")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is no readable uncompressed tar archive: {error}") from None
    if not found:
        raise ValueError(f"{path} has no pictures; expected train/CLASS/NAME.jpg, test/CLASS/NAME.jpg")
    return sorted(found, key=lambda one: (one.split, one.category, _natural(one.name), one.name)), passed


def _ending(member: tarfile.TarInfo) -> str:
    """What a member that is no picture is called when it is passed over."""
    if not member.isfile():
        return "links or devices"
    name = PurePosixPath(member.name)
    if name.suffix.lower() in SUFFIXES and not name.name.startswith("."):
        return "pictures outside SPLIT/CLASS"
    return shown_name(f"*{name.suffix.lower()}" if name.suffix else name.name)


def read(path: Path, picture: Picture) -> bytes:
    """The bytes of a picture's file.

    Raises:
        ValueError: It is too large, or the archive ends before it does.
    """
    if picture.size > MAX_PICTURE_BYTES:
        raise ValueError(f"{shown(picture)} claims {picture.size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
    with open(path, "rb") as file:
        file.seek(picture.offset)
        content = file.read(picture.size)
    if len(content) < picture.size:
        raise ValueError(f"the archive ends within {shown(picture)}")
    return content


def shown(picture: Picture) -> str:
    """A picture's name for a message, quoted and short."""
    return repr(f"{picture.split}/{picture.category}/{picture.name}"[:120])


def _place(member: tarfile.TarInfo) -> tuple[str, str, str] | None:
    """Split, class and name of a picture; None for everything that is none."""
    parts = PurePosixPath(member.name).parts
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or parts[-1].startswith("."):
        return None
    at = next((index for index, part in enumerate(parts) if split_called(part)), len(parts))
    if len(parts) - at < 3 or PurePosixPath(parts[-1]).suffix.lower() not in SUFFIXES | dicom.SUFFIXES:
        return None
    split = split_called(parts[at])
    assert split is not None
    return split, parts[at + 1], "/".join(parts[at + 2 :])


def _natural(name: str) -> list[tuple[int, str]]:
    """A key for sorting in which runs of digits count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
