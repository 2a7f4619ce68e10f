"""What the two rooms need of a channel, and how each frame is held against what was agreed before its body is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from fedssh.channel.frames import Header
from fedssh.errors import BundleError, ChannelError, LedgerError, UnreachableError
from fedssh.forms import canonical, parse, printable
from fedssh.rules.typed import Typed
from fedssh.split.talk import MAX_TEXT_BYTES, Fault, Kind

QUIET_SECONDS = 120.0  # a step takes less, a machine that is busy included
_WORDS = 300
Record = TypeVar("Record", bound=Typed)


class Line(Protocol):
    """A channel to the other room, see `channel.sealed.Channel`."""

    @property
    def sent(self) -> int:
        """Bytes that went out so far."""

    @property
    def received(self) -> int:
        """Bytes that came in so far."""

    def send(self, kind: int, *body: Any, dtype: int = 0, rows: int = 0, step: int = 0) -> None:
        """Send one frame."""

    def receive(self, fits: Callable[[Header], None], timeout: float) -> tuple[Header, Any]:
        """Wait for one frame: its header and its body. `fits` is asked before the body is read."""

    def close(self) -> None:
        """End it."""


class NotAgreedError(ChannelError):
    """What the other room itself has sent, as far as anybody can tell, is not what was agreed."""


class FaultSaidError(ChannelError):
    """The other room says why it closes the channel."""


class Expected:
    """What may come next: of each kind how many rows, in which form, for which step, and how long.

    Args:
        step: The number of the step.
        bodies: By kind: rows, dtype, and the length of the body, or its greatest where it is negative.
    """

    def __init__(self, step: int, bodies: Mapping[int, tuple[int, int, int]]) -> None:
        self._step = step
        self._bodies = {**bodies, Kind.FAULT: (0, 0, -MAX_TEXT_BYTES)}

    def __call__(self, header: Header) -> None:
        """Look at a header.

        Raises:
            NotAgreedError: It is not what was agreed.
        """
        if header.kind not in self._bodies:
            raise NotAgreedError(f"a frame {_name(header.kind)} came, expected {' or '.join(map(_name, self._bodies))}")
        rows, dtype, length = self._bodies[header.kind]
        said, wanted = [header.step, header.rows, header.dtype], [self._step, rows, dtype]
        for what, found, agreed in zip(("step", "rows", "dtype"), said, wanted, strict=True):
            if found != agreed and header.kind != Kind.FAULT:
                raise NotAgreedError(f"a frame {_name(header.kind)} has the {what} {found}, agreed is {agreed}")
        if header.length > abs(length) or (length >= 0 and header.length != length):
            most = "at most " if length < 0 else ""
            size = f"{header.length:,} bytes, agreed are {most}{abs(length):,}"
            raise NotAgreedError(f"a frame {_name(header.kind)} has {size}")


def say(line: Line, kind: Kind, record: Typed | None = None, step: int = 0) -> None:
    """Send a frame that is JSON, or empty."""
    line.send(kind, b"" if record is None else canonical(record.fields()), step=step)


def complain(line: Line, reason: str) -> None:
    """Say why the channel is closed, as far as it still stands, and close it."""
    with contextlib.suppress(UnreachableError, ValueError, OSError):
        say(line, Kind.FAULT, Fault(reason=reason[:_WORDS]))
    line.close()


def hear(line: Line, expected: Callable[[Header], None], timeout: float = QUIET_SECONDS) -> tuple[Header, Any]:
    """Wait for one of the frames that may come next.

    Raises:
        FaultSaidError: The other room closes the channel, and says why.
        ChannelError: What came is not as agreed.
        UnreachableError: The channel was cut, or nothing came in time.
    """
    header, body = line.receive(expected, timeout)
    if header.kind == Kind.FAULT:
        raise FaultSaidError(f"the other side ends the turn: {printable(read(Fault, body).reason[:_WORDS])}")
    return header, body


def read(kind: type[Record], body: Any) -> Record:
    """A frame that is JSON.

    Raises:
        NotAgreedError: It is not of this form.
    """
    try:
        return kind.read(parse(bytes(body)), f"the frame {kind.__name__.upper()}")
    except (BundleError, LedgerError) as error:
        raise NotAgreedError(str(error).replace("the manifest", "a frame")) from None


def _name(kind: int) -> str:
    try:
        return Kind(kind).name
    except ValueError:
        return f"of kind {kind}"
