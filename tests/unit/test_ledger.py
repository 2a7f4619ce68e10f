"""The history: append-only, chained, signed, and clear about damage."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssh.errors import LedgerError
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger, read_export, verify
from fedssh.manifest import new_id
from fedssh.rules.events import START, Record
from fedssh.signature import allowed_signers


@pytest.fixture
def ledger(tmp_path: Path, keys: dict[str, PrivateKey]) -> Ledger:
    ledger = Ledger.create(tmp_path / "ledger.db")
    ledger.append("genesis", {"federation": "test"}, keys["coordinator"])
    ledger.append("site-added", {"site": "alice-1", "role": "site"}, keys["coordinator"])
    ledger.append("accepted", {"site": "alice-1", "submission": new_id(), "reason": "ärger"}, keys["coordinator"])
    return ledger


def test_records_are_numbered_linked_and_signed(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    first, second, third = ledger.records()
    assert [record.sequence for record in (first, second, third)] == [1, 2, 3]
    assert first.fields["previous"] == START
    assert (second.fields["previous"], third.fields["previous"]) == (first.hash, second.hash)
    assert ledger.head() == third
    assert verify(ledger.records(), keys["coordinator"].public) == 3


def test_a_submission_has_one_verdict(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    judged = ledger.records()[-1].fields
    assert ledger.find("alice-1", judged["submission"]) == ledger.head()
    assert ledger.find("alice-2", judged["submission"]) is None
    again = {"site": "alice-1", "submission": judged["submission"]}
    with pytest.raises(LedgerError, match="refuses the record: UNIQUE"):
        ledger.append("refused", again, keys["coordinator"])
    ledger.append("refused", again | {"site": "alice-2"}, keys["coordinator"])
    assert verify(ledger.records(), keys["coordinator"].public) == 4


def test_a_bundle_without_an_identifier_is_found_by_its_hash(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    fields = {"site": "alice-1", "submission": None, "bundle": "ab" * 32, "reason": "garbage"}
    record = ledger.append("invalid", fields, keys["coordinator"])
    assert ledger.find("alice-1", "bundle " + "ab" * 32) == record


def test_sqlite_itself_refuses_to_change_the_past(ledger: Ledger) -> None:
    database = sqlite3.connect(ledger.path)
    for statement in ("UPDATE record SET hash = 'x'", "DELETE FROM record", "DELETE FROM record WHERE sequence = 3"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    database.close()


def test_two_processes_may_append(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    other = Ledger(ledger.path)
    for number in range(5):
        (ledger, other)[number % 2].append("rollback", {"to": 1}, keys["coordinator"])
    assert verify(ledger.records(), keys["coordinator"].public) == 8
    assert [record.sequence for record in other.records(after=6)] == [7, 8]


def test_the_export_reads_back_and_leaves_out_an_unfinished_line(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    lines = [record.line() for record in ledger.records()]
    assert list(read_export(lines)) == ledger.records()
    assert list(read_export([*lines[:2], lines[2][:-1]])) == ledger.records()[:2]
    with pytest.raises(LedgerError, match="line 2 of the history is not a ledger line"):
        list(read_export([lines[0], b'{"sequence":2}\n']))


def forged(records: list[Record], keys: dict[str, PrivateKey]) -> dict[str, tuple[list[Record], str]]:
    first, second, third = records
    other = replace(second, text=second.text.replace(b"alice-1", b"alice-9"))
    return {
        "a record left out": ([first, third], "record 3 stands where record 2 is expected"),
        "records swapped": ([second, first, third], "record 2 stands where record 1 is expected"),
        "a text changed": ([first, other, third], "record 2 hashes to"),
        "a hash changed too": ([first, rehashed(other), third], "record 2: the signature by SHA256:.* does not match"),
        "a signature of another": (
            [first, replace(second, signature=third.signature), third],
            "record 2: the signature",
        ),
        "a signature left out": ([first, replace(second, signature=""), third], "record 2: there is no signature"),
        "a number changed": ([replace(first, sequence=2)], "record 2 stands where record 1 is expected"),
        "a second beginning": ([first, replace(first, sequence=2)], "record 2 calls itself 1"),
    }


def rehashed(record: Record) -> Record:
    import hashlib

    return replace(record, hash=hashlib.sha256(record.text).hexdigest())


CASES = [
    "a record left out",
    "records swapped",
    "a text changed",
    "a hash changed too",
    "a signature of another",
    "a signature left out",
    "a number changed",
    "a second beginning",
]


@pytest.mark.parametrize("case", CASES)
def test_verify_names_what_is_wrong(case: str, ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    records, message = forged(ledger.records(), keys)[case]
    with pytest.raises(LedgerError, match=message):
        verify(records, keys["coordinator"].public)


def test_verify_wants_the_coordinators_key(ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    with pytest.raises(LedgerError, match="record 1: signed by key"):
        verify(ledger.records(), keys["stranger"].public)


def test_a_missing_or_damaged_database_is_named(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="there is no ledger at"):
        Ledger(tmp_path / "nowhere.db")
    (tmp_path / "text.db").write_bytes(b"this is not a database, but it is long enough to be one" * 100)
    with pytest.raises(LedgerError, match="is damaged: file is not a database"):
        Ledger(tmp_path / "text.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "empty.db")) as other:
        other.execute("CREATE TABLE other (x)")
    with pytest.raises(LedgerError, match="has version 0"):
        Ledger(tmp_path / "empty.db")
    ledger.close()
    with open(ledger.path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(ledger.path).check()


@settings(max_examples=60, deadline=None)
@given(position=st.integers(min_value=0, max_value=10**6), bit=st.integers(min_value=0, max_value=7), data=st.data())
def test_any_flipped_bit_of_a_record_is_noticed(
    position: int, bit: int, data: st.DataObject, chain: tuple[list[Record], PrivateKey]
) -> None:
    records, key = chain
    index = data.draw(st.integers(min_value=0, max_value=len(records) - 1))
    text = bytearray(records[index].text)
    text[position % len(text)] ^= 1 << bit
    changed = rehashed(replace(records[index], text=bytes(text)))
    with pytest.raises(LedgerError):
        verify([*records[:index], changed, *records[index + 1 :]], key.public)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, PrivateKey]) -> tuple[list[Record], PrivateKey]:
    ledger = Ledger.create(tmp_path_factory.mktemp("chain") / "ledger.db")
    for event in ("genesis", "release", "finished"):
        ledger.append(event, {"reason": event, "values": [1, 0.5, None]}, keys["coordinator"])
    return ledger.records(), keys["coordinator"]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None or shutil.which("jq") is None, reason="needs ssh-keygen and jq")
def test_stock_tools_check_an_exported_line(tmp_path: Path, ledger: Ledger, keys: dict[str, PrivateKey]) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(record.line() for record in ledger.records()))
    (tmp_path / "allowed_signers").write_text(allowed_signers({"charity": keys["coordinator"].public}))
    script = """
    set -eu; previous=$(printf 0%.0s $(seq 64))
    while IFS= read -r line; do
      printf %s "$line" | jq -jr .record > record
      printf %s "$line" | jq -r .signature > record.sig
      test "$(sha256sum < record | cut -d' ' -f1)" = "$(printf %s "$line" | jq -r .hash)"
      test "$(jq -r .previous < record)" = "$previous"
      previous=$(printf %s "$line" | jq -r .hash)
      ssh-keygen -Y verify -f allowed_signers -I charity -n ledger@fedssh -s record.sig < record
    done < ledger.jsonl
    """
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Good") == 3


def test_a_line_holds_the_exact_signed_text(ledger: Ledger) -> None:
    record = ledger.records()[-1]
    assert json.loads(record.line())["record"].encode() == record.text
    assert "ärger" in record.line().decode()
