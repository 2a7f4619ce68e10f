"""What the door hands over: taking bundles out of its reach, whatever it laid there.

    inbox/<site>/<arrival>.bundle  ->  vault/claimed/<site>/<arrival>.bundle

Whoever broke into the door decides what lies in the inbox: links, FIFOs, files with holes, of any size or not to be
read, names and folders that nobody enrolled. So only the folders of enrolled sites are looked into, by handles that
follow no link, and a file is looked at before a byte of it is read. What cannot be used costs one line, and never the
others' time: the sites take turns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fedssh import bundle
from fedssh.charity.folders import Folders
from fedssh.charity.intake import ARRIVAL, Waiting
from fedssh.commands import tell
from fedssh.errors import UntrustedError
from fedssh.files import BLOCK, fsync_folder, open_regular, whole_file

MAX_LISTED = 1000  # names of a folder at a time; an honest door lays a hundred bundles of a site there
MAX_NAMED = 10  # strange folders told of

logger = logging.getLogger("charity")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Inbox:
    """The inbox as the vault sees it. What it has said of a file or folder it does not say again.

    Args:
        folders: Where it lies.
        stopped: Whether to give up copying a bundle, because the coordinator has to end.
    """

    def __init__(self, folders: Folders, stopped: Callable[[], bool] = lambda: False) -> None:
        self._folders = folders
        self._stopped = stopped
        self._said: set[str] = set()
        self._stuck: set[tuple[str, str]] = set()  # neither to be used nor to be removed

    def waiting(self, sites: Collection[str]) -> Iterator[Waiting]:
        """The bundles to take, as many as wait when the first is asked for.

        In turns, one of each site, so that nobody has to wait for all that another one sent; within a turn in order of
        arrival. What arrives meanwhile has its part in the next turn.
        """
        self._say_strange(sites)
        queues = {site: self._listed(site) for site in sites}
        left = sum(len(names) for names in queues.values())
        last: dict[str, str] = {}
        while left and any(queues.values()):
            for name, site in sorted((names[0], site) for site, names in queues.items() if names)[:left]:
                last[site] = name
                left -= 1
                yield Waiting(site, self._folders.inbox / site / name)
            if left:
                queues = {site: [name for name in self._listed(site) if name > last.get(site, "")] for site in sites}

    def take(self, waiting: Waiting) -> Waiting | None:
        """Move a bundle out of the sites' and the door's reach, to where it waits from then on.

        None when it cannot be used or is gone.

        By link and unlink, because watchdog holds back everything for half a second after a file was moved out of a
        folder it watches. After a crash in between there are two names of one bundle: the second is a replay.

        Raises:
            OSError: The disk is full or read-only. The bundle stays where it is.
        """
        site, name = waiting.site, waiting.path.name
        target = self._folders.claimed / site / name
        with contextlib.ExitStack() as stack:
            try:
                folder = os.open(waiting.path.parent, _FOLDER)
                stack.callback(os.close, folder)
                file = stack.enter_context(open_regular(waiting.path, folder=folder))
            except FileNotFoundError:
                return None
            except (OSError, UntrustedError) as error:
                if isinstance(error, PermissionError):
                    self._skip(waiting, f"cannot be read: {error.strerror}")
                else:
                    self._drop(waiting, "is no plain file")
                return None
            if trouble := _trouble(file):
                self._drop(waiting, trouble)
                return None
            target.parent.mkdir(exist_ok=True)
            if not self._linked(file, name, folder, target) and not self._copied(file, target):
                return None
            self.remove(waiting)
        return Waiting(site, target)

    def let_go(self, taken: Waiting, error: OSError) -> None:
        """Give up a bundle in the vault that the door, which still held it open, made unreadable."""
        self._say(f"{taken.site}'s bundle {taken.path.name} cannot be read any more: {error.strerror}; removed")
        taken.path.unlink(missing_ok=True)

    def remove(self, waiting: Waiting) -> None:
        """Take a bundle's name out of its site's folder; through a link instead of the folder nothing is removed."""
        try:
            folder = os.open(waiting.path.parent, _FOLDER)
            try:
                os.unlink(waiting.path.name, dir_fd=folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._skip(waiting, f"cannot be removed: {error.strerror}")

    def _listed(self, site: str) -> list[str]:
        try:
            found = listed(self._folders.inbox / site)
        except OSError as error:
            self._say(f"inbox/{site} cannot be looked into, so nothing of {site} is judged: {error.strerror}")
            return []
        return sorted(name for name in found if (site, name) not in self._stuck)

    def _say_strange(self, sites: Collection[str]) -> None:
        with os.scandir(self._folders.inbox) as entries:
            strange = [entry.name for entry in islice(entries, MAX_LISTED) if entry.name not in sites]
        for name in sorted(strange)[:MAX_NAMED]:
            self._say(f"inbox/{name} belongs to nobody who is enrolled: ignored")

    def _linked(self, file: BinaryIO, name: str, folder: int, target: Path) -> bool:
        """Give the open file a name in the vault; False where only a copy will do.

        A file of another account is copied, for that account could take the right to read it away again.
        """
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid():
            return False
        try:
            os.link(name, target, src_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return True  # a crash came between link and unlink
        except OSError:  # another file system, or one without links
            return False
        if not os.path.samestat(target.lstat(), found):  # the name stands for another file by now
            target.unlink()
            return False
        fsync_folder(target.parent)
        return True

    def _copied(self, file: BinaryIO, target: Path) -> bool:
        left = os.fstat(file.fileno()).st_size
        with contextlib.suppress(_Cut), whole_file(target) as copy:
            while left:
                block = file.read(min(BLOCK, left))
                if not block or self._stopped():
                    raise _Cut
                copy.write(block)
                left -= len(block)
            return True
        return False

    def _drop(self, waiting: Waiting, why: str) -> None:
        self._say(f"inbox/{waiting.site}/{waiting.path.name} {why}, which no door leaves there: removed")
        self.remove(waiting)

    def _skip(self, waiting: Waiting, why: str) -> None:
        self._say(f"inbox/{waiting.site}/{waiting.path.name} {why}: ignored")
        self._stuck.add((waiting.site, waiting.path.name))

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_LISTED:
            self._said.add(text)
            tell(logger, "inbox", text, logging.WARNING)


class _Cut(Exception):
    """A bundle that cannot be copied to its end."""


def listed(folder: Path) -> list[str]:
    """The names of bundles in a site's folder, of at most MAX_LISTED names there; none where there is no folder.

    Raises:
        OSError: It is a link or no folder, or cannot be read.
    """
    try:
        handle = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return []  # made when the site's first bundle comes
    try:
        with os.scandir(handle) as entries:
            return [
                entry.name
                for entry in islice(entries, MAX_LISTED)
                if ARRIVAL.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False)
            ]
    finally:
        os.close(handle)


def make_folder(folders: Folders, site: str) -> None:
    """Make a site's folder, for the door; what stands there instead of one is removed."""
    path = folders.inbox / site
    try:
        folders.inbox.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        if not stat.S_ISDIR(path.lstat().st_mode):
            tell(logger, "inbox", f"inbox/{site} is no folder: removed", logging.WARNING)
            path.unlink()
            path.mkdir()
    except OSError as error:  # the door makes it itself when something comes
        tell(logger, "inbox", f"inbox/{site} cannot be made: {error.strerror}", logging.WARNING)


def _trouble(file: BinaryIO) -> str | None:
    """Why a file is no bundle that a door would leave, told without reading it."""
    size = os.fstat(file.fileno()).st_size
    if size > bundle.MAX_BYTES:
        return f"has {size:,} bytes, more than {bundle.MAX_BYTES:,}"
    if _has_holes(file, size):
        return "has holes"
    return None


def _has_holes(file: BinaryIO, size: int) -> bool:
    """Whether a file is larger than what was written to it. A door writes every byte that it counts."""
    try:
        return bool(size) and os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size
    except (OSError, AttributeError):  # a file system that does not tell, or such a system
        return False
    finally:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
