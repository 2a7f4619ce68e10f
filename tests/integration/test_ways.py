"""Ways out of a site's network: real proxies and a real jump host, in front of a stock sshd."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedssh.address import Address, Way, read_via
from fedssh.errors import HostKeyError, SettingsError, UnreachableError
from fedssh.keys import PrivateKey
from fedssh.transport import Connection, RefusedError
from scripts.demo.federation import free_port
from tests.harness.host import Host, stock_host
from tests.harness.proxies import Proxy, running

pytestmark = pytest.mark.sshd

LOGIN = ("site", "pass word/#?@:%")
KINDS = pytest.mark.parametrize("kind", ["socks5", "http"])
NOWHERE = Path("nowhere")


@pytest.fixture
def host(tmp_path: Path, keys: dict[str, PrivateKey]) -> Iterator[Host]:
    with stock_host(tmp_path / "door", keys["alice-1"]) as host:
        yield host


@pytest.fixture
def jump(tmp_path: Path, keys: dict[str, PrivateKey], host: Host) -> Iterator[Host]:
    """A jump host that lets alice-1 on to the door, and nowhere else."""
    options = f'restrict,port-forwarding,permitopen="127.0.0.1:{host.port}"'
    with stock_host(tmp_path / "jump", keys["alice-1"], options) as jump:
        yield jump


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "a.bundle"
    path.write_bytes(os.urandom(3_000_000))
    return path


def through(proxy: Proxy, url: str | None = None) -> Way:
    return Way(read_via(url or proxy.url.replace(LOGIN[1], "pass%20word%2F%23%3F%40%3A%25")), NOWHERE, NOWHERE)


def over(jump: Host, key: Path | None = None) -> Way:
    via = read_via(f"ssh://{getpass.getuser()}@127.0.0.1:{jump.port}")
    return Way(via, key or jump.key, jump.known_hosts)


def arrives(connection: Connection, host: Host, bundle: Path) -> None:
    connection.ship(bundle)
    arrived = host.store / bundle.name
    assert hashlib.sha256(arrived.read_bytes()).digest() == hashlib.sha256(bundle.read_bytes()).digest()
    assert connection.ask("words").output == b"one two"
    connection.close()


def fails(host: Host, way: Way, words: str, seconds: float = 5) -> str:
    """What a connection says that must not be made, in time."""
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=words) as caught:
        host.connect(way=way)
    assert time.monotonic() - start < seconds + 2
    assert not any(secret in str(caught.value) for secret in (LOGIN[1], "wrongpass", "%"))
    return str(caught.value)


@KINDS
@pytest.mark.parametrize("login", [None, LOGIN])
def test_a_bundle_arrives_through_a_proxy(host: Host, bundle: Path, kind: str, login: tuple[str, str] | None) -> None:
    with running(Proxy(kind, login)) as proxy:
        arrives(host.connect(way=through(proxy)), host, bundle)
    assert proxy.asked == [("127.0.0.1", host.port)]


@KINDS
def test_the_proxy_looks_the_name_up_and_the_port_may_be_another(host: Host, bundle: Path, kind: str) -> None:
    address = Address(getpass.getuser(), "door.invalid", 443)
    host.known_hosts.write_text(f"[door.invalid]:443 {(host.folder / 'host.pub').read_text()}")
    with running(Proxy(kind, names={"door.invalid": ("127.0.0.1", host.port)})) as proxy:
        arrives(Connection(address, host.key, host.known_hosts, 5, through(proxy)), host, bundle)
    assert proxy.asked == [("door.invalid", 443)]


@KINDS
def test_what_comes_with_the_proxys_last_word_is_not_lost(host: Host, bundle: Path, kind: str) -> None:
    with running(Proxy(kind, hasty=True)) as proxy:
        arrives(host.connect(way=through(proxy)), host, bundle)


def test_a_proxy_that_is_away_is_named(host: Host) -> None:
    port = free_port()
    said = fails(host, through(Proxy("socks5", port=port)), "cannot be reached")
    assert said.startswith(f"the proxy socks5://127.0.0.1:{port} cannot be reached (connection refused")
    fails(host, Way(read_via("http://nowhere.invalid:1"), NOWHERE, NOWHERE), "the name nowhere.invalid is not known")


@KINDS
def test_a_login_that_is_missing_or_wrong(host: Host, kind: str) -> None:
    with running(Proxy(kind, LOGIN)) as proxy:
        for login in ("", "site:wrongpass@"):
            said = fails(host, through(proxy, f"{kind}://{login}127.0.0.1:{proxy.port}"), "does not let this site in: ")
            assert said.startswith(f"the proxy {kind}://127.0.0.1:{proxy.port} does not let this site in: "), said
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("http", 403, "the proxy {proxy} does not let this site through to {door}: 403 forbidden"),
        ("http", 502, "{door} cannot be reached from the proxy {proxy}: 502 bad gateway"),
        ("http", 504, "{door} cannot be reached from the proxy {proxy}: 504 gateway timeout"),
        ("socks5", 2, "the proxy {proxy} does not let this site through to {door}: connection not allowed by ruleset"),
        ("socks5", 1, "the proxy {proxy} does not let this site through to {door}: general socks server failure"),
        ("socks5", 4, "{door} cannot be reached from the proxy {proxy}: host unreachable"),
        ("socks5", 5, "{door} cannot be reached from the proxy {proxy}: connection refused by destination host"),
    ],
)
def test_it_is_said_who_failed(host: Host, kind: str, code: int, words: str) -> None:
    with running(Proxy(kind, refuse=code)) as proxy:
        said = fails(host, through(proxy), f":{host.port}")
    assert said == words.format(proxy=f"{kind}://127.0.0.1:{proxy.port}", door=f"127.0.0.1:{host.port}")


@KINDS
def test_a_door_that_is_away_behind_a_proxy(host: Host, kind: str) -> None:
    host.stop()
    with running(Proxy(kind)) as proxy:
        fails(host, through(proxy), f"^127.0.0.1:{host.port} cannot be reached from the proxy {kind}://")
    host.start()


@KINDS
def test_a_proxy_that_hangs(host: Host, kind: str) -> None:
    with running(Proxy(kind, silent=True)) as proxy:
        fails(host, through(proxy), f"^the proxy {kind}://127.0.0.1:{proxy.port} did not answer in 5 s$")
    with running(Proxy(kind, deaf=True)) as proxy:
        fails(host, through(proxy), f"^127.0.0.1:{host.port} through {kind}://127.0.0.1:{proxy.port} ")


def test_a_proxy_that_answers_a_byte_at_a_time_ends_in_time_too(host: Host) -> None:
    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
                time.sleep(0.05)
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        fails(host, through(Proxy("http", port=server.getsockname()[1])), "did not answer in 5 s")


@pytest.mark.parametrize("kind", ["socks5", "http", "ssh"])
def test_what_is_no_proxy(host: Host, kind: str) -> None:
    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        client.sendall(b"\0\xff\n\r\n\r\n" * 100)
        client.recv(1000)
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        url = f"{kind}://{'me@' if kind == 'ssh' else ''}127.0.0.1:{server.getsockname()[1]}"
        way = Way(read_via(url), host.key, host.known_hosts)
        fails(host, way, f"the (proxy|jump host) {url} ", seconds=10)


@KINDS
@pytest.mark.parametrize("after", [1_500, 1_000_000])
def test_a_cut_is_an_unreachable_door_and_the_next_try_works(host: Host, bundle: Path, kind: str, after: int) -> None:
    with running(Proxy(kind, cut_after=after)) as proxy:
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{host.port} "):
            host.connect(way=through(proxy)).ship(bundle)
        proxy.cut_after = 1 << 40
        arrives(host.connect(way=through(proxy)), host, bundle)


@KINDS
def test_a_door_that_falls_silent_behind_a_proxy_is_given_up(host: Host, kind: str) -> None:
    """The proxy goes on to acknowledge every byte, so no timeout of TCP would ever end this."""
    with running(Proxy(kind)) as proxy:
        connection = host.connect(way=through(proxy), silence=2)
        with pytest.raises(UnreachableError, match="did not answer in 3 s"):
            connection.ask("sleep", timeout=3)  # it answers signs of life meanwhile
        assert connection.alive
        call, start = connection.begin("sleep"), time.monotonic()
        proxy.deaf = True
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{host.port} ended the connection"):
            call.answer(timeout=30)
        assert time.monotonic() - start < 9 and not connection.alive


def test_a_changed_host_key_of_the_door_is_seen_through_a_proxy(host: Host) -> None:
    host.stop()
    host.make_host_key()
    host.start()
    with running(Proxy("socks5")) as proxy, pytest.raises(HostKeyError, match=r"^127\S+ answered with host key"):
        host.connect(way=through(proxy))


def test_a_bundle_arrives_over_a_jump_host(host: Host, jump: Host, bundle: Path) -> None:
    connection = host.connect(way=over(jump))
    arrives(connection, host, bundle)
    assert not connection.alive
    logged_in = ["pgrep", "-P", str(jump.process.pid if jump.process else 0)]
    for _ in range(100):
        if not subprocess.run(logged_in, capture_output=True, check=False).stdout:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the connection to the jump host is still there")


def test_another_key_for_the_jump_host(host: Host, jump: Host, bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "jump_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", own], check=True)
    allowed = jump.folder / "authorized"
    allowed.write_text(allowed.read_text().partition("ssh-rsa")[0] + own.with_suffix(".pub").read_text())
    arrives(host.connect(way=over(jump, key=own)), host, bundle)
    fails(host, over(jump), r"^the jump host ssh://\S+ does not let this site in with the key SHA256:")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", own], check=True, capture_output=True)
    with pytest.raises(SettingsError, match="not a private key without a passphrase"):
        host.connect(way=over(jump, key=own))
    with pytest.raises(SettingsError, match="does not exist"):
        host.connect(way=over(jump, key=NOWHERE))


def test_a_jump_host_that_is_another_one(host: Host, jump: Host) -> None:
    jump.stop()
    jump.make_host_key()
    jump.start()
    with pytest.raises(HostKeyError, match=rf"^the jump host 127.0.0.1:{jump.port} answered with host key") as caught:
        host.connect(way=over(jump))
    assert caught.value.exit_code == 3
    jump.known_hosts.write_text("")
    with pytest.raises(HostKeyError, match="known_hosts has none for it") as caught:
        host.connect(way=over(jump))
    assert "--via-host-key" in str(caught.value.hint)


def test_what_the_jump_host_does_not_do(host: Host, jump: Host, keys: dict[str, PrivateKey]) -> None:
    at = rf"ssh://\w+@127.0.0.1:{jump.port}"
    host.stop()
    fails(host, over(jump), f"^127.0.0.1:{host.port} cannot be reached from the jump host {at}: ")
    host.start()
    jump.lets_in(keys["alice-1"], "restrict")
    fails(host, over(jump), f"^the jump host {at} does not let this site through to 127.0.0.1:{host.port}: ")
    jump.stop()
    fails(host, over(jump), rf"^the jump host {at} cannot be reached \(connection refused")
    jump.start()


def test_a_door_that_refuses_the_key_is_not_the_jump_host(host: Host, jump: Host, keys: dict[str, PrivateKey]) -> None:
    host.lets_in(keys["alice-2"], "restrict")
    with pytest.raises(RefusedError, match=f"^127.0.0.1:{host.port} does not let"):
        host.connect(way=over(jump))


def test_a_jump_host_that_dies_ends_the_connection(host: Host, jump: Host) -> None:
    connection = host.connect(way=over(jump))
    children = subprocess.run(
        ["pgrep", "-P", str(jump.process.pid if jump.process else 0)], capture_output=True, text=True, check=True
    )
    call = connection.begin("sleep")
    for child in children.stdout.split():
        os.kill(int(child), 9)
    with pytest.raises(UnreachableError):
        call.answer(timeout=20)
    assert not connection.alive
