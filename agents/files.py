"""Files that are whole or absent: temporary name in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

BLOCK = 1 << 20
_PART = ".part"


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a file for writing that has its name only when the block ends without an error.

    An existing file of that name is replaced in one step. After an error nothing is left behind.

    Raises:
        OSError: The disk is full or read-only; `path` is as it was before.
    """
    part = part_of(path)
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "w+b") as file:
            yield cast(BinaryIO, file)
        adopt(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` under a name, whole or not at all."""
    with whole_file(path, mode) as file:
        file.write(data)


def part_of(path: Path) -> Path:
    """A fresh temporary name beside `path`, for a library that wants to write the file itself; see `adopt`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")


def adopt(part: Path, path: Path) -> None:
    """Give a finished temporary file its final name, durably."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the renames and removals in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_whole(source: Path, target: Path) -> None:
    """Move a file, also to another file system: `target` is whole before `source` is gone."""
    try:
        os.replace(source, target)
        fsync_folder(target.parent)
    except OSError as error:
        if error.errno != 18:  # EXDEV: the folders are different volumes
            raise
        with open(source, "rb") as reader, whole_file(target, mode=0o600) as writer:
            shutil.copyfileobj(reader, writer, BLOCK)
        source.unlink()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_part(path: Path) -> bool:
    """Whether a name is that of an unfinished file, which no reader may touch."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished. Only the folder's one writer may call this."""
    for path in folder.glob(f".*{_PART}"):
        path.unlink(missing_ok=True)
