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


def open_regular(path: Path, max_bytes: int | None = None, folder: int | None = None) -> BinaryIO:
    """Open for reading what somebody else may have laid there: a file of its own, of bounded size, and no link.

    Whoever may write there can also replace it at any time, so it is opened once, without following a link or waiting
    for a FIFO, and what was opened is looked at: the name may stand for another one by then. It may also grow, so
    bound every read.

    Args:
        path: Only its last part is distrusted; for the part before it see `open_shared`.
        max_bytes: The largest size accepted; None where the reader looks at the size before it reads.
        folder: The handle of the folder in which the last part is looked up, where there is one.

    Raises:
        UntrustedError: A link, a FIFO, a socket, a device, a folder, or larger.
        FileNotFoundError: No such file.
    """
    try:
        name = path if folder is None else path.name
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_FILES:
            raise _not_a_file(path, _NO_FILES[error.errno]) from None
        error.filename = str(path)
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path, _KINDS.get(stat.S_IFMT(status.st_mode), "of another kind"))
        if max_bytes is not None and status.st_size > max_bytes:
            raise UntrustedError(f"{path} has {status.st_size:,} bytes, expected at most {max_bytes:,}")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_shared(path: Path, max_bytes: int) -> BinaryIO:
    """The same in a folder of which another room may make a link to elsewhere; where that stands was said by a person.

    Raises:
        UntrustedError, FileNotFoundError: See `open_regular`.
        SettingsError: The folder is a link or no folder.
    """
    folder = _open_folder(path.parent)
    try:
        return open_regular(path, max_bytes, folder)
    finally:
        os.close(folder)


def read_shared(path: Path, max_bytes: int) -> bytes:
    """The bytes of what another room laid into a shared folder; see `open_shared`, which it raises like."""
    with open_shared(path, max_bytes) as file:
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


# What cannot be opened so, by what the system says (EMLINK on BSD), and what can but is no file.
_NO_FILES = {errno.ELOOP: "a link", errno.EMLINK: "a link", errno.ENXIO: "a socket", errno.ENODEV: "a device"}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def _not_a_file(path: Path, what: str) -> UntrustedError:
    name = str(path) if str(path).isprintable() else ascii(str(path))
    return UntrustedError(f"{name} is not a file that can be read: it is {what}")


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
