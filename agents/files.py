"""Files that are whole or absent: temporary name in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fedssh.errors import SettingsError, UntrustedError

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


def open_regular(path: Path, max_bytes: int) -> BinaryIO:
    """Open for reading what another room laid into a shared folder: a file of its own, of bounded size, and no link.

    Neither the name nor its folder may be a link, and nothing blocks, so a FIFO or a device does no harm. All further
    questions go to the open file: the name may stand for another one by then. It may also grow, so bound every read.

    Args:
        path: Only its last two parts are distrusted; where the shared folder itself is was said by a person.
        max_bytes: The largest size accepted.

    Raises:
        UntrustedError: A link, a FIFO, a device, a folder, or larger.
        SettingsError: The folder is a link or no folder.
        FileNotFoundError: No such file.
    """
    folder = _open_folder(path.parent)
    try:
        handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link; EMLINK on BSD; a socket
            raise UntrustedError(f"{path} is not a file but a link or a socket") from None
        raise
    finally:
        os.close(folder)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedError(f"{path} is not a file but a {_kind(found.st_mode)}")
        if found.st_size > max_bytes:
            raise UntrustedError(f"{path} has {found.st_size:,} bytes, expected at most {max_bytes:,}")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The bytes of what another room laid into a shared folder; see `open_regular`, which it raises like."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UntrustedError(f"{path} has more than {max_bytes:,} bytes")
    return data


def check_folder(folder: Path) -> None:
    """Refuse a shared folder that is a link to elsewhere, or no folder.

    Raises:
        SettingsError: It is.
        FileNotFoundError: It is not there.
    """
    os.close(_open_folder(folder))


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            raise
        what = "a link" if folder.is_symlink() else "no folder"
        raise SettingsError(f"{folder} is {what}", "the shared folder holds real folders only; remove it") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "thing of another kind")


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; of no more of them than it has at first, though it may grow."""
    with open(path, "rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """The same of a file that is open; it stands where it stood."""
    digest, at, end = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
    while block := os.pread(file.fileno(), min(BLOCK // 4, end - at), at):
        digest.update(block)
        at += len(block)
    return digest.hexdigest()


def is_part(path: Path) -> bool:
    """Whether a name is that of an unfinished file, which no reader may touch."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished. Only the folder's one writer may call this."""
    for path in folder.glob(f".*{_PART}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock that the kernel gives back however the process ends.

    Args:
        path: The lock's file; it stays.
        busy: What to say when somebody else holds it; None waits.

    Raises:
        SettingsError: Somebody else holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise SettingsError(busy or "") from None
        yield
    finally:
        os.close(handle)
