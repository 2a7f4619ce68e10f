"""What becomes of frames that are not as they should be, at all three who read some: the channel, its ends, and Bob.

    python -m tests.attacks.fuzzed_frames [--frames N] [--seed N]

Frames are made as they should be, and most are then changed: bits, lengths, kinds, order, ends; whole members of an
offer or an answer; or they are random from the first byte. Each must be taken just as it was sent, or be refused with
an error of the right kind, at once. Printed are the ends that they came to; every crash, which is any other error;
every hang, which takes more than a second; every frame that was taken although it was changed; and by how much the
memory of this process grew after the first tenth.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedssh.address import Address
from fedssh.bob.relay import Session
from fedssh.bob.site import Site
from fedssh.channel import frames
from fedssh.channel.frames import ANSWER, HEADER_BYTES, OFFER, Header
from fedssh.channel.handshake import (
    greet,
    make_answer,
    make_offer,
    new_key,
    read_answer,
    read_offer,
)
from fedssh.channel.sealed import Channel
from fedssh.errors import AgentError, ChannelError, SettingsError, UnreachableError, UntrustedError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey, make_key
from fedssh.signature import CHANNEL, sign
from fedssh.transport import Answer

SITE = "alice-1"
HANG_SECONDS = 1.0
TIMEOUT = 5.0
MOST = 2048  # what a test of a frame agrees to
OURS, THEIRS = b"1" * 32, b"2" * 32
CHALLENGE = "cd" * 32


@dataclass
class Report:
    """What came of all frames.

    Attributes:
        ends: How many came to each end.
        bad: Crashes, hangs, and frames taken though they were changed, in words.
        grown: By how many bytes the process grew after the first tenth.
    """

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[str] = field(default_factory=list)
    grown: int = 0


class Fuzz:
    """Makes frames, and has them read.

    Args:
        seed: Of all that is random.
        coordinator, site: Whose keys sign.
    """

    def __init__(self, seed: int, coordinator: PrivateKey, site: PrivateKey) -> None:
        self.chance = random.Random(seed)
        self.coordinator, self.site = coordinator, site
        self.seal = AESGCM(THEIRS)
        self.offer = make_offer(
            federation="lungs", genesis="ab" * 32, release=4, turn=2, site=SITE, key=new_key().public,
            terms={"cut": "pool2", "rows": [32, 7], "wire": "f16"},
        )  # fmt: skip
        self.answer = make_answer(self.offer, SITE, CHALLENGE, new_key().public)
        self.hello = {
            "challenge": CHALLENGE, "offer": self.offer.decode(), "signature": sign(self.offer, coordinator, CHANNEL),
        }  # fmt: skip
        self.bob = Site(SITE, "charity", "h", 22, "ssh-ed25519 A", coordinator.public)
        self.targets: list[tuple[float, Callable[[], str]]] = [
            (0.80, self.sealed), (0.88, self.records), (0.92, self.asides), (0.97, self.alices), (1.0, self.bobs),
        ]  # fmt: skip

    def one(self) -> str:
        """One frame; returns the end that it came to.

        Raises:
            AssertionError: It was taken though it was changed.
        """
        where = self.chance.random()
        return next(target for share, target in self.targets if where <= share)()

    # What frames are changed to

    def changed(self, data: bytes) -> bytes:
        """The same bytes, or nearly, or others."""
        chance = self.chance
        found = bytearray(data)
        match chance.randrange(9):
            case 0:
                return data
            case 1:
                for _ in range(chance.randint(1, 8)):
                    found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
            case 2:
                del found[chance.randrange(len(found)) :]
            case 3:
                found += chance.randbytes(chance.randint(1, 100))
            case 4:
                at, end = sorted(chance.randrange(len(found)) for _ in range(2))
                found[at:end] = found[end : end + chance.randint(0, 40)]
            case 5:
                found[:HEADER_BYTES] = struct.pack(
                    ">4sBBBBIQI", b"fsch", 1, chance.choice((0, 1, 2, 3, 15, 16, 17, 255)), chance.randrange(4),
                    chance.choice((0, 0, 0, 1)), chance.choice((0, 3, 2**32 - 1)), chance.choice((0, 9, 2**64 - 1)),
                    chance.choice((0, 1, 15, 16, 17, MOST, 65536, 65537, 1 << 28, (1 << 28) + 1, 2**32 - 1)),
                )  # fmt: skip
            case 6:
                return chance.randbytes(chance.randint(0, 200))
            case 7:
                at = chance.randrange(len(found))
                found[at : at + 1] = chance.choice((b"\0", b"\xff", b"{", b'"', b"\\u0000", b"[" * 40, b"1e999", b","))
            case 8:
                found = found[: chance.randrange(len(found))] + found
        return bytes(found)

    def other(self) -> Any:
        """A value of JSON that stands where another was expected."""
        chance = self.chance
        return chance.choice((
            None, True, -1, 0, 2**53, 2**63, 1.5, 1e308, "", "x" * chance.randint(1, 3000), "\x00\x1b[2J", "é\u202e",
            [], {}, [[[[[]]]]], {"a": {"b": {}}}, "ab" * 32, SITE, CHALLENGE,
        ))  # fmt: skip

    def member(self, record: bytes) -> bytes:
        """A record with another, one more or one less member."""
        value = json.loads(record)
        name = self.chance.choice(list(value))
        match self.chance.randrange(4):
            case 0:
                del value[name]
            case 1:
                value["more" + str(self.chance.randrange(9))] = self.other()
            case _:
                value[name] = self.other()
        return canonical(value)

    # Who reads them

    @contextlib.contextmanager
    def line(self, sent: bytes) -> Iterator[socket.socket]:
        """A connection through which these bytes have come, and no more will."""
        here, there = socket.socketpair()
        with here, there:
            there.sendall(sent)
            there.shutdown(socket.SHUT_WR)
            yield here

    def sealed(self) -> str:
        """Sealed frames, of which one is changed, or comes where another should."""
        chance = self.chance
        bodies = [chance.randbytes(chance.choice((0, 1, 40, 900))) for _ in range(chance.choice((1, 1, 1, 2)))]
        right, sent = [], []
        for number, body in enumerate(bodies):
            head = frames.pack(Header(16, 1, 3, 9, len(body) + 16))
            right.append(head + self.seal.encrypt(struct.pack(">IQ", 0, number), body, head))
        sent = list(right)
        at = chance.randrange(len(sent))
        sent[at] = self.changed(sent[at])
        if chance.random() < 0.1:
            chance.shuffle(sent)
        whole, taken = b"".join(sent), 0
        with self.line(whole) as line, Channel(line, OURS, THEIRS) as channel:
            try:
                for body in bodies:
                    found = channel.receive(agreed, TIMEOUT)[1]
                    taken += 1
                    assert found == body, "other bytes were taken than were sent"
            except (ChannelError, UnreachableError) as error:
                assert not whole.startswith(b"".join(right)), "frames were refused as they were sent"
                return f"sealed: {type(error).__name__}"
        assert whole.startswith(b"".join(right)), "frames were taken though they were changed"
        return "sealed: taken"

    def records(self) -> str:
        """An offer or an answer, as whoever could sign one might make it."""
        of_offer = self.chance.random() < 0.5
        record = self.offer if of_offer else self.answer
        made = self.member(record) if self.chance.random() < 0.6 else self.changed(record)
        try:
            read_offer(made) if of_offer else read_answer(made, self.offer, CHALLENGE)
        except ChannelError:
            return "record: ChannelError"
        return "record: taken"

    def asides(self) -> str:
        """Why there is no offer."""
        said = frames.aside(self.chance.random() < 0.5, self.chance.choice(("", "away", "\x1b[2J", "x" * 900)))
        return f"aside: {self.greeted(self.changed(said))}"

    def alices(self) -> str:
        """An offer, to Alice."""
        hello = dict(self.hello)
        if self.chance.random() < 0.5:
            hello[self.chance.choice(list(hello))] = self.other()
        body = canonical(hello)
        sent = frames.pack(Header(OFFER, length=len(body))) + body
        return f"offer: {self.greeted(self.changed(sent))}"

    def greeted(self, sent: bytes) -> str:
        try:
            with self.line(sent) as line:
                offer, _ = greet(line, self.coordinator.public.line, lambda offer: None, TIMEOUT)
        except (UntrustedError, SettingsError, UnreachableError) as error:
            return type(error).__name__
        assert offer == read_offer(self.offer), "an offer was taken that she had not made"
        return "taken"

    def bobs(self) -> str:
        """An offer and an answer, to Bob."""
        hello, said = canonical(self.hello), canonical({"answer": self.answer.decode()})
        if self.chance.random() < 0.5:
            hello = self.member(hello)
        elif self.chance.random() < 0.5:
            said = canonical({"answer": self.member(self.answer).decode()})
        offered = frames.pack(Header(OFFER, length=len(hello))) + hello
        answered = frames.pack(Header(ANSWER, length=len(said))) + said
        talk, told = Silent(self.changed(offered)), []
        with self.line(self.changed(answered)) as alice:
            Session(alice, talk, self.bob, self.site, lambda event, *_, **__: told.append(event)).run()
            assert told and told[0].startswith("channel"), "nothing was said"
        if not talk.sent:
            return f"bob: {told[0]}"
        value = frames.read_plain(talk.sent[0][HEADER_BYTES:], "answer", "signature")  # what follows is only relayed
        read_answer(value["answer"].encode(), self.offer, CHALLENGE)  # or it should not have been signed
        return "bob: signed"


class Silent:
    """A door that says some bytes, and ends."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self.sent: list[bytes] = []

    def talk(self, *words: str) -> Silent:
        return self

    def send(self, data: memoryview | bytes) -> None:
        self.sent.append(bytes(data))

    def receive(self, most: int, timeout: float) -> bytes:
        found, self._says = self._says[:most], self._says[most:]
        return found

    def finish(self) -> None: ...

    def ending(self) -> Answer:
        return Answer(4, b"", "charity: later: no turn is on")

    def failure(self, answer: Answer) -> AgentError:
        return answer.error(Address("charity", "h", 22), "channel")

    def close(self) -> None: ...


