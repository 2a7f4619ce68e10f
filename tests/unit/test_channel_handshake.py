"""The handshake of a channel: what one end of it says, and what the other takes of that."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedssh.channel import frames, handshake
from fedssh.channel.frames import ANSWER, HEADER_BYTES, OFFER, Header
from fedssh.channel.handshake import EphemeralKey, Offer, greet, make_answer, make_offer, new_key, read_offer, welcome
from fedssh.channel.sealed import Channel
from fedssh.errors import AgentError, ChannelError, SettingsError, SignatureError, UnreachableError, UntrustedError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.signature import CHANNEL, SUBMISSION, sign

HASH = "ab" * 32
Change = Callable[[dict[str, Any]], None]


def offered(key: EphemeralKey, **changes: Any) -> bytes:
    said: dict[str, Any] = {
        "federation": "lungs", "genesis": HASH, "release": 7, "turn": 3, "site": "alice-1", "key": key.public,
        "terms": {"cut": "pool2"},
    }  # fmt: skip
    return make_offer(**(said | changes))


@dataclass
class Meeting:
    """A judge, a Bob and an Alice on two socket pairs; each may do otherwise than it should.

    Attributes:
        before, after: What Bob does to the offer's frame, and to the answer that he has signed.
    """

    keys: dict[str, PrivateKey]
    signer: str = "alice-1"
    namespace: str = CHANNEL
    offers: str = "coordinator"
    before: Change = lambda said: None
    after: Change = lambda said: None
    key: EphemeralKey = field(default_factory=new_key)
    offer: bytes = b""
    seen: list[bytes] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    def meet(self, expect: Callable[[Offer], None] = lambda offer: None) -> None:
        """Both ends shake hands; `found` has what came of it for each."""
        self.offer = self.offer or offered(self.key)
        signature = sign(self.offer, self.keys[self.offers], self.namespace)
        alice, to_alice = socket.socketpair()
        judge, to_judge = socket.socketpair()
        site, coordinator = self.keys["alice-1"].public.line, self.keys["coordinator"].public.line
        self.start("judge", lambda: welcome(judge, self.offer, signature, self.key, site, 5))
        self.start("alice", lambda: greet(alice, coordinator, expect, 5)[1])
        for end in (to_alice, to_judge):
            end.settimeout(5)
        with to_alice, to_judge, contextlib.suppress(EOFError, OSError):
            self.carry(to_judge, to_alice)
        for thread in self.threads:
            thread.join()

    def start(self, who: str, does: Callable[[], Channel]) -> None:
        def run() -> None:
            try:
                self.found[who] = does()
            except AgentError as error:
                self.found[who] = error

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def carry(self, judge: socket.socket, alice: socket.socket) -> None:
        """What Bob does."""
        hello = self.take(judge)
        self.before(hello)
        alice.sendall(frames.plain(OFFER, hello))
        said = self.take(alice)
        said["signature"] = sign(said["answer"].encode(), self.keys[self.signer], self.namespace)
        self.after(said)
        judge.sendall(frames.plain(ANSWER, said))
        self.rest(judge, alice)

    def rest(self, judge: socket.socket, alice: socket.socket) -> None:
        """What comes after the handshake: one frame from Alice and one back."""
        for thread in self.threads:
            thread.join()
        if all(isinstance(end, Channel) for end in self.found.values()):
            self.found["alice"].send(20, b"canary")
            self.seen.append(alice.recv(4096))
            judge.sendall(self.seen[-1])

    def take(self, sock: socket.socket) -> dict[str, Any]:
        head = self.exactly(sock, HEADER_BYTES)
        body = self.exactly(sock, frames.unpack(head).length)
        self.seen += [head, body]
        value: dict[str, Any] = json.loads(body)
        return value

    def exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := sock.recv(size - len(data))):
                raise EOFError
            data += more
        return data

    def close(self) -> None:
        for end in self.found.values():
            if isinstance(end, Channel):
                end.close()


@pytest.fixture
def meeting(keys: dict[str, PrivateKey]) -> Iterator[Meeting]:
    meeting = Meeting(keys)
    yield meeting
    meeting.close()


def change(member: str, name: str, value: Any, signer: PrivateKey | None = None) -> Change:
    """Says something else in an offer or an answer; signed anew where a signer is given."""

    def do(said: dict[str, Any]) -> None:
        text = canonical({**json.loads(said[member]), name: value})
        said[member] = text.decode()
        if signer:
            said["signature"] = sign(text, signer, CHANNEL)

    return do


def test_alice_and_the_judge_have_a_channel_and_bob_has_not(meeting: Meeting) -> None:
    taken: list[Offer] = []
    meeting.meet(taken.append)
    alice, judge = meeting.found["alice"], meeting.found["judge"]
    header, body = judge.receive(lambda header: None, 5)
    assert (header, bytes(body)) == (Header(20, length=6), b"canary")
    assert taken == [read_offer(meeting.offer)] and taken[0].terms == {"cut": "pool2"}
    assert b"canary" not in b"".join(meeting.seen)
    alice.close()
    with pytest.raises(UnreachableError):
        judge.receive(lambda header: None, 5)


def test_each_connection_has_a_challenge_and_keys_of_its_own(keys: dict[str, PrivateKey]) -> None:
    key, seen = new_key(), []
    for _ in range(2):
        meeting = Meeting(keys, key=key)
        meeting.meet()
        meeting.close()
        hello, answer = json.loads(meeting.seen[1]), json.loads(json.loads(meeting.seen[3])["answer"])
        assert answer["challenge"] == hello["challenge"]
        assert answer["offer"] == hashlib.sha256(meeting.offer).hexdigest()
        seen += [hello["challenge"], answer["key"], meeting.seen[4]]
    assert len(set(seen)) == 6  # also the sealed frame of the same bytes


def test_a_bob_who_exchanges_the_offers_key_is_found_by_alice(meeting: Meeting) -> None:
    meeting.before = change("offer", "key", new_key().public, meeting.keys["alice-1"])  # all that he can sign with
    meeting.meet()
    assert isinstance(meeting.found["alice"], SignatureError) and "signed by key" in str(meeting.found["alice"])
    assert isinstance(meeting.found["judge"], UnreachableError)


def test_an_offer_changed_under_its_signature_is_found_by_alice(meeting: Meeting) -> None:
    meeting.before = change("offer", "key", new_key().public)
    meeting.meet()
    assert isinstance(meeting.found["alice"], SignatureError) and "does not match" in str(meeting.found["alice"])


def test_whoever_lacks_the_sites_key_is_not_the_site(meeting: Meeting) -> None:
    meeting.signer = "alice-2"
    meeting.meet()
    assert isinstance(meeting.found["judge"], SignatureError)


def test_a_key_exchanged_in_a_signed_answer_leaves_both_with_nothing_to_open(meeting: Meeting) -> None:
    """A Bob may speak to the judge in his site's name; what Alice has sealed is for the judge alone."""
    meeting.after = change("answer", "key", new_key().public, meeting.keys["alice-1"])
    meeting.meet()
    with pytest.raises(ChannelError, match="sealed by another"):
        meeting.found["judge"].receive(lambda header: None, 5)


