"""Sealed frames over a connected socket: nobody between the two ends reads, changes, repeats or reorders one.

    sealed    AES-256-GCM, a key for each direction; what follows the header is the ciphertext and its tag of 16 bytes
    nonce     four zero bytes, then how many frames went in this direction before, uint64
    data      the header, associated: it is read by all and changed by none

The keys are fresh for each connection, so no nonce is used twice under one key. The first thing that goes wrong closes
the channel for good: whoever comes back shakes hands anew.
"""

from __future__ import annotations

import contextlib
import errno
import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedssh.channel.frames import HEADER_BYTES, MAX_BYTES, SEALED, Header, pack, unpack
from fedssh.errors import ChannelError, UnreachableError

if TYPE_CHECKING:  # the vault makes offers and has no network: this module opens no socket
    import socket

    Body = bytes | bytearray | memoryview

TAG_BYTES = 16
SLOWEST = 1 << 16  # bytes a second that a frame must make, beyond the time that its beginning may take
SILENCE_SECONDS = 120.0
KEPT_BYTES = 4 << 20

_NONCE = struct.Struct(">IQ")


class Wire:
    """A connected stream socket, read to the byte and written whole, each within its time.

    Args:
        sock: Belongs to this object from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming, self._outgoing = select.poll(), select.poll()
        self._incoming.register(sock, select.POLLIN)
        self._outgoing.register(sock, select.POLLOUT)
        self.sent = 0
        self.received = 0

    def close(self) -> None:
        """End it, also for a thread that waits for something to come."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(2)
        self._sock.close()

    def read_into(self, view: memoryview, end: float) -> None:
        """Fill a buffer.

        Args:
            end: By when, as `time.monotonic` tells it.

        Raises:
            UnreachableError: The other side has gone, or it took too long.
        """
        done, size = 0, len(view)
        while done < size:
            try:
                count = self._sock.recv_into(view[done:])
            except BlockingIOError:
                self._wait(self._incoming, end, "said nothing more")
                continue
            except OSError as error:
                raise _gone(error) from None
            if count == 0:
                raise UnreachableError("the other side of the channel has gone")
            done += count
            self.received += count

    def write(self, parts: Sequence[Body], end: float) -> None:
        """Send all of several buffers, in one call where the system takes so much.

        Raises:
            UnreachableError: The other side has gone, or took nothing more in time.
        """
        left = [memoryview(part) for part in parts]
        while left:
            try:
                count = self._sock.sendmsg(left)
            except BlockingIOError:
                self._wait(self._outgoing, end, "took nothing more")
                continue
            except OSError as error:
                raise _gone(error) from None
            self.sent += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if left:
                left[0] = left[0][count:]

    def _wait(self, watch: select.poll, end: float, what: str) -> None:
        left = end - time.monotonic()
        if left <= 0 or not watch.poll(int(left * 1000) + 1):
            raise UnreachableError(f"the other side of the channel {what} in time")


def _gone(error: OSError) -> UnreachableError:
    if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN):
        return UnreachableError("the other side of the channel has gone")
    return UnreachableError(f"the channel failed: {str(error.strerror or error).lower()}")


