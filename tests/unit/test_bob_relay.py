"""What Bob makes of a channel: what he passes on, what he signs, and what he says when there is none."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedssh.address import Address
from fedssh.bob.relay import Relay, Session
from fedssh.bob.site import Site
from fedssh.channel import frames
from fedssh.channel.frames import ANSWER, ASIDE, HEADER_BYTES, OFFER, Header
from fedssh.channel.handshake import make_answer, make_offer, new_key
from fedssh.channel.sockets import NAME, connect
from fedssh.errors import AgentError, UntrustedError
from fedssh.keys import PrivateKey
from fedssh.signature import CHANNEL, RELEASE, sign, verify
from fedssh.transport import Answer

CHALLENGE = "cd" * 32


class Line:
    """A verb that is talked with, on a socket pair: what comes from the door's side is written into `door`."""

    def __init__(self, ends: Answer) -> None:
        self.door, self._bob = socket.socketpair()
        self.door.settimeout(5)
        self._ends = ends

    def send(self, data: memoryview | bytes) -> None:
        self._bob.sendall(data)

    def receive(self, most: int, timeout: float) -> bytes:
        self._bob.settimeout(timeout)
        try:
            return self._bob.recv(most)
        except OSError:
            return b""

    def finish(self) -> None:
        self._bob.shutdown(socket.SHUT_WR)

    def ending(self) -> Answer:
        return self._ends

    def failure(self, answer: Answer) -> AgentError:
        return answer.error(Address("charity", "charity.example", 22), "channel")

    def close(self) -> None:
        self._bob.close()


@dataclass
class Desk:
    """A Bob with one session, a door that says what a test wants, and an Alice."""

    keys: dict[str, PrivateKey]
    ends: Answer = field(default_factory=lambda: Answer(0, b"", ""))
    told: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alice, self.at_bob = socket.socketpair()
        self.alice.settimeout(5)
        self.line = Line(self.ends)
        self.site = Site("alice-1", "charity", "h", 22, "ssh-ed25519 A", self.keys["coordinator"].public)
        self.session = Session(self.at_bob, self, self.site, self.keys["alice-1"], self.tell)
        self.offer = make_offer(
            federation="lungs", genesis="ab" * 32, release=1, turn=1, site="alice-1", key=new_key().public, terms={}
        )

    def talk(self, *words: str) -> Line:
        self.asked.append(words)
        return self.line

    def tell(self, event: str, text: str, **fields: Any) -> None:
        self.told.append((event, text))

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.session.run)
        thread.start()
        return thread

    def hello(self, signer: str = "coordinator", namespace: str = CHANNEL, challenge: str = CHALLENGE) -> bytes:
        signature = sign(self.offer, self.keys[signer], namespace)
        return frames.plain(OFFER, {"challenge": challenge, "offer": self.offer.decode(), "signature": signature})

    def close(self) -> None:
        for sock in (self.alice, self.at_bob, self.line.door):
            sock.close()
        self.line.close()


@pytest.fixture
def desk(keys: dict[str, PrivateKey]) -> Iterator[Desk]:
    desk = Desk(keys)
    yield desk
    desk.close()


def read(sock: socket.socket) -> tuple[Header, bytes]:
    head = sock.recv(HEADER_BYTES, socket.MSG_WAITALL)
    header = frames.unpack(head)
    return header, sock.recv(header.length, socket.MSG_WAITALL)


def test_he_signs_an_answer_and_passes_on_whatever_follows(desk: Desk) -> None:
    thread = desk.start()
    hello = desk.hello()
    desk.line.door.sendall(hello)
    assert desk.alice.recv(len(hello), socket.MSG_WAITALL) == hello
    answer = make_answer(desk.offer, "alice-1", CHALLENGE, new_key().public)
    desk.alice.sendall(frames.plain(ANSWER, {"answer": answer.decode()}) + b"what is sealed")
    header, body = read(desk.line.door)
    said = json.loads(body)
    verify(said["answer"].encode(), said["signature"], CHANNEL, desk.keys["alice-1"].public)
    assert header.kind == ANSWER and said["answer"].encode() == answer
    assert desk.line.door.recv(100) == b"what is sealed"
    desk.line.door.sendall(b"and back")
    assert desk.alice.recv(100) == b"and back"
    desk.line.door.close()
    thread.join(5)
    [(event, text)] = desk.told
    assert (event, desk.asked) == ("channel", [("channel",)])
    assert "the judge has ended it; 14 bytes there, 8 back" in text
    assert desk.alice.recv(1) == b""


