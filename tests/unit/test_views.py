"""The views of the history: records in, rows and text out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.charity import views

KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB"


def chain(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"sequence": number, "time": f"2026-01-31T12:00:{number:02d}.000Z", "hash": f"{number:064x}", **event}
        for number, event in enumerate(events, 1)
    ]


def judged(event: str, site: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    metrics = None if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy, "confusion": [[1, 2], [3, 4]]}
    claim = {"accuracy": 0.9, "loss": 0.1}
    said = {"event": event, "site": site, "submission": "id", "session": 1, "epoch": 4, "examples": 50, "claim": claim}
    reason, model = f"because of {accuracy}", {"sha256": "aa", "size": 1}
    return said | {"metrics": metrics, "reason": reason, "model": model} | more


GENESIS = {
    "event": "genesis",
    "federation": "lungs",
    "metrics": {"accuracy": 0.6, "loss": 0.7},
    "schedule": "relay",
    "policy": "best",
    "sessions": 3,
    "architecture": "f" * 64,
    "model": {"sha256": "00", "size": 1},
    "spec": {"name": "cnn"},
}
RECORDS = chain(
    GENESIS,
    {"event": "site-added", "site": "alice-1", "role": "site", "key": KEY},
    {"event": "site-added", "site": "alice-2", "role": "site", "key": KEY},
    {"event": "site-added", "site": "eve", "role": "auditor", "key": KEY},
    {"event": "release", "of": 1, "metrics": {"accuracy": 0.6}, "federation": {"turn": "alice-1", "sites": []}},
    judged("accepted", "alice-1", 0.8),
    judged("refused", "alice-2", 0.7),
    judged("invalid", "alice-2", None, submission=None, epoch=None, claim=None),
    {"event": "report", "site": "alice-1", "session": 1, "epochs": 12, "checkpoints": 1, "examples": 50,
     "metrics": {"accuracy": 0.95, "loss": 0.05}},
    {"event": "site-revoked", "site": "alice-2", "reason": "key lost"},
    {"event": "release", "of": 6, "metrics": {"accuracy": 0.8}, "federation": {"turn": None, "sites": ["alice-1"]}},
)  # fmt: skip
ROLLED_BACK = [
    *RECORDS,
    *chain(*[{}] * 11, {"event": "rollback", "to": 6, "metrics": {"accuracy": 0.8}, "reason": "why"})[11:],
]


def line(record: dict[str, Any]) -> bytes:
    whole = {"sequence": record["sequence"], "hash": record["hash"], "record": json.dumps(record), "signature": "s"}
    return json.dumps(whole).encode() + b"\n"


def test_read_leaves_out_a_line_that_is_still_being_written() -> None:
    lines = [line(record) for record in RECORDS]
    assert [record["sequence"] for record in views.read([*lines[:3], lines[3][:-1]])] == [1, 2, 3]
    assert [json.loads(each)["sequence"] for each in views.export([*lines[:3], lines[3][:-1]], after=1)] == [2, 3]


def test_history_tells_claims_from_scores() -> None:
    rows = views.history(RECORDS)
    assert [row["sequence"] for row in rows] == list(range(1, 12))
    assert rows[5]["claim"] == {"accuracy": 0.9, "loss": 0.1}
    assert rows[5]["score"]["accuracy"] == 0.8
    assert rows[8]["claim"] == {"accuracy": 0.95, "loss": 0.05}, "a report's metrics are the site's own"
    assert rows[8]["score"] is None
    assert rows[0]["score"] == {"accuracy": 0.6, "loss": 0.7}
    assert rows[7]["score"] is None


@pytest.mark.parametrize(("last", "expected"), [(None, 11), (0, 0), (2, 2), (11, 11), (99, 11)])
def test_history_keeps_the_newest(last: int | None, expected: int) -> None:
    rows = views.history(RECORDS, last)
    assert len(rows) == expected
    assert [row["sequence"] for row in rows] == list(range(12 - expected, 12))


def test_best_follows_a_rollback_to_its_source() -> None:
    value = views.best(RECORDS)
    assert (value["sequence"], value["site"], value["epoch"], value["releases"], value["judged_since"]) == (
        6,
        "alice-1",
        4,
        [11],
        2,
    )
    back = views.best(ROLLED_BACK)
    assert (back["sequence"], back["event"], back["site"], back["releases"]) == (12, "rollback", "alice-1", [])


def test_nodes_count_what_each_sent() -> None:
    one, two, auditor = views.nodes(RECORDS)
    assert (one["accepted"], one["sessions"], one["best"]["accuracy"], one["state"]) == (1, 1, 0.8, "enrolled")
    assert (two["accepted"], two["refused"], two["invalid"], two["best"], two["state"]) == (0, 1, 1, None, "revoked")
    assert (auditor["role"], auditor["last"]) == ("auditor", None)


def test_status_says_where_the_federation_stands() -> None:
    value = views.status(RECORDS[:5], {"alice-1": 2, "alice-2": 0})
    assert (value["turn"], value["state"], value["sites"], value["release"]) == (
        "alice-1",
        "open",
        ["alice-1", "alice-2"],
        5,
    )
    assert "2 of alice-1" in views.status_text(value)
    value = views.status(RECORDS)
    assert (value["sites"], value["auditors"], value["accepted"], value["refused"], value["invalid"]) == (
        ["alice-1"],
        ["eve"],
        1,
        1,
        1,
    )
    over = [*RECORDS, {**RECORDS[-1], "sequence": 12, "event": "finished", "reason": "done"}]
    assert views.status(over)["state"] == "finished"
    assert views.status([*over, {**RECORDS[-1], "sequence": 13, "event": "reopened", "sessions": 5}])["state"] == "open"


def test_diff_shows_scores_then_other_fields() -> None:
    change = views.diff(RECORDS, 6, 7)
    assert change["scores"]["accuracy"] == {"first": 0.8, "second": 0.7, "change": pytest.approx(-0.1)}
    assert change["fields"]["site"] == {"first": "alice-1", "second": "alice-2"}
    assert "confusion" not in change["scores"]
    assert "-0.1000" in views.diff_text(change)
    assert views.diff_text(views.diff(RECORDS, 6, 6)).startswith("SCORE")


@pytest.mark.parametrize("number", [0, 12, 10**15])
def test_a_record_that_is_not_there_is_named(number: int) -> None:
    with pytest.raises(views.NoRecord, match=f"the history has no record {number}; it ends with 11"):
        views.show(RECORDS, number)


def test_an_empty_history_is_said_to_be_empty() -> None:
    for view in (views.best, views.status, views.current):
        with pytest.raises(views.NoRecord, match="empty"):
            view([])
    assert views.history([]) == views.nodes([]) == []
    assert views.history_text([]).startswith("#")


def test_every_view_of_every_record_is_text() -> None:
    for records in (RECORDS, ROLLED_BACK):
        texts = [views.history_text(views.history(records)), views.best_text(views.best(records))]
        texts += [views.nodes_text(views.nodes(records)), views.status_text(views.status(records))]
        texts += [views.show_text(views.show(records, number)) for number in range(1, len(records) + 1)]
        texts += [views.diff_text(views.diff(records, 1, number)) for number in range(1, len(records) + 1)]
        for text in texts:
            assert text.endswith("\n")
            assert text.replace("\n", "").isprintable()


@given(st.text(max_size=60))
def test_no_text_of_a_site_acts_on_the_terminal(evil: str) -> None:
    records = [
        *RECORDS[:5],
        {**RECORDS[5], "reason": evil, "site": evil, evil: evil, "claim": {evil: evil}, "metrics": {evil: 1}},
    ]
    texts = [views.history_text(views.history(records)), views.show_text(views.show(records, 6))]
    texts += [views.diff_text(views.diff(records, 1, 6)), views.best_text(views.best(records)), views.to_json(records)]
    for text in texts:
        assert text.replace("\n", "").isprintable()
    assert json.loads(views.to_json(records))[5]["reason"] == evil
    [exported] = views.export([line(records[5])])
    assert exported.decode().removesuffix("\n").isprintable()
    assert json.loads(json.loads(exported)["record"])["reason"] == evil


def test_tables_align() -> None:
    assert views.table(("#", "NAME"), [(1, "a"), (10, None)], right=(0,)) == " #  NAME\n 1  a\n10  –\n"
