"""Where two rooms meet: a Unix socket in a folder that both have, which needs no network and no open port.

It works through a volume that is mounted read-only at the side that connects, and between accounts of one group. Linux
ends the path of a socket at 108 bytes, so where /proc is, both sides go through the folder's handle there; that also
keeps what somebody else puts under the name in the meantime from leading anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from fedssh.errors import UnreachableError, UntrustedError

NAME = "channel.sock"
MODE = 0o660  # whoever may read and write the folder's files by its group may connect
_HANDLES = Path("/proc/self/fd")
_BACKLOG = 8
_AWAY = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


def listen(folder: Path, name: str = NAME) -> socket.socket:
    """Listen on a socket in a folder; one that a former listener left is replaced.

    Raises:
        UntrustedError: Something else stands there.
        OSError: The folder is not there or read-only, or its file system has no sockets.
    """
    with _opened(folder) as handle:
        _remove(handle, folder, name)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            server.bind(_path(handle, folder, name))
            with _found(handle, folder, name) as path:  # not what somebody else has put under the name meanwhile
                Path(path).chmod(MODE)
            server.listen(_BACKLOG)
        except BaseException:
            server.close()
            raise
    return server


def forget(folder: Path, name: str = NAME) -> None:
    """Remove the socket of a listener that has ended; what is not there, or no socket, stays so."""
    with contextlib.suppress(OSError, UntrustedError), _opened(folder) as handle:
        _remove(handle, folder, name)


def connect(folder: Path, name: str = NAME) -> socket.socket:
    """Connect to whoever listens on a socket in a folder; that succeeds or fails at once.

    Raises:
        UnreachableError: Nobody listens there now. Retry later.
        UntrustedError: What stands there is no socket.
        OSError: The folder cannot be entered.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        client.setblocking(False)
        with _opened(folder) as handle, _found(handle, folder, name) as path:
            client.connect(path)
        client.setblocking(True)
    except BaseException as error:
        client.close()
        if isinstance(error, OSError) and error.errno in _AWAY:
            raise UnreachableError(f"nobody listens at {folder / name}") from None
        raise
    return client


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The handle of a folder, which is the operator's to name; only what stands in it is distrusted."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _found(handle: int, folder: Path, name: str) -> Iterator[str]:
    """A path to the very thing that was looked at, which is a socket; connecting alone would follow a link."""
    if not hasattr(os, "O_PATH") or not _HANDLES.is_dir():
        _check(os.stat(name, dir_fd=handle, follow_symlinks=False), folder, name)
        yield _path(handle, folder, name)
        return
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
    try:
        _check(os.fstat(found), folder, name)
        yield str(_HANDLES / str(found))
    finally:
        os.close(found)


def _remove(handle: int, folder: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _check(os.stat(name, dir_fd=handle, follow_symlinks=False), folder, name)
        os.unlink(name, dir_fd=handle)


def _check(found: os.stat_result, folder: Path, name: str) -> None:
    if not stat.S_ISSOCK(found.st_mode):
        raise UntrustedError(
            f"{folder / name} is {'a link' if stat.S_ISLNK(found.st_mode) else 'a file'}, expected a socket",
            "find out who put it there, and remove it",
        )


def _path(handle: int, folder: Path, name: str) -> str:
    if _HANDLES.is_dir():
        return str(_HANDLES / str(handle) / name)
    return str(folder / name)