@pytest.mark.parametrize("member", ["before", "after"])
def test_a_signature_for_another_purpose_is_none(meeting: Meeting, member: str) -> None:
    def sign_otherwise(said: dict[str, Any]) -> None:
        what, who = ("offer", "coordinator") if member == "before" else ("answer", "alice-1")
        said["signature"] = sign(said[what].encode(), meeting.keys[who], SUBMISSION)

    setattr(meeting, member, sign_otherwise)
    meeting.meet()
    refused = meeting.found["alice" if member == "before" else "judge"]
    assert isinstance(refused, SignatureError) and "'submission@fedssh', expected 'channel@fedssh'" in str(refused)


def test_an_answer_is_no_offer_though_it_is_signed(meeting: Meeting) -> None:
    """The same key could be both ends' in a federation of one machine."""
    meeting.offers = "coordinator"
    answer = make_answer(offered(new_key()), "alice-1", HASH, new_key().public)

    def exchange(said: dict[str, Any]) -> None:
        said |= {"offer": answer.decode(), "signature": sign(answer, meeting.keys["coordinator"], CHANNEL)}

    meeting.before = exchange
    meeting.meet()
    assert str(meeting.found["alice"]) == "what should be the offer is none"


def test_an_answer_serves_on_one_connection_only(meeting: Meeting, keys: dict[str, PrivateKey]) -> None:
    kept: list[dict[str, Any]] = []
    meeting.after = lambda said: kept.append(dict(said))
    meeting.meet()
    again = Meeting(keys, key=meeting.key, offer=meeting.offer, after=lambda said: said.update(kept[0]))
    again.meet()
    again.close()
    assert "the answer has the challenge" in str(again.found["judge"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("site", "alice-2", "the answer has the site alice-2, expected alice-1"),
        ("offer", HASH, "the answer has the offer abab"),
        ("challenge", HASH, "the answer has the challenge abab"),
        ("key", base64.b64encode(bytes(32)).decode(), "none that can be used"),
        ("key", base64.b64encode(b"\1" + bytes(31)).decode(), "none that can be used"),  # of small order
        ("key", "short", "'key' is 'short', which is not of its form"),
        ("key", 7, "'key' of the answer is no text"),
        ("more", 1, "has the unknown member 'more'"),
        ("type", "channel-offer", "what should be the answer is none"),
        ("version", 2, "the answer is of version 2, this program reads version 1"),
        ("version", True, "the answer is of version True"),
    ],
)
def test_an_answer_to_something_else_is_refused(meeting: Meeting, name: str, value: Any, words: str) -> None:
    meeting.after = change("answer", name, value, meeting.keys["alice-1"])
    meeting.meet()
    assert isinstance(meeting.found["judge"], ChannelError) and words in str(meeting.found["judge"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("key", base64.b64encode(bytes(32)).decode(), "none that can be used"),
        ("release", -1, "'release' of the offer is -1, expected a whole number"),
        ("genesis", "xyz", "'genesis' is 'xyz'"),
        ("terms", [], "'terms' of the offer is no object"),
        ("more", 1, "unknown member"),
        ("terms", {"much": "x" * 25_000}, "expected at most 24,576"),
    ],
)
def test_an_offer_has_one_form_whoever_signed_it(meeting: Meeting, name: str, value: Any, words: str) -> None:
    meeting.before = change("offer", name, value, meeting.keys["coordinator"])
    meeting.meet()
    assert isinstance(meeting.found["alice"], ChannelError) and words in str(meeting.found["alice"])


