"""How many round trips a second a channel makes: 102,400 bytes there and 102,400 back, as a step at `pool2` has.

    python -m tests.benchmarks.channel [--seconds N] [--bytes N] [--door sshd|embedded] [--delay MS …]

In turn, in the same run, each between two processes on this machine:

    pipe      a plain socket pair: no keys, nobody between
    sealed    a channel over a socket pair
    all hops  a channel through a real Bob, SSH, the door and its forced command
    MS away   the same with a line between Bob and the door on which a byte takes so many milliseconds, one way

The machine may be slow or busy: what counts is the ratio to the plain socket pair.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedssh.channel.frames import Header
from fedssh.channel.sealed import Channel
from fedssh.commands import print_table
from fedssh.errors import UnreachableError
from fedssh.keys import PrivateKey, make_key
from tests.harness.channel import SITE, Way

KIND = 16
KEYS = (b"1" * 32, b"2" * 32)
BYTES = 102_400
WARM = 50
Trip = Callable[[], None]


def anything(header: Header) -> None:
    """Every frame is as agreed."""


def echo_plain(sock: socket.socket, size: int) -> None:
    """Send back what comes, until nothing does."""
    buffer = memoryview(bytearray(size))
    while read_into(sock, buffer):
        sock.sendall(buffer)


def echo_sealed(channel: Channel) -> None:
    """The same in a channel."""
    with contextlib.suppress(UnreachableError):
        while True:
            channel.send(KIND, channel.receive(anything, 60)[1])


def read_into(sock: socket.socket, view: memoryview) -> bool:
    """Fill a buffer; False at the end."""
    while view:
        count = sock.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


@contextlib.contextmanager
def other_process(does: Callable[[], None]) -> Iterator[None]:
    """Another process, while the block runs."""
    process = multiprocessing.get_context("fork").Process(target=does, daemon=True)
    process.start()
    yield
    process.join(10)
    process.kill()


@contextlib.contextmanager
def plain(body: bytes) -> Iterator[Trip]:
    """A socket pair."""
    here, there = socket.socketpair()
    buffer = memoryview(bytearray(len(body)))

    def other() -> None:
        here.close()
        echo_plain(there, len(body))

    def trip() -> None:
        here.sendall(body)
        read_into(here, buffer)

    with other_process(other):
        there.close()
        yield trip
        here.close()


@contextlib.contextmanager
def sealed(body: bytes) -> Iterator[Trip]:
    """A channel over a socket pair."""
    here, there = socket.socketpair()

    def other() -> None:
        here.close()
        echo_sealed(Channel(there, *KEYS))

    with other_process(other), Channel(here, *KEYS[::-1]) as channel:
        there.close()
        yield lambda: go(channel, body)


@contextlib.contextmanager
def all_hops(body: bytes, door: str, delay: float = 0.0) -> Iterator[Trip]:
    """A channel from Alice to the judge."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys: dict[str, PrivateKey] = {who: make_key(folder / who, who) for who in ("coordinator", SITE)}
        with Way(folder / "way", keys, door, direct=not delay, delay=delay).open() as way:
            way.listen()
            with other_process(lambda: echo_sealed(way.judge())), way.alice() as channel:
                yield lambda: go(channel, body)
                channel.close()


def go(channel: Channel, body: bytes) -> None:
    """There and back."""
    channel.send(KIND, body)
    channel.receive(anything, 60)


def measured(trip: Trip, seconds: float) -> list[float]:
    """How long each round trip took, in seconds."""
    for _ in range(WARM):
        trip()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        trip()
        took.append(time.perf_counter() - begun)
    return sorted(took)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="how long each is measured [5]")
    parser.add_argument("--bytes", type=int, default=BYTES, help=f"there, and as many back [{BYTES}]")
    parser.add_argument("--door", choices=("sshd", "embedded"), action="append", help="[both]")
    parser.add_argument("--delay", type=float, nargs="*", default=[], metavar="MS", help="one way, in milliseconds")
    options = parser.parse_args(arguments)
    body = os.urandom(options.bytes)
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    doors = options.door or (["sshd", "embedded"] if sshd else ["embedded"])
    ways: list[tuple[str, contextlib.AbstractContextManager[Trip]]] = [("pipe", plain(body)), ("sealed", sealed(body))]
    ways += [(f"all hops, {door}", all_hops(body, door)) for door in doors]
    ways += [
        (f"{away:g} ms away, {door}", all_hops(body, door, away / 1e3)) for away in options.delay for door in doors
    ]
    rows: list[tuple[str, ...]] = []
    floor = 0.0
    for name, way in ways:
        with way as trip:
            took = measured(trip, options.seconds)
        mean = sum(took) / len(took)
        floor = floor or mean
        median, late = (f"{took[len(took) * percent // 100] * 1e3:.2f} ms" for percent in (50, 95))
        rows.append((name, f"{1 / mean:,.0f}", median, late, f"{mean / floor:.1f}"))
    print(
        f"{options.bytes:,} bytes there and back, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), "
        f"{platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print_table(("way", "trips a second", "median", "p95", "times the pipe"), rows)


if __name__ == "__main__":
    main()
