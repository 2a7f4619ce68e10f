"""A port that leads to another one and counts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fleet.tunnel import Tunnel
from tests.harness.waiting import until


@contextlib.contextmanager
def far_end(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where each connection is answered in a thread of its own."""

    def serve(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            answer(one)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def all_of(connection: socket.socket) -> bytes:
    found = bytearray()
    while block := connection.recv(1 << 16):
        found += block
    return bytes(found)


def doubled(connection: socket.socket) -> None:
    """Answers when the question is over: its half of the connection must be closed alone."""
    connection.sendall(2 * all_of(connection))


def say(connection: socket.socket, question: bytes) -> None:
    connection.sendall(question)
    connection.shutdown(socket.SHUT_WR)


def ask(port: int, question: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as near:
        writer = threading.Thread(target=say, args=(near, question))
        writer.start()
        found = all_of(near)
        writer.join(10)
        return found


@pytest.mark.parametrize("size", [0, 1, 1 << 18, 3_000_001])
def test_bytes_pass_both_ways_and_are_counted(size: int) -> None:
    question = (bytes(range(256)) * (size // 256 + 1))[:size]
    with far_end(doubled) as port, Tunnel(port) as tunnel:
        assert ask(tunnel.port, question) == 2 * question
        until(lambda: (tunnel.received, tunnel.sent) == (size, 2 * size))


def test_many_connections_at_once() -> None:
    with far_end(doubled) as port, Tunnel(port) as tunnel:
        answers: dict[int, bytes] = {}

        def one(number: int) -> None:
            answers[number] = ask(tunnel.port, bytes([number]) * 10_000)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == {number: bytes([number]) * 20_000 for number in range(50)}
        until(lambda: (tunnel.received, tunnel.sent) == (500_000, 1_000_000))


def test_nobody_at_the_far_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Tunnel(port) as tunnel:
        assert ask_nobody(tunnel.port) == b""
        assert ask_nobody(tunnel.port) == b""  # and it still listens
        assert (tunnel.received, tunnel.sent) == (0, 0)


def ask_nobody(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as near:
        try:
            return near.recv(1)
        except ConnectionResetError:
            return b""


def test_a_far_end_that_goes_away_in_the_middle() -> None:
    def rude(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"half")

    with (
        far_end(rude) as port,
        Tunnel(port) as tunnel,
        socket.create_connection(("127.0.0.1", tunnel.port), 10) as near,
    ):
        near.sendall(b"x")
        assert all_of(near) == b"half"  # and then the end, though this side is still open


def test_a_near_end_that_goes_away_is_told_to_the_far_end() -> None:
    gone = threading.Event()

    def waits(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            all_of(connection)
        gone.set()

    with far_end(waits) as port, Tunnel(port) as tunnel:
        with socket.create_connection(("127.0.0.1", tunnel.port), 10) as near:
            near.sendall(b"x")
            until(lambda: tunnel.received == 1)
        assert gone.wait(10)


def test_when_it_is_closed_it_takes_no_further_connection() -> None:
    with far_end(doubled) as port:
        with Tunnel(port) as tunnel:
            near = socket.create_connection(("127.0.0.1", tunnel.port), 10)
            near.sendall(b"before")
            until(lambda: tunnel.received == 6)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tunnel.port), 10)
        with near:  # what runs ends by itself
            near.sendall(b", after")
            near.shutdown(socket.SHUT_WR)
            assert all_of(near) == 2 * b"before, after"


def test_it_listens_on_this_machine_only() -> None:
    with far_end(doubled) as port, Tunnel(port) as tunnel:
        assert tunnel._listener.getsockname()[0] == "127.0.0.1"