class Channel:
    """One end of a sealed channel. One thread may send while another receives.

    Args:
        sock: Connected, and from here on this object's; or the `Wire` over it that shook hands.
        send_key: 32 bytes, of what is sent.
        receive_key: 32 bytes, of what is received.

    Attributes:
        patience: How long the other side may take nothing of what is sent, in seconds.
    """

    def __init__(self, sock: socket.socket | Wire, send_key: bytes, receive_key: bytes) -> None:
        if len(send_key) != 32 or len(receive_key) != 32 or send_key == receive_key:
            raise ValueError("a channel has two keys of 32 bytes, one for each direction")
        self._wire = sock if isinstance(sock, Wire) else Wire(sock)
        self._send_key, self._receive_key = AESGCM(send_key), AESGCM(receive_key)
        self._frames_sent = self._frames_received = 0
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._buffer = memoryview(bytearray(1 << 12))
        self._closed = False
        self.patience = SILENCE_SECONDS

    @property
    def sent(self) -> int:
        """Bytes that went out so far, those of the handshake with them."""
        return self._wire.sent

    @property
    def received(self) -> int:
        """Bytes that came in so far, those of the handshake with them."""
        return self._wire.received

    def close(self) -> None:
        """End the channel, also for a thread that waits in `receive`; closing twice does no harm."""
        self._closed = True
        self._wire.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def send(self, kind: int, *body: Body, dtype: int = 0, rows: int = 0, step: int = 0) -> None:
        """Seal and send one frame.

        Args:
            kind: From 16.
            body: Its bytes, in one or several parts that follow each other; arrays as `memoryview(array).cast("B")`.
            dtype, rows, step: What its header says beside.

        Raises:
            UnreachableError: The other side has gone or takes nothing more; the channel is closed.
            ValueError: The frame is too large or its kind is not of those that are sealed; it is closed, too.
        """
        try:
            self._check_open()
            plain = body[0] if len(body) == 1 else b"".join(body)
            length = memoryview(plain).nbytes + TAG_BYTES
            if kind < SEALED or length > MAX_BYTES:
                raise ValueError(f"a sealed frame of kind {kind} with {length:,} bytes; expected 16 and {MAX_BYTES:,}")
            head = pack(Header(kind, dtype, rows, step, length))
            sealed = self._send_key.encrypt(_NONCE.pack(0, self._frames_sent), plain, head)
            self._frames_sent += 1
            self._wire.write((head, sealed), time.monotonic() + self.patience + length / SLOWEST)
        except BaseException:
            self.close()
            raise

    def receive(self, fits: Callable[[Header], None], timeout: float) -> tuple[Header, memoryview]:
        """Wait for one frame, and open it.

        Args:
            fits: Called with the header before a byte of the body is read; raises ChannelError where kind, dtype, rows,
                step or length is not as agreed. The length it sees is that of the body alone, without the tag.
            timeout: In how many seconds the frame must begin to come; the rest may take longer, by 64 KiB a second.

        Returns:
            The header, with the length of the body, and the body.

        Raises:
            ChannelError: No frame, or none that was sealed here and next; or as `fits` says. The channel is closed.
            UnreachableError: The other side has gone, or said nothing in time. The channel is closed.
        """
        try:
            self._check_open()
            end = time.monotonic() + timeout
            self._wire.read_into(self._head, end)
            header = unpack(self._head)
            if header.kind < SEALED or not TAG_BYTES <= header.length <= MAX_BYTES:
                raise ChannelError(f"a frame of kind {header.kind} with {header.length:,} bytes is none that is sealed")
            bare = Header(header.kind, header.dtype, header.rows, header.step, header.length - TAG_BYTES)
            fits(bare)
            sealed = self._room(header.length)
            self._wire.read_into(sealed, end + header.length / SLOWEST)
            opened = self._open(sealed)
            self._frames_received += 1
            return bare, memoryview(opened)
        except BaseException:
            self.close()
            raise

    def _room(self, length: int) -> memoryview:
        """Where a frame's bytes go: the same place each time, but for one that is rarely needed so large."""
        if length > KEPT_BYTES:
            return memoryview(bytearray(length))
        if length > len(self._buffer):
            self._buffer = memoryview(bytearray(length))
        return self._buffer[:length]

    def _open(self, sealed: memoryview) -> bytes:
        try:
            return self._receive_key.decrypt(_NONCE.pack(0, self._frames_received), sealed, bytes(self._head))
        except InvalidTag:
            raise ChannelError(
                f"frame {self._frames_received} of the channel was changed, repeated, left out, or sealed by another"
            ) from None

    def _check_open(self) -> None:
        if self._closed:
            raise UnreachableError("the channel is closed")
