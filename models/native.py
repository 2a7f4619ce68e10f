"""What native code says on descriptor 2, kept apart from a program's own lines.

TensorFlow's libraries write there while they load and set up devices, whatever the log level says, and which lines
depends on the processor. A log of JSON lines must hold none of them; a crash must show all of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

log = logging.getLogger("models")

# Waits until the process that it serves lets it go, with a byte, or dies, which ends its input. Then it writes what
# was kept, at most the last 64 kB of it, to where descriptor 2 led. A dead process can no longer do that itself.
_WITNESS = """
import os
if not os.read(0, 1):
    os.write(2, os.pread(1, 65536, max(0, os.fstat(1).st_size - 65536)))
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
    with tempfile.TemporaryFile(buffering=0) as kept:
        command = [sys.executable, "-I", "-S", "-c", _WITNESS]
        # A session of its own: Ctrl-C at the terminal is not meant for it.
        witness = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=kept, stderr=there, bufsize=0, start_new_session=True
        )
        _switch(kept.fileno())
        try:
            yield
            level = logging.DEBUG
        finally:
            _switch(there)
            os.close(there)
            assert witness.stdin
            with contextlib.suppress(OSError):  # somebody ended it
                witness.stdin.write(b".")
            witness.stdin.close()
            witness.wait()
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines():
                log.log(level, "%s", line, extra={"event": "native"})


def _switch(target: int) -> None:
    """Let descriptor 2 lead elsewhere from now on."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, nobody reads it, it is closed
        sys.stderr.flush()
    os.dup2(target, 2)
