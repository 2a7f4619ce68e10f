"""What the runs are at: a bar for each on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from experiments.run import Told

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 30.0  # between plain lines about a run that goes on


class Screen:
    """Shows what `run_all` tells. Use as a context manager.

    Args:
        total: How many runs there are.
    """

    def __init__(self, total: int) -> None:
        self._total, self._over = total, 0
        self._said: dict[str, float] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Screen:
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self._bars = _bars()
            self._bars.start()
            self._all = self._bars.add_task("all runs", total=self._total, text="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, told: Told) -> None:
        """Show that something happened."""
        if told.event in ("kept", "done", "failed"):
            self._over += 1
        if self._bars:
            self._draw(self._bars, told)
        elif told.event != "going" or self._is_time(told):
            self._line(told)

    def _draw(self, bars: Progress, told: Told) -> None:
        slug = told.run.slug
        if told.event == "begun":
            self._tasks[slug] = bars.add_task(slug, total=1.0, text="")
        elif told.event == "going":
            bars.update(self._tasks[slug], completed=told.share, text=told.text)
        elif slug in self._tasks:
            bars.remove_task(self._tasks.pop(slug))
        if told.event in ("changed", "done", "failed"):
            bars.console.print(_sentence(told), style="red" if told.event == "failed" else None, markup=False)
        bars.update(self._all, completed=self._over, text=f"{self._over} of {self._total}")

    def _is_time(self, told: Told) -> bool:
        now = time.monotonic()
        if now - self._said.setdefault(told.run.slug, now) < LINE_SECONDS:
            return False
        self._said[told.run.slug] = now
        return True

    def _line(self, told: Told) -> None:
        share = f" {told.share:4.0%}" if told.event == "going" else ""
        print(f"[{self._over}/{self._total}]{share} {_sentence(told)}", flush=True)


def _sentence(told: Told) -> str:
    slug = told.run.slug
    return {
        "kept": f"{slug}: finished before",
        "changed": f"{slug}: done again, {told.text}",
        "begun": f"{slug}: begins",
        "going": f"{slug}: {told.text}",
        "done": f"{slug}: {told.text}",
        "failed": f"{slug}: failed: {told.text}",
    }[told.event]


def _bars() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[text]}"))
    return Progress(*columns, transient=True)
