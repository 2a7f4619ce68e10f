"""Agents as child processes: their log lines as events, their end noticed, all of them stopped in seconds."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fedssh.errors import AgentError

GRACE_SECONDS = 8.0
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TAIL_LINES = 12


@contextlib.contextmanager
def undisturbed(interruption: type[BaseException]) -> Iterator[None]:
    """Let a step of a few seconds finish before a request to stop counts; it is then raised as `interruption`."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals never come here
        yield
        return
    before = {number: signal.signal(number, lambda came, frame: asked.append(came)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise interruption


@contextlib.contextmanager
def interruptible(interruption: type[BaseException], signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Raise signals as `interruption`, so that they unwind the stack and no process is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise interruption

    if threading.current_thread() is not threading.main_thread():  # signals never come here
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def child(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block; its children end when it does."""
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class AgentFailed(AgentError):
    """An agent ended with an error; the text has its last lines."""


@dataclass(frozen=True)
class Event:
    """One line that an agent wrote.

    Attributes:
        agent: The process that wrote it.
        fields: The JSON object of the line; {"text": line} for anything else.
    """

    agent: Agent
    fields: dict[str, Any]


class Agent:
    """A child process in a process group of its own.

    Args:
        name: alice, bob, charity, door or setup.
        site: The site it belongs to, or None for the coordinator's.
        command: Program and arguments.
        environ: Its whole environment.
        log: Where its lines are kept; earlier runs' lines stay.
        events: Where its lines go.
    """

    def __init__(
        self,
        name: str,
        site: str | None,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        events: queue.Queue[Event],
    ) -> None:
        self.name = name
        self.site = site
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = log
        self._events = events
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("a") as log, self._process.stdout as lines:
            for line in lines:
                log.write(line)
                log.flush()
                fields = _parse(line)
                self.tail.append(str(fields["text"]))
                self._events.put(Event(self, fields))

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise when it ended with an error.

        Raises:
            AgentFailed: With its last lines.
        """
        if self.code() is not None:
            self._reader.join(timeout=2)  # its last lines are on their way
        if self.code():
            lines = "".join(f"\n  {line}" for line in self.tail)
            who = f"{self.name} at {self.site}" if self.site else self.name
            raise AgentFailed(f"{who} ended with code {self.code()}; its last lines:{lines}\n  all: {self._log}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children, if any are left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        try:
            self._process.wait(timeout=max(seconds, 0.01))
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_all(agents: Sequence[Agent], grace_seconds: float = GRACE_SECONDS) -> None:
    """Ask all to end, wait, and end by force whatever is left, children of children included."""
    for agent in agents:
        if agent.code() is None:
            agent.signal(signal.SIGTERM)
    until = time.monotonic() + grace_seconds
    for agent in agents:
        agent.wait(until - time.monotonic())
    for agent in agents:
        agent.signal(signal.SIGKILL)
        agent.wait(1)


def _parse(line: str) -> dict[str, Any]:
    line = line.rstrip("\n")
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and "text" in fields:
                return fields
    return {"event": "line", "text": line}
