"""A folder that Alice may write to as well, used so that nothing she puts there leads Bob anywhere else.

The folder is opened once, never through a link, and every name in it is looked up in what was opened, so it does not
matter what stands under its path a moment later. A file is opened once too: what is checked is what is read. Only plain
files with one name are read; links, pipes, devices and files with a second name are named in an error, without waiting
for them. Whatever is removed or set aside is the name itself, never what it leads to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fedssh.errors import UntrustedError
from fedssh.files import is_part, open_regular
from fedssh.forms import shown

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SharedFolder:
    """One folder of the exchange, held open.

    Args:
        path: Made where it is missing. What leads to it is the operator's, its last part may be Alice's.

    Raises:
        UntrustedError: It is a link or no folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
                raise
            raise UntrustedError(
                f"{path} is a link or a file, expected a folder",
                "it would lead out of the exchange; find out who put it there, and remove it",
            ) from None

    def __enter__(self) -> SharedFolder:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._handle)

    def names(self, suffix: str = "") -> list[str]:
        """Whose names end so, without unfinished files, in order of names."""
        return sorted(name for name in os.listdir(self._handle) if name.endswith(suffix) and not is_part(Path(name)))

    def sweep(self) -> None:
        """Remove what killed writers left unfinished. Only the folder's one writer may call this."""
        for name in os.listdir(self._handle):
            if is_part(Path(name)):
                self.remove(name)

    def stat(self, name: str) -> os.stat_result | None:
        """What stands there, a link itself; None where there is nothing, or can be nothing of such a long name."""
        try:
            return os.stat(name, dir_fd=self._handle, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            return None

    def open(self, name: str) -> BinaryIO:
        """Open a plain file for reading.

        Raises:
            FileNotFoundError: There is nothing.
            UntrustedError: It is something else than a plain file with this one name, or cannot be read.
        """
        try:
            file = open_regular(self.path / name, folder=self._handle)
        except PermissionError as error:
            raise UntrustedError(
                f"{shown(name)} is not a file that can be read: {str(error.strerror).lower()}"
            ) from None
        if os.fstat(file.fileno()).st_nlink > 1:
            file.close()
            raise UntrustedError(f"{shown(name)} has another name as well, outside or here")
        return file

    def read(self, name: str, most: int) -> bytes:
        """The first bytes of a plain file, at most so many.

        Raises:
            FileNotFoundError, UntrustedError: See `open`.
        """
        with self.open(name) as file:
            return file.read(most)

    @contextlib.contextmanager
    def new(self) -> Iterator[NewFile]:
        """A file that is open for writing and has no name yet; without one it is gone when the block ends."""
        name = f".{secrets.token_hex(8)}.part"
        with open(os.open(name, _NEW, 0o600, dir_fd=self._handle), "w+b") as file:
            try:
                yield NewFile(cast(BinaryIO, file), name, self._handle)
            finally:
                self.remove(name)

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Write a file under a name, whole or not at all. A file or link of that name is replaced itself."""
        with self.new() as new:
            new.file.write(data)
            new.adopt(name, mode)

    def remove(self, *names: str) -> None:
        """Remove names, whatever they lead to; a folder stays."""
        for name in names:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                try:
                    os.unlink(name, dir_fd=self._handle)
                except PermissionError:
                    found = self.stat(name)
                    if found is None or not stat.S_ISDIR(found.st_mode):  # POSIX says EPERM of a folder
                        raise

    def move(self, name: str, folder: SharedFolder, to: str) -> None:
        """Move a plain file with one name to another folder of the exchange.

        A link, a pipe, one of several names of a file, or what a folder there is in the way of, is removed instead; a
        folder stays.
        """
        found = self.stat(name)
        if found is None or stat.S_ISDIR(found.st_mode):
            return
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            self.remove(name)
            return
        try:
            os.replace(name, to, src_dir_fd=self._handle, dst_dir_fd=folder._handle)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self.remove(name)

    def fsync(self) -> None:
        """Make the renames and removals survive a power cut."""
        os.fsync(self._handle)


class NewFile:
    """See `SharedFolder.new`."""

    def __init__(self, file: BinaryIO, name: str, folder: int) -> None:
        self.file = file
        self._name = name
        self._folder = folder

    def adopt(self, name: str, mode: int) -> None:
        """Give it its name, durably. The mode is set on the open file, not on what has its name now."""
        self.file.flush()
        os.fchmod(self.file.fileno(), mode)
        os.fsync(self.file.fileno())
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