@pytest.mark.parametrize(
    ("status", "said", "event", "words"),
    [
        (4, "charity: later: no turn is on", "channel-later", "later: no turn is on"),
        (3, "charity: refused: alice-1 is not enrolled", "channel-refused", "refused: alice-1 is not enrolled"),
        (2, "charity: 'channel' is not a verb", "channel-refused", "'channel' is not a verb"),  # a door from before
        (1, "", "channel-later", "no word, exit status 1"),
        (0, "", "channel-later", "the judge makes no offer just now"),
    ],
)
def test_alice_hears_what_the_door_says(
    keys: dict[str, PrivateKey], status: int, said: str, event: str, words: str
) -> None:
    desk = Desk(keys, Answer(status, b"", said))
    desk.line.door.close()
    desk.start().join(5)
    header, body = read(desk.alice)
    later, reason = frames.read_aside(body)
    assert (header.kind, later) == (ASIDE, event == "channel-later") and words in reason
    assert [told[0] for told in desk.told] == [event] and words in desk.told[0][1]
    assert desk.alice.recv(1) == b""
    desk.close()


@pytest.mark.parametrize("what", ["another key", "another purpose", "garbage", "a sealed frame", "too long", "half"])
def test_what_is_no_offer_of_the_coordinators_is_not_passed_on(desk: Desk, what: str) -> None:
    sent = {
        "another key": desk.hello("stranger"), "another purpose": desk.hello(namespace=RELEASE),
        "garbage": b"SSH-2.0-something" * 9, "a sealed frame": frames.pack(Header(16, length=99)),
        "too long": frames.pack(Header(OFFER, length=1 << 20)), "half": desk.hello()[:-1],
    }[what]  # fmt: skip
    desk.line.door.sendall(sent)
    desk.line.door.close()
    desk.start().join(5)
    header, body = read(desk.alice)
    assert header.kind == ASIDE and b"lungs" not in body
    assert len(desk.told) == 1 and desk.told[0][0] in ("channel-refused", "channel-later")


@pytest.mark.parametrize("what", ["site", "offer", "challenge", "form", "signed", "sealed"])
def test_he_signs_no_other_answer(desk: Desk, what: str) -> None:
    other = make_offer(
        federation="lungs", genesis="ab" * 32, release=1, turn=2, site="alice-1", key=new_key().public, terms={}
    )
    key = new_key().public
    answer = make_answer(
        other if what == "offer" else desk.offer, "alice-2" if what == "site" else "alice-1",
        "ef" * 32 if what == "challenge" else CHALLENGE, "short" if what == "form" else key,
    ).decode()  # fmt: skip
    more = {"signature": "mine"} if what == "signed" else {}
    frame = frames.plain(ANSWER, {"answer": answer, **more})
    thread = desk.start()
    desk.line.door.sendall(desk.hello())
    read(desk.alice)
    desk.alice.sendall(frames.pack(Header(20, length=len(frame))) + frame if what == "sealed" else frame)
    thread.join(5)
    assert desk.line.door.recv(1) == b""
    with contextlib.suppress(ConnectionResetError):  # where he left something unread
        assert desk.alice.recv(1) == b""
    assert [event for event, _ in desk.told] == ["channel"]


def test_he_tells_the_same_reason_once(keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    stop, threads = threading.Event(), []

    def start(loop: Any) -> threading.Thread:
        threads.append(threading.Thread(target=loop))
        threads[-1].start()
        return threads[-1]

    site = Site("alice-1", "charity", "h", 22, "ssh-ed25519 A", keys["coordinator"].public)
    relay = Relay(tmp_path, site, keys["alice-1"], lambda event, text, **_: told.append((event, text)), start)
    keeping = start(lambda: relay.keep(stop))
    for _ in range(50):
        if (tmp_path / NAME).exists():
            break
        threading.Event().wait(0.05)
    for _ in range(3):
        with connect(tmp_path) as alice:
            alice.settimeout(5)
            assert frames.read_aside(read(alice)[1]) == (True, "there is no connection to the door")
    stop.set()
    keeping.join(5)
    assert told == [("channel-later", "no channel for Alice: there is no connection to the door")]
    assert list(tmp_path.iterdir()) == []


def test_where_no_socket_can_be_he_says_so_and_goes_on(keys: dict[str, PrivateKey]) -> None:
    told: list[str] = []
    site = Site("alice-1", "charity", "h", 22, "ssh-ed25519 A", keys["coordinator"].public)

    def say(event: str, text: str, **fields: Any) -> None:
        told.append(text)

    relay = Relay(Path("/proc/self"), site, keys["alice-1"], say, lambda loop: threading.Thread(target=loop))
    relay.keep(threading.Event())  # returns at once
    assert len(told) == 1 and told[0].startswith("there is no channel for Alice: ") and "/proc/self" in told[0]


def test_something_else_in_the_sockets_place_is_for_a_person_to_look_at(
    keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    (tmp_path / NAME).symlink_to("/etc")
    site = Site("alice-1", "charity", "h", 22, "ssh-ed25519 A", keys["coordinator"].public)
    relay = Relay(tmp_path, site, keys["alice-1"], lambda *_, **__: None, lambda loop: threading.Thread(target=loop))
    with pytest.raises(UntrustedError, match="is a link, expected a socket"):
        relay.keep(threading.Event())
