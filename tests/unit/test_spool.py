"""The spool and the receipts: what is shipped next, and what a power cut leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.bob.receipts import Receipts
from fedssh.bob.spool import Entry, Spool, plan
from fedssh.bundle import seal_report
from fedssh.keys import PrivateKey
from fedssh.manifest import Report, new_id, now


def entry(id: str, session: int = 1, kind: str = "submission", shipped: float | None = None) -> Entry:
    epoch = int(id[1:]) if kind == "submission" else None
    return Entry(id, kind, session, epoch, now(), 0.0, shipped=shipped)


def report(id: str, session: int = 1) -> Entry:
    return entry(id, session, "report")


# What waits, what is being sent; what is dropped, what comes next.
PLANS: dict[str, tuple[list[Entry], str | None, list[str], str | None]] = {
    "nothing": ([], None, [], None),
    "one": ([entry("a1")], None, [], "a1"),
    "only the newest of a session": ([entry("a1"), entry("a2"), entry("a3")], None, ["a1", "a2"], "a3"),
    "in order of ids, whatever the order found": ([entry("a2"), entry("a1", 2)], None, [], "a1"),
    "sessions do not supersede each other": ([entry("a1", 1), entry("a2", 2)], None, [], "a1"),
    "the door has it": ([entry("a1", shipped=1.0), entry("a2")], None, [], "a1"),
    "it is being sent": ([entry("a1"), entry("a2"), entry("a3")], "a1", ["a2"], "a1"),
    "a report alone": ([report("a4")], None, [], "a4"),
    "a report after its checkpoints": ([report("a0"), entry("a1"), entry("a2")], None, ["a1"], "a2"),
    "a report does not wait for another session": ([report("a0", 1), entry("a1", 2)], None, [], "a0"),
}


@pytest.mark.parametrize("case", PLANS)
def test_what_is_shipped_next(case: str) -> None:
    entries, under_way, dropped, next = PLANS[case]
    planned = plan(entries, under_way)
    assert [old.id for old, _ in planned.superseded] == dropped
    assert (planned.next.id if planned.next else None) == next
    assert all(new.id > old.id and new.session == old.session for old, new in planned.superseded)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3), st.booleans(), st.booleans()), max_size=12))
def test_nothing_is_dropped_without_a_newer_one_of_its_session(rows: list[tuple[int, int, bool, bool]]) -> None:
    unique = {f"a{number:02}": (session, kind, shipped) for number, session, kind, shipped in rows}
    entries = [
        entry(id, session, "report" if kind else "submission", 1.0 if shipped else None)
        for id, (session, kind, shipped) in unique.items()
    ]
    planned = plan(entries)
    dropped = {old.id for old, _ in planned.superseded}
    left = [one for one in entries if one.id not in dropped]
    assert (planned.next in left) if left else planned.next is None
    for old, new in planned.superseded:
        assert new.id not in dropped and old.kind == new.kind == "submission" and old.shipped is None
    sessions = {one.session for one in entries if one.kind == "submission"}
    assert sessions == {one.session for one in left if one.kind == "submission"}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.tidy()
    return spool


def add(spool: Spool, key: PrivateKey) -> Entry:
    made = Entry(new_id(), "report", 3, None, now(), 12.5)
    spool.describe(made)
    report = Report(
        id=made.id, sender="alice-1", builds_on=2, session=3, epochs=4, checkpoints=1, examples=9, metrics=None,
        started=made.created, created=made.created,
    )  # fmt: skip
    seal_report(report, key, spool.bundle(made.id))
    return made


def test_an_entry_comes_back_as_it_was_written(spool: Spool, keys: dict[str, PrivateKey]) -> None:
    first = add(spool, keys["alice-1"])
    second = spool.mark(add(spool, keys["alice-1"]), shipped=99.0, attempts=2)
    assert spool.entries() == [first, second]
    assert first.id in spool and len(spool) == 2
    spool.remove(first)
    assert spool.entries() == [second]
    assert {path.suffix for path in spool.folder.iterdir()} == {".bundle", ".json"}


def test_a_bundle_without_its_description_is_described_anew(spool: Spool, keys: dict[str, PrivateKey]) -> None:
    made = add(spool, keys["alice-1"])
    description = spool.bundle(made.id).with_suffix(".json")
    for damage in (description.unlink, lambda: description.write_text("{")):
        damage()
        (found,) = spool.entries()
        assert (found.id, found.kind, found.session, found.created) == (made.id, "report", 3, made.created)


def test_leftovers_of_a_killed_bob_are_tidied(spool: Spool, keys: dict[str, PrivateKey]) -> None:
    made = add(spool, keys["alice-1"])
    (spool.folder / f"{new_id()}.json").write_text("{}")
    (spool.folder / f".{made.id}.bundle.0123abcd.part").write_bytes(b"half")
    spool.tidy()
    assert sorted(path.name for path in spool.folder.iterdir()) == [f"{made.id}.bundle", f"{made.id}.json"]


def receipt(number: int) -> dict[str, Any]:
    return {"id": f"a{number}", "verdict": "accepted"}


@pytest.mark.parametrize("torn", [b"", b'{"id":"a9', b"x" * 10_000])
def test_a_line_cut_off_by_a_power_cut_is_removed(tmp_path: Path, torn: bytes) -> None:
    receipts = Receipts(tmp_path / "receipts.jsonl")
    receipts.append(receipt(1))
    with open(receipts.path, "ab") as file:
        file.write(torn)
    assert [one["id"] for one in receipts] == ["a1"]
    receipts.append(receipt(2))
    assert [one["id"] for one in receipts] == ["a1", "a2"]
    assert len(receipts.path.read_bytes().splitlines()) == 2


def test_receipts_are_looked_up_by_id(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "receipts.jsonl")
    assert receipts.ids({"a1"}) == set() and list(receipts) == []
    for number in range(5):
        receipts.append(receipt(number))
    assert receipts.ids({"a1", "a4", "a7"}) == {"a1", "a4"}
    assert receipts.path.stat().st_mode & 0o777 == 0o600
    assert json.loads(receipts.path.read_text().splitlines()[0]) == receipt(0)
