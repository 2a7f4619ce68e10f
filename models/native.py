"""What native code says on descriptor 2, kept apart from a program's own lines.

TensorFlow's libraries write there while they load and set up devices, whatever the log level says, and which lines
depends on the processor. A log of JSON lines must hold none of them; a crash must show all of them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

log = logging.getLogger("models")

# Waits until the process that it serves lets it go with a dot. When that process dies instead, it writes what was
# kept, at most the last 64 kB, to where descriptor 2 led, and after it where in Python the process was.
_WITNESS = r"""
import os
word = os.read(0, 4096)
if word != b".":
    said = os.pread(1, 65536, max(0, os.fstat(1).st_size - 65536))
    os.write(2, said if not said or said.endswith(b"\n") else said + b"\n")
    while word:
        os.write(2, word)
        word = os.read(0, 4096)
"""


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Keep what is written to descriptor 2 meanwhile, and log it afterwards.

    Logged for debugging, or as errors when the block raises. When the process dies meanwhile, whatever it dies of, the
    text still comes out on descriptor 2, as if it had never been kept. Lines of this program's own threads would be
    kept, too: begin before they have something to say.
    """
    try:
        there = os.dup(2)
    except OSError:  # closed: nobody listens
        yield
        return
    level = logging.ERROR
    with tempfile.TemporaryFile(buffering=0) as kept, _witness(kept.fileno(), there):
        _switch(kept.fileno())
        try:
            yield
            level = logging.DEBUG
        finally:
            _switch(there)
            os.close(there)
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines():
                log.log(level, "%s", line, extra={"event": "native"})


@contextlib.contextmanager
def _witness(kept: int, there: int) -> Iterator[None]:
    """A process that outlives this one, to say what this one no longer can.

    In a container nothing outlives the first process by more than a moment. So that one has to wait before it dies:
    faulthandler writes its many small pieces into a socket that takes a few of them, until the witness reads.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            # A session of its own: Ctrl-C at the terminal is not meant for it.
            command = [sys.executable, "-I", "-S", "-c", _WITNESS]
            witness = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=kept, stderr=there, start_new_session=True
            )
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        handled = not faulthandler.is_enabled()  # or somebody has other plans with it
        if handled:
            faulthandler.enable(ours, all_threads=False)
        try:
            yield
        finally:
            if handled:
                faulthandler.disable()
            with contextlib.suppress(OSError):  # somebody ended it
                ours.send(b".")
    witness.wait()


def _switch(target: int) -> None:
    """Let descriptor 2 lead elsewhere from now on."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, nobody reads it, it is closed
        sys.stderr.flush()
    os.dup2(target, 2)
