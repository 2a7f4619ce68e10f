"""Records of the history as the door shows them, and what is made of one that the rules do not give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from fedssh import chain
from fedssh.address import Address
from fedssh.errors import DecisionError, LedgerError
from fedssh.keys import PublicKey
from fedssh.rules.events import Record
from fedssh.rules.replay import Replay
from fedssh.transport import Answer


class Lines(Protocol):
    """What asking for a record needs of a connection."""

    address: Address

    def line(self, *words: str | int, max_bytes: int) -> Answer:
        """Run a verb and return the first line that it prints."""


def line_of(door: Lines, sequence: int) -> bytes:
    """The signed line of one record.

    Raises:
        LedgerError: The door has another one there, or none.
    """
    words = ("history", "--export", "--after", sequence - 1)
    answer = door.line(*words, max_bytes=chain.MAX_LINE_BYTES)
    if answer.status:
        raise answer.error(door.address, "history")
    if not answer.output.endswith(b"\n"):
        raise LedgerError(f"the history that {door.address} shows ends before record {sequence}")
    return answer.output


def earlier(door: Lines, number: int, coordinator: PublicKey) -> Record:
    """A record from before what is remembered: of that number, and signed; the chain is not gone back to it."""
    record = chain.read_line(line_of(door, number), coordinator)
    if record.sequence != number:
        raise LedgerError(f"{door.address} shows record {record.sequence} as record {number}")
    return record


def read_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of an export; what follows the last of them is left out.

    Raises:
        LedgerError: A line is longer than any is.
    """
    with open(path, "rb") as file:
        while line := file.readline(chain.MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) == chain.MAX_LINE_BYTES:
                    raise LedgerError(f"a line of the history is longer than {chain.MAX_LINE_BYTES:,} bytes")
                return
            yield line


def judge(replay: Replay, record: Record, refuse: bool, say: Callable[..., None]) -> None:
    """Hold a record against the rules of the federation.

    Raises:
        DecisionError: It says something that they do not give, and that is refused; else it is told.
    """
    try:
        replay.follow(record)
    except DecisionError as error:
        if refuse:
            raise
        say("decision", str(error), sequence=record.sequence, reason=str(error))
        replay.go_on(record)
