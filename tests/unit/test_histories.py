"""What was written down before is read as it was: histories, the states after them, and what is shown of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedssh.charity.cli import charity
from fedssh.errors import LedgerError
from fedssh.forms import canonical
from fedssh.history import views
from fedssh.keys import PublicKey, load_public
from fedssh.ledger import verify
from fedssh.rules.events import EVENTS, HEAD, START, Record, Unknown
from fedssh.rules.federation import Federation, advance, derive
from fedssh.rules.stored import from_value, to_value
from fedssh.rules.typed import members
from tests.vectors.histories import kept
from tests.vectors.histories.runs import run


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> PublicKey:
    """Whose key signed the histories of the folders."""
    return load_public(kept.unpack_keys(tmp_path_factory.mktemp("keys")) / "coordinator_key.pub")


def own_members(record: Record) -> dict[str, Any]:
    """What a record says beside its number, its time and the record before it."""
    return {name: value for name, value in record.fields.items() if name not in HEAD}


def folded(state: Federation | None, records: list[Record]) -> Federation:
    for record in records:
        state = advance(state, record)
    assert state is not None
    return state


def changed(record: Record, **other: Any) -> Record:
    """A record with some other members."""
    text = canonical(record.fields | other)
    return Record(other.get("sequence", record.sequence), hashlib.sha256(text).hexdigest(), text, "")


def test_the_readme_names_what_is_here() -> None:
    """Each with the number of its records, and which they are."""
    assert sorted(kept.table()) == kept.NAMES and len(kept.FOLDERS) >= 20 and len(kept.MEMORY) >= 22
    for name, cells in kept.table().items():
        records = kept.records(name)
        counted = Counter(record.event for record in records)
        assert cells[3] == str(len(records)), name
        assert cells[5] == ", ".join(f"{count} {event}" for event, count in counted.items()), name


def test_every_event_is_in_some_history() -> None:
    elsewhere = {"scored"}  # tests/integration/test_site_scores.py makes a history with it, and follows it
    assert {record.event for name in kept.NAMES for record in kept.records(name)} == set(EVENTS) - elsewhere


@pytest.mark.parametrize("name", kept.NAMES)
def test_every_record_is_read_by_its_kind_and_written_as_it_was(name: str) -> None:
    for record in kept.records(name):
        said = record.said
        assert type(said) is EVENTS[record.event] and not isinstance(said, Unknown)
        assert canonical(said.fields()) == canonical(own_members(record))
        assert said.more == {}, "a member that the type does not know"
        assert record.text == canonical(said.fields() | {name: record.fields[name] for name in HEAD})


@pytest.mark.parametrize("name", ["best-free", "fedavg"])
def test_a_record_of_another_version_is_written_as_it_was_too(name: str) -> None:
    """Whole numbers where others have fractions, members that nobody knows yet, and without those that came later."""
    for record in kept.records(name):
        fields = own_members(record)
        optional = {one for one, _, _, always in members(type(record.said)) if not always}
        of_whole = {"margin": 1} if "margin" in fields else {"claim": {"loss": 1, "accuracy": 0}, "share": 1}
        newer = changed(record, newer={"of": [1, 1.0, None]}, **of_whole)
        older = Record(record.sequence, "", canonical({k: v for k, v in fields.items() if k not in optional}), "")
        for one in (newer, older):
            said = EVENTS[record.event].read(own_members(one), "it")
            assert canonical(said.fields()) == canonical(own_members(one))


def test_an_unknown_event_changes_nothing_but_the_number_and_the_hash() -> None:
    records = kept.records("best-free")
    before = derive(records)
    newer = changed(records[-1], sequence=before.sequence + 1, event="from-later", site="alice-1")
    assert isinstance(newer.said, Unknown) and newer.said.fields() == own_members(newer)
    after = advance(before, newer)
    assert dataclasses.replace(after, sequence=before.sequence, head=before.head) == before
    assert (after.sequence, after.head) == (newer.sequence, newer.hash)


def test_a_site_that_is_enrolled_again_has_still_trained_its_sessions() -> None:
    records = kept.records("polyak-relay")
    state = derive(records)
    added = next(record for record in records if record.event == "site-added")
    before = state.member(added.fields["site"])
    assert before is not None and before.sessions == 1
    state = advance(state, changed(added, sequence=state.sequence + 1))
    after = state.member(before.name)
    assert after == before and state.members[-1] == after


@pytest.mark.parametrize("name", kept.MEMORY)
def test_a_history_of_the_memory_engine_is_a_chain(name: str) -> None:
    previous = START
    for number, record in enumerate(kept.records(name), 1):
        assert (record.sequence, record.fields["previous"], record.signature) == (number, previous, "")
        assert record.hash == hashlib.sha256(record.text).hexdigest()
        previous = record.hash


@pytest.mark.parametrize("name", kept.MEMORY)
def test_the_memory_engine_writes_the_same_history_again(name: str, tmp_path: Path) -> None:
    if "private" in name:
        pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")
    run(name, tmp_path / "history")
    assert (tmp_path / "history").read_bytes() == b"".join(record.line() for record in kept.records(name))


@pytest.mark.parametrize("name", kept.NAMES)
def test_a_history_is_replayed_to_its_state(name: str) -> None:
    records, stored = kept.records(name), kept.state(name)
    state = derive(records)
    assert (state.sequence, state.head) == (len(records), records[-1].hash)
    genesis = stored["genesis"]
    head = {member: genesis.pop(member) for member in HEAD if member in genesis}
    assert head in ({}, {member: records[0].fields[member] for member in HEAD})  # see README.md there
    assert canonical(to_value(state)) == canonical(stored)


@pytest.mark.parametrize("name", kept.NAMES)
def test_a_state_of_before_is_read_and_gone_on_from(name: str) -> None:
    """As it is stored, also in the middle of a history, and with what older states have of record 1 in genesis."""
    records = kept.records(name)
    state = derive(records)
    assert from_value(kept.state(name), state.sequence, state.head) == state
    middle = len(records) // 2
    before = folded(None, records[:middle])
    value = json.loads(canonical(to_value(before)))
    older = value | {"genesis": records[0].fields}
    for one in (value, older):
        again = from_value(one, before.sequence, before.head)
        assert again == before
        assert folded(again, records[middle:]) == state


@pytest.mark.parametrize("name", kept.FOLDERS)
def test_a_signed_history_is_verified(name: str, coordinator: PublicKey) -> None:
    records = kept.records(name)
    assert verify(records, coordinator) == len(records) > 0
    assert records[0].said.fields()["coordinator"] == coordinator.line


@pytest.mark.parametrize("name", kept.FOLDERS)
def test_what_is_shown_of_a_folder_is_what_was_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.unpack(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    told = kept.views(name)
    assert {"history", "history --json", "best", "nodes list", "verify"} <= set(told)
    for line, text in told.items():
        result = CliRunner().invoke(charity, [*line.split(), "--state", "coordinator"], catch_exceptions=False)
        if line.startswith("verify"):  # since then it looks at decisions, too, and says so
            count, head = (json.loads(told["verify --json"])[member] for member in ("records", "head"))
            said = json.loads(result.stdout) if line.endswith("--json") else result.stdout.splitlines()[0]
            whole = f"{count} records: every hash, link, signature and decision is right; head {head}"
            assert said == whole if isinstance(said, str) else json.loads(text).items() <= said.items()
            continue
        if line == "history --json":  # since then with what was sent, and what it brought
            said, before = json.loads(result.stdout), json.loads(text)
            assert [{name: row[name] for name in old} for row, old in zip(said, before, strict=True)] == before
            assert all(set(row) - set(old) == {"bytes", "gain"} for row, old in zip(said, before, strict=True))
            continue
        if line.startswith("best"):  # since then it says more of each class
            said = json.loads(result.stdout) if line.endswith("--json") else result.stdout
            same = json.loads(text).items() <= said.items() if isinstance(said, dict) else said.startswith(text)
            assert (result.exit_code, same) == (0, True), f"charity {line}"
            continue
        assert (result.exit_code, result.stdout) == (0, text), f"charity {line}"
    exported = CliRunner().invoke(charity, ["history", "--export", "--state", "coordinator"], catch_exceptions=False)
    assert exported.stdout_bytes == Path("coordinator/outbox/ledger.jsonl").read_bytes()


@pytest.mark.parametrize("name", kept.NAMES)
def test_a_row_says_what_was_sent_and_what_it_brought(name: str) -> None:
    """Against sums that are made here, from the records alone."""
    records = kept.records(name)
    main = records[0].fields["plan"].get("metric") or "accuracy"
    for record in records:
        said, row = record.fields, views.history_row(record.fields | {"hash": record.hash}, main)
        sent = None
        if record.event in ("accepted", "refused", "counted") and (said["model"] or "work" in said):
            blob = said["candidate"] if "candidate" in said else said["model"]
            sent = (blob["size"] if blob else 0) + said.get("work", {"received": 0})["received"]
        assert row["bytes"] == sent, record.sequence
        gain = None
        if record.event in ("accepted", "round-accepted") and said["metrics"]:
            now, before = said["metrics"], said["current_metrics"]
            sign = -1 if main in ("mae", "rmse") else 1
            gain = {main: sign * (now[main] - before[main]), "loss": before["loss"] - now["loss"]}
        assert row["gain"] == (gain and pytest.approx(gain, abs=1e-8)), record.sequence


def test_histories_have_bytes_and_gains_of_every_kind() -> None:
    """Or the test above would say little."""
    rows = [
        views.history_row(record.fields | {"hash": record.hash}) for name in kept.NAMES for record in kept.records(name)
    ]
    assert {row["event"] for row in rows if row["bytes"]} == {"accepted", "refused", "counted"}
    assert {row["event"] for row in rows if row["gain"]} == {"accepted", "round-accepted"}
    assert any("work" in row and row["bytes"] > row["work"]["received"] > 0 for row in rows if row["bytes"])


@pytest.mark.parametrize("time", ["2026-02-30T10", "0000-01-01T00", "2026-01-01T24", "٢٠٢٦-01-01T00", "2026-13-01T00"])
def test_a_time_that_is_none_is_refused_whoever_signed_it(time: str) -> None:
    """Every reader goes by it: rates, rounds, screens."""
    records = kept.records("best-free")
    state = folded(None, records[:-1])
    with pytest.raises(LedgerError, match=f"the time of record {records[-1].sequence} is"):
        advance(state, changed(records[-1], time=f"{time}:01:00.000Z"))
