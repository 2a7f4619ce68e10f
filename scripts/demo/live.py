"""The live screen of a run, on a terminal: `fedssh watch`'s, of this run's own history, with what the agents say below.

It runs as a child process (`shown`), because this program may run where textual is not; what is said goes to it line by
line, and into a file. Whoever leaves it with q goes on with plain lines; Ctrl-C in it stops the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from fedssh.watch import terminal

LEAST = os.terminal_size((60, 20))  # there is no room for it on less
INTERRUPTED = 130
GRACE_SECONDS = 5.0


def drawable() -> bool:
    """Whether a live screen can be drawn here, and has room."""
    size = shutil.get_terminal_size()
    return terminal.drawable() and size.columns >= LEAST.columns and size.lines >= LEAST.lines


class Live:
    """A live screen that is not there yet.

    Args:
        python: The interpreter that has textual.
        ledger: The history, as the door shows it; the coordinator's public key lies beside it.
        log: Gets every line that is said.
    """

    def __init__(self, python: Path, ledger: Path, log: Path) -> None:
        self._command = [str(python), "-P", "-m", "scripts.demo.shown", str(ledger)]
        self._log = log
        self._child: subprocess.Popen[str] | None = None
        self._terminal: list[object] = []
        self._bar = ""

    @property
    def there(self) -> bool:
        """Whether it is on the terminal, which is its own then."""
        return self._child is not None

    def begin(self) -> None:
        """Take the terminal."""
        self._terminal = termios.tcgetattr(sys.stdin.fileno())
        reader, writer = os.pipe()
        try:
            self._child = subprocess.Popen([*self._command, str(reader)], pass_fds=(reader,), text=True)
        finally:
            os.close(reader)
        self._said = os.fdopen(writer, "w", buffering=1)

    def say(self, line: str) -> None:
        """Show a line at the foot."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as log:
            log.write(f"{line}\n")
        self._tell(line=line)

    def bar(self, text: str) -> None:
        """Say how far the training is."""
        if text != self._bar:
            self._tell(bar=text)
        self._bar = text

    def left(self, interrupt: Callable[[], None]) -> bool:
        """Whether somebody has left it, just now; `interrupt` is called where it was by Ctrl-C."""
        if self._child is None or self._child.poll() is None:
            return False
        code = self._child.returncode
        self._forget()
        if code == INTERRUPTED:
            interrupt()
        return True

    def end(self) -> None:
        """Give the terminal back, as it was."""
        if self._child is None:
            return
        child = self._child
        self._close()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._terminal)  # type: ignore[arg-type]
            print("\033[?1049l\033[?1000l\033[?1003l\033[?1006l\033[?2004l\033[?25h", end="", flush=True)
        self._forget()

    def _tell(self, **said: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has just been left
            print(json.dumps(said), file=self._said)

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._said.close()

    def _forget(self) -> None:
        self._close()
        self._child = None
