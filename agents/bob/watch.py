"""`bob watch`: five loops and the one who looks after them.

    sealing    one thread as long as Bob runs: outgoing/ -> spool, with or without a network
    masking    one thread per connection, where updates are masked: history -> spool
    relaying   one thread as long as Bob runs, and two while Alice has a channel: channel.sock <-> door
    shipping   one thread per connection: spool -> door -> verdict -> receipts
    releases   one thread per connection: door -> incoming/

All state is in files, so a thread may end anywhere. A loop that meets what it cannot handle hands the error to
the main thread, which decides: a network that failed is tried again after a growing pause, and after a longer one a
door that does not serve this site, for a site that was revoked may be enrolled again; everything else, above all an
error of trust, ends Bob.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from fedssh.bob.board import Board
from fedssh.bob.incoming import Incoming
from fedssh.bob.masking import Masks
from fedssh.bob.outgoing import Outgoing, Say
from fedssh.bob.receipts import Receipts
from fedssh.bob.recipients import agreed_policy, sealed_for
from fedssh.bob.relay import Relay
from fedssh.bob.settings import WatchSettings
from fedssh.bob.shipping import PATIENCE_SECONDS, PAUSE_SECONDS, Shipping
from fedssh.bob.site import Folder, Site, load_key, load_site, read_genesis
from fedssh.bob.spool import Spool
from fedssh.bob.way import way_out
from fedssh.chain import read_line
from fedssh.errors import SettingsError, UnreachableError
from fedssh.rules.federation import Federation
from fedssh.transport import BusyError, Connection, RefusedError

DRAIN_TRIES = 5
REFUSED_TIMES = 30  # as long is the first pause when a door refuses this site: a person must do something meanwhile
DISK_PAUSE_SECONDS = 10.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_GLANCE_SECONDS = 0.2


class Backoff:
    """Pauses that double from `first` to `most`, each shortened by chance so that sites do not come back together."""

    def __init__(self, first: float, most: float, chance: Callable[[], float] = random.random) -> None:
        self._first = first
        self._most = most
        self._chance = chance
        self.tries = 0

    def next(self) -> float:
        """The pause before the next try."""
        pause = min(self._most, self._first * 2.0 ** min(self.tries, 60))
        self.tries += 1
        return pause * (1 - self._chance() / 2)

    def reset(self) -> None:
        """Something worked."""
        self.tries = 0


class Bob:
    """One site's Bob, from start to stop.

    Args:
        settings: See `bob watch --help`.
        say: Called with an event, its text and its fields.
        stop: Set by whoever wants Bob to end.

    Raises:
        SettingsError: The site has not joined, or its key is missing or unfit.
    """

    def __init__(self, settings: WatchSettings, say: Say, stop: threading.Event) -> None:
        self._settings = settings
        self._say = say
        self._stop = stop
        self._folder = Folder(settings.state)
        self._site: Site = load_site(self._folder)
        key = load_key(self._folder)
        self._way = way_out(self._folder, settings)
        max_bytes = settings.max_megabytes * 1_000_000
        receipts = Receipts(self._folder.receipts)
        self._spool = Spool(self._folder.spool)
        self._masks = Masks(self._folder, self._site, key, self._spool, receipts, say)
        self._outgoing = Outgoing(
            settings.exchange, self._site, key, self._spool, receipts, say, max_bytes,
            lambda: sealed_for(self._folder, self._site), lambda: self._masks if self._is_masked() else None,
        )  # fmt: skip
        refuse = settings.decisions == "refuse"
        self._board = Board(self._folder, self._site, refuse, say)
        self._incoming = Incoming(settings.exchange, self._folder, self._site, key, say, max_bytes, refuse, self._board)
        self._shipping = Shipping(self._site, self._spool, receipts, say, settings.wait)
        self._relay = Relay(settings.exchange, self._site, key, say, lambda loop: self._start(loop, None))
        self._backoff = Backoff(settings.retry, settings.retry_max)
        self._refusals = Backoff(settings.retry * REFUSED_TIMES, settings.retry_max)
        self._found = threading.Event()  # something may lie in outgoing/
        self._sealed = threading.Event()  # something may lie in the spool
        self._ended: queue.SimpleQueue[tuple[Connection | None, BaseException | None]] = queue.SimpleQueue()

    @property
    def introduction(self) -> str:
        """Who this is, in one line."""
        through = f" through {self._way.via}" if self._way else ""
        return f"{self._site.name} works with {self._site.address}{through}"

    @property
    def introduction_fields(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "site": self._site.name,
            "address": self._site.address,
            "coordinator": self._site.coordinator.fingerprint,
            "via": str(self._way.via) if self._way else None,
        }

    def run(self) -> None:
        """Work until told to stop, or with `drain` until nothing is left.

        Raises:
            UntrustedError, HostKeyError: Somebody must look at it. Nothing was lost; do not just start again.
            RefusedError, UnreachableError: Only with `drain`: the door did not let this site in, or did not answer,
                several times in a row.
        """
        with _only_one(self._folder.lock):
            self._tidy()
            lasting = [self._start(self._keep_sealing, None)]
            if not self._settings.drain:
                lasting.append(self._start(lambda: self._relay.keep(self._stop), None))
            problem: BaseException | None = None
            try:
                with self._watching():
                    self._look_after()
            except BaseException as error:
                problem = error
                raise
            finally:
                self._stop.set()
                self._wake()
                for thread in lasting:
                    thread.join(PATIENCE_SECONDS)
                self._say("stopped", f"stopped; {self._waiting()}", error=problem and str(problem))

    def _tidy(self) -> None:
        self._outgoing.waiting()  # makes the folder, or says that it is a link
        self._incoming.tidy()
        self._spool.tidy()
        self._shipping.tidy()

    def _look_after(self) -> None:
        while not self._stop.is_set():
            try:
                if self._work_connected():
                    return
            except UnreachableError as error:
                self._pause(error)
            except RefusedError as error:
                self._incoming.standing.refuse(str(error), error.in_words)
                self._pause(error)

    def _work_connected(self) -> bool:
        """Connect and work until something ends; True when there is nothing left to do."""
        start = time.monotonic()
        address, folder = self._site.door, self._folder
        self._relay.door = connection = Connection(
            address, folder.key, folder.known_hosts, self._settings.timeout, self._way
        )
        seconds = time.monotonic() - start
        self._say("connected", f"connected to {address} in {seconds:.2f} s", seconds=round(seconds, 3))
        threads = [self._start(lambda: self._keep_shipping(connection), connection)]
        if not self._settings.drain:
            threads.append(self._start(lambda: self._keep_fetching(connection), connection))
            threads.append(self._start(lambda: self._keep_masking(connection), connection))
        try:
            return self._supervise(connection)
        finally:
            self._relay.door = None
            connection.close()
            self._wake()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)

    def _supervise(self, connection: Connection | None, seconds: float = float("inf")) -> bool:
        """Watch over the threads for a while; True when Bob is to end. Raises the first thread's error."""
        end = time.monotonic() + seconds
        while not self._stop.is_set():
            left = end - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(queue.Empty):
                source, error = self._ended.get(timeout=min(_GLANCE_SECONDS, left))
                if source is not None and source is not connection:
                    continue  # an echo of a connection that is closed already
                if error is not None:
                    raise error
                return True
        return True

    def _pause(self, error: UnreachableError | RefusedError) -> None:
        if self._settings.drain and self._backoff.tries + 1 >= DRAIN_TRIES:
            raise error
        seconds = self._tell_refused(error) if isinstance(error, RefusedError) else self._tell_unreachable(error)
        self._supervise(None, seconds)

    def _tell_refused(self, error: RefusedError) -> float:
        seconds = self._backoff.next() if self._settings.drain else self._refusals.next()
        text = f"{error} ({error.hint}); {self._waiting()}, next try in {_duration(seconds)}"
        self._say("refused", text, reason=str(error), waiting=len(self._spool), next_try_seconds=round(seconds, 1))
        return seconds

    def _tell_unreachable(self, error: UnreachableError) -> float:
        seconds = self._backoff.next()
        waiting = len(self._spool)
        text = f"{error}; {self._waiting()}, next try in {_duration(seconds)}"
        self._say("unreachable", text, reason=str(error), waiting=waiting, next_try_seconds=round(seconds, 1))
        return seconds

    def _served(self) -> None:
        """The door did what it was asked."""
        self._backoff.reset()
        self._refusals.reset()
        self._incoming.standing.let_in()

    def _waiting(self) -> str:
        number = len(self._spool)
        return f"{number or 'no'} {'bundle waits' if number == 1 else 'bundles wait'} in the spool"

    def _keep_sealing(self) -> None:
        while not self._stop.is_set():
            self._found.clear()
            try:
                taken = self._outgoing.take_all(self._stop)
                if taken:
                    self._sealed.set()
                    self._shipping.drop_superseded()
            except OSError as error:
                self._bear(error)
                continue
            if not taken:
                self._found.wait(self._settings.rescan)

    def _keep_shipping(self, connection: Connection) -> None:
        while not self._stop.is_set():
            self._sealed.clear()
            if not connection.alive:
                raise UnreachableError(f"{connection.address} ended the connection")
            try:
                shipped = self._shipping.ship_next(connection, self._stop)
            except BusyError as error:
                if self._settings.drain and self._backoff.tries + 1 >= DRAIN_TRIES:
                    raise
                self._rest(self._tell_unreachable(error), connection)
                continue
            except OSError as error:
                self._bear(error)
                continue
            if shipped:
                self._served()
            elif self._settings.drain and not self._outgoing.waiting() and not len(self._spool):
                return
            else:
                self._sealed.wait(_GLANCE_SECONDS if self._settings.drain else self._settings.rescan)

    def _keep_fetching(self, connection: Connection) -> None:
        at_once = True  # so that Alice soon knows whether what she has is the newest
        while not self._stop.is_set():
            asked, seconds = time.monotonic(), 0 if at_once else self._incoming.wait_seconds(self._settings.wait)
            try:
                fetched = self._incoming.fetch(connection, seconds, PATIENCE_SECONDS)
                self._served()
            except BusyError as error:
                self._rest(self._tell_unreachable(error), connection)
                continue
            except OSError as error:
                self._bear(error)
                continue
            if not fetched and not at_once and time.monotonic() - asked < PAUSE_SECONDS:
                self._stop.wait(PAUSE_SECONDS)
            at_once = fetched

    def _keep_masking(self, connection: Connection) -> None:
        """Where updates are masked, say what is due as a round goes on."""
        undone: Federation | None = None  # what to act on once more, for the disk was full
        while connection.alive and not self._stop.is_set():
            try:
                state, undone = self._board.released() or undone, None
                if state is None and self._masks.expects:
                    state = self._board.wait(connection, self._settings.wait, PATIENCE_SECONDS)
                said, undone = False, state
                if state is not None and self._is_masked():
                    said = self._masks.act(state, self._genesis(), _newest(state))
                undone = None
            except BusyError as error:
                self._rest(self._tell_unreachable(error), connection)
                continue
            except OSError as error:
                self._bear(error)
                continue
            if said:
                self._sealed.set()
            if state is None:
                self._rest(_GLANCE_SECONDS, connection)
            else:
                self._found.set()  # an update may have waited for its partners

    def _is_masked(self) -> bool:
        policy = agreed_policy(self._folder)
        return policy is not None and policy.masked

    def _genesis(self) -> str:
        line = read_genesis(self._folder)
        assert line is not None, "a release was followed"
        return read_line(line, self._site.coordinator).hash

    def _rest(self, seconds: float, connection: Connection) -> None:
        """Wait, unless the connection ends meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and connection.alive and not self._stop.wait(_GLANCE_SECONDS):
            pass

    def _bear(self, error: OSError) -> None:
        """A full disk is waited for: what is not done yet is still where it was. Any other error of a disk ends Bob."""
        if error.errno not in _DISK_FULL:
            raise error
        text = (
            f"the disk is full ({error.filename or self._folder.path}); trying again in {_duration(DISK_PAUSE_SECONDS)}"
        )
        self._say("disk-full", text)
        self._stop.wait(DISK_PAUSE_SECONDS)

    def _start(self, loop: Callable[[], None], source: Connection | None) -> threading.Thread:
        def run() -> None:
            try:
                loop()
            except BaseException as error:  # noqa: BLE001 - the main thread raises it again
                self._ended.put((source, error))
            else:
                if source is not None:
                    self._ended.put((source, None))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _wake(self) -> None:
        self._found.set()
        self._sealed.set()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Be told at once when Alice publishes; where the system cannot tell, the rescan still finds it."""
        observer = Observer()
        try:
            observer.schedule(_Doorbell(self._found), str(self._outgoing.path))
            observer.start()
        except OSError as error:
            text = f"the system does not report changes ({error}); looking every {_duration(self._settings.rescan)}"
            self._say("rescan-only", text)
            yield
            return
        try:
            yield
        finally:
            observer.stop()
            observer.join(PATIENCE_SECONDS)


class _Doorbell(FileSystemEventHandler):
    """Rings when a claim or a report gets its final name."""

    def __init__(self, bell: threading.Event) -> None:
        self._bell = bell

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "moved", "closed") and any(
            os.fsdecode(path).endswith(".json") for path in (event.src_path, event.dest_path)
        ):
            self._bell.set()


def _newest(state: Federation) -> int:
    return state.release.sequence if state.release else 0


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with open(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"another bob works in {lock.parent}", "stop it first, or give another --state"
            ) from None
        yield


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
