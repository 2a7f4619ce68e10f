"""A channel from Alice to the judge through a real Bob and both doors: what passes, who sees it, and how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedssh.channel.frames import Header
from fedssh.channel.handshake import new_key
from fedssh.channel.sealed import Channel
from fedssh.channel.sockets import NAME
from fedssh.errors import SettingsError, SignatureError, UnreachableError
from fedssh.keys import PrivateKey
from tests.harness.channel import SITE, Spy, Way
from tests.harness.waiting import until

KINDS = [pytest.param("sshd", marks=pytest.mark.sshd), "embedded"]
KIND = 16


def anything(header: Header) -> None: ...


def passes(sender: Channel, receiver: Channel, body: bytes) -> bytes:
    """What arrives of a frame."""
    sending = threading.Thread(target=sender.send, args=(KIND, body))
    sending.start()
    try:
        return bytes(receiver.receive(anything, 20)[1])
    finally:
        sending.join()


@pytest.fixture(scope="module", params=KINDS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keys: dict[str, PrivateKey]
) -> Iterator[Way]:
    with Way(tmp_path_factory.mktemp("way"), keys, request.param).open() as way:
        yield way


@pytest.fixture
def way(opened: Way) -> Iterator[Way]:
    """A door and a Bob that are shared by the tests of this file; each test has a turn of its own."""
    opened.new_turn()
    yield opened
    opened.stop_listening()


def test_frames_pass_and_nobody_between_sees_what_is_in_them(way: Way) -> None:
    bob, door = Spy(), Spy()
    judge, alice = way.meet(bob, door)
    canary, label = os.urandom(16), b"label:pneumonia"
    with judge, alice:
        for size in (0, 1, 102_400, 3_000_000):
            body = (canary + label) * (size // 31 + 1)
            assert passes(alice, judge, body) == body
            assert passes(judge, alice, body[::-1]) == body[::-1]
    for seen in (bob.seen, door.seen):
        assert len(seen) > 6_000_000 and b"channel-offer" in seen and b"channel-answer" in seen
        for secret in (canary, label, canary[::-1], label[::-1]):
            assert secret not in seen


def test_bob_says_what_went_through_and_who_ended_it(way: Way) -> None:
    judge, alice = way.meet()
    passes(alice, judge, b"x" * 1000)
    judge.close()
    with alice, pytest.raises(UnreachableError, match="has gone"):
        alice.receive(anything, 20)
    way.wait(lambda: b"the judge has ended it; 1,040 bytes there, 0 back" in way.log("bob"))
    judge, alice = way.meet()
    passes(judge, alice, b"x" * 1000)
    alice.send(KIND, b"last words")
    alice.close()
    assert bytes(judge.receive(anything, 20)[1]) == b"last words"
    with judge, pytest.raises(UnreachableError, match="has gone"):
        judge.receive(anything, 20)
    way.wait(lambda: b"Alice has ended it; 50 bytes there, 1,040 back" in way.log("bob"))


def test_without_a_turn_it_is_to_be_tried_later_and_works_when_there_is_one(way: Way) -> None:
    for _ in range(3):
        with pytest.raises(UnreachableError, match="later: no turn is on"):
            way.alice()
    assert way.log("bob").count(b"no turn is on") == 2  # in one event: its text and its reason
    judge, alice = way.meet()
    with judge, alice:
        assert passes(alice, judge, b"rows") == b"rows"


def test_a_new_connection_of_alices_ends_the_one_before(way: Way) -> None:
    first_judge, first_alice = way.meet()
    judge, alice = way.meet()
    with judge, alice, first_judge, first_alice:
        for end in (first_judge, first_alice):
            with pytest.raises(UnreachableError, match="has gone"):
                end.receive(anything, 20)
        assert passes(alice, judge, b"rows") == b"rows"


def test_a_line_that_is_cut_is_taken_up_again_with_new_keys(way: Way) -> None:
    bob = Spy()
    judge, alice = way.meet(bob)
    with judge, alice:
        assert passes(alice, judge, b"step 1") == b"step 1"
        way.line.cut()
        for end in (judge, alice):
            with pytest.raises(UnreachableError):
                end.receive(anything, 30)
    again: list[Channel] = []

    def comes_back() -> bool:
        with contextlib.suppress(UnreachableError):
            again.extend(way.meet(bob))
        return bool(again)

    until(comes_back, 30)
    with again[0], again[1]:
        assert passes(again[1], again[0], b"step 1") == b"step 1"
    keys = re.findall(rb'\\"key\\":\\"([^\\]+)', bob.seen)
    assert len(keys) == 4 and len(set(keys)) == 3  # the turn's key twice, and two of Alice's


def test_cut_after_every_few_bytes_each_frame_arrives_once(way: Way) -> None:
    """Numbered steps, as whoever trains over a channel numbers them: taken once, the last reply kept and sent again."""
    taken: list[int] = []
    at, steps, begun = 0, 12, way.line.cuts

    def serve(judge: Channel) -> None:
        with judge, contextlib.suppress(UnreachableError):
            while True:
                header, body = judge.receive(anything, 20)
                assert bytes(body) == bytes([header.step]) * 6000
                if header.step == len(taken):
                    taken.append(header.step)
                judge.send(KIND, bytes([header.step]) * 6000, step=header.step)

    way.line.most = 40_000  # a login takes some 6,000
    way.line.cut()
    try:
        while at < steps:
            with contextlib.suppress(UnreachableError):
                judge, alice = way.meet()
                serving = threading.Thread(target=serve, args=(judge,))
                serving.start()
                with alice, contextlib.suppress(UnreachableError):
                    while at < steps:
                        alice.send(KIND, bytes([at]) * 6000, step=at)
                        header, body = alice.receive(anything, 20)
                        assert (header.step, bytes(body)) == (at, bytes([at]) * 6000)
                        at += 1
                serving.join()
    finally:
        way.line.most = 1 << 60
    assert taken == list(range(steps)) and way.line.cuts > begun + 2


def test_a_key_exchanged_on_the_way_completes_no_handshake(way: Way) -> None:
    """Whoever stands between Alice and Bob, or is Bob, offers her a key of his own."""
    own = new_key().public.encode()
    middle = Spy(lambda data: data.replace(way.key.public.encode(), own))
    with way.judging() as judge:
        with pytest.raises(SignatureError, match="does not match the signed bytes"):
            way.alice(middle)
        assert isinstance(judge.exception(20), UnreachableError)


def test_an_answer_to_another_offer_is_not_signed(way: Way) -> None:
    digest = hashlib.sha256(way.offer).hexdigest().encode()
    middle = Spy(lambda data: data.replace(digest, b"0" * 64))
    with way.judging() as judge, way.alice(middle) as alice:
        with pytest.raises(UnreachableError):
            alice.receive(anything, 20)
        assert isinstance(judge.exception(20), UnreachableError)
    way.wait(lambda: b"the answer has the offer 0000" in way.log("bob"))


def test_an_offer_to_another_site_is_not_passed_on(way: Way) -> None:
    way.new_turn(site="alice-2")
    with way.judging() as judge:
        with pytest.raises(SettingsError, match="offers a channel to alice-2, this site is alice-1"):
            way.alice()
        assert isinstance(judge.exception(20), UnreachableError)


def test_a_revoked_site_loses_its_channel(way: Way) -> None:
    judge, alice = way.meet()
    with judge, alice:
        assert passes(alice, judge, b"rows") == b"rows"
        way.enrol("alice-2")
        for end in (judge, alice):
            with pytest.raises(UnreachableError):
                end.receive(anything, 20)
    with pytest.raises((UnreachableError, SettingsError)):
        way.alice()
    way.enrol(SITE)
    assert way.bob
    way.bob.terminate()  # he would wait half a minute before he tries again
    assert way.bob.wait(20) == 0
    assert not (way.exchange / NAME).exists()
    with pytest.raises(UnreachableError, match="nobody listens"):
        way.alice()
    (way.folder / "bob.log").unlink()
    way.start_bob()
    judge, alice = way.meet()
    with judge, alice:
        assert passes(judge, alice, b"rows") == b"rows"


def test_bob_keeps_within_his_memory_whoever_reads_slowly(way: Way) -> None:
    judge, alice = way.meet()
    assert way.bob
    with judge, alice:
        body = os.urandom(1 << 20)

        def send() -> None:
            for _ in range(40):
                judge.send(KIND, body)

        sending = threading.Thread(target=send)
        sending.start()  # and nobody reads: what Bob, the door and the sockets hold is bounded
        sending.join(1)
        assert sending.is_alive()
        for _ in range(40):
            assert bytes(alice.receive(anything, 20)[1]) == body
        sending.join()
    status = Path(f"/proc/{way.bob.pid}/status").read_text()
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 64 * 1024


def test_a_door_that_is_away_is_said(way: Way) -> None:
    assert way.door
    way.door.terminate()
    way.door.wait(20)
    way.line.cut()
    way.wait(lambda: why_not(way) == "there is no connection to the door")
    way.start_door()
    way.wait(lambda: "no turn is on" in why_not(way))


def why_not(way: Way) -> str:
    """What Alice hears who asks for a channel when there is none."""
    with pytest.raises(UnreachableError) as caught:
        way.alice()
    return str(caught.value)
