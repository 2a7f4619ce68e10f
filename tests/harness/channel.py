"""All of the way between Alice and the judge but themselves: a real door, a real Bob, and their folders.

with Way(folder, keys, "sshd").open() as way:
    judge, alice = way.meet()
"""

from __future__ import annotations

import contextlib
import getpass
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedssh.bob.site import Folder, Site, join
from fedssh.channel.handshake import EphemeralKey, greet, make_offer, new_key, welcome, who
from fedssh.channel.sealed import Channel
from fedssh.channel.sockets import NAME, connect, listen
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.signature import CHANNEL, sign
from scripts.demo.federation import free_port
from tests.harness.waiting import last_words, until

SITE = "alice-1"
QUICK = ("--retry", "0.1", "--retry-max", "0.5", "--rescan", "0.5", "--timeout", "5")


class Line:
    """A port that leads to another one, and can be cut.

    Args:
        to: Where it leads.
        delay: How long a byte takes, in seconds.

    Attributes:
        most: After so many bytes, both ways together, each connection is cut.
        cuts: How often that was.
    """

    def __init__(self, to: int, delay: float = 0.0) -> None:
        self._to, self._delay = to, delay
        self.most, self.cuts = 1 << 60, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End all that goes through it; what comes anew goes through."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    behind = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the door is away
                    client.close()
                    continue
                for end in (client, behind):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends += [client, behind]
                join_ends(client, behind, self._counted(), self._delay)

    def _counted(self) -> Callable[[bytes], bytes]:
        went = 0

        def seen(data: bytes) -> bytes:
            nonlocal went
            went += len(data)
            if went > self.most:
                self.cuts += 1
                return data[: max(0, len(data) - went + self.most)]
            return data

        return seen


