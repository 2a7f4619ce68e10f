"""A history that grows for years: rates per site, starts that read its end, views that read what they show."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import snapshot, verify
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.errors import LedgerError
from fedssh.history import totals
from fedssh.ledger import Ledger
from fedssh.rules.typed import ABSENT
from tests.attacks import long_history
from tests.harness.room import Room, Rooms

LIMITED: dict[str, Any] = {"rates": {"submissions_per_hour": 12, "invalid_per_hour": 4}}


def garbage(room: Room, site: str = "alice-1", count: int = 1, content: bytes | None = None) -> list[Path]:
    paths = [room.arrive(site) for _ in range(count)]
    for path in paths:
        path.write_bytes(content or os.urandom(16))
    return paths


def waiting(room: Room) -> int:
    return sum(path.is_file() for path in room.folders.inbox.rglob("*"))


# What the door and a start read


def test_what_each_verb_takes_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """The demonstration of tests/attacks with few records; a million take the same."""
    costs = {}
    for records in (500, 10_000):
        state = tmp_path / str(records)
        long_history.build(state, records)
        costs[records] = [*long_history.verbs(state, records), long_history.start(state)]
    for few, many in zip(*costs.values(), strict=True):
        assert few.code == many.code == (3 if many.what == "verify" else 0), many
        assert many.megabytes < few.megabytes + 6, many
        assert many.megabytes < 96 if many.what == "start" else 64, many
    assert {cost.what: cost.printed for cost in costs[10_000]}["history --export"] > 10**7


def test_what_verifying_takes_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """Every signature and decision; the same of 20,000 records is what the demonstration shows."""
    costs = {}
    for records in (200, 2_200):
        state = tmp_path / str(records)
        long_history.build(state, records, signed=True)
        costs[records] = long_history.verifying(state)
    for few, many in zip(*costs.values(), strict=True):
        assert few.code == many.code == 0, many
        assert many.megabytes < few.megabytes + 6, many


# Rates


def test_a_site_above_its_rate_waits_and_the_others_are_served(new_room: Rooms) -> None:
    room = new_room(**LIMITED)
    coordinator = room.coordinator
    coordinator.work()
    first = [room.submit("alice-1", 0.1) for _ in range(15)]
    other = room.submit("alice-2", 0.2)
    coordinator.work()
    assert [record.fields["submission"] for record in room.vault.ledger.judged()] == [*first[:12], other]
    assert waiting(room) == 3
    assert coordinator._throttle.seconds and 290 < coordinator._throttle.seconds <= 300
    coordinator = Coordinator(Vault(room.folders), room.judge)  # a restart changes nothing
    coordinator.recover()
    coordinator.work()
    assert waiting(room) == 3
    room.late = 301
    room.work()
    assert (waiting(room), len(room.vault.ledger.judged())) == (2, 14)
    room.late = 3 * 3600
    room.work()
    assert waiting(room) == 0
    assert {room.verdict("alice-1", id)["event"] for id in first} == {"refused"}


def test_garbage_above_the_rate_is_dropped_and_counted_in_one_record_an_hour(new_room: Rooms) -> None:
    room = new_room(**LIMITED)
    coordinator = room.coordinator
    coordinator.work()
    for batch in (10, 20, 30):
        garbage(room, count=batch)
        coordinator.work()
    events = room.events()
    assert (events.count("invalid"), events.count("garbage"), waiting(room)) == (4, 1, 0)
    assert room.last().fields["count"] == 6
    Coordinator(Vault(room.folders), room.judge).recover()  # killed and started again: the count goes on
    room.late = 3601
    room.work()
    room.vault.refresh()
    counts = [record.fields["count"] for record in room.vault.ledger.records() if record.event == "garbage"]
    assert counts == [6, 50]
    assert "50 bundles without a readable id" in room.last().fields["reason"]
    assert not list(room.folders.garbage.iterdir())
    room.work()
    assert room.events().count("garbage") == 2
    assert room.vault.state == Vault(room.folders).state
    verify.audit(room.folders)


def test_whoever_can_ask_for_a_verdict_gets_one_also_above_the_rate_of_invalid_ones(
    new_room: Rooms,
) -> None:
    room = new_room(**LIMITED)
    room.coordinator.work()
    forged = [room.submit("alice-1", 0.9, signer="stranger") for _ in range(6)]
    room.work()
    assert (room.events().count("invalid"), waiting(room)) == (4, 2)
    assert not room.folders.verdict("alice-1", forged[4]).exists()
    room.late = 2 * 3600
    room.work()
    assert {room.verdict("alice-1", id)["event"] for id in forged} == {"invalid"}


def test_the_same_garbage_again_and_again_is_one_record(room: Room) -> None:
    garbage(room, count=50, content=b"the same bytes")
    room.work()
    assert room.events().count("invalid") == 1


def test_a_federation_without_rates_has_no_limit(room: Room) -> None:
    assert room.vault.state.genesis.rates is ABSENT
    garbage(room, count=80)
    room.work()
    assert room.events().count("invalid") == 80


def test_one_line_says_who_is_held_back(
    new_room: Rooms, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedssh.charity.cli import charity

    room = new_room(**LIMITED)
    coordinator = room.coordinator
    release = room.release()
    for _ in range(14):
        room.submit("alice-1", 0.1, builds_on=release)
    with caplog.at_level(logging.INFO, logger="charity"):
        for _ in range(3):
            coordinator.work()
    held = [record.getMessage() for record in caplog.records if "above its rate" in record.getMessage()]
    assert [line.rpartition(" for ")[0] for line in held] == [
        "alice-1 is above its rate of 12 bundles an hour: what it sent waits, the next"
    ]
    charity.main(["status", "--state", str(room.folders.state)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "at most 12 bundles and 4 invalid ones per site and hour\n" in shown
    assert "2 of alice-1 (above its rate, for " in shown


# Starting


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and summaries after a few records, so that a test needs no thousand."""
    monkeypatch.setattr(snapshot, "EVERY", 10)
    monkeypatch.setattr(totals, "EVERY", 5)


