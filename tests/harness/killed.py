"""`kill -9` before every durable step: a forked child that kills itself when it is about to do its n-th.

step, died = 0, True
while died:
    step += 1
    died = killed_at(step, act)
    act()  # what the next start does, and then what must hold
assert step > 10, "the steps were not counted"
"""

from __future__ import annotations

import os
import signal
import sqlite3
import traceback
from collections.abc import Callable, Sequence
from typing import Any

# What makes a step durable or visible to others: of the system's calls, and of the ledger.
CALLS = ("replace", "rename", "link", "unlink", "fsync", "ftruncate", "sendfile")
COMMIT = "commit"
Step = Callable[[], None]


def killed_at(step: int, act: Callable[[], object], steps: Sequence[str] = (*CALLS, COMMIT)) -> bool:
    """Run `act` in a child that dies at its n-th step; returns whether it came to that.

    Args:
        step: n; the first is 1.
        steps: What counts as a step.
    """
    return killed_counting(step, lambda count: act(), steps)


def killed_counting(step: int, act: Callable[[Step], object], steps: Sequence[str]) -> bool:
    """As `killed_at`; `act` gets what it may call for steps of its own, as when a door has done something."""
    child = os.fork()
    if child == 0:
        try:
            act(_die_at(step, steps))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the run failed instead of being killed; see above"
    return False


def _die_at(step: int, steps: Sequence[str]) -> Step:
    """Kill this process when it is about to do its n-th step."""
    left = [step]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return function(*arguments, **options)

        return call

    for name in steps:
        if name != COMMIT:
            setattr(os, name, counted(getattr(os, name)))
    if COMMIT in steps:

        class Connection(sqlite3.Connection):
            commit = counted(sqlite3.Connection.commit)

        connect = sqlite3.connect

        def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
            return connect(*arguments, factory=Connection, **options)

        setattr(sqlite3, "connect", counting)  # noqa: B010
    return count
