"""The SSH client against a stock sshd, with a network that fails on demand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedssh.address import Address
from fedssh.errors import AgentError, BundleError, HostKeyError, SettingsError, UnreachableError
from fedssh.keys import PrivateKey
from fedssh.known_hosts import pinned_keys
from fedssh.transport import Answer, BusyError, Connection, RefusedError
from scripts.demo.federation import free_port
from tests.harness.host import Host, stock_host

pytestmark = pytest.mark.sshd


@pytest.fixture
def host(tmp_path: Path, keys: dict[str, PrivateKey]) -> Iterator[Host]:
    with stock_host(tmp_path, keys["alice-1"]) as host:
        yield host


@contextlib.contextmanager
def proxy(to: int, cut_after: int, seen: bytearray | None = None) -> Iterator[int]:
    """A port that leads to another one until the client has sent so many bytes; then both ends are cut.

    What goes through, either way, stands in `seen`.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, left: int) -> None:
        with contextlib.suppress(OSError):
            while left > 0 and (data := source.recv(min(65536, left))):
                sink.sendall(data)
                if seen is not None:
                    seen.extend(data)
                left -= len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other end is the other one's source

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                behind = socket.create_connection(("127.0.0.1", to))
                for ends in ((client, behind, cut_after), (behind, client, 1 << 40)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield int(server.getsockname()[1])
    server.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "a.bundle"
    path.write_bytes(os.urandom(3_000_000))
    return path


def test_a_bundle_arrives_as_it_left(host: Host, bundle: Path) -> None:
    connection = host.connect()
    seen: list[tuple[int, int]] = []
    said: list[str] = []
    connection.ship(bundle, lambda sent, size: seen.append((sent, size)), lambda: said.append("on its way"))
    arrived = host.store / "a.bundle"
    assert hashlib.sha256(arrived.read_bytes()).digest() == hashlib.sha256(bundle.read_bytes()).digest()
    assert seen[-1] == (3_000_000, 3_000_000) and said == ["on its way"]
    empty = bundle.with_name("b.bundle")
    empty.touch()
    connection.ship(empty)  # over the same connection
    assert (host.store / "b.bundle").stat().st_size == 0
    assert connection.alive
    connection.close()
    assert not connection.alive


@pytest.mark.parametrize(
    ("mood", "error", "words"),
    [
        ("refuse", BundleError, "does not take the bundle: refused: the bundle has 9 bytes too many"),
        ("later", BusyError, "does not take the bundle: later: the disk is full"),
        ("halfway", BusyError, "does not take the bundle: later: the disk is full"),
        ("spoil", BundleError, "does not take the bundle: refused: one bundle per scp"),
        ("die", UnreachableError, "cut the connection while it received a bundle"),
    ],
)
def test_the_door_says_why(host: Host, bundle: Path, mood: str, error: type[AgentError], words: str) -> None:
    (host.store / "mood").write_text(mood)
    connection = host.connect()
    with pytest.raises(error, match=words):
        connection.ship(bundle)
    assert connection.alive
    (host.store / "mood").unlink()
    connection.ship(bundle)  # the connection is still good


@pytest.mark.parametrize("after", [1_500, 20_000, 1_000_000, 3_000_200])
def test_a_cut_is_an_unreachable_host_and_the_next_try_works(host: Host, bundle: Path, after: int) -> None:
    with proxy(host.port, after) as port:
        host.pin(port)
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{port} "):
            host.connect(port).ship(bundle)
    host.pin()
    host.connect().ship(bundle)
    assert (host.store / "a.bundle").read_bytes() == bundle.read_bytes()


def test_who_listens_on_the_way_sees_when_and_how_much_and_nothing_else(host: Host, bundle: Path) -> None:
    said, seen = b'{"examples":1201,"metrics":{"accuracy":0.9}}' * 4, bytearray()
    bundle.write_bytes(said + bundle.read_bytes())
    with proxy(host.port, 1 << 40, seen) as port:
        host.pin(port)
        host.connect(port).ship(bundle)
    host.pin()
    data = bundle.read_bytes()
    assert (host.store / "a.bundle").read_bytes() == data
    assert len(data) < len(seen) < 1.1 * len(data) + 20_000
    assert b"examples" not in seen and b"a.bundle" not in seen
    assert not any(data[at : at + 32] in seen for at in range(0, len(data) - 32, 10_000))


def test_a_changed_host_key_is_never_unreachable(host: Host) -> None:
    host.stop()
    host.make_host_key()
    host.start()
    with pytest.raises(HostKeyError, match=r"answered with host key SHA256:\S+, known_hosts has SHA256:") as caught:
        host.connect()
    assert not isinstance(caught.value, UnreachableError) and caught.value.exit_code == 3
    assert caught.value.hint and "stop here" in caught.value.hint


def test_another_type_of_host_key_shows_both_fingerprints(host: Host) -> None:
    host.stop()
    host.make_host_key("ecdsa")
    host.start()
    shown = subprocess.run(["ssh-keygen", "-lf", host.folder / "host.pub"], capture_output=True, text=True, check=True)
    with pytest.raises(HostKeyError) as caught:
        host.connect()
    assert shown.stdout.split()[1] in str(caught.value)


def test_an_unknown_host_is_refused(host: Host) -> None:
    host.known_hosts.write_text("")
    with pytest.raises(HostKeyError, match="known_hosts has none for it"):
        host.connect()
    host.known_hosts.unlink()
    with pytest.raises(SettingsError, match="known_hosts does not exist"):
        host.connect()


def test_hashed_names_are_understood(host: Host) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", host.known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in host.known_hosts.read_text()
    assert len(pinned_keys(host.known_hosts, f"[127.0.0.1]:{host.port}")) == 1
    host.connect().close()


def test_a_key_that_may_not_log_in_is_not_a_network_trouble(host: Host, keys: dict[str, PrivateKey]) -> None:
    with pytest.raises(RefusedError, match=r"does not let .* in with the key SHA256:") as caught:
        host.connect(key=keys["stranger"].path)
    assert caught.value.hint and "revoked" in caught.value.hint
    assert caught.value.exit_code == 2 and not caught.value.in_words
    with pytest.raises(SettingsError):
        host.connect(user="nobody")


def test_nobody_there(host: Host) -> None:
    with pytest.raises(UnreachableError, match="cannot be reached \\(connection refused"):
        host.connect(port=free_port())
    with pytest.raises(UnreachableError, match=r"the name nowhere\.invalid is not known"):
        Connection(Address("x", "nowhere.invalid", 22), host.key, host.known_hosts)


def test_a_host_that_stays_silent_or_talks_nonsense(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = int(silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(UnreachableError):
            Connection(Address("x", "127.0.0.1", port), host.key, host.known_hosts, timeout=1)
        assert time.monotonic() - start < 5

        def nonsense() -> None:
            with contextlib.suppress(OSError):
                silent.accept()[0].close()  # the one that waited in silence
                with silent.accept()[0] as client:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=nonsense, daemon=True).start()
        with pytest.raises(UnreachableError, match="does not speak SSH"):
            Connection(Address("x", "127.0.0.1", port), host.key, host.known_hosts, timeout=2)


def test_verbs_and_their_ends(host: Host, tmp_path: Path) -> None:
    connection = host.connect()
    assert connection.ask("words").output == b"one two"
    assert connection.ask("nothing").nothing_yet
    broken = connection.ask("broken")
    assert isinstance(broken.error(connection.address, "broken"), BusyError)
    refused = connection.ask("refused")
    assert refused.complaint == "charity: refused:[31m not enrolled"  # one line, nothing a terminal acts on
    error = refused.error(connection.address, "refused")
    assert isinstance(error, RefusedError) and error.in_words
    busy = [connection.ask(verb).busy for verb in ("nothing", "later", "refused", "words")]
    assert busy == [False, True, False, False]
    with pytest.raises(UnreachableError, match="ended the connection"):
        connection.ask("killed")
    with pytest.raises(UnreachableError, match="did not answer in 1 s"):
        connection.ask("sleep", timeout=1)
    with pytest.raises(BundleError, match="more than the 1,000,000 bytes"):
        connection.ask("flood", max_bytes=1_000_000)
    assert connection.line("lines", max_bytes=4) == Answer(0, b"one\n", "")
    assert connection.line("words", max_bytes=9) == Answer(0, b"", "")  # no whole line
    assert connection.line("nothing", max_bytes=4).nothing_yet
    with pytest.raises(BundleError, match="a line of more than the 3 bytes"):
        connection.line("lines", max_bytes=3)
    with pytest.raises(BundleError, match="a line of more than the 1,000 bytes"):
        connection.line("flood", max_bytes=1000)
    into = tmp_path / "into"
    with pytest.raises(BundleError, match="more than"):
        connection.stream("flood", into=into, max_bytes=4_999_999)
    assert not into.exists()
    assert connection.stream("nothing", into=into, max_bytes=9).nothing_yet and not into.exists()
    assert connection.stream("flood", into=into, max_bytes=5_000_000).status == 0
    assert into.stat().st_size == 5_000_000


def test_closing_wakes_whoever_waits(host: Host) -> None:
    connection = host.connect()
    threading.Timer(0.3, connection.close).start()
    start = time.monotonic()
    with pytest.raises(UnreachableError):
        connection.ask("sleep")
    assert time.monotonic() - start < 5