def test_alice_may_refuse_what_she_did_not_agree_to(meeting: Meeting) -> None:
    def expect(offer: Offer) -> None:
        raise UntrustedError(f"the turn is in {offer.federation}")

    meeting.meet(expect)
    assert str(meeting.found["alice"]) == "the turn is in lungs"
    assert isinstance(meeting.found["judge"], UnreachableError)


@pytest.mark.parametrize("later", [True, False])
def test_an_aside_says_why_there_is_no_offer(keys: dict[str, PrivateKey], later: bool) -> None:
    alice, bob = socket.socketpair()
    bob.sendall(frames.aside(later, "the door is away"))
    with bob, pytest.raises(UnreachableError if later else SettingsError, match="the door is away"):
        greet(alice, keys["coordinator"].public.line, lambda offer: None, 5)
    assert alice.fileno() == -1


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-x\r\n" * 9, frames.pack(Header(20, length=99)), frames.plain(ANSWER, {})]
)
def test_something_else_than_an_offer_ends_it(keys: dict[str, PrivateKey], sent: bytes) -> None:
    alice, bob = socket.socketpair()
    bob.sendall(sent)
    bob.close()
    with pytest.raises((ChannelError, UnreachableError)):
        greet(alice, keys["coordinator"].public.line, lambda offer: None, 5)


def test_a_site_that_stays_silent_is_not_waited_for(keys: dict[str, PrivateKey]) -> None:
    key = new_key()
    offer, (judge, door) = offered(key), socket.socketpair()
    with door, pytest.raises(UnreachableError, match="said nothing more in time"):
        welcome(judge, offer, "signature", key, keys["alice-1"].public.line, 0.05)


def test_an_offer_that_cannot_be_one_is_not_made() -> None:
    with pytest.raises(ChannelError, match="'site'"):
        offered(new_key(), site="../alice")
    with pytest.raises(ChannelError, match="expected at most"):
        offered(new_key(), terms={"much": "x" * 25_000})


def test_the_largest_offer_fits_its_frame_however_it_is_escaped(meeting: Meeting) -> None:
    room = handshake.MAX_OFFER_BYTES - len(offered(meeting.key, terms={"x": ""}))
    meeting.offer = offered(meeting.key, terms={"x": '"' * (room // 2)})
    assert len(meeting.offer) >= handshake.MAX_OFFER_BYTES - 1
    meeting.meet()
    assert isinstance(meeting.found["judge"], Channel)


def test_keys_are_of_both_texts_and_of_each_direction() -> None:
    """HKDF (RFC 5869) over X25519 (RFC 7748), computed here by hand."""
    import hmac

    judge, alice = new_key(), new_key()
    found = handshake._keys(judge, alice.public, b"offer", b"answer")
    assert found == handshake._keys(alice, judge.public, b"offer", b"answer")
    secret = judge.private.exchange(alice.private.public_key())
    pseudorandom = hmac.digest(hashlib.sha256(b"offeranswer").digest(), secret, "sha256")
    first = hmac.digest(pseudorandom, b"fedssh channel 1\1", "sha256")
    second = hmac.digest(pseudorandom, first + b"fedssh channel 1\2", "sha256")
    assert found == (first, second)
    assert found != handshake._keys(judge, alice.public, b"offer", b"Answer")
