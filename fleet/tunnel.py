"""A port of 127.0.0.1 that leads to another one and counts: what a machine fetched is known to the byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

_BLOCK = 1 << 18


class Tunnel:
    """Listens on a free port until it is closed; `sent` is what came back from the other end so far, in bytes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.sent = 0
        self.received = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take no further connection; what runs ends by itself."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for the next one
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to), timeout=10)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                sink.sendall(block)
                with self._lock:
                    if back:
                        self.sent += len(block)
                    else:
                        self.received += len(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if back:  # the answer is over: nothing more is asked on this connection
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
