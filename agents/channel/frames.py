"""What goes through a channel is cut into frames: a header of 24 bytes, then as many bytes as it says.

    magic     4 bytes   "fsch"
    version   uint8     1
    kind      uint8     what the frame is, see below
    dtype     uint8     how numbers are written in it; 0 where there are none
    flags     uint8     0
    rows      uint32    how many rows, such as images, are in it
    step      uint64    to which step of training it belongs
    length    uint32    how many bytes follow, with the tag of what is sealed

All numbers are big-endian. A reader looks at the whole header before it reads a byte of what follows.

    kind 1    OFFER     canonical JSON, from the coordinator: {"challenge", "offer", "signature"}
    kind 2    ANSWER    canonical JSON, from the site: {"answer", "signature"}; from Alice to Bob without a signature
    kind 3    ASIDE     canonical JSON, from Bob to Alice instead of an offer: {"later": why} or {"refused": why}
    kind 4    SITE      canonical JSON, from the door to the judge before all others: {"site": who logged in}
    from 16   sealed    see sealed.py; what they mean is none of the channel's concern

Frames in plain JSON have dtype, rows and step 0 and at most 65,536 bytes, sealed ones at most 256 MiB.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from fedssh.errors import BundleError, ChannelError
from fedssh.forms import canonical, parse, printable

OFFER, ANSWER, ASIDE, SITE = 1, 2, 3, 4
SEALED = 16  # the first kind of frames that are sealed
HEADER_BYTES = 24
MAX_PLAIN_BYTES = 64 * 1024
MAX_BYTES = 256 << 20

_FORM = struct.Struct(">4sBBBBIQI")
_MAGIC, _VERSION = b"fsch", 1
_WORDS = 200


@dataclass(frozen=True)
class Header:
    """What stands before every frame's bytes.

    Attributes:
        kind: What the frame is, 0..255.
        dtype: How its numbers are written, 0..255.
        rows: How many rows are in it, 0..2^32-1.
        step: To which step it belongs, 0..2^64-1.
        length: How many bytes follow, 0..2^32-1.
    """

    kind: int
    dtype: int = 0
    rows: int = 0
    step: int = 0
    length: int = 0


def pack(header: Header) -> bytes:
    """The 24 bytes of a header.

    Raises:
        ValueError: A number is beyond its range.
    """
    try:
        return _FORM.pack(_MAGIC, _VERSION, header.kind, header.dtype, 0, header.rows, header.step, header.length)
    except struct.error as error:
        raise ValueError(f"{header} does not fit a header: {error}") from None


def unpack(data: bytes | bytearray | memoryview) -> Header:
    """Read the 24 bytes of a header.

    Raises:
        ChannelError: They are none, or of another version.
    """
    if len(data) != HEADER_BYTES:
        raise ChannelError(f"the header of a frame has {len(data)} bytes, expected {HEADER_BYTES}")
    magic, version, kind, dtype, flags, rows, step, length = _FORM.unpack(data)
    if magic != _MAGIC:
        raise ChannelError(f"a frame begins with {bytes(magic)!r}, expected {_MAGIC!r}")
    if version != _VERSION:
        raise ChannelError(f"a frame is of version {version}, this program reads version {_VERSION}")
    if flags:
        raise ChannelError(f"a frame has the flags {flags:#x}, expected none")
    return Header(kind, dtype, rows, step, length)


def plain(kind: int, value: dict[str, Any]) -> bytes:
    """A whole frame of plain JSON.

    Raises:
        ValueError: It is too large.
    """
    body = canonical(value)
    if len(body) > MAX_PLAIN_BYTES:
        raise ValueError(f"a frame of plain JSON has {len(body):,} bytes, expected at most {MAX_PLAIN_BYTES:,}")
    return pack(Header(kind, length=len(body))) + body


def check_plain(header: Header, *kinds: int) -> None:
    """Refuse what is no frame of plain JSON of one of these kinds, before its body is read.

    Raises:
        ChannelError: It is another one, or too large.
    """
    if header.kind not in kinds:
        raise ChannelError(f"a frame is of kind {header.kind}, expected {' or '.join(map(str, kinds))}")
    if header.length > MAX_PLAIN_BYTES or header != Header(header.kind, length=header.length):
        raise ChannelError(f"{header} is not the header of a frame of plain JSON")


def read_plain(body: bytes | bytearray | memoryview, *members: str) -> dict[str, str]:
    """Read what a frame of plain JSON says: exactly these members, each a text.

    Raises:
        ChannelError: Not canonical JSON, or other members.
    """
    value = _object(body)
    if value.keys() != set(members) or not all(isinstance(one, str) for one in value.values()):
        raise ChannelError(f"a frame of plain JSON should say {', '.join(members)}, each a text")
    return value


def read_aside(body: bytes | bytearray | memoryview) -> tuple[bool, str]:
    """Read why there is no offer: whether it is worth trying again, and the reason, fit for a terminal.

    Raises:
        ChannelError: It says something else.
    """
    value = _object(body)
    [(word, reason)] = value.items() if len(value) == 1 else [("", "")]
    if word not in ("later", "refused") or not isinstance(reason, str):
        raise ChannelError("an aside should say `later` or `refused`, and why")
    return word == "later", printable(reason[:_WORDS])


def aside(later: bool, reason: str) -> bytes:
    """A whole frame that says why there is no offer."""
    return plain(ASIDE, {"later" if later else "refused": reason[:_WORDS]})


def _object(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    try:
        return parse(bytes(body))
    except BundleError as error:
        raise ChannelError(str(error).replace("the manifest", "a frame of plain JSON")) from None
