"""Frames and sealed channels: what is not one, was changed, or comes out of order ends the channel."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.channel import frames, sealed
from fedssh.channel.frames import Header, pack, unpack
from fedssh.channel.sealed import TAG_BYTES, Channel
from fedssh.errors import AgentError, ChannelError, UnreachableError
from fedssh.forms import canonical

ONE, OTHER = b"1" * 32, b"2" * 32
STEP = 16
Pair = tuple[Channel, Channel]


def anything(header: Header) -> None:
    """Every frame is as agreed."""


def only(**agreed: int) -> Callable[[Header], None]:
    def fits(header: Header) -> None:
        for name, value in agreed.items():
            if getattr(header, name) != value:
                raise ChannelError(f"{name} is {getattr(header, name)}, expected {value}")

    return fits


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    ends = Channel(one, ONE, OTHER), Channel(other, OTHER, ONE)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A socket whose other end is a channel."""
    one, other = socket.socketpair()
    channel = Channel(other, OTHER, ONE)
    yield one, channel
    one.close()
    channel.close()


def frame(body: bytes, *, kind: int = STEP, number: int = 0, key: bytes = ONE, **said: int) -> bytes:
    """A frame as the other end seals it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head = pack(Header(kind, length=len(body) + TAG_BYTES, **said))
    return head + AESGCM(key).encrypt(struct.pack(">IQ", 0, number), body, head)


@given(*(st.integers(0, 2**bits - 1) for bits in (8, 8, 32, 64, 32)))
def test_a_header_is_read_as_it_was_written(kind: int, dtype: int, rows: int, step: int, length: int) -> None:
    header = Header(kind, dtype, rows, step, length)
    assert unpack(pack(header)) == header and len(pack(header)) == 24


def test_a_header_is_these_bytes() -> None:
    packed = pack(Header(kind=17, dtype=2, rows=32, step=5, length=100))
    assert packed == b"fsch\x01\x11\x02\x00" + b"\0\0\0\x20" + b"\0\0\0\0\0\0\0\5" + b"\0\0\0\x64"


@pytest.mark.parametrize("header", [Header(256), Header(1, rows=-1), Header(1, step=2**64), Header(1, length=2**32)])
def test_a_number_beyond_its_range_is_not_written(header: Header) -> None:
    with pytest.raises(ValueError, match="does not fit a header"):
        pack(header)


@pytest.mark.parametrize(
    ("at", "byte", "words"), [(0, 0, "begins with"), (4, 2, "version 2"), (7, 1, "flags 0x1"), (7, 128, "flags 0x80")]
)
def test_another_magic_version_or_flag_is_refused(at: int, byte: int, words: str) -> None:
    data = bytearray(pack(Header(STEP)))
    data[at] = byte
    with pytest.raises(ChannelError, match=words):
        unpack(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        header = unpack(data)
    except ChannelError:
        return
    assert pack(header) == data


@given(st.binary(max_size=200) | st.just(b'{"later":"x"}') | st.recursive(st.text(max_size=4), st.lists).map(
    lambda value: canonical({"later": value})
))  # fmt: skip
def test_any_body_in_plain_json_is_read_or_refused(data: bytes) -> None:
    for read in (frames.read_aside, lambda body: frames.read_plain(body, "answer")):
        try:
            said = read(data)
        except ChannelError:
            continue
        assert isinstance(said, tuple) or said["answer"] is not None


@pytest.mark.parametrize(
    "header",
    [Header(16), Header(3), Header(1, length=65537), Header(1, step=1), Header(1, rows=1), Header(1, dtype=1)],
)
def test_a_frame_of_plain_json_has_one_form(header: Header) -> None:
    with pytest.raises(ChannelError):
        frames.check_plain(header, 1, 2)
    frames.check_plain(Header(2, length=65536), 1, 2)


def test_an_aside_says_why_in_words_that_no_terminal_acts_on() -> None:
    body = frames.aside(True, "away\x1b[2J")[24:]
    assert frames.read_aside(body) == (True, "away\\u001b[2J")
    assert frames.read_aside(frames.aside(False, "x" * 900)[24:]) == (False, "x" * 200)
    for bad in (b"{}", b'{"later":1}', b'{"other":""}', b'{"later":"","refused":""}'):
        with pytest.raises(ChannelError, match="an aside should say"):
            frames.read_aside(bad)


def test_frames_go_both_ways_in_order(pair: Pair) -> None:
    here, there = pair
    for number in range(3):
        here.send(STEP, b"rows", b"and labels", memoryview(b"!"), dtype=1, rows=32, step=number)
        header, body = there.receive(only(kind=STEP, dtype=1, rows=32, step=number, length=15), 5)
        assert (header.step, bytes(body)) == (number, b"rowsand labels!")
        there.send(STEP + 1, bytearray(b"gradient"))
        assert bytes(here.receive(only(kind=STEP + 1, length=8), 5)[1]) == b"gradient"
    assert here.sent == there.received == 3 * (24 + 15 + 16)
    assert here.received == there.sent == 3 * (24 + 8 + 16)


def test_an_empty_frame_is_a_frame(pair: Pair) -> None:
    pair[0].send(200)
    assert bytes(pair[1].receive(only(kind=200, length=0), 5)[1]) == b""


def test_what_was_received_stays_as_it_was(pair: Pair) -> None:
    here, there = pair
    here.send(STEP, b"first")
    here.send(STEP, b"other")
    bodies = [there.receive(anything, 5)[1] for _ in range(2)]
    assert [bytes(body) for body in bodies] == [b"first", b"other"]


def test_a_frame_larger_than_the_socket_takes_at_once_arrives(pair: Pair) -> None:
    body = bytes(range(256)) * 30_000  # 7.7 MB, beyond the buffer that is kept
    sending = threading.Thread(target=pair[0].send, args=(STEP, body))
    sending.start()
    assert pair[1].receive(only(length=len(body)), 20)[1] == body
    sending.join()


def test_it_is_sealed(raw: tuple[socket.socket, Channel]) -> None:
    line, channel = raw
    channel.send(STEP, b"canary " * 50, rows=50)
    seen = line.recv(1 << 16)
    assert len(seen) == 24 + 350 + 16 and b"canary" not in seen
    assert unpack(seen[:24]) == Header(STEP, 0, 50, 0, 366)


@pytest.mark.parametrize("at", [5, 6, 11, 19, 24, 30, -1])
def test_a_changed_bit_ends_it(raw: tuple[socket.socket, Channel], at: int) -> None:
    line, channel = raw
    sent = bytearray(frame(b"some rows", rows=3, step=9))
    sent[at] ^= 1
    line.sendall(sent)
    with pytest.raises(ChannelError, match="was changed, repeated, left out, or sealed by another"):
        channel.receive(anything, 5)
    with pytest.raises(UnreachableError, match="is closed"):
        channel.receive(anything, 5)
    with pytest.raises(UnreachableError, match="is closed"):
        channel.send(STEP, b"")


@pytest.mark.parametrize("numbers", [(0, 0), (0, 2), (1,), (0, 1, 1)])
def test_a_frame_repeated_left_out_or_out_of_order_ends_it(
    raw: tuple[socket.socket, Channel], numbers: tuple[int, ...]
) -> None:
    line, channel = raw
    for number in numbers:
        line.sendall(frame(b"rows", number=number))
    for _ in numbers[:-1]:
        channel.receive(anything, 5)
    with pytest.raises(ChannelError):
        channel.receive(anything, 5)


def test_what_one_sends_does_not_come_back_to_it_as_the_others(raw: tuple[socket.socket, Channel]) -> None:
    line, channel = raw
    channel.send(STEP, b"mine")
    line.sendall(line.recv(1 << 16))
    with pytest.raises(ChannelError):
        channel.receive(anything, 5)


@pytest.mark.parametrize("length", [0, 15, (256 << 20) + 1, 2**32 - 1])
def test_no_length_makes_it_wait_or_allocate(raw: tuple[socket.socket, Channel], length: int) -> None:
    line, channel = raw
    line.sendall(pack(Header(STEP, length=length)))
    with pytest.raises(ChannelError, match="is none that is sealed"):
        channel.receive(anything, 5)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 15])
def test_plain_frames_have_no_place_in_a_sealed_channel(raw: tuple[socket.socket, Channel], kind: int) -> None:
    line, channel = raw
    line.sendall(frame(b'{"later":"no"}', kind=kind))
    with pytest.raises(ChannelError, match=f"kind {kind} "):
        channel.receive(anything, 5)


@pytest.mark.parametrize("agreed", [{"kind": 17}, {"rows": 4}, {"step": 8}, {"dtype": 1}, {"length": 8}])
def test_what_was_not_agreed_is_refused_before_its_body_is_read(
    raw: tuple[socket.socket, Channel], agreed: dict[str, int]
) -> None:
    line, channel = raw
    line.sendall(frame(b"some rows", rows=3, step=9)[:24])  # the body never comes
    with pytest.raises(ChannelError, match="expected"):
        channel.receive(only(**agreed), 30)
    assert channel.received == 24


@pytest.mark.parametrize("most", [0, 1, 23, 24, 30, -1])
def test_a_cut_is_an_unreachable_end(raw: tuple[socket.socket, Channel], most: int) -> None:
    line, channel = raw
    line.sendall(frame(b"some rows")[:most])
    line.close()
    with pytest.raises(UnreachableError, match="has gone"):
        channel.receive(anything, 5)


def test_silence_is_an_unreachable_end(raw: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "SLOWEST", 1 << 20)
    line, channel = raw
    line.sendall(frame(b"some rows")[:-1])
    with pytest.raises(UnreachableError, match="said nothing more in time"):
        channel.receive(anything, 0.05)


def test_who_takes_nothing_does_not_hold_the_other(
    raw: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "SLOWEST", 1 << 30)
    _, channel = raw
    channel.patience = 0.05
    with pytest.raises(UnreachableError, match="took nothing more in time"):
        channel.send(STEP, bytes(600_000))


def test_closing_wakes_whoever_receives(pair: Pair) -> None:
    caught: list[AgentError] = []

    def wait() -> None:
        try:
            pair[0].receive(anything, 30)
        except AgentError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pair[0].close()
    waiting.join(10)
    assert len(caught) == 1 and isinstance(caught[0], UnreachableError)


def test_what_cannot_be_a_sealed_frame_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="kind 3 "):
        pair[0].send(3, b"")


@pytest.mark.parametrize("keys", [(ONE, ONE), (ONE, b"short")])
def test_two_keys_of_32_bytes(keys: tuple[bytes, bytes]) -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ValueError, match="two keys of 32 bytes"):
        Channel(one, *keys)
