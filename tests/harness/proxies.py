"""A proxy on loopback that speaks SOCKS5 or HTTP CONNECT, and that can be told to misbehave."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

GONE = 1 << 62


@dataclass
class Proxy:
    """How a proxy behaves; may be changed while it runs.

    Attributes:
        kind: `socks5` or `http`.
        login: The user and the password that it asks for.
        names: Where a name leads, and to which port, that nobody else knows.
        refuse: The code with which it answers every request; for SOCKS5 that of RFC 1928.
        silent: Whether it accepts connections and says nothing.
        deaf: Whether it lets a client through, takes all that comes from either side, and passes nothing on.
        cut_after: After so many bytes from the client it closes both sides.
        hasty: Whether the first bytes from behind it come in one piece with its own last ones.
        asked: Where it was asked to lead to.
    """

    kind: str
    login: tuple[str, str] | None = None
    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    refuse: int | None = None
    silent: bool = False
    deaf: bool = False
    cut_after: int = GONE
    hasty: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """As a site is told it, with the login that is asked for."""
        login = f"{self.login[0]}:{self.login[1]}@" if self.login else ""
        return f"{self.kind}://{login}127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        """One client from its first byte to its last."""
        with client, contextlib.suppress(OSError, _OverError):
            if self.silent:
                client.recv(1 << 16)
                client.recv(1 << 16)
                return
            target = (_socks5 if self.kind == "socks5" else _http)(self, client)
            self.asked.append(target)
            self._lead(client, target)

    def _lead(self, client: socket.socket, target: tuple[str, int]) -> None:
        try:
            if self.refuse is not None:
                raise _OverError(self.refuse)
            behind = socket.create_connection(self.names.get(target[0], target), 5)
            behind.settimeout(None)
        except (OSError, _OverError) as error:
            code = error.args[0] if isinstance(error, _OverError) else 5 if self.kind == "socks5" else 502
            client.sendall(_answer(self.kind, code))
            client.recv(1)  # until it hangs up: what was said is not lost
            return
        with behind:
            first = behind.recv(1 << 16) if self.hasty else b""
            client.sendall(_answer(self.kind, 0) + first)
            back = threading.Thread(target=self._pass, args=(behind, client, GONE), daemon=True)
            back.start()
            self._pass(client, behind, self.cut_after)
            back.join(5)

    def _pass(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        with contextlib.suppress(OSError):
            while left > 0 and (data := source.recv(min(1 << 16, left))):
                if not self.deaf:
                    sink.sendall(data)
                left -= len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _OverError(Exception):
    """There is nothing more to say to this client."""


@contextlib.contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    """Serve until the end of the block, then take no more clients."""
    with socket.create_server(("127.0.0.1", proxy.port)) as server:
        proxy.port = int(server.getsockname()[1])
        server.settimeout(0.05)
        over = threading.Event()
        accepting = threading.Thread(target=_accept, args=(server, proxy.serve, over))
        accepting.start()
        try:
            yield proxy
        finally:
            over.set()
            accepting.join()


def _accept(server: socket.socket, serve: Callable[[socket.socket], None], over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            client, _ = server.accept()
            client.settimeout(None)
            threading.Thread(target=serve, args=(client,), daemon=True).start()


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := client.recv(size - len(data))):
            raise _OverError
        data += more
    return data


def _socks5(proxy: Proxy, client: socket.socket) -> tuple[str, int]:
    """RFC 1928, and RFC 1929 for the login."""
    version, methods = _exactly(client, 2)
    assert version == 5
    offered = _exactly(client, methods)
    wanted = 2 if proxy.login else 0
    client.sendall(bytes([5, wanted if wanted in offered else 0xFF]))
    if wanted not in offered:
        client.recv(1)
        raise _OverError
    if proxy.login:
        user = _exactly(client, _exactly(client, 2)[1]).decode()
        password = _exactly(client, _exactly(client, 1)[0]).decode()
        right = (user, password) == proxy.login
        client.sendall(bytes([1, not right]))
        if not right:
            client.recv(1)
            raise _OverError
    kind = _exactly(client, 4)[3]
    if kind == 3:
        host = _exactly(client, _exactly(client, 1)[0]).decode()
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _exactly(client, size))
    return host, int.from_bytes(_exactly(client, 2), "big")


def _http(proxy: Proxy, client: socket.socket) -> tuple[str, int]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _exactly(client, 1)
    lines = head.decode().split("\r\n")
    verb, target, _ = lines[0].split()
    assert verb == "CONNECT"
    if proxy.login:
        login = base64.b64encode(":".join(proxy.login).encode()).decode()
        if f"Proxy-Authorization: Basic {login}" not in lines:
            client.sendall(_answer("http", 407))
            client.recv(1)
            raise _OverError
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


_REASONS = {
    0: "200 Connection established", 403: "403 Forbidden", 407: "407 Proxy Authentication Required",
    502: "502 Bad Gateway", 504: "504 Gateway Timeout",
}  # fmt: skip


def _answer(kind: str, code: int) -> bytes:
    if kind == "socks5":
        return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])
    head = f"HTTP/1.1 {_REASONS[code]}\r\nVia: 1.1 proxy.example\r\n"
    return f"{head}Content-Length: 0\r\n\r\n".encode() if code else f"{head}\r\n".encode()
