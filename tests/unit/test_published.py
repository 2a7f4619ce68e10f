"""Finding records in the published history without reading what stands before them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedssh.history.published import NoRecord, Published, number_of


def line(number: int, size: int) -> bytes:
    record = json.dumps({"sequence": number, "reason": "x" * size})
    return json.dumps({"hash": "aa", "record": record, "sequence": number, "signature": "s"}).encode() + b"\n"


class Counted(io.FileIO):
    """A file that knows how many bytes were taken from it."""

    taken = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self.taken += count
        return count


@given(st.lists(st.integers(0, 90_000), max_size=12), st.integers(0, 40), st.integers(0, 14))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_record_is_found_whatever_the_sizes(tmp_path: Path, sizes: list[int], cut: int, wanted: int) -> None:
    lines = [line(number, size) for number, size in enumerate(sizes, 1)]
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(lines) + line(len(lines) + 1, 90)[:cut])
    with open(path, "rb") as file:
        published = Published(file)
        assert published.count == len(lines)
        assert list(published.lines(wanted)) == lines[wanted:]
        assert published.start_of(wanted) == sum(map(len, lines[: max(0, wanted - 1)]))
        if 1 <= wanted <= len(lines):
            assert published.row(wanted)["reason"] == "x" * sizes[wanted - 1]
        else:
            with pytest.raises(NoRecord, match=f"no record {wanted}; it ends with {len(lines)}"):
                published.row(wanted)
        with open(path, "ab") as more:  # what is appended later is not looked at
            more.write(b"\n" + line(99, 5))
        assert published.count == len(lines)


def test_a_record_among_many_costs_a_few_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(line(number, 700) for number in range(1, 20_001)))
    with Counted(path) as raw:
        published = Published(cast(BinaryIO, io.BufferedReader(raw, 8192)))
        read, real = [0], os.pread

        def pread(file: int, size: int, place: int) -> bytes:
            read[0] += size
            return real(file, size, place)

        monkeypatch.setattr(os, "pread", pread)
        assert number_of(published.line(12_345)) == 12_345
        assert [number_of(each) for each in published.lines(19_999)] == [20_000]
        assert raw.taken + read[0] < path.stat().st_size / 4


@pytest.mark.parametrize("damage", [b"not JSON\n", b"\n", b"[]\n", b"{}\n", b"\0" * 9 + b"\n"])
def test_damage_is_an_error_and_no_endless_search(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(damage * 9)
    with open(path, "rb") as file, pytest.raises(ValueError):  # noqa: PT011 - any: the door says it in its own words
        Published(file).row(3)