def agreed(header: Header) -> None:
    """What is agreed of a frame."""
    if (header.kind, header.dtype, header.rows, header.step) != (16, 1, 3, 9) or header.length > MOST:
        raise ChannelError("not as agreed")


def memory() -> int:
    """What this process holds in memory, in bytes; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return 0


def run(count: int, fuzz: Fuzz, most: int = 20) -> Report:
    """Have so many frames read; ends early after so many bad ones."""
    report, before = Report(), 0
    for number in range(count):
        if number == count // 10:
            before = memory()
        begun = time.monotonic()
        try:
            report.ends[fuzz.one()] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            report.bad.append(f"frame {number}: {type(error).__name__}: {error}")
        if (took := time.monotonic() - begun) > HANG_SECONDS:
            report.bad.append(f"frame {number}: took {took:.1f} s")
        if len(report.bad) >= most:
            break
    report.grown = memory() - before
    return report


def made(seed: int, folder: Path) -> Fuzz:
    """With keys of its own."""
    return Fuzz(seed, make_key(folder / "coordinator", "coordinator"), make_key(folder / "site", SITE))


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, and say what came of it; 1 where something was bad."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many [1000000]")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random [1]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        report = run(options.frames, made(options.seed, Path(folder)))
    for end, number in sorted(report.ends.items()):
        print(f"{end:36} {number:9,}")
    for bad in report.bad:
        print(bad)
    seconds, hangs = time.monotonic() - begun, sum(" took " in bad for bad in report.bad)
    wrong = sum("AssertionError" in bad for bad in report.bad)
    print(f"{sum(report.ends.values()):,} frames in {seconds:.0f} s, memory grew by {report.grown / 1e6:.1f} MB")
    print(f"{len(report.bad) - hangs - wrong} crashes, {hangs} hangs, {wrong} wrongly taken or refused")
    return int(bool(report.bad))


if __name__ == "__main__":
    raise SystemExit(main())