def join_ends(
    one: socket.socket, other: socket.socket, seen: Callable[[bytes], bytes] = lambda data: data, delay: float = 0.0
) -> None:
    """Pass bytes between two sockets until either ends.

    Args:
        seen: Is asked for what is passed on instead; where that is less than what came, all ends with it.
        delay: How long each byte takes, in seconds; more of them may be on the way.
    """

    def pump(source: socket.socket, sink: socket.socket) -> None:
        later: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        if delay:
            threading.Thread(target=deliver, args=(sink, later), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                passed = seen(data)
                if delay:
                    later.put((time.monotonic() + delay, passed))
                else:
                    sink.sendall(passed)
                if len(passed) < len(data):
                    break
        later.put((0.0, b""))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other end is the other one's source

    for ends in ((one, other), (other, one)):
        threading.Thread(target=pump, args=ends, daemon=True).start()


def deliver(sink: socket.socket, later: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    """Send what is due, when it is."""
    with contextlib.suppress(OSError):
        while (due := later.get())[1]:
            time.sleep(max(0.0, due[0] - time.monotonic()))
            sink.sendall(due[1])


@dataclass
class Way:
    """A door, a Bob, and where they meet Alice and the judge.

    Args:
        folder: Gets everything.
        keys: Of the coordinator and the sites.
        kind: The door: sshd or embedded.
        direct: Whether Bob goes there without the line that can be cut.
        delay: How long a byte takes on that line, in seconds.

    Attributes:
        turn: The judge's key, its offer, and the coordinator's signature.
        listening: The judge's socket, while she listens.
        line: What Bob takes to the door.
    """

    folder: Path
    keys: dict[str, PrivateKey]
    kind: str
    direct: bool = False
    delay: float = 0.0
    port: int = field(default_factory=free_port)
    key: EphemeralKey = field(default_factory=new_key)
    offer: bytes = b""
    listening: socket.socket | None = None
    door: subprocess.Popen[bytes] | None = None
    bob: subprocess.Popen[bytes] | None = None

    @property
    def outbox(self) -> Path:
        return self.folder / "coordinator" / "outbox"

    @property
    def exchange(self) -> Path:
        return self.folder / "exchange"

    @contextlib.contextmanager
    def open(self) -> Iterator[Way]:
        self.outbox.mkdir(parents=True)
        self.enrol(SITE)
        self.new_turn()
        try:
            self.start_door()
            self.line = Line(self.port, self.delay)
            self.join()
            self.start_bob()
            yield self
        finally:
            for process in (self.bob, self.door):
                if process:
                    process.terminate()
                    process.wait(20)
            self.line.close()
            self.stop_listening()

    def enrol(self, *sites: str) -> None:
        """Let exactly these log in."""
        entries = [{"site": site, "role": "site", "key": self.keys[site].public.line} for site in sites]
        part = self.outbox / ".sites.json.part"
        part.write_bytes(canonical({"sites": entries}))
        part.replace(self.outbox / "sites.json")

    def new_turn(self, number: int = 1, **changes: Any) -> None:
        self.key = new_key()
        said: dict[str, Any] = {
            "federation": "lungs", "genesis": "ab" * 32, "release": 4, "turn": number, "site": SITE, "terms": {},
        }  # fmt: skip
        self.offer = make_offer(**(said | {"key": self.key.public} | changes))

    def start_door(self) -> None:
        embedded = ["--embedded"] if self.kind == "embedded" else []
        words = ["fedssh.charity.cli", "door", "--state", str(self.outbox.parent), *embedded]
        self.door = self.start("door", *words, "--listen", f"127.0.0.1:{self.port}")
        self.wait(self.answers)

    def join(self) -> None:
        folder = Folder(self.folder / "site")
        folder.path.mkdir()
        folder.key.write_bytes(self.keys[SITE].pem)
        folder.key.chmod(0o600)
        host_key = (self.outbox.parent / "door" / "host_key.pub").read_text().strip()
        user = getpass.getuser() if self.kind == "sshd" else "charity"
        coordinator = self.keys["coordinator"].public
        join(
            folder,
            Site(
                SITE,
                user,
                "127.0.0.1",
                self.port if self.direct else self.line.port,
                " ".join(host_key.split()[:2]),
                coordinator,
            ),
        )

    def start_bob(self) -> None:
        places = ["--state", str(self.folder / "site"), "--exchange", str(self.exchange)]
        self.bob = self.start("bob", "fedssh.bob.cli", "--log-format", "json", "watch", *places, *QUICK)
        self.wait(lambda: b'"connected"' in self.log("bob") and (self.exchange / NAME).exists())

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self, name: str) -> bytes:
        return (self.folder / f"{name}.log").read_bytes()

    def wait(self, condition: Callable[[], object]) -> None:
        until(condition, 20, lambda: last_words(self.folder))

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
            return client.recv(4) == b"SSH-"
        return False

    # Alice and the judge

    def listen(self) -> socket.socket:
        if self.listening is None:
            self.listening = listen(self.outbox)
            self.listening.settimeout(20)
        return self.listening

    def stop_listening(self) -> None:
        if self.listening:
            self.listening.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for somebody to come
            self.listening.close()
            (self.outbox / NAME).unlink()
        self.listening = None

    def judge(self, through: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> Channel:
        """The judge's end of the next channel."""
        sock, _ = self.listen().accept()
        signature = sign(self.offer, self.keys["coordinator"], CHANNEL)
        assert who(sock, 20) == SITE
        sock.setblocking(True)  # for whoever stands between
        return welcome(through(sock), self.offer, signature, self.key, self.keys[SITE].public.line, 20)

    def alice(self, through: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> Channel:
        """Alice's end of the next channel."""
        sock = through(connect(self.exchange))
        return greet(sock, self.keys["coordinator"].public.line, lambda offer: None, 20)[1]

    def meet(self, at_bob: Spy | None = None, at_the_door: Spy | None = None) -> tuple[Channel, Channel]:
        """Both ends of a channel; each first hop may have somebody who looks on."""
        with self.judging(*([at_the_door] if at_the_door else [])) as judge:
            alice = self.alice(*([at_bob] if at_bob else []))
            return judge.result(20), alice

    @contextlib.contextmanager
    def judging(
        self, through: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> Iterator[Future[Channel]]:
        """A judge who waits for a site while the block runs."""
        self.listen()
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(self.judge, through)
            except BaseException:
                self.stop_listening()
                raise


class Spy:
    """Sees and keeps every byte of a connection, as whoever stands there could; may change what it passes on."""

    def __init__(self, change: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.seen = bytearray()
        self._change = change

    def __call__(self, sock: socket.socket) -> socket.socket:
        ours, theirs = socket.socketpair()
        join_ends(sock, theirs, self._see)
        return ours

    def _see(self, data: bytes) -> bytes:
        self.seen += data
        return self._change(data)
