"""The door as a child of `charity serve`, for a coordinator in one command. Both end together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from fedssh.errors import AgentError


class DoorChild:
    """Runs `charity door` while the block runs; its own settings come from the environment.

    Args:
        kind: none, embedded or sshd.
        state: The coordinator's folder.
        listen: Address and port; None leaves it to the door's own settings.
    """

    def __init__(self, kind: str, state: Path, listen: str | None = None) -> None:
        self._kind = kind
        self._state = state
        self._listen = [f"--listen={listen}"] if listen else []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DoorChild:
        if self._kind != "none":
            embedded = ["--embedded"] if self._kind == "embedded" else []
            command = [
                sys.executable,
                "-m",
                "fedssh.charity.cli",
                "door",
                f"--state={self._state}",
                *embedded,
                *self._listen,
            ]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        return self

    def stands(self) -> bool | None:
        """Whether the door still stands; None where there is none."""
        return None if self._process is None else self._process.poll() is None

    def check(self) -> None:
        """See whether the door still stands.

        Raises:
            AgentError: It has ended; its own message stands above.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise AgentError(f"the door has ended with exit code {code}", "its own message stands above")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