@pytest.mark.usefixtures("short")
def test_a_start_folds_and_verifies_what_came_after_the_snapshot(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage(room, count=25)
    room.work()
    covered = room.vault.covered[0]
    assert covered == room.vault.state.sequence and room.folders.snapshot.exists()
    garbage(room, "alice-2", count=7)
    room.work()
    assert room.vault.covered[0] == covered
    read: list[int] = []
    select = Ledger._select

    def counted(self: Ledger, where: str, *values: Any) -> Any:
        found = select(self, where, *values)
        read.extend(record.sequence for record in found)
        return found

    monkeypatch.setattr(Ledger, "_select", counted)
    vault = Vault(room.folders)
    assert vault.state == room.vault.refresh()
    vault.check()
    vault.sweep_models()
    assert min(read) == covered
    assert not vault._unknown_models()
    assert verify.audit(room.folders)["records"] == vault.state.sequence


@pytest.mark.usefixtures("short")
def test_what_a_snapshot_does_not_cover_is_verified_at_the_start_and_the_rest_by_verify(room: Room) -> None:
    garbage(room, count=25)
    room.work()
    covered = room.vault.covered[0]
    garbage(room, "alice-2", count=3)
    room.work()
    database = room.vault.ledger._database
    trigger = database.execute("SELECT sql FROM sqlite_master WHERE name = 'no_update'").fetchone()[0]

    def change(sequence: int, signature: str) -> str:
        (before,) = database.execute("SELECT signature FROM record WHERE sequence = ?", (sequence,)).fetchone()
        database.execute("DROP TRIGGER no_update")
        database.execute("UPDATE record SET signature = ? WHERE sequence = ?", (signature, sequence))
        database.execute(trigger)
        return str(before)

    before = change(covered + 2, "x")
    with pytest.raises(LedgerError, match=f"record {covered + 2}: the signature is not armored"):
        Vault(room.folders).check()
    change(covered + 2, before)
    before = change(covered - 2, "x")
    Vault(room.folders).check()
    with pytest.raises(LedgerError, match=f"record {covered - 2}: the signature is not armored"):
        verify.audit(room.folders)
    room.folders.snapshot.unlink()  # may be removed at any time
    with pytest.raises(LedgerError, match=f"record {covered - 2}: the signature is not armored"):
        Vault(room.folders).check()


@pytest.mark.usefixtures("short")
def test_an_older_ledger_put_back_under_a_newer_snapshot_is_noticed(room: Room) -> None:
    copy = room.copy_ledger()
    garbage(room, count=25)
    room.work()
    room.put_back(copy)
    with pytest.raises(LedgerError, match="the ledger has not the record"):
        Vault(room.folders)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("lost", ["ledger.jsonl", "summary.json", "everything", "the middle", "the end"])
def test_a_published_history_is_repaired_also_where_a_snapshot_covers_it(room: Room, lost: str) -> None:
    garbage(room, count=25)
    room.submit("alice-1", 0.7)
    room.work()
    published, summary = room.folders.published, room.folders.summary
    whole = published.read_bytes()
    if lost == "the middle":
        published.write_bytes(whole[:5000] + bytes(50) + whole[5050:])
    elif lost == "the end":
        published.write_bytes(whole[:-3000])
    for path in room.folders.outbox.rglob("*"):
        if path.is_file() and (lost == "everything" or path.name == lost):
            path.unlink()
    Coordinator(Vault(room.folders), room.judge).recover()
    if lost == "the middle":  # stands before what is compared at a start: `charity verify` finds and repairs it
        assert published.read_bytes() != whole
        verify.audit(room.folders)
    assert published.read_bytes() == whole
    assert json.loads(summary.read_bytes())["sequence"] <= room.vault.state.sequence
    assert len(list(room.folders.outbox.glob("verdicts/alice-1/*.json"))) == 1


@pytest.mark.usefixtures("short")
def test_a_model_that_no_record_names_is_removed_and_no_other(room: Room) -> None:
    room.submit("alice-1", 0.7)
    garbage(room, count=25)
    room.work()
    room.submit("alice-1", 0.8)
    room.work()
    named = {path.name for path in room.folders.models.iterdir()}
    (room.folders.models / f"{'ab' * 32}.safetensors").write_bytes(b"stored, and then killed")
    for path in room.folders.models.iterdir():
        os.utime(path)  # as in a copied folder, everything looks new
    Coordinator(Vault(room.folders), room.judge).recover()
    assert {path.name for path in room.folders.models.iterdir()} == named


@pytest.mark.usefixtures("short")
def test_old_verdicts_are_let_go_of_and_told_again_to_whoever_sends_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedssh.charity.vault.KEPT_VERDICTS", 3)
    release = room.release()
    copies = {}
    for number in range(8):
        id = room.submit("alice-1", 0.1, builds_on=release)
        [arrived] = (room.folders.inbox / "alice-1").iterdir()
        copies[id] = arrived.read_bytes()
        room.work()
        os.utime(room.folders.verdict("alice-1", id), (number, number))
    garbage(room, "alice-2", count=10)
    room.work()
    kept = {path.stem for path in (room.folders.outbox / "verdicts" / "alice-1").iterdir()}
    assert kept == set(list(copies)[-3:])
    oldest = next(iter(copies))
    room.arrive("alice-1").write_bytes(copies[oldest])
    before = room.events()
    room.work()
    assert room.verdict("alice-1", oldest)["event"] == "refused"
    assert room.events() == before
