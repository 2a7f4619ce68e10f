"""A channel for Alice: what she says on `exchange/channel.sock` goes to the judge, and what the judge says comes back.

    Alice   -- exchange/channel.sock -->   this   -- one SSH channel, the verb `channel` -->   door, judge

Bob reads two frames, the coordinator's offer and Alice's answer, and signs the answer when it is one of this site to
that very offer. All that follows is sealed from end to end, and relayed as it comes, by two threads. Where there is no
channel to be had, Alice gets one frame that says why, and comes back when it pleases her. One at a time: a new
connection from Alice ends the one before. Nothing of it is kept.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from fedssh.bob.outgoing import Say
from fedssh.bob.site import Site
from fedssh.channel import frames
from fedssh.channel.frames import ANSWER, HEADER_BYTES, OFFER
from fedssh.channel.handshake import read_answer, read_offer
from fedssh.channel.sockets import forget, listen
from fedssh.errors import AgentError, ChannelError, UnreachableError
from fedssh.keys import PrivateKey
from fedssh.signature import CHANNEL, sign, verify
from fedssh.transport import Answer

SILENCE_SECONDS = 150.0  # the door ends a channel after 120
OFFER_SECONDS = 60.0
LAST_WORDS_SECONDS = 5.0
_GLANCE_SECONDS = 0.25
_BLOCK = 1 << 18

Start = Callable[[Callable[[], None]], threading.Thread]


class Talk(Protocol):
    """What a relay needs of a verb that is talked with; see `transport.Talk`."""

    def send(self, data: memoryview | bytes) -> None:
        """Send all of it."""

    def receive(self, most: int, timeout: float) -> bytes:
        """What came; nothing at the end."""

    def finish(self) -> None:
        """Say that nothing more will be sent."""

    def ending(self) -> Answer:
        """How it ended."""

    def failure(self, answer: Answer) -> AgentError:
        """That end as an error."""

    def close(self) -> None:
        """End it."""


class Door(Protocol):
    """What a relay needs of a connection."""

    def talk(self, *words: str) -> Talk:
        """Start a verb and talk with it."""


class Relay:
    """Alice's way to the judge, as long as Bob runs.

    Args:
        exchange: The folder shared with Alice.
        site: Whose answers to sign.
        key: The site key, which signs them.
        say: Called with an event, its text and its fields.
        start: Starts a thread whose error, if it is of no kind that is expected here, ends Bob.

    Attributes:
        door: The connection to the door, while there is one.
    """

    def __init__(self, exchange: Path, site: Site, key: PrivateKey, say: Say, start: Start) -> None:
        self._exchange, self._site, self._key, self._say, self._start = exchange, site, key, say, start
        self._told: str | None = None
        self.door: Door | None = None

    def keep(self, stop: threading.Event) -> None:
        """Serve Alice until told to stop; where no socket can be, say so once and serve nobody.

        Raises:
            UntrustedError: Something else stands where the socket belongs.
        """
        try:
            server = listen(self._exchange)
        except OSError as error:
            text = f"there is no channel for Alice: {str(error.strerror).lower()} ({self._exchange})"
            self._say("no-channel", text, reason=error.strerror)
            return
        current: Session | None = None
        with server:
            server.settimeout(_GLANCE_SECONDS)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    alice, _ = server.accept()
                    if current:
                        current.end("Alice has come anew")
                    current = Session(alice, self.door, self._site, self._key, self._tell)
                    current.thread = self._start(current.run)
        if current:
            current.end("bob stops")
        forget(self._exchange)

    def _tell(self, event: str, text: str, **fields: object) -> None:
        """Say something, but not the same again and again while Alice tries."""
        reason = None if event == "channel" else text
        if reason is None or reason != self._told:
            self._say(event, text, **fields)
        self._told = reason


class Session:
    """One connection of Alice's, and what it leads to.

    Args:
        alice: The connection.
        door: Where it leads to; None while there is no connection.
        site, key: See `Relay`.
        tell: Called with an event, its text and its fields.

    Attributes:
        thread: In which it runs.
    """

    def __init__(
        self, alice: socket.socket, door: Door | None, site: Site, key: PrivateKey, tell: Callable[..., None]
    ) -> None:
        alice.settimeout(SILENCE_SECONDS)
        self._alice, self._door, self._site, self._key, self._tell = alice, door, site, key, tell
        self._talk: Talk | None = None
        self._over: str | None = None
        self._offered = False  # Alice has an offer, and hears nothing in plain words any more
        self._there = self._back = 0
        self.thread: threading.Thread | None = None

    def end(self, why: str) -> None:
        """End it from another thread, and wait until that is done."""
        self._over = why
        self._cut()
        if self.thread:
            self.thread.join(LAST_WORDS_SECONDS)

    def run(self) -> None:
        """Lead Alice to the judge, until one of them ends it or the line does; says what came of it."""
        start = time.monotonic()
        why = "Alice has ended it"
        try:
            with self._talking() as talk:
                self._shake_hands(talk)
                why = self._carry(talk) or why
        except (AgentError, OSError) as error:
            why = self._over or (str(error) if isinstance(error, AgentError) else f"Alice has gone ({error})")
            if not self._offered:
                self._refuse(error, why)
                return
        finally:
            self._cut()
            self._alice.close()
        seconds = time.monotonic() - start
        text = f"the channel of {seconds:.1f} s ended: {why}; {self._there:,} bytes there, {self._back:,} back"
        self._tell("channel", text, reason=why, seconds=round(seconds, 3), there=self._there, back=self._back)

    def _refuse(self, error: Exception, why: str) -> None:
        later = isinstance(error, UnreachableError | OSError)
        with contextlib.suppress(OSError):
            self._alice.sendall(frames.aside(later, why))
        self._tell("channel-later" if later else "channel-refused", f"no channel for Alice: {why}", reason=why)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[Talk]:
        if self._door is None:
            raise UnreachableError("there is no connection to the door")
        self._talk = talk = self._door.talk("channel")
        try:
            if self._over:
                raise UnreachableError(self._over)
            yield talk
        finally:
            talk.close()

    def _cut(self) -> None:
        """Wake both threads: nothing more comes from either side. What Alice was sent she still reads."""
        with contextlib.suppress(OSError):
            self._alice.shutdown(socket.SHUT_RDWR)
        if self._talk:
            self._talk.close()

    def _shake_hands(self, talk: Talk) -> None:
        """Pass the offer to Alice, and her answer to the judge, with the site's signature.

        Raises:
            UntrustedError: Either is not what it must be.
            UnreachableError: There is no offer.
        """

        def from_door(size: int) -> bytes:
            if not (data := talk.receive(size, OFFER_SECONDS)):
                answer = talk.ending()
                raise talk.failure(answer) if answer.status else UnreachableError("the judge makes no offer just now")
            return data

        def from_alice(size: int) -> bytes:
            if not (data := self._alice.recv(size)):
                raise UnreachableError("Alice has gone")
            return data

        frame, hello = _plain(from_door, OFFER, "challenge", "offer", "signature")
        offer = hello["offer"].encode()
        verify(offer, hello["signature"], CHANNEL, self._site.coordinator)
        if (found := read_offer(offer).site) != self._site.name:
            raise ChannelError(f"the coordinator offers a channel to {found}, this site is {self._site.name}")
        self._offered = True
        self._alice.sendall(frame)
        frame, said = _plain(from_alice, ANSWER, "answer")
        answer = said["answer"].encode()
        read_answer(answer, offer, hello["challenge"])
        said["signature"] = sign(answer, self._key, CHANNEL)
        talk.send(frames.plain(ANSWER, said))

    def _carry(self, talk: Talk) -> str | None:
        """Relay until one side ends; returns why the judge's side did, if it was that."""
        found: list[Exception | str] = []

        def back() -> None:
            try:
                while data := talk.receive(_BLOCK, SILENCE_SECONDS):
                    self._alice.sendall(data)
                    self._back += len(data)
                answer = talk.ending()
                found.append(str(talk.failure(answer)) if answer.status else "the judge has ended it")
            except (AgentError, OSError) as error:
                found.append(error)
            with contextlib.suppress(OSError):
                self._alice.shutdown(socket.SHUT_RDWR)

        backwards = threading.Thread(target=back, daemon=True)
        backwards.start()
        buffer = memoryview(bytearray(_BLOCK))
        problem: Exception | None = None
        try:
            while count := self._alice.recv_into(buffer):
                talk.send(buffer[:count])
                self._there += count
        except (AgentError, OSError) as error:
            problem = error
        if alices := not (problem or found):
            talk.finish()
        else:
            self._cut()
        backwards.join(LAST_WORDS_SECONDS)
        reason = found[0] if found else problem
        if alices or self._over or reason is None:
            return self._over
        if isinstance(reason, Exception):
            raise reason
        return reason


def _plain(read: Callable[[int], bytes], kind: int, *members: str) -> tuple[bytes, dict[str, str]]:
    """One frame of plain JSON as it came, and what it says; not a byte more is read."""
    head = _exactly(read, HEADER_BYTES)
    header = frames.unpack(head)
    frames.check_plain(header, kind)
    body = _exactly(read, header.length)
    return head + body, frames.read_plain(body, *members)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += read(size - len(data))
    return data
