"""How often the door looks for news, and what it reads then; with a clock and a channel that are not real."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedssh.door import follow
from fedssh.door.channel import Revoked, Stop


class Reader:
    """The channel of a reader who leaves after some seconds."""

    def __init__(self, state: Path, stays: float) -> None:
        self.now, self.stays, self.looks, self.checks = 0.0, stays, 0, 0
        self.path = lambda *parts: str(state.joinpath(*parts))
        self.revoked_at = float("inf")

    def register(self, file: int, events: int) -> None:
        assert (file, events) == (1, 0)

    def poll(self, milliseconds: int) -> list[Any]:
        self.now += milliseconds / 1000
        return [1] if self.now >= self.stays else []

    def check_enrolled(self) -> None:
        self.checks += 1
        if self.now >= self.revoked_at:
            raise Revoked


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "outbox" / "ledger.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"1\n2\n")
    return path


def followed(reader: Reader, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    stat = os.stat

    def counted(path: str) -> os.stat_result:
        reader.looks += 1
        return stat(path)

    monkeypatch.setattr("fedssh.door.follow.os.stat", counted)
    monkeypatch.setattr(follow, "poll", lambda: reader)
    monkeypatch.setattr("fedssh.door.follow.time.monotonic", lambda: reader.now)
    with open(ledger, "rb") as file:
        client: Any = reader
        yield from follow.appended(client, file.fileno(), 2)


def test_an_hour_without_news_is_a_few_looks_a_second(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(ledger.parent.parent, 3600)
    found = followed(reader, ledger, monkeypatch)
    assert next(found) == [b"2\n"]
    with pytest.raises(BrokenPipeError):
        next(found)
    assert 3600 / 0.3 <= reader.looks < 3600 / 0.3 + 2 / 0.1 + 5
    assert reader.checks >= reader.looks - 2, "each time it is seen whether the reader may still read"


def test_a_revoked_reader_ends_at_the_next_look(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(ledger.parent.parent, 3600)
    reader.revoked_at = 10
    found = followed(reader, ledger, monkeypatch)
    assert next(found) == [b"2\n"]
    with pytest.raises(Revoked):
        next(found)
    assert 10 <= reader.now < 10.5


def test_half_a_line_that_is_written_anew_in_the_same_length(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(ledger.parent.parent, 3600)
    found = followed(reader, ledger, monkeypatch)
    assert next(found) == [b"2\n"]
    ledger.write_bytes(b"1\n2\nhalf")
    poll = reader.poll

    def then(milliseconds: int) -> list[Any]:
        if reader.now > 5:
            ledger.write_bytes(b"1\n2\n345\n")
            os.utime(ledger, (1, 1))
        return poll(milliseconds)

    monkeypatch.setattr(reader, "poll", then)
    assert next(found) == [b"345\n"]


@pytest.mark.parametrize("how", ["shorter", "replaced", "gone"])
def test_another_history_ends_it(ledger: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    found = followed(Reader(ledger.parent.parent, 3600), ledger, monkeypatch)
    assert next(found) == [b"2\n"]
    if how == "shorter":
        os.truncate(ledger, 2)
    elif how == "gone":
        ledger.unlink()
    else:
        ledger.with_suffix(".new").write_bytes(b"1\n2\n3\n")
        ledger.with_suffix(".new").replace(ledger)
    with pytest.raises(Stop, match="not the one that this began with any more") as told:
        next(found)
    assert told.value.code == 3


def test_more_than_fits_at_once_comes_in_whole_lines(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "BLOCK", 100)
    lines = [b"%d\n" % number for number in range(200)]
    ledger.write_bytes(b"1\n" + b"".join(lines))
    reader = Reader(ledger.parent.parent, 1)
    found: list[bytes] = []
    with contextlib.suppress(BrokenPipeError):
        for some in followed(reader, ledger, monkeypatch):
            assert sum(map(len, some)) <= 100
            found += some
    assert found == lines
