"""A federation of real processes that a test follows: what happened, what was said, and what is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.demo.federation import Federation, free_port
from tests.harness.waiting import last_words, until

Records = list[dict[str, Any]]


class Story(Federation):
    """A federation whose sites come and go.

    Attributes:
        marks: Where the history stood at what happened to the sites: number of the newest record then.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port(), Path(sys.executable).parent)
        self.marks: dict[str, int] = {}

    @property
    def part(self) -> str:
        """The event that says that a site took part."""
        return "counted" if self.records()[0]["schedule"] == "rounds" else "report"

    def said(self, program: str, site: str) -> list[str]:
        """What an agent of a site said, as people read it."""
        log = self.log(program, site)
        return [_text(line) for line in log.read_text().splitlines()] if log.exists() else []

    def join(self, site: str) -> None:
        """Start a site, whose Bob asks often."""
        self.start_site(site, bob=("--retry-max=1",))

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is so, while nobody fails."""

        def happened() -> object:
            self.check()
            return condition()

        until(happened, seconds, lambda: last_words(self.logs))

    def mark(self, name: str) -> None:
        self.marks[name] = self.records()[-1]["sequence"]

    def since(self, mark: str, *events: str, **fields: Any) -> Records:
        """The records after a mark of these events and with these fields."""
        later = self.records()[self.marks[mark] :]
        return [record for record in later if record["event"] in events and fields.items() <= record.items()]


def _text(line: str) -> str:
    return str(json.loads(line)["text"]) if line.startswith("{") else line


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder, but for the tests' own."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    lines = (line for line in listed.splitlines() if str(folder) in line)
    return [line for line in lines if " -m pytest" not in line and not line.startswith("ps ")]


def history(coordinator: Path) -> Records:
    """The records that a coordinator's door shows."""
    lines = (coordinator / "outbox/ledger.jsonl").read_bytes().splitlines()
    return [json.loads(json.loads(line)["record"]) for line in lines]
